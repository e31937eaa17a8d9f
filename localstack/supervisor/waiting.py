"""Waiting for work in other threads while the user may press Ctrl-C."""

from collections.abc import Collection
from concurrent.futures import Future, wait
from typing import Any

WAKE_INTERVAL_S = 0.2


def wait_all(futures: Collection["Future[Any]"]) -> None:
    """Wait until all have ended, well or not.

    The system may hand a signal to any thread, and Python acts on it in the main thread only when
    that wakes up. A wait without a limit was seen to sleep through Ctrl-C.
    """
    while wait(futures, timeout=WAKE_INTERVAL_S).not_done:
        pass
