"""The gateway's HTTP routes: parse, call, answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from pydantic import StringConstraints

from gateway import documents, ticket_routes
from gateway.links import next_link
from gateway.logic import Bookings
from gateway.models import BookingBody, BookingRequest, ListQuery
from gateway.ticket_keys import PublishedKeys
from gateway.tickets import Tickets
from ticketra.auth import AccessPolicy, Caller
from ticketra.http import RequestId, create_app, headers, problems
from ticketra.tokens import TokenVerifier

KEY_LIMIT_CHARS = 255
_VISIBLE_ASCII = r"^[!-~]+$"

router = APIRouter(prefix="/api/bookings")


def build_app(
    bookings: Bookings,
    tickets: Tickets,
    ticket_keys: PublishedKeys,
    *,
    verifier: TokenVerifier,
    policy: AccessPolicy,
) -> FastAPI:
    """Return the function's app."""
    return create_app(
        "gateway",
        router,
        ticket_routes.router,
        documents.router,
        bookings=bookings,
        tickets=tickets,
        ticket_keys=ticket_keys,
        verifier=verifier,
        policy=policy,
        read_file=documents.read_file,
    )


async def _bookings(request: Request) -> Bookings:
    bookings: Bookings = request.app.state.bookings
    return bookings


WithBookings = Annotated[Bookings, Depends(_bookings)]
IdempotencyKey = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=KEY_LIMIT_CHARS, pattern=_VISIBLE_ASCII),
    Header(),
]


@router.post(
    "",
    status_code=201,
    responses=headers(201, "Location Idempotent-Replayed")
    | problems(
        {
            404: "event_not_found",
            409: "sold_out not_enough_tickets event_busy sale_not_open booking_limit",
            422: "idempotency_mismatch",
        }
    ),
)
def create_booking(
    *,
    order: BookingRequest,
    caller: Caller,
    request_id: RequestId,
    bookings: WithBookings,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BookingBody:
    """Hold tickets of an event. The same key with the same body answers as the first time."""
    booking, replayed = bookings.create(
        order, caller, idempotency_key=idempotency_key, request_id=request_id
    )
    response.headers["Location"] = f"{router.prefix}/{booking.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return booking


@router.get("", responses=headers(200, "Link"))
def list_bookings(
    *,
    caller: Caller,
    request_id: RequestId,
    bookings: WithBookings,
    response: Response,
    query: Annotated[ListQuery, Query()],
) -> list[BookingBody]:
    """List the caller's bookings, newest first."""
    page = bookings.page(
        caller,
        user_id=query.user_id,
        limit=query.limit,
        cursor=query.cursor or "",
        request_id=request_id,
    )
    if page.next_cursor:
        response.headers["Link"] = next_link(page.next_cursor, query)
    return page.bookings


@router.get("/{booking_id}", responses=problems({404: "booking_not_found"}))
def get_booking(
    booking_id: str, caller: Caller, request_id: RequestId, bookings: WithBookings
) -> BookingBody:
    """Return a booking."""
    return bookings.get(booking_id, caller, request_id=request_id)


@router.post(
    "/{booking_id}/cancel",
    responses=problems({404: "booking_not_found", 409: "booking_expired event_busy"}),
)
def cancel_booking(
    booking_id: str, caller: Caller, request_id: RequestId, bookings: WithBookings
) -> BookingBody:
    """Give the booking's tickets back; doing it again answers the same."""
    return bookings.cancel(booking_id, caller, request_id=request_id)
