"""Where the booking task's ids come from."""

import secrets
import time
from collections.abc import Callable

from ticketra.ids import RANDOM_BITS, uuid7


class IdSource:
    """Mints UUIDv7s from a clock and randomness that tests can replace."""

    def __init__(
        self,
        time_ns: Callable[[], int] = time.time_ns,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._time_ns = time_ns
        self._random_bits = random_bits

    def __call__(self) -> str:
        """Return a new id."""
        return uuid7(self._time_ns() // 1_000_000, self._random_bits(RANDOM_BITS))
