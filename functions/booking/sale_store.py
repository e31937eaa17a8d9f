"""Sales: opening, changing, closing and reading them."""

from collections.abc import Callable

from booking import stock
from booking.batch_store import SALE_COLUMNS
from booking.booking_store import LOCK_SALE
from booking.models import OutboxMessage, Sale, SaleTerms
from ticketra.database import Database

OPEN = f"""
INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor, price_currency,
                   sales_start, sales_end, max_per_booking, max_per_user)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (event_id) DO NOTHING
RETURNING {SALE_COLUMNS}
"""  # noqa: S608 - constant columns

CHANGE = """
UPDATE sales
   SET version = %s, capacity = %s, remaining = %s, price_amount_minor = %s, price_currency = %s,
       sales_start = %s, sales_end = %s, max_per_booking = %s, max_per_user = %s, closed = %s,
       stock_version = %s, updated_at = now()
 WHERE event_id = %s
"""

FIND_REMAINING = "SELECT event_id, remaining FROM sales WHERE event_id = ANY(%s)"

Decision = Callable[[Sale], Sale | None]


class SaleStore:
    """Writes the sale that an event's owner decides on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, event_id: str, version: int, terms: SaleTerms) -> Sale | None:
        """Open a sale with all its tickets in stock; None if there is one already."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(
                OPEN, [event_id, version, terms.capacity, terms.capacity, *terms[1:]]
            )
            row = await cursor.fetchone()
        return None if row is None else Sale._make(row)

    async def change(
        self, event_id: str, decision: Decision, message: OutboxMessage | None = None
    ) -> Sale | None:
        """Write what `decision` makes of the locked sale, with `message`, and return the sale.

        None: there is no such sale. Where the decision is None, nothing is written. Whatever the
        decision raises ends the transaction.
        """
        async with self._database.lend() as connection, connection.transaction():
            row = await (await connection.execute(LOCK_SALE, [event_id])).fetchone()
            if row is None:
                return None
            present = Sale._make(row)
            changed = decision(present)
            if changed is None:
                return present
            await connection.execute(CHANGE, [*changed[1:], event_id])
            if changed.stock_version != present.stock_version:
                await stock.announce(connection, [(event_id, changed.stock_version)])
            if message is not None:
                await stock.add_messages(connection, [message])
            return changed

    async def remaining(self, event_ids: list[str]) -> dict[str, int]:
        """Return the tickets that are left of each event that has a sale."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(FIND_REMAINING, [event_ids])
            return {row[0]: row[1] for row in await cursor.fetchall()}
