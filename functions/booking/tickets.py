"""Tickets as their buyers see them: with the code that a door checks."""

from typing import NamedTuple

from booking.bookings import Bookings
from booking.models import TICKET_VALID, Booking, Ticket
from booking.ticket_store import TicketStore
from booking.validation import PAGE_SIZE_DEFAULT, PAGE_SIZE_LIMIT, TICKET_COUNT_LIMIT, Problems
from ticketra.errors import Conflict
from ticketra.ticket_codes import TicketClaims, TicketSigner


class SignedTicket(NamedTuple):
    """A ticket and its code."""

    ticket: Ticket
    code: str


class Tickets:
    """Shows tickets; their codes are signed here, each time that they are shown."""

    def __init__(self, bookings: Bookings, store: TicketStore, signer: TicketSigner) -> None:
        self._bookings = bookings
        self._store = store
        self._signer = signer

    async def list_of(
        self, booking_id: str, user_id: str, page_size: int, after: int
    ) -> tuple[list[SignedTicket], int]:
        """Return a page of a booking's tickets by number, and the number to go on after.

        That is 0 on the last page. With a `user_id`, only that user's booking is found.

        Raises:
            NotFound: `booking_not_found`.
            Conflict: `tickets_not_issued`, the booking was never confirmed.

        """
        problems = Problems()
        problems.within("page_size", page_size, 0, PAGE_SIZE_LIMIT)
        problems.within("after", after, 0, TICKET_COUNT_LIMIT)
        problems.refuse()
        booking = await self._bookings.get(booking_id, user_id)
        limit = page_size or PAGE_SIZE_DEFAULT
        found = await self._store.of_booking(booking.id, after, limit + 1)
        if not found and not (after and await self._store.are_issued(booking.id)):
            raise Conflict(
                "tickets_not_issued", "The booking has no tickets: they come when it is paid."
            )
        page = found[:limit]
        signed = [SignedTicket(ticket, self._code(booking, ticket)) for ticket in page]
        return signed, page[-1].number if len(found) > limit else 0

    def _code(self, booking: Booking, ticket: Ticket) -> str:
        """Return the code of a ticket; a void one has none, as an offline door would accept it."""
        if ticket.status != TICKET_VALID:
            return ""
        claims = TicketClaims(ticket.id, booking.id, booking.event_id, ticket.number)
        return self._signer.code(claims)
