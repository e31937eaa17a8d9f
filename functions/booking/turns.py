"""Who may wait for rows that others have locked.

Whoever waits keeps a pooled connection in hand. One stuck event must not take them from all else.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from booking.decisions import busy

WAITING_LIMIT = 3  # half of the pool
TURN_WAIT_S = 2.0


class Turns:
    """Of each event one may wait at a time, and WAITING_LIMIT of all events."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(WAITING_LIMIT)
        self._of_event: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def take(self, event_id: str) -> AsyncIterator[None]:
        """Take a turn with the rows of an event, after at most about TURN_WAIT_S in line.

        Raises:
            Busy: `event_busy`, the line did not move on in time.

        """
        lock = self._of_event.setdefault(event_id, asyncio.Lock())
        self._users[event_id] += 1
        try:
            await _in_time(lock)
            try:
                await _in_time(self._all)
                try:
                    yield
                finally:
                    self._all.release()
            finally:
                lock.release()
        finally:
            self._users[event_id] -= 1
            if not self._users[event_id]:
                del self._users[event_id], self._of_event[event_id]


async def _in_time(place: asyncio.Lock | asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(TURN_WAIT_S):
            await place.acquire()
    except TimeoutError:
        raise busy() from None
