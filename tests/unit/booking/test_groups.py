"""Which of many wishes go into one transaction, and which have to go alone."""

import pytest

from booking import groups, transitions
from booking.groups import Wish, beginning, decide_together
from booking.models import CANCELLED, CONFIRMED, EXPIRED, Booking, Decided, Transition
from tests.unit.booking.builders import booking


def refund(present: Booking, *_: object) -> Transition | None:
    return transitions.refund(present)


def confirm(one: Booking, request_id: str = "test") -> Wish:
    return Wish(one.id, transitions.confirm, request_id)


def by_id(*bookings: Booking) -> dict[str, Booking]:
    return {one.id: one for one in bookings}


def test_held_bookings_are_confirmed_together_in_the_order_of_the_wishes() -> None:
    first, second = booking(), booking()
    sold = Transition(CONFIRMED, "paid", "", 0, "booking.confirmed", tickets="issue")
    assert decide_together([confirm(second, "b"), confirm(first, "a")], by_id(first, second)) == [
        Decided(second, sold, "b"),
        Decided(first, sold, "a"),
    ]


def test_one_that_is_confirmed_is_answered_as_it_is() -> None:
    sold = booking(CONFIRMED, "paid")
    assert decide_together([confirm(sold), confirm(sold)], by_id(sold)) == [sold, sold]


@pytest.mark.parametrize(
    "one",
    [
        booking(EXPIRED),
        booking(EXPIRED, "refunding"),
        booking(CANCELLED),
        booking(CANCELLED, "declined"),
    ],
)
def test_what_needs_its_sale_or_is_refused_goes_alone_and_the_others_do_not(one: Booking) -> None:
    held = booking()
    outcomes = decide_together([confirm(one), confirm(held)], by_id(one, held))
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Decided)


def test_one_that_is_not_present_goes_alone() -> None:
    assert decide_together([confirm(booking())], {}) == [None]


def test_what_moves_stock_goes_alone() -> None:
    held = booking()
    wish = Wish(held.id, lambda present, *_: transitions.cancel(present, "why"), "test")
    assert decide_together([wish], by_id(held)) == [None]


def test_a_booking_changes_once_in_a_group() -> None:
    held = booking()
    outcomes = decide_together([confirm(held), confirm(held)], by_id(held))
    assert isinstance(outcomes[0], Decided)
    assert outcomes[1] is None


def test_refunds_and_confirmations_share_a_group() -> None:
    held, ended, paid = booking(), booking(CANCELLED, "refunding"), booking(CONFIRMED, "paid")
    wishes = [confirm(held), *(Wish(one.id, refund, "test") for one in (ended, paid))]
    outcomes = decide_together(wishes, by_id(held, ended, paid))
    assert [isinstance(one, Decided) for one in outcomes] == [True, True, False]
    assert outcomes[2] is None


def test_a_group_has_no_more_tickets_than_one_transaction_can_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "TICKETS_AT_ONCE", 10)
    sizes = [booking(ticket_count=count) for count in (4, 6, 1)]
    outcomes = decide_together([confirm(one) for one in sizes], by_id(*sizes))
    assert [isinstance(one, Decided) for one in outcomes] == [True, True, False]
    assert outcomes[2] is None


@pytest.mark.parametrize(
    ("counts", "taken"), [([], 0), ([10], 1), ([4, 6, 1], 2), ([4, 7, 1], 1), ([1] * 12, 10)]
)
def test_a_batch_begins_with_what_fits(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], taken: int
) -> None:
    monkeypatch.setattr(groups, "TICKETS_AT_ONCE", 10)
    bookings = [booking(ticket_count=count) for count in counts]
    assert list(beginning(bookings)) == bookings[:taken]
