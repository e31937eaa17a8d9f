"""Whether a task is alive: a file that its main loop touches while it turns and gets on.

`python -m ticketra.heartbeat` exits with 0 if the file is fresh and with 1 if not. It imports
nothing beyond the standard library, because it is started again and again. A task whose servers are
away is alive: starting it anew would not bring them back.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HEARTBEAT_INTERVAL_S = 1
# Longer than any one call of a main loop may block.
HEARTBEAT_AGE_LIMIT_S = 60


def heartbeat_file() -> Path:
    """Return the file whose modification time is the last heartbeat.

    It lies in TMPDIR, which each container has of its own.
    """
    return Path(tempfile.gettempdir()) / "task.heartbeat"


class Heartbeat:
    """Touches a file, at most every HEARTBEAT_INTERVAL_S.

    Args:
        path: the file; it is made when missing.
        monotonic: a clock in seconds.

    """

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._last_s = -math.inf

    def beat(self) -> None:
        """Say that the task is alive now."""
        now_s = self._monotonic()
        if now_s - self._last_s >= HEARTBEAT_INTERVAL_S:
            self._path.touch()
            self._last_s = now_s


def is_alive(path: Path, now_s: float) -> bool:
    """Return whether the last heartbeat is at most HEARTBEAT_AGE_LIMIT_S before `now_s`."""
    try:
        return now_s - path.stat().st_mtime <= HEARTBEAT_AGE_LIMIT_S
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_alive(heartbeat_file(), time.time()) else 1)
