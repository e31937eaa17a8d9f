"""The bookings of closed sales, and what is left to do for them.

Lock order: the sale row, then booking rows by id, then their tickets, then the outbox.
"""

from collections.abc import Callable
from typing import NamedTuple

from booking import bulk
from booking.batch_store import BOOKING_COLUMNS
from booking.booking_store import LIMIT_SALE_WAIT, LOCK_SALE, SALE_WAIT_LIMIT_MS
from booking.groups import beginning
from booking.models import Booking, Decided, Sale, Transition
from ticketra.database import Connection, Database
from ticketra.ids import IdSource

CLOSING_BATCH_LIMIT = 500
CLOSING_SALES_LIMIT = 1_000

FIND_CLOSING = """
SELECT event_id FROM sales WHERE closed AND NOT bookings_ended ORDER BY event_id LIMIT %s
"""

LOCK_FREE_SALE = f"{LOCK_SALE} SKIP LOCKED"

# In the order of the index, so that neither all of them are sorted for each batch, nor are those
# read again that have ended.
FIND_HOLDING = """
SELECT id::text
  FROM bookings
 WHERE event_id = %s AND status IN ('PENDING', 'CONFIRMED')
 ORDER BY event_id, user_id
 LIMIT %s
"""

LOCK_HOLDING = f"""
SELECT {BOOKING_COLUMNS}
  FROM bookings
 WHERE id = ANY(%b::uuid[]) AND status IN ('PENDING', 'CONFIRMED')
 ORDER BY id
   FOR UPDATE
"""  # noqa: S608 - constant columns

MARK_ENDED = "UPDATE sales SET bookings_ended = true, updated_at = now() WHERE event_id = %s"

Ending = Callable[[Booking], Transition | None]


class Closed(NamedTuple):
    """What became of one batch: how many bookings it ended, and whether there may be more."""

    ended: int
    more: bool


class ClosingStore:
    """Ends the bookings of closed sales, in batches of CLOSING_BATCH_LIMIT."""

    def __init__(self, database: Database, mint_id: IdSource) -> None:
        self._database = database
        self._mint_id = mint_id

    async def closing(self) -> list[str]:
        """Return up to CLOSING_SALES_LIMIT closed events whose bookings have not all ended."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(FIND_CLOSING, [CLOSING_SALES_LIMIT])
            return [row[0] for row in await cursor.fetchall()]

    async def end_some(self, event_id: str, ending: Ending, *, wait: bool) -> Closed | None:
        """Do `ending` to a batch of a closed event's bookings; note it when none is left.

        None: others have the sale locked, and it was not waited for.

        Raises:
            psycopg.errors.LockNotAvailable: others kept the sale (with `wait`) or one of the
                bookings locked for SALE_WAIT_LIMIT_MS.

        """
        async with self._database.lend() as connection, connection.transaction():
            await connection.execute(LIMIT_SALE_WAIT, [f"{SALE_WAIT_LIMIT_MS}ms"])
            locking = LOCK_SALE if wait else LOCK_FREE_SALE
            row = await (await connection.execute(locking, [event_id])).fetchone()
            if row is None:
                return None
            return await self._end_some(connection, Sale._make(row), ending)

    async def _end_some(self, connection: Connection, sale: Sale, ending: Ending) -> Closed:
        """End a batch of the locked sale's bookings.

        Nobody adds to them any more: whoever makes a booking hold tickets locks the sale first, and
        finds it closed.
        """
        cursor = await connection.execute(FIND_HOLDING, [sale.event_id, CLOSING_BATCH_LIMIT])
        found = [row[0] for row in await cursor.fetchall()]
        cursor = await connection.execute(LOCK_HOLDING, [found])
        locked = [Booking._make(row) for row in await cursor.fetchall()]
        some = beginning(locked)
        decided = [
            Decided(booking, transition, "")
            for booking in some
            if (transition := ending(booking)) is not None
        ]
        await self._write(connection, decided, sale)
        more = len(found) == CLOSING_BATCH_LIMIT or len(some) < len(locked)
        if not more:
            await connection.execute(MARK_ENDED, [sale.event_id])
        return Closed(len(decided), more)

    async def _write(self, connection: Connection, decided: list[Decided], sale: Sale) -> None:
        await bulk.change(connection, decided, {sale.event_id: sale}, self._mint_id)
