"""Who gets tickets, and who is refused with what."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.decisions import Decisions, EventOfUser, KeyOfUser, decide
from booking.models import Accepted, CreateRequest, KnownKey, Outcome, Replayed, Sale
from tests.unit.booking.builders import HOLD_TTL, NOW, request, sale
from ticketra.errors import Refusal


def run(
    requests: Sequence[CreateRequest],
    *sales: Sale,
    known: Mapping[KeyOfUser, KnownKey] | None = None,
    held: Mapping[EventOfUser, int] | None = None,
) -> Decisions:
    by_event = {one.event_id: one for one in sales}
    return decide(requests, by_event, known or {}, held or {}, now=NOW, hold_ttl=HOLD_TTL)


def codes(decisions: Decisions) -> list[str]:
    return [_name(outcome) for outcome in decisions.outcomes]


def _name(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Refusal) else type(outcome).__name__


def test_an_accepted_booking_carries_price_and_hold() -> None:
    [accepted] = run([request(3)], sale()).accepted
    assert accepted.booking.amount_minor == 7500
    assert accepted.booking.currency == "EUR"
    assert accepted.booking.status == "PENDING"
    assert accepted.booking.hold_expires_at == NOW + HOLD_TTL


def test_a_request_for_too_many_does_not_block_a_later_smaller_one() -> None:
    decisions = run([request(3), request(2), request(1)], sale(remaining=2))
    assert codes(decisions) == ["not_enough_tickets", "Accepted", "sold_out"]
    refusal = decisions.outcomes[0]
    assert isinstance(refusal, Refusal)
    assert refusal.available == 2
    assert decisions.taken == {"concert": 2}


def test_the_last_tickets_go_to_whoever_came_first() -> None:
    decisions = run([request(user_id="first"), request(user_id="second")], sale(remaining=1))
    assert codes(decisions) == ["Accepted", "sold_out"]
    assert decisions.accepted[0].booking.user_id == "first"


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"closed": True}, "sale_not_open"),
        ({"sales_start": NOW + timedelta(microseconds=1)}, "sale_not_open"),
        ({"sales_start": NOW}, "Accepted"),
        ({"sales_end": NOW}, "sale_not_open"),
        ({"sales_end": NOW + timedelta(microseconds=1)}, "Accepted"),
        ({"max_per_booking": 1}, "booking_limit"),
        ({"max_per_booking": 2}, "Accepted"),
        ({"max_per_user": 1}, "booking_limit"),
        ({"max_per_user": 2}, "Accepted"),
        ({"remaining": 0}, "sold_out"),
    ],
)
def test_the_terms_of_the_sale_are_kept(terms: dict[str, Any], code: str) -> None:
    assert codes(run([request(2)], sale(**terms))) == [code]


def test_an_event_without_a_sale_is_not_found() -> None:
    assert codes(run([request()])) == ["event_not_found"]


def test_the_limit_of_a_user_counts_what_is_held_and_what_this_batch_accepted() -> None:
    requests = [request(2), request(2), request(1), request(3, user_id="bob")]
    decisions = run(requests, sale(max_per_user=4), held={("concert", "ada"): 1})
    assert codes(decisions) == ["Accepted", "booking_limit", "Accepted", "Accepted"]


def test_a_known_key_replays_even_if_the_event_is_sold_out() -> None:
    before = run([request(2, key="k")], sale()).accepted[0].booking
    first = request(2, key="k")
    known = {("ada", "k"): KnownKey(first.request_hash, before)}
    decisions = run([first], sale(remaining=0), known=known)
    assert decisions.outcomes == [Replayed(before)]
    assert not decisions.accepted


def test_a_key_with_another_request_is_refused() -> None:
    decisions = run([request(2, key="k"), request(3, key="k")], sale())
    assert codes(decisions) == ["Accepted", "idempotency_mismatch"]


def test_the_same_key_twice_in_one_batch_makes_one_booking() -> None:
    decisions = run([request(2, key="k"), request(2, key="k")], sale())
    assert codes(decisions) == ["Accepted", "Replayed"]
    assert decisions.taken == {"concert": 2}


def test_the_same_key_of_two_users_makes_two_bookings() -> None:
    decisions = run([request(key="k"), request(key="k", user_id="bob")], sale())
    assert codes(decisions) == ["Accepted", "Accepted"]


def test_a_refused_request_does_not_use_up_its_key() -> None:
    decisions = run([request(3, key="k"), request(2, key="k")], sale(remaining=2))
    assert codes(decisions) == ["not_enough_tickets", "Accepted"]


requests_of_a_batch = st.lists(
    st.builds(
        request,
        ticket_count=st.integers(1, 6),
        event_id=st.sampled_from(["a", "b", "missing"]),
        user_id=st.sampled_from(["ada", "bob"]),
        key=st.sampled_from(["", "", "k1", "k2"]),
    ),
    max_size=30,
)
stocks = st.integers(0, 20)
limits = st.integers(0, 5)


@given(requests_of_a_batch, stocks, stocks, limits)
def test_stock_limits_and_order_hold_for_any_batch(
    requests: list[CreateRequest], stock_a: int, stock_b: int, max_per_user: int
) -> None:
    sales = [
        sale("a", remaining=stock_a, max_per_user=max_per_user),
        sale("b", remaining=stock_b),
    ]
    decisions = run(requests, *sales)

    assert len(decisions.outcomes) == len(requests)
    left = {"a": stock_a, "b": stock_b}
    held: dict[str, int] = {}
    for asked, outcome in zip(requests, decisions.outcomes, strict=True):
        if isinstance(outcome, Accepted):
            left[asked.event_id] -= asked.ticket_count
            assert left[asked.event_id] >= 0
            if asked.event_id == "a":
                held[asked.user_id] = held.get(asked.user_id, 0) + asked.ticket_count
        elif isinstance(outcome, Refusal) and outcome.code == "sold_out":
            assert left[asked.event_id] == 0
        elif isinstance(outcome, Refusal) and outcome.code == "not_enough_tickets":
            assert 0 < left[asked.event_id] < asked.ticket_count
            assert outcome.available == left[asked.event_id]
    if max_per_user:
        assert all(count <= max_per_user for count in held.values())
    assert decisions.taken == {
        event_id: before - left[event_id]
        for event_id, before in (("a", stock_a), ("b", stock_b))
        if before != left[event_id]
    }
    keys = [(a.request.user_id, a.request.key) for a in decisions.accepted if a.request.key]
    assert len(keys) == len(set(keys))
