"""How many bookings can change in one transaction: pure functions of their present rows."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

from booking.models import Booking, Decided, Sale, Transition
from booking.transitions import SaleNeeded
from ticketra.errors import Refusal

# What one transaction can write well within its time-out; no booking has more.
TICKETS_AT_ONCE = 5_000

Decision = Callable[[Booking, Sale | None, int], Transition | None]


class Wish(NamedTuple):
    """What shall become of a booking, and the request that asks for it."""

    booking_id: str
    decision: Decision
    request_id: str


def decide_together(
    wishes: Sequence[Wish], present: Mapping[str, Booking]
) -> list[Decided | Booking | None]:
    """Return for each wish what is to be written, or the booking that already is as wished.

    None: it has to go alone, because its booking is not present, changes by an earlier wish, or has
    too many tickets for this group; because its sale is needed, or because it is refused.
    """
    changing: set[str] = set()
    tickets = 0
    outcomes: list[Decided | Booking | None] = []
    for wish in wishes:
        booking = None if wish.booking_id in changing else present.get(wish.booking_id)
        outcome = None if booking is None else _decide(wish, booking)
        if isinstance(outcome, Decided):
            tickets += outcome.booking.ticket_count
            if tickets > TICKETS_AT_ONCE:
                outcome = None
            else:
                changing.add(wish.booking_id)
        outcomes.append(outcome)
    return outcomes


def decide_with_sale(
    wishes: Sequence[Wish], present: Mapping[str, Booking], sale: Sale, held: Mapping[str, int]
) -> list[Decided | Booking | Refusal | None]:
    """Return for each wish of one sale, in their order, what is to be written, or its answer.

    The answer is the booking that already is as wished, or why it may not be. What an earlier wish
    gives back, a later one may take. None: it has to go alone, because its booking is not present,
    changes by an earlier wish, or has too many tickets to write for this group.

    Args:
        wishes: who asks for what, first come first.
        present: the locked bookings.
        sale: the locked sale.
        held: the tickets of the sale that users with EXPIRED bookings hold, where it limits them.

    """
    changing: set[str] = set()
    holding = Counter(held)
    tickets = 0
    outcomes: list[Decided | Booking | Refusal | None] = []
    for wish in wishes:
        booking = None if wish.booking_id in changing else present.get(wish.booking_id)
        if booking is None:
            outcomes.append(None)
            continue
        outcome = _decide_with_sale(wish, booking, sale, holding[booking.user_id])
        if isinstance(outcome, Decided):
            transition = outcome.transition
            written = 0 if transition.tickets is None else booking.ticket_count
            if tickets + written > TICKETS_AT_ONCE:
                outcomes.append(None)
                continue
            tickets += written
            changing.add(booking.id)
            sale = sale._replace(remaining=sale.remaining + transition.stock_delta)
            holding[booking.user_id] -= transition.stock_delta
        outcomes.append(outcome)
    return outcomes


def beginning(bookings: Sequence[Booking]) -> Sequence[Booking]:
    """Return as many of the first bookings as have TICKETS_AT_ONCE tickets together."""
    totals = accumulate(booking.ticket_count for booking in bookings)
    return bookings[: sum(1 for _ in takewhile(lambda total: total <= TICKETS_AT_ONCE, totals))]


def _decide_with_sale(
    wish: Wish, booking: Booking, sale: Sale, held: int
) -> Decided | Booking | Refusal:
    try:
        transition = wish.decision(booking, sale, held)
    except Refusal as refusal:
        return refusal
    return booking if transition is None else Decided(booking, transition, wish.request_id)


def _decide(wish: Wish, booking: Booking) -> Decided | Booking | None:
    try:
        transition = wish.decision(booking, None, 0)
    except (SaleNeeded, Refusal):
        return None
    if transition is None:
        return booking
    if transition.refusal is not None or transition.stock_delta:
        return None
    return Decided(booking, transition, wish.request_id)
