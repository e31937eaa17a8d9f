"""Who gets tickets: a pure function of the requests, the locked sales and the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from booking.models import (
    PAYMENT_PENDING,
    PENDING,
    Accepted,
    Booking,
    CreateRequest,
    KnownKey,
    Outcome,
    Replayed,
    Sale,
)
from ticketra.errors import Busy, Conflict, Invalid, NotFound, Refusal

KeyOfUser = tuple[str, str]
EventOfUser = tuple[str, str]


@dataclass(slots=True)
class Decisions:
    """One outcome for each request, in order, and what has to be written for them.

    `taken` is the number of tickets that leave the stock of each event.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)


def decide(
    requests: Sequence[CreateRequest],
    sales: Mapping[str, Sale],
    known: Mapping[KeyOfUser, KnownKey],
    held: Mapping[EventOfUser, int],
    *,
    now: datetime,
    hold_ttl: timedelta,
) -> Decisions:
    """Decide `requests` in arrival order.

    Args:
        requests: what is asked for, first come first.
        sales: the locked sale of each event that has one.
        known: what the (user, key) pairs among the requests made before.
        held: tickets that (event, user) pairs hold now, where a sale limits them.
        now: the database's clock.
        hold_ttl: how long an accepted booking holds its tickets.

    """
    batch = _Batch(sales, dict(known), dict(held), now=now, hold_expires_at=now + hold_ttl)
    for request in requests:
        batch.decide(request)
    return batch.decisions


class _Batch:
    """The state that one decision leaves to the next."""

    def __init__(
        self,
        sales: Mapping[str, Sale],
        known: dict[KeyOfUser, KnownKey],
        held: dict[EventOfUser, int],
        *,
        now: datetime,
        hold_expires_at: datetime,
    ) -> None:
        self._sales = sales
        self._remaining = {event_id: sale.remaining for event_id, sale in sales.items()}
        self._known = known
        self._held = held
        self._now = now
        self._hold_expires_at = hold_expires_at
        self.decisions = Decisions()

    def decide(self, request: CreateRequest) -> None:
        known = self._known.get((request.user_id, request.key)) if request.key else None
        outcome: Outcome
        if known is not None:
            outcome = replay(known, request)
        else:
            outcome = self._refusal(request) or self._accept(request)
        self.decisions.outcomes.append(outcome)

    def _refusal(self, request: CreateRequest) -> Refusal | None:
        sale = self._sales.get(request.event_id)
        if sale is None:
            return event_not_found()
        return (
            _not_open(sale, self._now)
            or self._over_limit(request, sale)
            or _out_of_stock(request, self._remaining[request.event_id])
        )

    def _over_limit(self, request: CreateRequest, sale: Sale) -> Refusal | None:
        if 0 < sale.max_per_booking < request.ticket_count:
            return Conflict(
                "booking_limit", f"A booking may hold at most {sale.max_per_booking} tickets."
            )
        if sale.max_per_user == 0:
            return None
        held = self._held.get((request.event_id, request.user_id), 0)
        if held + request.ticket_count > sale.max_per_user:
            return Conflict(
                "booking_limit",
                f"You may hold at most {sale.max_per_user} tickets of this event and hold {held}.",
            )
        return None

    def _accept(self, request: CreateRequest) -> Accepted:
        event_id, user_id, count = request.event_id, request.user_id, request.ticket_count
        sale = self._sales[event_id]
        booking = Booking(
            request.id,
            event_id,
            user_id,
            count,
            sale.price_amount_minor * count,
            sale.price_currency,
            PENDING,
            PAYMENT_PENDING,
            "",
            self._hold_expires_at,
            self._now,
            self._now,
        )
        accepted = Accepted(booking, request)
        self._remaining[event_id] -= count
        self.decisions.taken[event_id] = self.decisions.taken.get(event_id, 0) + count
        self._held[event_id, user_id] = self._held.get((event_id, user_id), 0) + count
        if request.key:
            self._known[user_id, request.key] = KnownKey(request.request_hash, booking)
        self.decisions.accepted.append(accepted)
        return accepted


def replay(known: KnownKey, request: CreateRequest) -> Replayed | Refusal:
    """Answer a request whose key was used before."""
    if known.request_hash == request.request_hash:
        return Replayed(known.booking)
    return Invalid(
        "idempotency_mismatch",
        "This Idempotency-Key was used before with another request: send a new key.",
    )


def sold_out() -> Refusal:
    """Return the refusal of a sale that has nothing left."""
    return Conflict("sold_out", "The event is sold out; tickets that come back go on sale again.")


def busy() -> Refusal:
    """Return the refusal of a request that cannot be served in time."""
    return Busy("event_busy", "Event is busy, try again", retry_after_s=1)


def booking_not_found() -> Refusal:
    """Return the refusal of a booking that is not there, or not this user's."""
    return NotFound("booking_not_found", "There is no such booking: check its id.")


def event_not_found() -> Refusal:
    """Return the refusal of an event that has no sale."""
    return NotFound("event_not_found", "There is no such event: check event_id.")


def _not_open(sale: Sale, now: datetime) -> Refusal | None:
    if sale.closed:
        return Conflict("sale_not_open", "The sale of this event is closed.")
    if sale.sales_start is not None and now < sale.sales_start:
        return Conflict(
            "sale_not_open", f"The sale of this event opens at {sale.sales_start.isoformat()}."
        )
    if sale.sales_end is not None and now >= sale.sales_end:
        return Conflict(
            "sale_not_open", f"The sale of this event ended at {sale.sales_end.isoformat()}."
        )
    return None


def _out_of_stock(request: CreateRequest, remaining: int) -> Refusal | None:
    if remaining == 0:
        return sold_out()
    if remaining < request.ticket_count:
        return Conflict(
            "not_enough_tickets",
            f"Fewer tickets are left than asked for: {remaining}.",
            available=remaining,
        )
    return None
