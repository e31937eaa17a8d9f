"""A bounded first-come-first-served queue for a fixed number of slots."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class QueueFullError(Exception):
    """All slots are taken and the queue is full."""


class QueueWaitError(Exception):
    """No slot became free within the longest wait."""


class Slots:
    """Hands out slots in the order of arrival.

    Parameters
    ----------
    slots_limit : int
        Slots that may be held at once.
    queue_limit : int
        Callers that may wait.
    wait_s : float
        Longest wait of a caller.
    """

    def __init__(self, *, slots_limit: int, queue_limit: int, wait_s: float) -> None:
        self._free = slots_limit
        self._queue_limit = queue_limit
        self._wait_s = wait_s
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Return how many callers wait."""
        return len(self._queue)

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Hold a slot; yields the seconds waited. Raises QueueFullError or QueueWaitError."""
        began = time.monotonic()
        self._acquire()
        try:
            yield time.monotonic() - began
        finally:
            self._release()

    def _acquire(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._queue) >= self._queue_limit:
                raise QueueFullError
            turn = threading.Event()
            self._queue.append(turn)
        if turn.wait(self._wait_s):
            return
        with self._lock:
            if turn.is_set():  # handed over in the last moment
                return
            self._queue.remove(turn)
        raise QueueWaitError

    def _release(self) -> None:
        with self._lock:
            # A slot goes straight to whoever waits longest, so nobody can overtake.
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1
