"""What happens to a payment next, and to a message whose handling failed. No I/O.

started ──paid──────> paid ──confirmed──> succeeded ──booking cancelled──┐
   │                    └───booking gone──────────────────────────────────┴─> refunding ──> refunded
   ├──declined─────> declined ──released─> failed
   └──booking gone─> abandoned ──paid after all──> refunding
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from payment.models import Outage, State, UnexpectedAnswer, Unparseable
from ticketra.messages import (
    PAYMENT_FAILED,
    PAYMENT_REFUNDED,
    PAYMENT_SUCCEEDED,
    RETRY_DELAYS_S,
)

# Failures that are no outage: this many, in 6 minutes or more, before a person has to look.
FAULT_LIMIT = 10
# Longer than an attempt takes: asking booking, looking a charge up, asking for it, and confirming.
HOLD_MARGIN = timedelta(seconds=60)
# A buyer or an event may have been quicker than a message that waited for so long.
LONG_WAIT = timedelta(seconds=30)


class Step(StrEnum):
    """What to do next for a payment."""

    LOOK_UP = "look up"
    CHARGE = "charge"
    ABANDON = "abandon"
    CONFIRM = "confirm"
    RELEASE = "release"
    REFUND = "refund"
    RECORD_REFUND = "record refund"
    FINISH = "finish"


class Answer(StrEnum):
    """What the provider or booking said."""

    CHARGE_UNKNOWN = "charge unknown"
    CHARGE_PAID = "charge paid"
    CHARGE_DECLINED = "charge declined"
    CHARGE_REFUNDED = "charge refunded"
    BOOKING_CONFIRMED = "booking confirmed"
    BOOKING_RELEASED = "booking released"
    BOOKING_GONE = "booking gone"
    REFUND_RECORDED = "refund recorded"


_RESUMED_WITH = {
    State.STARTED: Step.LOOK_UP,
    State.PAID: Step.CONFIRM,
    State.DECLINED: Step.RELEASE,
    State.REFUNDING: Step.REFUND,
    State.SUCCEEDED: Step.FINISH,
    State.FAILED: Step.FINISH,
    State.REFUNDED: Step.FINISH,
    State.ABANDONED: Step.LOOK_UP,
}

_STEP_AFTER = {
    (State.STARTED, Answer.CHARGE_UNKNOWN): Step.CHARGE,
    (State.REFUNDING, Answer.CHARGE_REFUNDED): Step.RECORD_REFUND,
    (State.ABANDONED, Answer.CHARGE_UNKNOWN): Step.RELEASE,
    (State.ABANDONED, Answer.CHARGE_DECLINED): Step.RELEASE,
    (State.ABANDONED, Answer.CHARGE_REFUNDED): Step.RELEASE,
    (State.ABANDONED, Answer.BOOKING_RELEASED): Step.FINISH,
}

_STATE_AFTER = {
    (State.STARTED, Answer.CHARGE_UNKNOWN): State.STARTED,
    (State.STARTED, Answer.CHARGE_PAID): State.PAID,
    (State.STARTED, Answer.CHARGE_DECLINED): State.DECLINED,
    # Given back by hand at the provider: nobody paid, so the tickets go back on sale.
    (State.STARTED, Answer.CHARGE_REFUNDED): State.DECLINED,
    (State.STARTED, Answer.BOOKING_GONE): State.ABANDONED,
    (State.PAID, Answer.BOOKING_CONFIRMED): State.SUCCEEDED,
    (State.PAID, Answer.BOOKING_GONE): State.REFUNDING,
    (State.DECLINED, Answer.BOOKING_RELEASED): State.FAILED,
    (State.REFUNDING, Answer.CHARGE_REFUNDED): State.REFUNDING,
    (State.REFUNDING, Answer.REFUND_RECORDED): State.REFUNDED,
    # Whoever asked for a charge and did not hear of this state in time comes by here later.
    (State.ABANDONED, Answer.CHARGE_PAID): State.REFUNDING,
    (State.ABANDONED, Answer.CHARGE_UNKNOWN): State.ABANDONED,
    (State.ABANDONED, Answer.CHARGE_DECLINED): State.ABANDONED,
    (State.ABANDONED, Answer.CHARGE_REFUNDED): State.ABANDONED,
    (State.ABANDONED, Answer.BOOKING_RELEASED): State.ABANDONED,
}


def hold_is_short(
    hold_expires_at: datetime, now: datetime, margin: timedelta = HOLD_MARGIN
) -> bool:
    """Say whether a hold may end before an attempt does that begins `now`."""
    return hold_expires_at - now < margin


def has_waited_long(made_at: datetime | None, now: datetime) -> bool:
    """Say whether a booking that was made then may well be cancelled by now."""
    return made_at is not None and now - made_at > LONG_WAIT


def next_step(state: State, answer: Answer | None, *, booking_is_gone: bool = False) -> Step:
    """Return what to do for a payment in `state`.

    Args:
        state: what is stored.
        answer: the last one in this state; None if the state was just reached or read, so that a
            charge that was asked for before a crash is looked up and not asked for again.
        booking_is_gone: the booking is known to hold no tickets any more, so that nothing is asked
            for that was not asked for before.

    """
    step = _RESUMED_WITH[state]
    if answer is not None:
        step = _STEP_AFTER.get((state, answer), step)
    return Step.ABANDON if step is Step.CHARGE and booking_is_gone else step


def state_after(state: State, answer: Answer) -> State:
    """Return the state that `answer` brings a payment in `state` to.

    Raises:
        UnexpectedAnswer: the two do not belong together, for example a declined refund.

    """
    if (state, answer) not in _STATE_AFTER:
        raise UnexpectedAnswer(f"a payment that is {state} got the answer: {answer}")
    return _STATE_AFTER[state, answer]


# How a payment stands when its booking, which was confirmed, is cancelled.
_STATE_WHEN_CANCELLED = {
    State.PAID: State.REFUNDING,  # it was confirmed, which was not noted yet
    State.SUCCEEDED: State.REFUNDING,
    State.REFUNDING: State.REFUNDING,
    State.REFUNDED: State.REFUNDED,
}

# What the world is told when a payment comes to a state.
ROUTING_KEY_OF = {
    State.SUCCEEDED: PAYMENT_SUCCEEDED,
    State.FAILED: PAYMENT_FAILED,
    State.ABANDONED: PAYMENT_FAILED,
    State.REFUNDED: PAYMENT_REFUNDED,
}


def state_when_cancelled(state: State) -> State:
    """Return the state that a payment comes to because its confirmed booking was cancelled.

    Raises:
        UnexpectedAnswer: a booking is confirmed only after it was paid, and this one was not.

    """
    if state not in _STATE_WHEN_CANCELLED:
        raise UnexpectedAnswer(f"a booking was confirmed whose payment is {state}")
    return _STATE_WHEN_CANCELLED[state]


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The message has had its effect."""


class Failures(NamedTuple):
    """How often handling a message has failed, and how many of these were no outage."""

    attempts: int = 0
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """Give the message back after `delay_s`; `failures` counts this one."""

    delay_s: int
    failures: Failures
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Set the message aside for a person to look at; `failures` counts this one."""

    failures: Failures
    reason: str


Settlement = Acknowledge | Retry | DeadLetter


def settlement(error: BaseException | None, before: Failures) -> Settlement:
    """Return what becomes of a message.

    Args:
        error: how handling it ended; None if it had its effect.
        before: the failures before this time, from the message's headers.

    """
    if error is None:
        return Acknowledge()
    attempts = before.attempts + 1
    delay_s = RETRY_DELAYS_S[min(attempts, len(RETRY_DELAYS_S)) - 1]
    if isinstance(error, Outage):
        return Retry(delay_s, Failures(attempts, before.faults), str(error))
    failures = Failures(attempts, before.faults + 1)
    if isinstance(error, Unparseable):
        return DeadLetter(failures, f"cannot be parsed: {error}")
    reason = f"{type(error).__name__}: {error}"
    if failures.faults >= FAULT_LIMIT:
        return DeadLetter(failures, reason)
    return Retry(delay_s, failures, reason)
