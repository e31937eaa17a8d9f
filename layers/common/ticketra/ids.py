"""Identifiers that this project mints itself."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

RandomBytes = Callable[[int], bytes]
Clock = Callable[[], datetime]

_RANDOM_BYTES = 10


def uuid7(now: datetime, random_bytes: RandomBytes) -> UUID:
    """Return a UUIDv7: `now` in milliseconds, then 74 random bits, so that ids sort by time.

    Source: RFC 9562, section 5.7.
    """
    unix_ms = int(now.timestamp() * 1000)
    number = (unix_ms << 80) | int.from_bytes(random_bytes(_RANDOM_BYTES))
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=number)
