"""Until when a hold is extended whose payment is in flight."""

from datetime import timedelta

import pytest

from booking.models import CANCELLED, CONFIRMED, EXPIRED, PENDING
from booking.transitions import extended_hold
from tests.unit.booking.builders import HOLD_TTL, NOW, booking

HOLD_MAX = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("age", "left", "extended_by"),
    [
        pytest.param(9 * MINUTE, MINUTE, HOLD_TTL, id="for a whole hold from now"),
        pytest.param(11 * MINUTE, -MINUTE, HOLD_TTL, id="also when it is over and not swept"),
        pytest.param(55 * MINUTE, MINUTE, 5 * MINUTE, id="up to its limit"),
        pytest.param(55 * MINUTE, 5 * MINUTE, None, id="not at its limit"),
        pytest.param(61 * MINUTE, -MINUTE, None, id="not past its limit"),
        pytest.param(timedelta(), HOLD_TTL, None, id="not when it was just made"),
        pytest.param(timedelta(), 2 * HOLD_TTL, None, id="never to be shorter"),
        pytest.param(timedelta(), 2 * HOLD_MAX, None, id="never to be shorter than its limit"),
    ],
)
def test_a_pending_booking_is_held(
    age: timedelta, left: timedelta, extended_by: timedelta | None
) -> None:
    held = booking(PENDING, created_at=NOW - age, hold_expires_at=NOW + left)
    until = extended_hold(held, NOW, hold_ttl=HOLD_TTL, hold_max=HOLD_MAX)
    assert until == (None if extended_by is None else NOW + extended_by)


@pytest.mark.parametrize("status", [CONFIRMED, CANCELLED, EXPIRED])
def test_no_other_booking_is_held_for_longer(status: str) -> None:
    ended = booking(status, hold_expires_at=NOW)
    assert extended_hold(ended, NOW, hold_ttl=HOLD_TTL, hold_max=HOLD_MAX) is None
