from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from payment.logic import (
    FAULT_LIMIT,
    HOLD_MARGIN,
    ROUTING_KEY_OF,
    Acknowledge,
    Answer,
    DeadLetter,
    Failures,
    Retry,
    Step,
    hold_is_short,
    next_step,
    settlement,
    state_after,
    state_when_cancelled,
)
from payment.models import Outage, State, UnexpectedAnswer, Unparseable
from ticketra.messages import (
    PAYMENT_FAILED,
    PAYMENT_REFUNDED,
    PAYMENT_SUCCEEDED,
    RETRY_DELAYS_S,
)

ALLOWED = {
    (State.STARTED, Answer.CHARGE_UNKNOWN): State.STARTED,
    (State.STARTED, Answer.CHARGE_PAID): State.PAID,
    (State.STARTED, Answer.CHARGE_DECLINED): State.DECLINED,
    (State.STARTED, Answer.CHARGE_REFUNDED): State.DECLINED,
    (State.STARTED, Answer.BOOKING_GONE): State.ABANDONED,
    (State.PAID, Answer.BOOKING_CONFIRMED): State.SUCCEEDED,
    (State.PAID, Answer.BOOKING_GONE): State.REFUNDING,
    (State.DECLINED, Answer.BOOKING_RELEASED): State.FAILED,
    (State.REFUNDING, Answer.CHARGE_REFUNDED): State.REFUNDING,
    (State.REFUNDING, Answer.REFUND_RECORDED): State.REFUNDED,
    (State.ABANDONED, Answer.CHARGE_PAID): State.REFUNDING,
    (State.ABANDONED, Answer.CHARGE_UNKNOWN): State.ABANDONED,
    (State.ABANDONED, Answer.CHARGE_DECLINED): State.ABANDONED,
    (State.ABANDONED, Answer.CHARGE_REFUNDED): State.ABANDONED,
    (State.ABANDONED, Answer.BOOKING_RELEASED): State.ABANDONED,
}


@pytest.mark.parametrize(("state", "answer"), list(product(State, Answer)))
def test_every_answer_in_every_state_leads_where_the_table_says(
    state: State, answer: Answer
) -> None:
    if (state, answer) in ALLOWED:
        assert state_after(state, answer) is ALLOWED[state, answer]
    else:
        with pytest.raises(UnexpectedAnswer):
            state_after(state, answer)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (State.STARTED, Step.LOOK_UP),
        (State.PAID, Step.CONFIRM),
        (State.DECLINED, Step.RELEASE),
        (State.REFUNDING, Step.REFUND),
        (State.SUCCEEDED, Step.FINISH),
        (State.FAILED, Step.FINISH),
        (State.REFUNDED, Step.FINISH),
        (State.ABANDONED, Step.LOOK_UP),
    ],
)
def test_a_payment_found_in_a_state_resumes_with_one_step(state: State, step: Step) -> None:
    assert next_step(state, None) is step


def test_only_a_charge_that_the_provider_does_not_know_is_asked_for() -> None:
    charging = [
        (state, answer)
        for state, answer in product(State, [None, *Answer])
        if next_step(state, answer) is Step.CHARGE
    ]
    assert charging == [(State.STARTED, Answer.CHARGE_UNKNOWN)]


def test_nothing_new_is_asked_for_once_the_booking_is_gone() -> None:
    for state, answer in product(State, [None, *Answer]):
        step = next_step(state, answer)
        expected = Step.ABANDON if step is Step.CHARGE else step
        assert next_step(state, answer, booking_is_gone=True) is expected


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        (Answer.CHARGE_UNKNOWN, Step.RELEASE),
        (Answer.CHARGE_DECLINED, Step.RELEASE),
        (Answer.CHARGE_REFUNDED, Step.RELEASE),
        (Answer.BOOKING_RELEASED, Step.FINISH),
    ],
)
def test_an_abandoned_payment_that_nobody_paid_ends_when_booking_was_told(
    answer: Answer, step: Step
) -> None:
    assert next_step(State.ABANDONED, answer) is step


