"""Transitions that need no sale, many in one transaction.

Only what nobody else has locked takes part, so a group waits for no lock and cannot be part of a
deadlock.
"""

from collections.abc import Sequence

import psycopg

from booking import bulk
from booking.batch_store import BOOKING_COLUMNS
from booking.groups import Wish, decide_together
from booking.models import Booking, Decided
from ticketra.database import Connection, Database
from ticketra.ids import IdSource

ONE_MAY_BE_TO_BLAME = (psycopg.DataError, psycopg.IntegrityError)

LOCK_FREE_BOOKINGS = f"""
SELECT {BOOKING_COLUMNS} FROM bookings WHERE id = ANY(%b::uuid[]) ORDER BY id
   FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constant columns


class GroupStore:
    """Changes many bookings at once."""

    def __init__(self, database: Database, mint_id: IdSource) -> None:
        self._database = database
        self._mint_id = mint_id

    async def change(self, wishes: Sequence[Wish]) -> list[Booking | None]:
        """Return the booking of each wish as it is then; None for one that has to go alone.

        Raises:
            Unavailable: PostgreSQL is away.
            psycopg.Error: it refused all of them, or went away; they may be committed then.

        """
        async with self._database.lend() as connection, connection.transaction():
            cursor = await connection.execute(
                LOCK_FREE_BOOKINGS, [[wish.booking_id for wish in wishes]], prepare=True
            )
            present = {row[0]: Booking._make(row) for row in await cursor.fetchall()}
            outcomes = decide_together(wishes, present)
            changed = await self._write(
                connection, [one for one in outcomes if isinstance(one, Decided)]
            )
        return [
            changed.get(one.booking.id) if isinstance(one, Decided) else one for one in outcomes
        ]

    async def _write(
        self, connection: Connection, decided: Sequence[Decided]
    ) -> dict[str, Booking]:
        return await bulk.change(connection, decided, {}, self._mint_id)


def one_may_be_to_blame(error: Exception) -> bool:
    """Say whether PostgreSQL refused a group for what is in it, maybe because of one alone."""
    return isinstance(error, ONE_MAY_BE_TO_BLAME)
