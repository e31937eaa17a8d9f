"""The sweeper: gives back the tickets of bookings whose hold has ended."""

import asyncio
from collections.abc import Callable

import psycopg

from booking.booking_store import EXPIRY_BATCH_LIMIT, BookingStore
from booking.transitions import expire
from ticketra.errors import Unavailable
from ticketra.log import logger

SWEEP_INTERVAL_S = 1.0


class Sweeper:
    """Expires due bookings in bounded batches; several tasks may sweep at once.

    A booking whose `booking.created` message is still unpublished is extended by `hold_ttl_s`, up
    to `hold_max_s` after it was made: an outage of ours does not cost the buyer the tickets.
    """

    def __init__(
        self,
        store: BookingStore,
        hold_ttl_s: int,
        hold_max_s: int,
        on_commit: Callable[[], None],
    ) -> None:
        self._store = store
        self._hold_ttl_s = hold_ttl_s
        self._hold_max_s = hold_max_s
        self._on_commit = on_commit

    async def run(self) -> None:
        """Sweep again and again; never returns."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            try:
                await self.sweep()
            except (Unavailable, psycopg.Error) as error:
                logger.warning("the sweeper pauses", extra={"error": str(error)})

    async def sweep(self) -> int:
        """Expire what is due now, and return how many bookings that were.

        Raises:
            Unavailable: PostgreSQL is away.
            psycopg.Error: it went away on the way.

        """
        expired = 0
        while True:
            done = await self._store.expire_due(expire, self._hold_ttl_s, self._hold_max_s)
            expired += done.expired
            if done.expired:
                self._on_commit()
            # A round that could do nothing met rows that others have locked: later.
            if done.found < EXPIRY_BATCH_LIMIT or not (done.expired or done.extended):
                return expired
