"""After an outage of ours, payment goes first: no hold ends before its retries have come.

What was paid meanwhile could not be confirmed, and its hold may have ended. Giving those tickets
back at once would sell them to others, just before the payment arrives.
"""

import time
from collections.abc import Callable

OUTAGE_S = 5.0  # payment's first retries outlast what is shorter
GRACE_S = 75.0  # payment tries again after a minute at most


class Grace:
    """Knows whether holds may end now; ask it before each sweep, and tell it after.

    Not having been asked or told for OUTAGE_S is an outage, whatever it was; so is the time before
    the start. A grace lasts GRACE_S, but no longer than a hold does.
    """

    def __init__(
        self,
        available: Callable[[], bool],
        hold_ttl_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._available = available
        self._grace_s = min(GRACE_S, hold_ttl_s)
        self._monotonic = monotonic
        self._served_at: float | None = None
        self._ends_at = 0.0

    def is_over(self) -> bool:
        """Say whether PostgreSQL is there, and has been for long enough after an outage."""
        if not self._available():
            return False
        now = self._monotonic()
        if self._served_at is None or now - self._served_at > OUTAGE_S:
            self._ends_at = now + self._grace_s
        self._served_at = now
        return now >= self._ends_at

    def swept(self) -> None:
        """Say that PostgreSQL served a sweep until now, however long that took."""
        self._served_at = self._monotonic()
