"""Finds the tickets of an event that are void."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from booking.decisions import event_not_found
from ticketra.database import Database
from ticketra.snapshots import at_one_moment, patient

PAGE_LIMIT = 1_000  # ids in memory at a time

FIND_SALE = "SELECT now() FROM sales WHERE event_id = %s"

LIST_VOID = """
SELECT tickets.id::text
  FROM tickets
  JOIN bookings ON bookings.id = booking_id
 WHERE event_id = %s AND tickets.status = 'void'
 ORDER BY tickets.id
"""


class VoidTickets(NamedTuple):
    """The void tickets of an event: at which moment, and their ids in order."""

    listed_at: datetime
    ids: AsyncIterator[str]


class VoidStore:
    """Reads void tickets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def of_event(self, event_id: str) -> AsyncIterator[VoidTickets]:
        """Look at the void tickets of an event at one moment, PAGE_LIMIT of them at a time.

        Raises:
            NotFound: `event_not_found`.
            psycopg.OperationalError: PostgreSQL is away, or took longer than SNAPSHOT_LIMIT_S.

        """
        async with (
            await patient(self._database, "void-tickets") as connection,
            at_one_moment(connection),
        ):
            sale = await (await connection.execute(FIND_SALE, [event_id])).fetchone()
            if sale is None:
                raise event_not_found()
            async with connection.cursor(name="void_tickets") as cursor:
                cursor.itersize = PAGE_LIMIT
                await cursor.execute(LIST_VOID, [event_id])
                yield VoidTickets(sale[0], (row[0] async for row in cursor))
