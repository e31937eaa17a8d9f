"""Tickets: which of them a caller may see, and which have a QR code to be shown."""

from gateway import qr
from gateway.logic import known_form, reader
from gateway.models import TICKETS_LIMIT, TicketBody, TicketPage
from ticketra.auth import AccessPolicy
from ticketra.booking.v1.booking_pb2 import ListTicketsRequest, ListTicketsResponse
from ticketra.booking_client import BookingClient
from ticketra.errors import Conflict, FieldError, Invalid, NotFound
from ticketra.tokens import Principal

_CURSOR_LIMIT_CHARS = len(str(TICKETS_LIMIT))


class Tickets:
    """What the gateway does about tickets, under one access policy.

    Every method raises the booking service's refusals (`booking_not_found`, which another person's
    booking is too, and `tickets_not_issued`), and Unavailable when it is away.
    """

    def __init__(self, client: BookingClient, *, policy: AccessPolicy) -> None:
        self._client = client
        self._policy: AccessPolicy = policy

    def page(
        self,
        booking_id: str,
        principal: Principal | None,
        *,
        limit: int,
        cursor: str,
        request_id: str,
    ) -> TicketPage:
        """Return a booking's tickets by number, from `cursor` on (empty: from the start)."""
        answer = self._list(
            booking_id, principal, after=_after(cursor), limit=limit, request_id=request_id
        )
        return TicketPage(
            tickets=[TicketBody.of(ticket) for ticket in answer.tickets],
            next_cursor=str(answer.next_after or ""),
        )

    def qr_code(
        self, booking_id: str, number: int, principal: Principal | None, *, request_id: str
    ) -> qr.QrCode:
        """Return the QR code of the code of the ticket `number`.

        Raises:
            NotFound: the booking has no such ticket.
            Conflict: the ticket is void; its QR code would show what no door may let in.

        """
        booking_id = known_form(booking_id)
        if not 1 <= number <= TICKETS_LIMIT:
            raise _no_ticket()
        answer = self._list(booking_id, principal, after=number - 1, limit=1, request_id=request_id)
        if not answer.tickets:
            raise _no_ticket()
        ticket = TicketBody.of(answer.tickets[0])
        if ticket.code is None:
            raise Conflict("ticket_void", "The ticket is void: its booking was cancelled.")
        return qr.of(ticket.code)

    def _list(
        self,
        booking_id: str,
        principal: Principal | None,
        *,
        after: int,
        limit: int,
        request_id: str,
    ) -> ListTicketsResponse:
        user_id = reader(self._policy, principal)
        request = ListTicketsRequest(
            booking_id=known_form(booking_id), user_id=user_id, page_size=limit, after=after
        )
        return self._client.call(lambda stub: stub.ListTickets, request, request_id=request_id)


def _after(cursor: str) -> int:
    """Return the number of the last ticket before `cursor`, which is that number as text."""
    if not cursor:
        return 0
    is_number = cursor.isascii() and cursor.isdigit() and len(cursor) <= _CURSOR_LIMIT_CHARS
    if not is_number or not 1 <= int(cursor) <= TICKETS_LIMIT:
        raise Invalid(
            "validation_failed",
            "Some fields are missing or wrong: see errors.",
            errors=[FieldError("cursor", "is not one that this list gave")],
        )
    return int(cursor)


def _no_ticket() -> NotFound:
    return NotFound("ticket_not_found", "The booking has no ticket with this number.")
