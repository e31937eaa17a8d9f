"""Whether a booking, its payment and its charge fit together. No I/O.

What fits is listed here: what is right for good, and what is right while a message is on its way.
The rest is wrong at once. The lists are held against the worker's and booking's own rules by
tests, which walk through all that the two can come to.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import NamedTuple

from payment.models import State
from payment.provider import ChargeStatus
from ticketra.messages import BOOKING_CANCELLED, BOOKING_CREATED

# A message that failed comes again after a minute at most, so this is several attempts.
GRACE_S = 600


class BookingStatus(StrEnum):
    """What a booking is, as payment sees it; the first two hold tickets."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Standing(NamedTuple):
    """How one booking stands in the three books; None where a book does not know it.

    `payment_status` is what the booking says of its payment, `state` the payment's own.
    """

    status: BookingStatus | None
    payment_status: str | None
    state: State | None
    charge: ChargeStatus | None


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a booking and what to do, as a sentence.

    `remedy` is the routing key of the message that mends it when the worker gets it once more;
    None where a person has to act.
    """

    sentence: str
    remedy: str | None = None


_PENDING = {BookingStatus.PENDING}
_CONFIRMED = {BookingStatus.CONFIRMED}
_ENDED = {BookingStatus.CANCELLED, BookingStatus.EXPIRED}
_UNKNOWN: set[None] = {None}
_HOLDING = _PENDING | _CONFIRMED

_PAID = {ChargeStatus.PAID}
_NOT_TAKEN = {ChargeStatus.DECLINED, ChargeStatus.REFUNDED}
_NOT_KEPT = {None, *_NOT_TAKEN}
_TAKEN = {ChargeStatus.PAID, ChargeStatus.REFUNDED}
_CHARGED = set(ChargeStatus)
_ANY_CHARGE = {None, *ChargeStatus}

_SOLD_ONCE = {"paid", "refunding", "refunded"}
_MAY_GO_BACK = {State.PAID, State.REFUNDING, State.SUCCEEDED}


def _standings(
    *rules: tuple[
        Set[BookingStatus | None],
        Set[str | None],
        Set[State | None],
        Set[ChargeStatus | None],
    ],
) -> Iterator[Standing]:
    for rule in rules:
        yield from (Standing(*combination) for combination in product(*rule))


# One final state for each: sold and paid, or no tickets and no money.
_RIGHT = frozenset(
    _standings(
        (_CONFIRMED, {"paid"}, {State.SUCCEEDED}, _PAID),
        (_ENDED, {"declined"}, {State.FAILED}, _NOT_TAKEN),
        (_ENDED, {"declined"}, {State.ABANDONED}, _NOT_KEPT),
        (_ENDED, {"refunded"}, {State.REFUNDED}, {ChargeStatus.REFUNDED}),
        (_UNKNOWN, {None}, {State.FAILED}, _NOT_TAKEN),
        (_UNKNOWN, {None}, {State.ABANDONED}, _NOT_KEPT),
        (_UNKNOWN, {None}, {State.REFUNDED}, {ChargeStatus.REFUNDED}),
    )
)
# A message is on its way that leads to one of those.
_IN_FLIGHT = frozenset(
    _standings(
        (_PENDING | _ENDED, {"pending"}, {None}, {None}),
        (_PENDING | _ENDED, {"pending"}, {State.STARTED}, _ANY_CHARGE),
        (_PENDING | _ENDED, {"pending"}, {State.PAID}, _PAID),
        (_PENDING | _ENDED, {"pending"}, {State.DECLINED}, _NOT_TAKEN),
        # Confirmed, or refused because the booking has ended, which was not noted yet.
        (_CONFIRMED, {"paid"}, {State.PAID}, _PAID),
        (_ENDED, {"refunding"}, {State.PAID}, _PAID),
        (_ENDED, {"declined"}, {State.DECLINED}, _NOT_TAKEN),
        ({BookingStatus.CANCELLED}, {"refunding"}, {State.SUCCEEDED}, _TAKEN),
        (_ENDED, {"pending", "declined", "refunding"}, {State.REFUNDING}, _TAKEN),
        (_ENDED, {"refunded"}, {State.REFUNDING}, {ChargeStatus.REFUNDED}),
        # Who asked for the charge in the moment of the abandoning has yet to come by.
        (_ENDED, {"pending"}, {State.ABANDONED}, _ANY_CHARGE),
        (_ENDED, {"declined"}, {State.ABANDONED}, {ChargeStatus.PENDING, ChargeStatus.PAID}),
        (_UNKNOWN, {None}, {State.STARTED}, _ANY_CHARGE),
        (_UNKNOWN, {None}, {State.PAID}, _PAID),
        (_UNKNOWN, {None}, {State.DECLINED}, _NOT_TAKEN),
        (_UNKNOWN, {None}, {State.REFUNDING}, _TAKEN),
        (_UNKNOWN, {None}, {State.ABANDONED}, {ChargeStatus.PENDING, ChargeStatus.PAID}),
    )
)
# What is wrong, and what the worker mends when it gets a message about the booking once more.
_MENDED_BY = {
    BOOKING_CREATED: frozenset(
        _standings(
            (_UNKNOWN, {None}, {None}, _CHARGED),
            (_PENDING | _ENDED, {"pending"}, {None}, _CHARGED),
            (_PENDING, {"pending"}, {State.ABANDONED}, _NOT_KEPT),
            (_CONFIRMED, {"paid"}, {None, State.STARTED}, _PAID),
            (_ENDED, {"declined"}, {None}, _CHARGED),
            (_ENDED, {"declined"}, {State.STARTED}, _ANY_CHARGE),
            (_ENDED, _SOLD_ONCE, {None, State.STARTED, State.ABANDONED}, _PAID),
        )
    ),
    BOOKING_CANCELLED: frozenset(
        _standings(
            (_ENDED, _SOLD_ONCE | {"pending", "declined"}, _MAY_GO_BACK, _TAKEN),
            (_UNKNOWN, {None}, _MAY_GO_BACK, _TAKEN),
        )
    ),
}
_CHARGES_OF: Mapping[State | None, Set[ChargeStatus | None]] = {
    None: {None},
    State.STARTED: _ANY_CHARGE,
    State.PAID: _PAID,
    State.DECLINED: _NOT_TAKEN,
    State.REFUNDING: _TAKEN,
    State.SUCCEEDED: _PAID,
    State.FAILED: _NOT_TAKEN,
    State.REFUNDED: {ChargeStatus.REFUNDED},
    State.ABANDONED: _ANY_CHARGE,
}


def judge(standing: Standing, age_s: float, grace_s: float = GRACE_S) -> Problem | None:
    """Return what is wrong with a booking; None if nothing is, or may be on its way.

    Args:
        standing: how it stands, at one moment.
        age_s: for how long it has stood so; below 0 while the provider has not decided.
        grace_s: how long a message may take.

    """
    if standing in _RIGHT:
        return None
    if standing in _IN_FLIGHT:
        return _stuck(standing, age_s) if age_s > grace_s else None
    for remedy, mended in _MENDED_BY.items():
        if standing in mended:
            return Problem(f"{_contradiction(standing)}; REPAIR=1 has it put right", remedy)
    return Problem(f"{_contradiction(standing)}; {_advice(standing)}")


def _stuck(standing: Standing, age_s: float) -> Problem:
    remedy = BOOKING_CANCELLED if standing.state is State.SUCCEEDED else BOOKING_CREATED
    return Problem(
        f"stuck for {age_s / 60:.0f} min; make dlq shows if its message was set aside,"
        " REPAIR=1 sends it again",
        remedy,
    )


def _contradiction(standing: Standing) -> str:
    """Say what is wrong: first where money or tickets are at stake."""
    status, _, state, charge = standing
    if status is BookingStatus.CONFIRMED:
        return _contradiction_of_sold(standing)
    if state is None and charge is not None:
        return "it was charged, but there is no payment"
    if status is not BookingStatus.PENDING and charge is ChargeStatus.PAID:
        return "the money was kept, but the booking holds no tickets"
    if charge not in _CHARGES_OF[state]:
        return "the payment and the provider contradict each other"
    if status is BookingStatus.PENDING and charge in _TAKEN:
        return "it was paid, but the booking still waits for that"
    return "the booking and the payment contradict each other; no money is held"


def _contradiction_of_sold(standing: Standing) -> str:
    if standing.charge is not ChargeStatus.PAID:
        return "the tickets are sold, but the provider holds no money for them"
    if standing.state is State.REFUNDING:
        return "the tickets are sold, but the money is about to go back"
    return "the tickets are sold, but the payment does not say so"


def _advice(standing: Standing) -> str:
    """Say what a person can do where no message helps."""
    status, _, state, charge = standing
    if status is BookingStatus.CONFIRMED and charge is not ChargeStatus.PAID:
        return "cancel the booking, unless it was given away"
    if status in _HOLDING and state in _MAY_GO_BACK and charge in _TAKEN:
        return "cancel the booking, then REPAIR=1 gives the money back"
    if status not in _HOLDING and charge is ChargeStatus.PAID:
        return "give the money back at the provider"
    return "find out which one is right, and correct the other by hand"
