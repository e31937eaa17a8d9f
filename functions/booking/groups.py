"""How many bookings can change in one transaction: pure functions of their present rows."""

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


def beginning(bookings: Sequence[Booking]) -> Sequence[Booking]:
    """Return as many of the first bookings as have TICKETS_AT_ONCE tickets together."""
    totals = accumulate(booking.ticket_count for booking in bookings)
    return bookings[: sum(1 for _ in takewhile(lambda total: total <= TICKETS_AT_ONCE, totals))]


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
