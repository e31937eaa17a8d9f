"""The waiting line of each event: bounded, first come first served. No I/O, no clock of its own."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from booking.models import CreateRequest, Outcome

EVENT_QUEUE_LIMIT = 2_000
TOTAL_QUEUE_LIMIT = 10_000


class QueueFull(Exception):  # noqa: N818 - an answer, not a failure
    """The line of this event, or all lines together, are at their limit."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in line; `deadline` is on the event loop's clock, in seconds."""

    request: CreateRequest
    answer: "asyncio.Future[Outcome]"
    deadline: float
    looked_up_again: bool = False
    """its key was looked up once more after the database had refused it"""


class EventQueues:
    """One line for each event, and the events that are set aside for a while."""

    def __init__(
        self, event_limit: int = EVENT_QUEUE_LIMIT, total_limit: int = TOTAL_QUEUE_LIMIT
    ) -> None:
        self._event_limit = event_limit
        self._total_limit = total_limit
        self._lines: dict[str, deque[Waiting]] = {}
        self._parked: set[str] = set()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, waiting: Waiting) -> None:
        """Put a request at the end of its event's line.

        Raises:
            QueueFull: there is no place.

        """
        event_id = waiting.request.event_id
        line = self._lines.get(event_id)
        if self._length >= self._total_limit:
            raise QueueFull
        if line is None:
            self._lines[event_id] = deque((waiting,))
        elif len(line) >= self._event_limit:
            raise QueueFull
        else:
            line.append(waiting)
        self._length += 1

    def put_back(self, waiting: Sequence[Waiting]) -> None:
        """Put requests back to the front of their lines, in the order in which they are given.

        They had a place before, so no limit is asked.
        """
        for one in reversed(waiting):
            self._lines.setdefault(one.request.event_id, deque()).appendleft(one)
        self._length += len(waiting)

    def park(self, event_id: str) -> None:
        """Set the line of an event aside."""
        self._parked.add(event_id)

    def unpark(self, event_id: str) -> None:
        """Let the line of an event be served again."""
        self._parked.discard(event_id)

    def take(self, limit: int) -> list[Waiting]:
        """Take up to `limit` requests, in line order within each event.

        Short lines are taken whole before long ones share what is left of the limit, and what
        could not be taken comes first the next time, so that no event starves another.
        """
        ready = [event_id for event_id in self._lines if event_id not in self._parked][:limit]
        ready.sort(key=lambda event_id: len(self._lines[event_id]))
        taken: list[Waiting] = []
        for position, event_id in enumerate(ready):
            share = (limit - len(taken)) // (len(ready) - position)
            taken.extend(self._take_from(event_id, share))
        return taken

    def take_event(self, event_id: str, limit: int) -> list[Waiting]:
        """Take up to `limit` requests of one event, parked or not."""
        return list(self._take_from(event_id, limit)) if event_id in self._lines else []

    def take_expired(self, now: float) -> list[Waiting]:
        """Take all requests whose deadline has come."""
        expired: list[Waiting] = []
        for event_id, line in list(self._lines.items()):
            late = [w for w in line if w.deadline <= now]
            if late:
                expired.extend(late)
                self._length -= len(late)
                self._keep(event_id, deque(w for w in line if w.deadline > now))
        return expired

    def take_all(self) -> list[Waiting]:
        """Empty all lines."""
        everything = [waiting for line in self._lines.values() for waiting in line]
        self._lines.clear()
        self._length = 0
        return everything

    def _take_from(self, event_id: str, limit: int) -> Iterator[Waiting]:
        line = self._lines.pop(event_id)
        count = min(limit, len(line))
        self._length -= count
        for _ in range(count):
            yield line.popleft()
        if line:
            self._lines[event_id] = line  # at the end: the others are served first next time

    def _keep(self, event_id: str, line: deque[Waiting]) -> None:
        if line:
            self._lines[event_id] = line
        else:
            del self._lines[event_id]
