"""The HTTP routes of tickets: their list, their QR codes, and the keys that verify them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from gateway.links import next_link
from gateway.models import PageQuery, TicketBody
from gateway.ticket_keys import PublishedKeys
from gateway.tickets import Tickets
from ticketra.auth import Caller
from ticketra.http import RequestId, headers, problems

QR_MAX_AGE_S = 60
JWKS_MAX_AGE_S = 300
SVG = "image/svg+xml"
PNG = "image/png"

router = APIRouter(prefix="/api/bookings")

_CODE_REFUSALS = problems(
    {404: "booking_not_found ticket_not_found", 409: "tickets_not_issued ticket_void"}
)
# For the caller's own cache alone, and not for who uses the same browser next.
_QR_HEADERS = {"Cache-Control": f"private, max-age={QR_MAX_AGE_S}", "Vary": "Authorization"}


async def _tickets(request: Request) -> Tickets:
    tickets: Tickets = request.app.state.tickets
    return tickets


async def _ticket_keys(request: Request) -> PublishedKeys:
    keys: PublishedKeys = request.app.state.ticket_keys
    return keys


WithTickets = Annotated[Tickets, Depends(_tickets)]
WithTicketKeys = Annotated[PublishedKeys, Depends(_ticket_keys)]


@router.get(
    "/{booking_id}/tickets",
    responses=headers(200, "Cache-Control Link")
    | problems({404: "booking_not_found", 409: "tickets_not_issued"}),
)
def list_tickets(
    *,
    booking_id: str,
    caller: Caller,
    request_id: RequestId,
    tickets: WithTickets,
    response: Response,
    query: Annotated[PageQuery, Query()],
) -> list[TicketBody]:
    """List a booking's tickets by number; those of a cancelled booking are void."""
    page = tickets.page(
        booking_id, caller, limit=query.limit, cursor=query.cursor or "", request_id=request_id
    )
    response.headers["Cache-Control"] = "no-store"
    if page.next_cursor:
        response.headers["Link"] = next_link(page.next_cursor, query)
    return page.tickets


@router.get(
    "/{booking_id}/tickets/{number}/qr.svg",
    responses=headers(200, "Cache-Control") | _CODE_REFUSALS,
)
def get_qr_svg(
    booking_id: str, number: int, caller: Caller, request_id: RequestId, tickets: WithTickets
) -> Response:
    """Return a ticket's code as a QR code, to be scaled to any size."""
    code = tickets.qr_code(booking_id, number, caller, request_id=request_id)
    return Response(code.svg(), media_type=SVG, headers=_QR_HEADERS)


@router.get(
    "/{booking_id}/tickets/{number}/qr.png",
    responses=headers(200, "Cache-Control") | _CODE_REFUSALS,
)
def get_qr_png(
    booking_id: str, number: int, caller: Caller, request_id: RequestId, tickets: WithTickets
) -> Response:
    """Return a ticket's code as a QR code."""
    code = tickets.qr_code(booking_id, number, caller, request_id=request_id)
    return Response(code.png(), media_type=PNG, headers=_QR_HEADERS)


@router.get("/.well-known/jwks.json", responses=headers(200, "Cache-Control"))
def get_ticket_keys(keys: WithTicketKeys) -> Response:
    """Return the public keys that verify tickets' codes."""
    return Response(
        keys(),
        media_type="application/json",
        headers={"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}"},
    )
