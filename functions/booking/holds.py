"""The sweeper: gives back the tickets of bookings whose hold has ended."""

import asyncio
from collections.abc import Callable, Iterable

import psycopg

from booking.booking_store import BookingStore, Expiry
from booking.grace import Grace
from booking.transitions import expire
from ticketra.errors import Unavailable
from ticketra.log import logger

SWEEP_INTERVAL_S = 1.0
PASSED_OVER_LIMIT = 1_000  # events whose sale others have locked, in one sweep
WAITED_FOR_LIMIT = 10  # of these, how many are waited for


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
        self._stuck: set[str] = set()

    async def run(self, grace: Grace) -> None:
        """Sweep again and again, unless there is a grace; never returns."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            if not grace.is_over():
                continue
            try:
                await self.sweep()
                grace.swept()
            except (Unavailable, psycopg.Error) as error:
                logger.warning("the sweeper pauses", extra={"error": str(error)})

    async def sweep(self) -> int:
        """Expire what is due now, and return how many bookings that were.

        Sales that others have locked are passed over first, so that a stuck one stalls nothing.

        Raises:
            Unavailable: PostgreSQL is away.
            psycopg.Error: it went away on the way.

        """
        expired = 0
        passed_over: dict[str, None] = {}
        while len(passed_over) < PASSED_OVER_LIMIT:
            done = await self._store.expire_due(
                expire, self._hold_ttl_s, self._hold_max_s, list(passed_over)
            )
            expired += self._counted(done)
            passed_over.update(dict.fromkeys(done.locked))
            if _ends(done):
                break
        return expired + await self._sweep_locked(passed_over)

    async def _sweep_locked(self, event_ids: Iterable[str]) -> int:
        """Wait for sales that are locked all the time, because they sell well.

        One that could not be had is not waited for in the next sweep, so that the others are.
        """
        expired = 0
        waited_for = [event_id for event_id in event_ids if event_id not in self._stuck]
        self._stuck = set()
        for event_id in waited_for[:WAITED_FOR_LIMIT]:
            expired += await self._sweep_event(event_id)
        return expired

    async def _sweep_event(self, event_id: str) -> int:
        expired = 0
        while True:
            try:
                done = await self._store.expire_due_of(
                    event_id, expire, self._hold_ttl_s, self._hold_max_s
                )
            except psycopg.errors.LockNotAvailable:
                self._stuck.add(event_id)
                return expired
            expired += self._counted(done)
            if _ends(done):
                return expired

    def _counted(self, done: Expiry) -> int:
        if done.expired:
            self._on_commit()
        return done.expired


def _ends(done: Expiry) -> bool:
    """Whether the batch was the last: nothing is left, or only bookings that others have locked."""
    return not done.full or not (done.expired or done.extended or done.locked)
