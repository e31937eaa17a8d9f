"""Tickets: one row for each seat of a booking that was confirmed. They go as their booking goes."""

from collections.abc import Sequence

from booking.models import ISSUE, VOID, Booking, Ticket, Transition
from ticketra.database import Connection, Database
from ticketra.ids import IdSource

ISSUE_TICKETS = """
INSERT INTO tickets (id, booking_id, number)
SELECT * FROM unnest(%b::uuid[], %b::uuid[], %b::integer[])
"""

VOID_TICKETS = """
UPDATE tickets SET status = 'void' WHERE booking_id = ANY(%b::uuid[]) AND status = 'valid'
"""

LIST = """
SELECT id::text, booking_id::text, number, status
  FROM tickets
 WHERE booking_id = %s AND number > %s
 ORDER BY number
 LIMIT %s
"""

FIND_ANY = "SELECT FROM tickets WHERE booking_id = %s LIMIT 1"


async def follow(
    connection: Connection, changes: Sequence[tuple[Booking, Transition]], mint_id: IdSource
) -> None:
    """Issue or void the tickets of bookings, as their transitions in this transaction say."""
    confirmed = [booking for booking, transition in changes if transition.tickets == ISSUE]
    if confirmed:
        seats = [(b.id, number) for b in confirmed for number in range(1, b.ticket_count + 1)]
        await connection.execute(
            ISSUE_TICKETS,
            [
                [mint_id() for _ in seats],
                [booking_id for booking_id, _ in seats],
                [number for _, number in seats],
            ],
            prepare=True,
        )
    ended = [booking.id for booking, transition in changes if transition.tickets == VOID]
    if ended:
        await connection.execute(VOID_TICKETS, [ended], prepare=True)


class TicketStore:
    """Reads the tickets of bookings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_booking(self, booking_id: str, after: int, limit: int) -> list[Ticket]:
        """Return up to `limit` tickets by number, with numbers above `after`."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(LIST, [booking_id, after, limit])
            return [Ticket._make(row) for row in await cursor.fetchall()]

    async def are_issued(self, booking_id: str) -> bool:
        """Say whether a booking has tickets, valid or not."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(FIND_ANY, [booking_id])
            return await cursor.fetchone() is not None
