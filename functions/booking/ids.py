"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the time they were made."""

import secrets
import time
from collections.abc import Callable

RANDOM_BITS = 74
_VERSION = 7 << 76
_VARIANT = 2 << 62
_MASK_62 = (1 << 62) - 1


def uuid7(unix_ms: int, random_bits: int) -> str:
    """Return the UUIDv7 of a Unix time in milliseconds and RANDOM_BITS random bits, as text."""
    value = (
        (unix_ms << 80) | _VERSION | (random_bits >> 62 << 64) | _VARIANT | (random_bits & _MASK_62)
    )
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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
