"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the time they were made."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

RandomBytes = Callable[[int], bytes]
Clock = Callable[[], datetime]

RANDOM_BITS = 74
_ID_BYTES = (RANDOM_BITS + 7) // 8
_IDS_AT_ONCE = 256  # asking the system for randomness costs more than the rest of an id
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION = 7 << 76
_VARIANT = 2 << 62
_MASK_62 = (1 << 62) - 1
_MASK_RANDOM = (1 << RANDOM_BITS) - 1


def uuid7(unix_ms: int, random_bits: int) -> str:
    """Return the UUIDv7 of a Unix time in milliseconds and RANDOM_BITS random bits, as text."""
    value = (
        (unix_ms << 80) | _VERSION | (random_bits >> 62 << 64) | _VARIANT | (random_bits & _MASK_62)
    )
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_at(now: datetime, random_bytes: RandomBytes) -> UUID:
    """Return a UUIDv7 for the moment `now`."""
    random_bits = int.from_bytes(random_bytes(_ID_BYTES)) & _MASK_RANDOM
    return UUID(uuid7(int(now.timestamp() * 1000), random_bits))


def minted_at(identity: UUID) -> datetime | None:
    """Return the moment that a UUIDv7 holds, to the millisecond; None if it is none."""
    if identity.version != 7:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=identity.int >> 80)
    except OverflowError:  # beyond the year 9999
        return None


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
            self._stock = self._random_bytes(_ID_BYTES * _IDS_AT_ONCE)
            self._used = 0
        start = self._used
        self._used = start + _ID_BYTES
        bits = int.from_bytes(self._stock[start : self._used]) >> (8 * _ID_BYTES - RANDOM_BITS)
        return uuid7(self._time_ns() // 1_000_000, bits)
