"""The event function's HTTP routes: parse, call, answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response

from event.logic import EventPage, Events
from event.models import EventBody, EventDraft
from ticketra.auth import AccessPolicy, Caller
from ticketra.http import RequestId, create_app
from ticketra.tokens import TokenVerifier

PAGE_SIZE = 20
PAGE_SIZE_LIMIT = 100
PAGE_LIMIT = 1_000  # skipping reads what it skips

router = APIRouter(prefix="/api/events")


def build_app(events: Events, *, verifier: TokenVerifier, policy: AccessPolicy) -> FastAPI:
    """Return the function's app."""
    return create_app("event", router, events=events, verifier=verifier, policy=policy)


async def _events(request: Request) -> Events:
    events: Events = request.app.state.events
    return events


WithEvents = Annotated[Events, Depends(_events)]


@router.post("", status_code=201)
def create_event(
    draft: EventDraft,
    caller: Caller,
    request_id: RequestId,
    events: WithEvents,
    response: Response,
) -> EventBody:
    """Put an event on sale."""
    event = events.create(draft, caller, request_id=request_id)
    response.headers["Location"] = f"{router.prefix}/{event.id}"
    return event


@router.get("")
def list_events(
    request_id: RequestId,
    events: WithEvents,
    response: Response,
    page: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 1,
    limit: Annotated[int, Query(ge=1, le=PAGE_SIZE_LIMIT)] = PAGE_SIZE,
) -> list[EventBody]:
    """List events, newest first."""
    found = events.page(page=page, limit=limit, request_id=request_id)
    response.headers["X-Total-Count"] = str(found.total)
    if link := _link(found, page, limit):
        response.headers["Link"] = link
    return found.events


@router.get("/{event_id}")
def get_event(event_id: str, request_id: RequestId, events: WithEvents) -> EventBody:
    """Return an event with the tickets that are left now."""
    return events.get(event_id, request_id=request_id)


def _link(found: EventPage, page: int, limit: int) -> str:
    """Return the Link header (RFC 8288); its targets are relative to the request's own URL."""
    neighbours = []
    if page > 1:
        neighbours.append(("prev", page - 1))
    if page * limit < found.total and page < PAGE_LIMIT:
        neighbours.append(("next", page + 1))
    return ", ".join(f'<?page={to}&limit={limit}>; rel="{name}"' for name, to in neighbours)