def test_a_refund_is_recorded_only_after_the_provider_has_paid_it() -> None:
    recording = [
        (state, answer)
        for state, answer in product(State, [None, *Answer])
        if next_step(state, answer) is Step.RECORD_REFUND
    ]
    assert recording == [(State.REFUNDING, Answer.CHARGE_REFUNDED)]


@pytest.mark.parametrize(
    ("state", "reached"),
    [
        (State.PAID, State.REFUNDING),
        (State.SUCCEEDED, State.REFUNDING),
        (State.REFUNDING, State.REFUNDING),
        (State.REFUNDED, State.REFUNDED),
    ],
)
def test_a_cancelled_booking_has_its_payment_refunded_once(state: State, reached: State) -> None:
    assert state_when_cancelled(state) is reached


@pytest.mark.parametrize(
    "state", [State.STARTED, State.DECLINED, State.FAILED, State.ABANDONED], ids=str
)
def test_a_payment_without_money_cannot_be_refunded(state: State) -> None:
    with pytest.raises(UnexpectedAnswer, match=state):
        state_when_cancelled(state)


def test_the_world_is_told_of_final_states_and_of_nothing_else() -> None:
    assert {state for state in State if state.is_final} == set(ROUTING_KEY_OF)
    assert ROUTING_KEY_OF == {
        State.SUCCEEDED: PAYMENT_SUCCEEDED,
        State.FAILED: PAYMENT_FAILED,
        State.ABANDONED: PAYMENT_FAILED,
        State.REFUNDED: PAYMENT_REFUNDED,
    }


@pytest.mark.parametrize(
    ("left", "is_short"),
    [
        (HOLD_MARGIN, False),
        (HOLD_MARGIN - timedelta(microseconds=1), True),
        (-HOLD_MARGIN, True),
    ],
)
def test_a_hold_is_short_that_may_end_before_an_attempt_does(
    left: timedelta, is_short: bool
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert hold_is_short(now + left, now) is is_short


def test_a_message_that_had_its_effect_is_acknowledged() -> None:
    assert settlement(None, Failures(7, 7)) == Acknowledge()


def test_an_unparseable_message_is_dead_at_once() -> None:
    decision = settlement(Unparseable("no id"), Failures())
    assert decision == DeadLetter(Failures(1, 1), "cannot be parsed: no id")


def test_an_outage_is_retried_with_growing_delays_for_ever() -> None:
    delays = []
    for attempts in range(1000):
        decision = settlement(Outage("booking is away"), Failures(attempts, 3))
        assert isinstance(decision, Retry)
        assert decision.failures == Failures(attempts + 1, 3)
        assert decision.reason == "booking is away"
        delays.append(decision.delay_s)
    longest = RETRY_DELAYS_S[-1]
    assert delays == [*RETRY_DELAYS_S, *[longest] * (1000 - len(RETRY_DELAYS_S))]


@pytest.mark.parametrize("error", [UnexpectedAnswer("odd"), KeyError("bug")])
def test_any_other_failure_is_retried_up_to_its_limit(error: Exception) -> None:
    last_retry = settlement(error, Failures(FAULT_LIMIT - 2, FAULT_LIMIT - 2))
    assert isinstance(last_retry, Retry)
    assert last_retry.failures == Failures(FAULT_LIMIT - 1, FAULT_LIMIT - 1)
    assert type(error).__name__ in last_retry.reason
    assert isinstance(settlement(error, last_retry.failures), DeadLetter)


def test_an_outage_does_not_use_the_attempts_of_other_failures_up() -> None:
    failures = Failures()
    for _ in range(100):
        after_outage = settlement(Outage("booking is away"), failures)
        assert isinstance(after_outage, Retry)
        failures = after_outage.failures
    for _ in range(FAULT_LIMIT - 1):
        after_fault = settlement(UnexpectedAnswer("odd"), failures)
        assert isinstance(after_fault, Retry)
        assert after_fault.delay_s == RETRY_DELAYS_S[-1]
        failures = after_fault.failures
    last = settlement(UnexpectedAnswer("odd"), failures)
    assert isinstance(last, DeadLetter)
    assert last.failures == Failures(100 + FAULT_LIMIT, FAULT_LIMIT)
