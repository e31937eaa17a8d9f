"""Which of many wishes go into one transaction, and which have to go alone."""

import pytest

from booking import groups, transitions
from booking.groups import Wish, beginning, decide_together, decide_with_sale
from booking.models import CANCELLED, CONFIRMED, EXPIRED, Booking, Decided, Transition
from tests.unit.booking.builders import booking, sale
from ticketra.errors import Refusal


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


def cancel(one: Booking) -> Wish:
    return Wish(one.id, lambda present, *_: transitions.cancel(present, "why"), "test")


def test_with_the_sale_stock_may_move_and_refusals_are_answers() -> None:
    held, ended = booking(), booking(EXPIRED, "declined")
    outcomes = decide_with_sale([cancel(held), cancel(ended)], by_id(held, ended), sale(), {})
    assert isinstance(outcomes[0], Decided)
    assert outcomes[0].transition.stock_delta == held.ticket_count
    assert isinstance(outcomes[1], Refusal)
    assert outcomes[1].code == "booking_expired"


def test_what_one_gives_back_a_later_one_takes_and_no_more() -> None:
    held, late, later = booking(), booking(EXPIRED), booking(EXPIRED)
    present = by_id(held, late, later)
    wishes = [cancel(held), confirm(late), confirm(later)]
    outcomes = decide_with_sale(wishes, present, sale(remaining=0), {})
    refusals = [one.transition.refusal for one in outcomes if isinstance(one, Decided)]
    assert [refusal and refusal.code for refusal in refusals] == [None, None, "tickets_gone"]
    other_way_round = decide_with_sale(wishes[::-1], present, sale(remaining=0), {})
    refusals = [one.transition.refusal for one in other_way_round if isinstance(one, Decided)]
    assert [refusal and refusal.code for refusal in refusals] == [
        "tickets_gone",
        "tickets_gone",
        None,
    ]


def test_what_a_user_takes_counts_for_the_next_one_of_theirs() -> None:
    theirs = [booking(EXPIRED), booking(EXPIRED)]
    others = booking(EXPIRED, user_id="bob")
    wishes = [confirm(one) for one in (*theirs, others)]
    present = by_id(*theirs, others)
    limited = sale(max_per_user=5)
    outcomes = decide_with_sale(wishes, present, limited, {"ada": 2})
    gone = [one.transition.refusal is not None for one in outcomes if isinstance(one, Decided)]
    assert gone == [False, True, False]


def test_with_the_sale_too_a_booking_changes_once_and_one_that_is_not_present_goes_alone() -> None:
    held, ended = booking(), booking(CANCELLED)
    wishes = [cancel(held), cancel(held), cancel(ended), cancel(ended), cancel(booking())]
    outcomes = decide_with_sale(wishes, by_id(held, ended), sale(), {})
    assert isinstance(outcomes[0], Decided)
    assert outcomes[1:] == [None, ended, ended, None]


def test_only_tickets_that_are_written_count_for_the_size_of_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "TICKETS_AT_ONCE", 10)
    held = [booking(ticket_count=count) for count in (9, 9)]
    sold = [booking(CONFIRMED, "paid", ticket_count=count) for count in (6, 5, 4)]
    wishes = [cancel(one) for one in (*held, *sold)]
    outcomes = decide_with_sale(wishes, by_id(*held, *sold), sale(), {})
    assert [isinstance(one, Decided) for one in outcomes] == [True, True, True, False, True]
    assert outcomes[3] is None
