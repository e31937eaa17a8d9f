"""Where the booking task's ids come from."""

import os
import time
from collections.abc import Callable

from ticketra.ids import RANDOM_BITS, uuid7

_RANDOM_BYTES = (RANDOM_BITS + 7) // 8
_IDS_AT_ONCE = 256  # asking the system for randomness costs more than the rest of an id


class IdSource:
    """Mints UUIDv7s from a clock and randomness that tests can replace."""

    def __init__(
        self,
        time_ns: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._time_ns = time_ns
        self._random_bytes = random_bytes
        self._stock = b""
        self._used = 0

    def __call__(self) -> str:
        """Return a new id."""
        if self._used == len(self._stock):
            self._stock = self._random_bytes(_RANDOM_BYTES * _IDS_AT_ONCE)
            self._used = 0
        start = self._used
        self._used = start + _RANDOM_BYTES
        bits = int.from_bytes(self._stock[start : self._used]) >> (8 * _RANDOM_BYTES - RANDOM_BITS)
        return uuid7(self._time_ns() // 1_000_000, bits)
