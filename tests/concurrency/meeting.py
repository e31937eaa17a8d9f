"""Races whose racers always overlap, for showing what happens once a guard is off."""

import asyncio
from typing import Any

from booking import booking_store, bulk, closing_store, group_store
from booking.booking_store import BookingStore
from booking.closing_store import ClosingStore
from booking.group_store import GroupStore
from booking.models import Booking
from booking.sale_group_store import SaleGroupStore
from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.ids import IdSource

MINT = IdSource()
LIMIT_S = 10.0

UNLOCKED_SALE = booking_store.LOCK_SALE.replace("FOR UPDATE", "")
UNLOCKED_SALES_OF_DUE = booking_store.LOCK_SALES_OF_DUE.replace("FOR UPDATE SKIP LOCKED", "")
UNLOCKED_DUE = booking_store.LOCK_DUE.replace("FOR UPDATE SKIP LOCKED", "")
UNLOCKED_CLOSING = closing_store.LOCK_FREE_SALE.replace("FOR UPDATE SKIP LOCKED", "")
UNLOCKED_HOLDING = closing_store.LOCK_HOLDING.replace("FOR UPDATE", "")
UNLOCKED_GROUP = group_store.LOCK_FREE_BOOKINGS.replace("FOR UPDATE SKIP LOCKED", "")
UNLOCKED_BOOKING = booking_store.LOCK_BOOKING.replace("FOR UPDATE", "")
UNCONDITIONAL_CHANGES = bulk.CHANGE_BOOKINGS.replace(
    "AND status = old_status AND payment_status = old_payment_status", ""
)
UNCONDITIONAL_CHANGE = """
UPDATE bookings SET status = %s, payment_status = %s, reason = %s, updated_at = now()
 WHERE id = %s AND %s::text IS NOT NULL AND %s::text IS NOT NULL
RETURNING updated_at
"""


class MeetingStore(BookingStore):
    """Writes only when all that share `meeting` have read, so no lock may keep them from it."""

    def __init__(self, database: Database, meeting: asyncio.Barrier, **statements: str) -> None:
        super().__init__(database, MINT, **statements)
        self._meeting = meeting

    async def _apply(self, *args: Any, **kwargs: Any) -> Booking:
        await self._meeting.wait()
        return await super()._apply(*args, **kwargs)

    async def _expire(self, *args: Any, **kwargs: Any) -> None:
        await self._meeting.wait()
        await super()._expire(*args, **kwargs)


class MeetingGroups(GroupStore):
    """The same for groups of confirmations."""

    def __init__(self, database: Database, meeting: asyncio.Barrier) -> None:
        super().__init__(database, MINT)
        self._meeting = meeting

    async def _write(self, *args: Any) -> dict[str, Booking]:
        await self._meeting.wait()
        return await super()._write(*args)


class MeetingSaleGroups(SaleGroupStore):
    """The same for groups that need their sale."""

    def __init__(self, database: Database, meeting: asyncio.Barrier) -> None:
        super().__init__(database, MINT)
        self._meeting = meeting

    async def _write(self, *args: Any) -> dict[str, Booking]:
        await self._meeting.wait()
        return await super()._write(*args)


class MeetingClosing(ClosingStore):
    """The same for closed sales."""

    def __init__(self, database: Database, meeting: asyncio.Barrier) -> None:
        super().__init__(database, MINT)
        self._meeting = meeting

    async def _write(self, *args: Any) -> None:
        await self._meeting.wait()
        await super()._write(*args)


async def until_blocked(postgres: Server, count: int = 1) -> None:
    """Return when so many of the booking task's connections wait for a lock."""
    with orders(postgres) as connection:
        async with asyncio.timeout(LIMIT_S):
            while True:
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'booking%' AND wait_event_type = 'Lock'"
                ).fetchone()
                if row == (count,):
                    return
                await asyncio.sleep(0.005)


def drop_stock_check(postgres: Server) -> None:
    """Take away the last guard, the constraint on what remains of a sale."""
    with orders(postgres) as connection:
        connection.execute("ALTER TABLE sales DROP CONSTRAINT sales_remaining_within_capacity")
