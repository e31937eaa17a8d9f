from datetime import UTC, datetime, timedelta
from uuid import UUID

from ticketra.ids import minted_at, uuid7_at

NOW = datetime(2026, 7, 20, 21, 0, 0, 123_000, tzinfo=UTC)


def test_holds_time_version_and_variant() -> None:
    made = uuid7_at(NOW, lambda count: b"\xff" * count)

    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == int(NOW.timestamp() * 1000)


def test_the_rest_is_random() -> None:
    lowest = uuid7_at(NOW, bytes)
    highest = uuid7_at(NOW, lambda count: b"\xff" * count)

    assert (lowest.int ^ highest.int).bit_count() == 74


def test_sorts_by_time() -> None:
    earlier = uuid7_at(NOW, lambda count: b"\xff" * count)
    later = uuid7_at(NOW + timedelta(milliseconds=1), bytes)

    assert earlier < later


def test_tells_its_time() -> None:
    assert minted_at(uuid7_at(NOW, bytes)) == NOW


def test_ids_that_hold_no_time_tell_none() -> None:
    assert minted_at(UUID(int=uuid7_at(NOW, bytes).int ^ 1 << 76)) is None, "another version"
    assert minted_at(UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")) is None, "beyond the year 9999"
