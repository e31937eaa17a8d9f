"""Every state of a booking, and everything that can be asked of it."""

import pytest

from booking import transitions
from booking.models import CANCELLED, CONFIRMED, EXPIRED, PENDING, Transition
from tests.unit.booking.builders import NOW, booking, sale
from ticketra.errors import Conflict


def test_a_buyer_cancels_a_held_booking_and_the_tickets_go_back() -> None:
    done = transitions.cancel(booking(PENDING), "why")
    assert done == Transition(CANCELLED, "pending", "why", 2, "booking.cancelled")


def test_a_buyer_cancels_a_paid_booking_and_is_refunded() -> None:
    done = transitions.cancel(booking(CONFIRMED, "paid"), "why")
    assert done == Transition(CANCELLED, "refunding", "why", 2, "booking.cancelled", tickets="void")


def test_cancelling_again_changes_nothing() -> None:
    assert transitions.cancel(booking(CANCELLED), "again") is None


def test_an_expired_booking_cannot_be_cancelled() -> None:
    with pytest.raises(Conflict) as refused:
        transitions.cancel(booking(EXPIRED), "why")
    assert refused.value.code == "booking_expired"


def test_a_declined_payment_cancels_a_held_booking() -> None:
    done = transitions.decline(booking(PENDING), "no funds")
    assert done == Transition(CANCELLED, "declined", "no funds", 2, "booking.cancelled")


@pytest.mark.parametrize("status", [CANCELLED, EXPIRED])
def test_a_declined_payment_of_an_ended_booking_moves_no_stock(status: str) -> None:
    done = transitions.decline(booking(status, reason="before"), "no funds")
    assert done == Transition(status, "declined", "before")


@pytest.mark.parametrize("status", [CANCELLED, EXPIRED])
def test_declining_again_changes_nothing(status: str) -> None:
    assert transitions.decline(booking(status, "declined"), "no funds") is None


def test_a_paid_booking_cannot_be_declined() -> None:
    with pytest.raises(Conflict) as refused:
        transitions.decline(booking(CONFIRMED, "paid"), "no funds")
    assert refused.value.code == "booking_confirmed"


def test_a_payment_confirms_a_held_booking_without_touching_stock() -> None:
    done = transitions.confirm(booking(PENDING), None, 0)
    assert done == Transition(CONFIRMED, "paid", "", 0, "booking.confirmed", tickets="issue")


def test_confirming_again_changes_nothing() -> None:
    assert transitions.confirm(booking(CONFIRMED, "paid"), None, 0) is None


def test_an_expired_booking_asks_for_its_sale() -> None:
    with pytest.raises(transitions.SaleNeeded):
        transitions.confirm(booking(EXPIRED), None, 0)


def test_a_late_payment_takes_the_tickets_again() -> None:
    done = transitions.confirm(booking(EXPIRED), sale(remaining=2), 0)
    assert done == Transition(CONFIRMED, "paid", "", -2, "booking.confirmed", tickets="issue")


@pytest.mark.parametrize(("held", "max_per_user"), [(2, 4), (0, 2), (50, 0)])
def test_a_late_payment_takes_the_tickets_again_up_to_the_limit(
    held: int, max_per_user: int
) -> None:
    done = transitions.confirm(booking(EXPIRED), sale(max_per_user=max_per_user), held)
    assert done == Transition(CONFIRMED, "paid", "", -2, "booking.confirmed", tickets="issue")


@pytest.mark.parametrize(("held", "max_per_user"), [(3, 4), (0, 1)])
def test_a_late_payment_above_the_limit_of_the_user_is_refunded(
    held: int, max_per_user: int
) -> None:
    done = transitions.confirm(booking(EXPIRED), sale(max_per_user=max_per_user), held)
    assert done is not None
    assert (done.status, done.payment_status, done.stock_delta) == (EXPIRED, "refunding", 0)
    assert done.refusal is not None
    assert done.refusal.code == "tickets_gone"


def test_a_held_booking_is_confirmed_whatever_its_user_holds() -> None:
    done = transitions.confirm(booking(PENDING), sale(max_per_user=1), 9)
    assert done == Transition(CONFIRMED, "paid", "", 0, "booking.confirmed", tickets="issue")


@pytest.mark.parametrize("present", [sale(remaining=1), sale(remaining=9, closed=True)])
def test_a_late_payment_without_tickets_is_refunded(present: object) -> None:
    done = transitions.confirm(booking(EXPIRED), present, 0)  # type: ignore[arg-type]
    assert done is not None
    assert (done.status, done.payment_status, done.stock_delta) == (EXPIRED, "refunding", 0)
    assert done.refusal is not None
    assert done.refusal.code == "tickets_gone"


def test_tickets_gone_stays_the_answer_when_tickets_come_back() -> None:
    with pytest.raises(Conflict) as refused:
        transitions.confirm(booking(EXPIRED, "refunding"), sale(remaining=50), 0)
    assert refused.value.code == "tickets_gone"


def test_a_payment_of_a_cancelled_booking_is_refunded() -> None:
    done = transitions.confirm(booking(CANCELLED), None, 0)
    assert done is not None
    assert (done.status, done.payment_status, done.routing_key) == (CANCELLED, "refunding", None)
    assert done.refusal is not None
    assert done.refusal.code == "booking_cancelled"
    with pytest.raises(Conflict):
        transitions.confirm(done.apply(booking(CANCELLED), NOW), None, 0)


@pytest.mark.parametrize("status", [CANCELLED, EXPIRED])
@pytest.mark.parametrize("before", ["refunding", "pending", "declined"])
def test_a_refund_is_noted_on_an_ended_booking_and_nobody_is_told(status: str, before: str) -> None:
    done = transitions.refund(booking(status, before, reason="why"))
    assert done == Transition(status, "refunded", "why")


@pytest.mark.parametrize("status", [CANCELLED, EXPIRED])
def test_a_refund_is_noted_once(status: str) -> None:
    assert transitions.refund(booking(status, "refunded")) is None


@pytest.mark.parametrize(
    ("status", "payment_status", "code"),
    [(CONFIRMED, "paid", "booking_confirmed"), (PENDING, "pending", "booking_pending")],
)
def test_what_holds_tickets_is_not_refunded(status: str, payment_status: str, code: str) -> None:
    with pytest.raises(Conflict) as refused:
        transitions.refund(booking(status, payment_status))
    assert refused.value.code == code


def test_a_refunded_booking_is_not_sold() -> None:
    with pytest.raises(Conflict) as cancelled:
        transitions.confirm(booking(CANCELLED, "refunded"), None, 0)
    assert cancelled.value.code == "booking_cancelled"
    with pytest.raises(Conflict) as expired:
        transitions.confirm(booking(EXPIRED, "refunded"), sale(remaining=50), 0)
    assert expired.value.code == "tickets_gone"


def test_an_ended_hold_gives_the_tickets_back() -> None:
    done = transitions.expire(booking(PENDING))
    assert (done.status, done.stock_delta, done.routing_key) == (EXPIRED, 2, "booking.expired")
