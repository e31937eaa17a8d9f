"""Bookings, payments and charges side by side, at one moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncServerCursor
from psycopg.rows import TupleRow

from payment.models import State
from payment.provider import ChargeStatus
from payment.verdicts import BookingStatus, Standing
from ticketra.database import Database
from ticketra.snapshots import at_one_moment, patient

PAGE_LIMIT = 1_000  # entries in memory at a time

# A PENDING booking is updated whenever its hold is extended, which is no progress. Where there is
# no booking any more, its message is made of what the payment or the charge remembers.
COMPARE = """
SELECT booking_id, booking.status, booking.payment_status, payment.state,
       CASE WHEN charge.answered_at > now() THEN 'pending' ELSE charge.status END,
       extract(epoch FROM now() - greatest(
           CASE booking.status WHEN 'PENDING' THEN booking.created_at ELSE booking.updated_at END,
           payment.updated_at, charge.answered_at, charge.refunded_at))::float8,
       coalesce(booking.ticket_count, payment.ticket_count, charge.ticket_count),
       coalesce(booking.amount_minor, payment.amount_minor, charge.amount_minor),
       coalesce(booking.currency, payment.currency, charge.currency),
       coalesce(booking.hold_expires_at, now()),
       coalesce(booking.reason, ''),
       now()
  FROM booking_states AS booking
  FULL JOIN payments AS payment USING (booking_id)
  FULL JOIN mock_bank_charges AS charge USING (booking_id)
 ORDER BY booking_id
"""


class Entry(NamedTuple):
    """One booking in the three books.

    Attributes:
        age_s: for how long it has stood so; below 0 while the provider has not decided.
        reason: why the booking ended.
        seen_at: the moment of the comparison, by the database's clock.

    """

    booking_id: UUID
    standing: Standing
    age_s: float
    ticket_count: int
    amount_minor: int
    currency: str
    hold_expires_at: datetime
    reason: str
    seen_at: datetime


class ReconcileStore:
    """Reads the three books, as far as the payment role sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[list[Entry]]]:
        """Look at all bookings at one moment, in pages of PAGE_LIMIT, however many there are.

        Raises:
            psycopg.OperationalError: PostgreSQL is away, or took longer than SNAPSHOT_LIMIT_S.

        """
        async with (
            await patient(self._database, "reconcile") as connection,
            at_one_moment(connection),
            connection.cursor(name="books", binary=True) as cursor,
        ):
            await cursor.execute(COMPARE)
            yield _pages(cursor)


async def _pages(cursor: AsyncServerCursor[TupleRow]) -> AsyncIterator[list[Entry]]:
    while rows := await cursor.fetchmany(PAGE_LIMIT):
        yield [_entry(*row) for row in rows]


def _entry(
    booking_id: UUID,
    status: str | None,
    payment_status: str | None,
    state: str | None,
    charge: str | None,
    *rest: Any,
) -> Entry:
    standing = Standing(
        BookingStatus(status) if status else None,
        payment_status,
        State(state) if state else None,
        ChargeStatus(charge) if charge else None,
    )
    return Entry(booking_id, standing, *rest)
