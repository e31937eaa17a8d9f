"""The closer: ends the bookings of sales that were closed, because the event was cancelled.

What is left to do is read from the sales themselves, so a crash leaves nothing undone for long.
"""

import asyncio
from collections.abc import Callable, Iterable

import psycopg

from booking.closing_store import ClosingStore
from booking.models import Booking, Transition
from booking.transitions import EVENT_CANCELLED, cancel
from ticketra.errors import Unavailable
from ticketra.log import logger

CLOSING_INTERVAL_S = 1.0
WAITED_FOR_LIMIT = 10  # sales that others have locked, in one round

# What one batch may meet while PostgreSQL is well: bad data, or more than its time-out allows.
_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.QueryCanceled)


class Closer:
    """Cancels the bookings of closed sales in bounded batches; several tasks may do so at once."""

    def __init__(self, store: ClosingStore, on_commit: Callable[[], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._wake = asyncio.Event()
        self._stuck: set[str] = set()

    def wake(self) -> None:
        """Say that a sale was closed."""
        self._wake.set()

    async def run(self) -> None:
        """Look for closed sales again and again; never returns."""
        while True:
            await self._woken()
            try:
                await self.close()
            except (Unavailable, psycopg.Error) as error:
                logger.warning("the closer pauses", extra={"error": str(error)})

    async def close(self) -> int:
        """End the bookings of all closed sales, and return how many bookings that were.

        Each round does one batch of each sale, so that a large one does not keep the others
        waiting. Sales that others have locked are passed over first.

        Raises:
            Unavailable: PostgreSQL is away.
            psycopg.Error: it went away on the way.

        """
        ended = 0
        while event_ids := await self._store.closing():
            batches = [
                (event_id, await self._batch(event_id, wait=False)) for event_id in event_ids
            ]
            locked = [event_id for event_id, count in batches if count is None]
            batches += await self._batches_of_locked(locked)
            counts = [count for _, count in batches if count is not None]
            if not counts:
                break
            ended += sum(counts)
        return ended

    async def _batches_of_locked(self, event_ids: Iterable[str]) -> list[tuple[str, int | None]]:
        """Wait for sales that are locked all the time.

        One that could not be had is not waited for in the next round, so that the others are.
        """
        waited_for = [event_id for event_id in event_ids if event_id not in self._stuck]
        batches = [
            (event_id, await self._batch(event_id, wait=True))
            for event_id in waited_for[:WAITED_FOR_LIMIT]
        ]
        self._stuck = {event_id for event_id, count in batches if count is None}
        return batches

    async def _batch(self, event_id: str, *, wait: bool) -> int | None:
        """Return how many bookings were ended; None if others have locked what is needed.

        None too if PostgreSQL refuses the batch: it comes again, and the other sales go on.
        """
        try:
            closed = await self._store.end_some(event_id, _end, wait=wait)
        except psycopg.errors.LockNotAvailable:
            return None
        except _REFUSED as error:
            logger.error(
                "a closed sale's bookings could not be ended",
                extra={"event_id": event_id, "error": str(error)},
            )
            return None
        if closed is None:
            return None
        if closed.ended:
            self._on_commit()
        return closed.ended

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(CLOSING_INTERVAL_S):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()


def _end(booking: Booking) -> Transition | None:
    return cancel(booking, EVENT_CANCELLED)
