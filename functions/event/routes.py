"""The event function's HTTP routes: parse, call, answer."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from pydantic import StringConstraints

from event import etags
from event.changes import Changes
from event.ics import MEDIA_TYPE, calendar_file
from event.listing import PAGE_LIMIT, ListQuery, to_cursor
from event.logic import EventPage, Events, Shown
from event.models import EventBody, EventDraft, EventPatch
from ticketra.auth import AccessPolicy, Caller
from ticketra.http import RequestId, create_app, headers, problems
from ticketra.tokens import TokenVerifier

KEY_LIMIT_CHARS = 255
_VISIBLE_ASCII = r"^[!-~]+$"

router = APIRouter(prefix="/api/events")


def build_app(
    events: Events, changes: Changes, *, verifier: TokenVerifier, policy: AccessPolicy
) -> FastAPI:
    """Return the function's app."""
    return create_app(
        "event", router, events=events, changes=changes, verifier=verifier, policy=policy
    )


async def _events(request: Request) -> Events:
    events: Events = request.app.state.events
    return events


async def _changes(request: Request) -> Changes:
    changes: Changes = request.app.state.changes
    return changes


WithEvents = Annotated[Events, Depends(_events)]
WithChanges = Annotated[Changes, Depends(_changes)]
Tags = Annotated[str | None, StringConstraints(max_length=etags.HEADER_LIMIT_CHARS), Header()]
IdempotencyKey = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=KEY_LIMIT_CHARS, pattern=_VISIBLE_ASCII),
    Header(),
]


class CalendarFile(Response):
    """An answer that calendars read."""

    media_type = MEDIA_TYPE


@router.post(
    "",
    status_code=201,
    responses=headers(201, "Location ETag Idempotent-Replayed")
    | problems({422: "idempotency_mismatch"}),
)
def create_event(
    *,
    draft: EventDraft,
    caller: Caller,
    request_id: RequestId,
    events: WithEvents,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> EventBody:
    """Put an event on sale. The same key with the same body answers as the first time."""
    created = events.create(draft, caller, idempotency_key=idempotency_key, request_id=request_id)
    response.headers["Location"] = f"{router.prefix}/{created.body.id}"
    response.headers["ETag"] = _tag(created)
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return created.body


@router.get(
    "",
    responses=headers(200, "Link X-Total-Count X-Total-Count-Relation")
    | problems({503: "list_too_slow"}),
)
def list_events(
    query: Annotated[ListQuery, Query()],
    request_id: RequestId,
    events: WithEvents,
    response: Response,
) -> list[EventBody]:
    """List events that have not been cancelled, newest first, or as the query says.

    X-Total-Count is a lower bound where X-Total-Count-Relation is `gte`.
    """
    found = events.page(query, request_id=request_id)
    if found.total is not None:
        response.headers["X-Total-Count"] = str(found.total.count)
        response.headers["X-Total-Count-Relation"] = "eq" if found.total.exact else "gte"
    if link := _link(found, query):
        response.headers["Link"] = link
    return found.events


@router.get(
    "/{event_id}",
    response_model=EventBody,
    responses=headers(200, "ETag") | headers(304, "ETag") | problems({404: "event_not_found"}),
)
def get_event(
    event_id: str,
    request_id: RequestId,
    events: WithEvents,
    response: Response,
    if_none_match: Tags = None,
) -> EventBody | Response:
    """Return an event with the tickets that are left now."""
    shown = events.get(event_id, request_id=request_id)
    tag = _tag(shown)
    if if_none_match is not None and etags.is_known(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return shown.body


@router.patch(
    "/{event_id}",
    responses=headers(200, "ETag")
    | problems(
        {
            403: "not_your_event",
            404: "event_not_found",
            409: "event_cancelled capacity_below_sold sale_closed event_busy",
            412: "precondition_failed",
            428: "precondition_required",
        }
    ),
)
def change_event(
    *,
    event_id: str,
    patch: EventPatch,
    caller: Caller,
    request_id: RequestId,
    events: WithEvents,
    changes: WithChanges,
    response: Response,
    if_match: Tags = None,
) -> EventBody:
    """Change fields of an event of one's own (JSON merge patch); what is null is removed."""
    changed = changes.patch(event_id, patch, caller, if_match=if_match, request_id=request_id)
    shown = events.shown(changed, request_id=request_id)
    response.headers["ETag"] = _tag(shown)
    return shown.body


@router.delete(
    "/{event_id}",
    status_code=204,
    responses=problems(
        {
            403: "not_your_event",
            404: "event_not_found",
            409: "event_busy",
            412: "precondition_failed",
        }
    ),
)
def cancel_event(
    *,
    event_id: str,
    caller: Caller,
    request_id: RequestId,
    changes: WithChanges,
    if_match: Tags = None,
) -> None:
    """Cancel an event of one's own: its bookings are cancelled and refunded."""
    changes.cancel(event_id, caller, if_match=if_match, request_id=request_id)


@router.get(
    "/{event_id}/calendar.ics",
    response_class=Response,
    responses=headers(200, "Content-Disposition") | problems({404: "event_not_found"}),
)
def get_calendar_file(event_id: str, events: WithEvents) -> CalendarFile:
    """Return an event as a calendar file (RFC 5545)."""
    event = events.event(event_id)
    return CalendarFile(
        calendar_file(event),
        headers={"Content-Disposition": f'attachment; filename="event-{event.id}.ics"'},
    )


def _tag(shown: Shown) -> str:
    return etags.entity_tag(shown.version, shown.body.available_tickets)


def _link(found: EventPage, query: ListQuery) -> str:
    """Return the Link header (RFC 8288); its targets are relative to the request's own URL.

    The last page that a number may name goes on with a cursor.
    """
    neighbours = []
    page = query.page_number
    if query.cursor is None and page > 1:
        neighbours.append(("prev", {"page": str(page - 1)}))
    if found.next is not None:
        if query.cursor is None and page < PAGE_LIMIT:
            neighbours.append(("next", {"page": str(page + 1)}))
        else:
            neighbours.append(("next", {"cursor": to_cursor(found.next)}))
    return ", ".join(
        f'<?{urlencode(query.parameters() | to | {"limit": str(query.limit)})}>; rel="{name}"'
        for name, to in neighbours
    )
