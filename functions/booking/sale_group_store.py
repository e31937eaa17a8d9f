"""Transitions that move stock, those of one sale in one transaction.

Lock order: the sale row, then booking rows by id, then their tickets, then the outbox. Bookings
that others have locked are left out, so that one of them does not keep the sale locked.
"""

from collections.abc import Mapping, Sequence

from booking import bulk
from booking.batch_store import SUM_HELD
from booking.booking_store import LIMIT_SALE_WAIT, SALE_WAIT_LIMIT_MS, locked_sale
from booking.group_store import LOCK_FREE_BOOKINGS
from booking.groups import Wish, decide_with_sale
from booking.models import EXPIRED, Booking, Decided, Sale
from booking.sale_groups import Outcome
from ticketra.database import Connection, Database
from ticketra.ids import IdSource


class SaleGroupStore:
    """Changes many bookings of one sale at once."""

    def __init__(self, database: Database, mint_id: IdSource) -> None:
        self._database = database
        self._mint_id = mint_id

    async def change(self, event_id: str, wishes: Sequence[Wish]) -> list[Outcome]:
        """Return the booking of each wish as it is then, or why that may not be.

        None for one that has to go alone. The sale exists.

        Raises:
            Unavailable: PostgreSQL is away.
            psycopg.errors.LockNotAvailable: others kept the sale locked for SALE_WAIT_LIMIT_MS.
            psycopg.Error: it refused all of them, or went away; they may be committed then.

        """
        async with self._database.lend() as connection, connection.transaction():
            await connection.execute(LIMIT_SALE_WAIT, [f"{SALE_WAIT_LIMIT_MS}ms"])
            sale = await locked_sale(connection, event_id)
            cursor = await connection.execute(
                LOCK_FREE_BOOKINGS, [[wish.booking_id for wish in wishes]], prepare=True
            )
            present = {row[0]: Booking._make(row) for row in await cursor.fetchall()}
            held = await _held(connection, sale, present)
            outcomes = decide_with_sale(wishes, present, sale, held)
            decided = [one for one in outcomes if isinstance(one, Decided)]
            changed = await self._write(connection, decided, sale)
        return [_outcome(one, changed) for one in outcomes]

    async def _write(
        self, connection: Connection, decided: Sequence[Decided], sale: Sale
    ) -> dict[str, Booking]:
        return await bulk.change(connection, decided, {sale.event_id: sale}, self._mint_id)


async def _held(
    connection: Connection, sale: Sale, present: Mapping[str, Booking]
) -> dict[str, int]:
    """Return what the users of EXPIRED bookings hold now, if the locked sale limits that."""
    users = list({one.user_id for one in present.values() if one.status == EXPIRED})
    if not users or sale.max_per_user == 0:
        return {}
    cursor = await connection.execute(SUM_HELD, [[sale.event_id] * len(users), users], prepare=True)
    return {user_id: count for _, user_id, count in await cursor.fetchall()}


def _outcome(one: Decided | Outcome, changed: Mapping[str, Booking]) -> Outcome:
    if not isinstance(one, Decided):
        return one
    booking = changed.get(one.booking.id)
    return booking and (one.transition.refusal or booking)
