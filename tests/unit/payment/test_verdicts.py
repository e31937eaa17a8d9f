"""Every standing that can be written down is judged, and the judgement held against the rules."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest

from booking import transitions
from booking.models import Booking, Transition
from payment.logic import Answer, state_after, state_when_cancelled
from payment.models import State, UnexpectedAnswer
from payment.provider import ChargeStatus
from payment.verdicts import GRACE_S, BookingStatus, Problem, Standing, judge
from tests.unit.payment.saga_world import ANSWER_OF, HOUR, World, booking_that_is, sale_with
from ticketra.errors import Conflict
from ticketra.messages import BOOKING_CANCELLED, BOOKING_CREATED

PAYMENT_STATUSES = ("pending", "paid", "declined", "refunding", "refunded")
ALL = [
    Standing(*booking, state, charge)
    for booking in [(None, None), *product(BookingStatus, PAYMENT_STATUSES)]
    for state in (None, *State)
    for charge in (None, *ChargeStatus)
    if (booking, state, charge) != ((None, None), None, None)
]
YOUNG, OLD = GRACE_S - 1.0, GRACE_S + 1.0
DECIDED = (ChargeStatus.PAID, ChargeStatus.DECLINED)


def is_right(standing: Standing) -> bool:
    return judge(standing, OLD) is None


def is_in_flight(standing: Standing) -> bool:
    return judge(standing, YOUNG) is None and not is_right(standing)


def test_what_is_right_is_sold_and_paid_or_neither() -> None:
    for standing in filter(is_right, ALL):
        status, payment_status, state, charge = standing
        assert state is not None
        assert state.is_final
        if status is BookingStatus.CONFIRMED:
            assert (payment_status, state, charge) == ("paid", State.SUCCEEDED, ChargeStatus.PAID)
        else:
            assert status is not BookingStatus.PENDING
            assert charge not in (ChargeStatus.PAID, ChargeStatus.PENDING)
            assert payment_status in (None, "declined", "refunded")


@pytest.mark.parametrize(
    "standing",
    [
        Standing(BookingStatus.CONFIRMED, "paid", None, None),
        Standing(BookingStatus.CONFIRMED, "paid", State.STARTED, None),
        Standing(BookingStatus.CONFIRMED, "paid", State.SUCCEEDED, ChargeStatus.REFUNDED),
        Standing(BookingStatus.CANCELLED, "declined", State.SUCCEEDED, ChargeStatus.PAID),
        Standing(BookingStatus.EXPIRED, "declined", State.FAILED, ChargeStatus.PAID),
        Standing(BookingStatus.CANCELLED, "refunded", State.REFUNDED, ChargeStatus.PAID),
        Standing(BookingStatus.PENDING, "pending", None, ChargeStatus.PAID),
        Standing(None, None, None, ChargeStatus.PAID),
        Standing(None, None, State.SUCCEEDED, ChargeStatus.PAID),
    ],
    ids=str,
)
def test_what_no_message_explains_is_wrong_at_once(standing: Standing) -> None:
    assert judge(standing, 0) is not None


def test_the_grace_is_what_it_is_told_to_be() -> None:
    waits = Standing(BookingStatus.PENDING, "pending", State.STARTED, None)
    assert judge(waits, 1.0, grace_s=1.0) is None
    assert judge(waits, 1.1, grace_s=1.0) == Problem(
        "stuck for 0 min; make dlq shows if its message was set aside, REPAIR=1 sends it again",
        BOOKING_CREATED,
    )


# What the worker makes of the message once more.


async def test_what_is_stuck_has_a_remedy_that_mends_it() -> None:
    stuck = [standing for standing in ALL if is_in_flight(standing)]
    assert stuck
    assert not [standing for standing in stuck if not await is_mended(standing)]


async def test_what_is_wrong_has_a_remedy_exactly_if_that_mends_it() -> None:
    for standing in ALL:
        problem = judge(standing, 0)
        if problem is None or leaves_it_to_a_person(standing):
            assert problem is None or problem.remedy is None
        elif problem.remedy is None:
            assert not await mends(BOOKING_CREATED, standing), standing
            assert not await mends(BOOKING_CANCELLED, standing), standing
        else:
            assert await mends(problem.remedy, standing), standing


async def is_mended(standing: Standing) -> bool:
    problem = judge(standing, OLD)
    if problem is None or problem.remedy is None:
        return False
    return await mends(problem.remedy, standing)


def leaves_it_to_a_person(standing: Standing) -> bool:
    """A message would bring these to an end, but by charging somebody for nothing.

    The last are bookings that hold tickets and say of their payment what none can say.
    """
    status, payment_status, _, _ = standing
    impossible = status is BookingStatus.PENDING and payment_status != "pending"
    return impossible or (
        payment_status == "declined" and standing.state is None and standing.charge is None
    )


async def mends(routing_key: str, standing: Standing) -> bool:
    """Say whether a message always brings a booking that stands so to a right end.

    A pending charge comes out either way, a late booking gets its tickets again or does not, and
    the hold is long or over; until the charge is decided, the message comes again.
    """
    starts = [standing]
    if standing.charge is ChargeStatus.PENDING:
        starts = [standing._replace(charge=decided) for decided in DECIDED]
    for start, outcome, remaining, hold_left in product(starts, DECIDED, (0, 5), (HOUR, -HOUR)):
        world = World.standing_as(start, outcome=outcome, remaining=remaining, hold_left=hold_left)
        try:
            await world.deliver(routing_key)
        except UnexpectedAnswer:
            return False
        if not is_right(world.standing):
            return False
    return True


async def test_cancelling_first_lets_a_message_give_the_money_back() -> None:
    advised = [s for s in ALL if (p := judge(s, OLD)) and "cancel the booking, then" in p.sentence]
    assert advised
    for standing in advised:
        transition = transitions.cancel(present(standing), "by hand")
        assert transition is not None
        cancelled = standing._replace(
            status=BookingStatus(transition.status), payment_status=transition.payment_status
        )
        assert await is_mended(cancelled), standing


# What booking and the worker can come to, if every step may happen at every moment.


class Life(NamedTuple):
    """A booking on its way, and the answers of booking that a worker may still have in hand."""

    standing: Standing
    heard: frozenset[Answer] = frozenset()

    def with_state(self, state: State) -> "Life":
        return Life(self.standing._replace(state=state))

    def with_charge(self, charge: ChargeStatus) -> "Life":
        return self._replace(standing=self.standing._replace(charge=charge))

    def after(self, transition: Transition | None, *heard: Answer) -> "Life":
        standing = self.standing
        if transition is not None:
            standing = standing._replace(
                status=BookingStatus(transition.status), payment_status=transition.payment_status
            )
        return Life(standing, self.heard | frozenset(heard))


def test_nothing_that_can_happen_is_called_wrong_and_nothing_else_is_excused() -> None:
    reached = {life.standing for life in reachable()}
    excused = {s for s in ALL if judge(s, YOUNG) is None and s.status is not None}
    assert reached == excused


def test_what_goes_on_no_further_is_right() -> None:
    for life in reachable():
        if not list(next_lives(life)):
            assert is_right(life.standing)


def reachable() -> set[Life]:
    """Return all that can become of a booking, from when it is made."""
    first = Life(Standing(BookingStatus.PENDING, "pending", None, None))
    found, waiting = {first}, [first]
    while waiting:
        following = set(next_lives(waiting.pop())) - found
        found |= following
        waiting.extend(following)
    return found


def next_lives(life: Life) -> Iterator[Life]:
    for following in (*by_buyer_or_time(life), *by_provider(life), *by_worker(life)):
        if following != life:
            yield following


def by_buyer_or_time(life: Life) -> Iterator[Life]:
    booking = present(life.standing)
    if booking.status in ("PENDING", "CONFIRMED"):
        yield life.after(transitions.cancel(booking, ""))
    if booking.status == "PENDING":
        yield life.after(transitions.expire(booking))


def by_provider(life: Life) -> Iterator[Life]:
    """It is asked by whoever found the payment started, even if it was abandoned since.

    What it has decided can be given back by hand, where that does not undo a sale.
    """
    _, payment_status, state, charge = life.standing
    if charge is None and state in (State.STARTED, State.ABANDONED):
        yield from map(life.with_charge, (ChargeStatus.PENDING, *DECIDED))
    if charge is ChargeStatus.PENDING:
        yield from map(life.with_charge, DECIDED)
    by_hand = state is State.STARTED or (state is State.SUCCEEDED and payment_status == "refunding")
    if charge is ChargeStatus.PAID and (by_hand or state is State.REFUNDING):
        yield life.with_charge(ChargeStatus.REFUNDED)


def by_worker(life: Life) -> Iterator[Life]:
    _, payment_status, state, _ = life.standing
    if state is None:
        yield life.with_state(State.STARTED)
        return
    if payment_status == "refunding" and state in (State.PAID, State.SUCCEEDED):
        yield life.with_state(state_when_cancelled(state))
    for answer in answers(life):
        yield life.with_state(state_after(state, answer))
    yield from by_telling_booking(life)


def answers(life: Life) -> Iterator[Answer]:
    """Yield the answers that move the payment on, from the provider or from booking."""
    status, _, state, charge = life.standing
    if state is State.STARTED and charge in ANSWER_OF:
        yield ANSWER_OF[charge]
    if state is State.STARTED and status in (BookingStatus.CANCELLED, BookingStatus.EXPIRED):
        yield Answer.BOOKING_GONE
    if state is State.ABANDONED and charge is ChargeStatus.PAID:
        yield Answer.CHARGE_PAID
    yield from life.heard


def by_telling_booking(life: Life) -> Iterator[Life]:
    _, _, state, charge = life.standing
    booking = present(life.standing)
    match state:
        case State.PAID:
            yield from map(partial(confirmed, life, booking), (0, 5))
        case State.DECLINED:
            yield life.after(transitions.decline(booking, ""), Answer.BOOKING_RELEASED)
        case State.ABANDONED if charge is not ChargeStatus.PAID:
            yield life.after(transitions.decline(booking, ""))
        case State.REFUNDING if charge is ChargeStatus.REFUNDED:
            yield life.after(transitions.refund(booking), Answer.REFUND_RECORDED)


def confirmed(life: Life, booking: Booking, remaining: int) -> Life:
    try:
        transition = transitions.confirm(booking, sale_with(remaining), 0)
    except Conflict:
        return life.after(None, Answer.BOOKING_GONE)
    gone = transition is not None and transition.refusal is not None
    return life.after(transition, Answer.BOOKING_GONE if gone else Answer.BOOKING_CONFIRMED)


def present(standing: Standing) -> Booking:
    assert standing.status is not None
    assert standing.payment_status is not None
    return booking_that_is(standing.status, standing.payment_status)
