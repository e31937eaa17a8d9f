"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the time they were made."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

RandomBytes = Callable[[int], bytes]
Clock = Callable[[], datetime]

RANDOM_BITS = 74
_RANDOM_BYTES = 10
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
    random_bits = int.from_bytes(random_bytes(_RANDOM_BYTES)) & _MASK_RANDOM
    return UUID(uuid7(int(now.timestamp() * 1000), random_bits))
