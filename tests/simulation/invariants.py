"""What must hold, whatever happens. Written without the code that it judges."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from booking.models import Accepted, Booking, CreateRequest, Sale

MARKER_HIDES_LIMIT_MS = 1_000

HOLDING = frozenset({"PENDING", "CONFIRMED"})
LIFE_CYCLE = frozenset(
    {
        ("PENDING", "CONFIRMED"),
        ("PENDING", "CANCELLED"),
        ("PENDING", "EXPIRED"),
        ("CONFIRMED", "CANCELLED"),
        ("EXPIRED", "CONFIRMED"),
    }
)
# What an ended booking may still take note of: how its payment ended.
NOTED_LATE = frozenset(
    {
        ("pending", "declined"),
        ("pending", "refunding"),
        ("pending", "refunded"),
        ("declined", "refunded"),
        ("refunding", "refunded"),
    }
)
# What the world is told of the payment of a booking that was cancelled or expired.
TOLD_OF_FAILURE = (["payment.failed"],)
TOLD_OF_REFUND = (
    ["payment.refunded"],
    ["payment.succeeded", "payment.refunded"],
    ["payment.failed", "payment.refunded"],
)
TOLD_AS = {
    "PENDING": "booking.created",
    "CONFIRMED": "booking.confirmed",
    "CANCELLED": "booking.cancelled",
    "EXPIRED": "booking.expired",
}


class Invariants:
    """Watches every commit, every answer and every charge; an AssertionError says what broke.

    `hold_ttl` is how long a booking has to hold its tickets, `hold_max` how far that is extended.
    """

    def __init__(self, hold_ttl: timedelta, hold_max: timedelta) -> None:
        self._hold_ttl = hold_ttl
        self._hold_max = hold_max
        self._payment_in_flight_until: dict[str, datetime] = {}
        self.histories: dict[str, list[str]] = {}
        self._acknowledged: dict[str, None] = {}
        self._answer_of_key: dict[tuple[str, str], str] = {}
        self._requests_refused: set[str] = set()
        self._requests_accepted: set[str] = set()
        self._confirmations_refused: set[str] = set()
        self._arrival_decided: dict[tuple[str, str], int] = {}
        self._reopened_at_ms: dict[str, int] = {}
        self._given_back: Counter[str] = Counter()
        self._holds: Counter[str] = Counter()
        self.charges: Counter[str] = Counter()
        self.refunds: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()  # what happened at all: a simulation of nothing passes

    def held(self, bookings: Iterable[Booking], event_id: str, user_id: str) -> int:
        """Return the tickets that a user holds of an event."""
        return sum(
            booking.ticket_count
            for booking in bookings
            if booking.event_id == event_id
            and booking.user_id == user_id
            and booking.status in HOLDING
        )

    def stock_adds_up(self, sale: Sale, bookings: Iterable[Booking]) -> None:
        """capacity = remaining + tickets of PENDING and CONFIRMED bookings, at every commit."""
        held = sum(
            booking.ticket_count
            for booking in bookings
            if booking.event_id == sale.event_id and booking.status in HOLDING
        )
        assert sale.remaining >= 0, f"{sale} has sold more than there is"
        assert sale.capacity == sale.remaining + held, (
            f"{sale.event_id}: {sale.capacity} is not {sale.remaining} + {held}"
        )

    def sale_changes(self, before: Sale | None, after: Sale) -> None:
        """A sale's version only grows, and a closed sale stays closed."""
        self.seen["sale closed" if after.closed else "sale put"] += 1
        if before is not None:
            assert after.version > before.version, f"{before} was overwritten by {after}"
            assert not before.closed, f"{before} was closed and changed again"

    def sale_reopens(self, sale: Sale, now_ms: int) -> None:
        """Remember since when there are tickets again."""
        self.seen["reopened"] += 1
        self._reopened_at_ms[sale.event_id] = now_ms

    def booking_is_made(self, accepted: Accepted, sale: Sale, held: int) -> None:
        """A booking starts PENDING, under the terms of its sale, once for its request."""
        booking, request = accepted
        self.seen["booked"] += 1
        count = booking.ticket_count
        assert booking.status == "PENDING", f"{booking} does not start as PENDING"
        assert booking.id not in self.histories, f"{booking} is made twice"
        assert request.id not in self._requests_refused, f"{request} was refused before"
        assert request.id not in self._requests_accepted, f"{request} made two bookings"
        assert not sale.closed, f"{booking} was made after the sale was closed"
        assert _is_within(sale, booking.created_at), f"{booking} is outside the sale's window"
        assert count <= (sale.max_per_booking or count), f"{booking} is too large for {sale}"
        holds_for = booking.hold_expires_at - booking.created_at
        assert holds_for == self._hold_ttl, f"{booking} holds its tickets for {holds_for}"
        self._limit_is_kept(booking, sale, held)
        self._requests_accepted.add(request.id)
        self.histories[booking.id] = ["PENDING"]
        self._holds[booking.id] += 1

    def booking_changes(
        self, before: Booking, after: Booking, sale: Sale, held: int, now: datetime
    ) -> None:
        """A booking goes its way through the life cycle, and nothing else of it changes.

        `held` is what its user holds without this change.
        """
        self.seen[f"{before.status} to {after.status}"] += 1
        assert before[:6] == after[:6], f"{before} became {after}"
        assert before.created_at == after.created_at, f"{before} became {after}"
        if before.status == after.status:
            self._note_is_allowed(before, after)
            return
        assert (before.status, after.status) in LIFE_CYCLE, f"{before.status} became {after.status}"
        if after.status == "EXPIRED":
            assert now >= before.hold_expires_at, f"{before} expired before its time"
            in_flight_until = self._payment_in_flight_until.get(after.id, now)
            held_until = min(in_flight_until, before.created_at + self._hold_max)
            assert now >= held_until, f"{before} expired while its payment was in flight"
        if after.status == "CONFIRMED":
            refused = after.id in self._confirmations_refused
            assert not refused, f"{after} was confirmed after that was refused for good"
        if after.status in HOLDING and before.status not in HOLDING:
            self._holds[after.id] += 1
            self._limit_is_kept(after, sale, held)
        if before.status in HOLDING and after.status not in HOLDING:
            self._given_back[after.id] += 1
            given, held = self._given_back[after.id], self._holds[after.id]
            assert given <= held, f"{after} gave its tickets back {given} times, held {held}"
        self.histories[after.id].append(after.status)

    def batch_is_decided(self, task: str, event_id: str, arrivals: list[int]) -> None:
        """A task decides the requests for an event in the order in which they came."""
        last = self._arrival_decided.get((task, event_id), -1)
        for arrival in arrivals:
            assert arrival > last, f"{task} decided request {arrival} of {event_id} after {last}"
            last = arrival
        self._arrival_decided[task, event_id] = last

    def batch_takes(self, sale: Sale, tickets: int) -> None:
        """A batch takes no more than there was when it was decided."""
        assert tickets <= sale.remaining, f"a batch takes {tickets} of {sale}"

    def request_is_refused(self, request: CreateRequest, code: str, *, storable: bool) -> None:
        """A refused request makes no booking, and what is right is not called wrong."""
        assert request.id not in self._requests_accepted, f"{request} was booked and refused"
        assert code != "validation_failed" or not storable, f"{request} was called wrong"
        self._requests_refused.add(request.id)

    def booking_is_acknowledged(
        self, booking: Booking, request: CreateRequest, stored: Mapping[str, Booking]
    ) -> None:
        """What a buyer was told exists, is what was asked for, and is the same for the same key."""
        assert booking.id in stored, f"{booking} was acknowledged and is not there"
        assert booking[1:4] == request[1:4], f"{request} was answered with {booking}"
        self._acknowledged[booking.id] = None
        if not request.key:
            return
        before = self._answer_of_key.setdefault((request.user_id, request.key), booking.id)
        assert before == booking.id, f"{request} made {before} and {booking.id}"

    def confirmation_is_refused(self, booking_id: str) -> None:
        """Whoever hears this refunds the payment, so it must stay true."""
        self.seen["confirmation refused"] += 1
        self._confirmations_refused.add(booking_id)

    def marker_says_sold_out(self, sale: Sale, heard_version: int, now_ms: int) -> None:
        """A marker hides a reopened sale for a short time, and not once the task heard of it."""
        self.seen["marker hit"] += 1
        if sale.remaining == 0:
            return
        self.seen["marker hides a reopened sale"] += 1
        hidden_ms = now_ms - self._reopened_at_ms.get(sale.event_id, 0)
        assert hidden_ms <= MARKER_HIDES_LIMIT_MS, f"{sale} was hidden for {hidden_ms} ms"
        assert heard_version < sale.stock_version, f"{sale} is hidden from a task that knows"

    def payment_is_in_flight(self, booking_id: str, until: datetime) -> None:
        """A booking does not expire while somebody sees to its payment, unless it is too old.

        That is for one attempt, and from an attempt without an outcome to the next, if booking
        could be told: until then at least.
        """
        before = self._payment_in_flight_until.get(booking_id, until)
        self._payment_in_flight_until[booking_id] = max(before, until)

    def buyer_is_charged(self, booking_id: str) -> None:
        """Nobody is charged twice."""
        self.charges[booking_id] += 1
        assert self.charges[booking_id] == 1, f"{booking_id} was charged twice"

    def buyer_is_refunded(self, booking_id: str) -> None:
        """Money goes back once, and only what was charged."""
        self.seen["refunded"] += 1
        self.refunds[booking_id] += 1
        assert self.refunds[booking_id] <= self.charges[booking_id], f"{booking_id} got too much"

    def all_is_settled(
        self, bookings: Mapping[str, Booking], told: Mapping[str, list[tuple[str, str]]]
    ) -> None:
        """At rest: every booking is final, paid or refunded, and the world was told of all of it.

        Args:
            bookings: as they are stored.
            told: (routing key, status) of each booking's messages, in the order of the outbox.

        """
        assert self._acknowledged.keys() <= bookings.keys(), "an acknowledged booking is gone"
        assert self.histories.keys() == bookings.keys(), "bookings and their histories differ"
        for booking_id, booking in bookings.items():
            history = self.histories[booking_id]
            expected = [(TOLD_AS[status], status) for status in history]
            assert booking.status != "PENDING", f"{booking} never ended"
            assert booking.status == history[-1], f"{booking} is not at the end of {history}"
            assert told.get(booking_id) == expected, f"of {history} was told {told.get(booking_id)}"
            self._money_is_right(booking, history)
            freed = self._holds[booking_id] - self._given_back[booking_id]
            assert freed == int(booking.status in HOLDING), f"{booking} holds {freed} times"

    def payments_are_settled(
        self, bookings: Mapping[str, Booking], told: Mapping[str, list[str]]
    ) -> None:
        """At rest: the world was told once of what became of each booking's payment."""
        assert told.keys() == bookings.keys(), "bookings and their payments differ"
        for booking_id, booking in bookings.items():
            if booking.status == "CONFIRMED":
                right: Iterable[list[str]] = (["payment.succeeded"],)
            else:
                right = TOLD_OF_REFUND if self.refunds[booking_id] else TOLD_OF_FAILURE
            assert told[booking_id] in right, f"of {booking} was told {told[booking_id]}"

    def closed_sales_are_empty(self, sales: Iterable[Sale], bookings: Iterable[Booking]) -> None:
        """At rest: no booking of a closed sale holds tickets."""
        closed = {sale.event_id for sale in sales if sale.closed}
        for booking in bookings:
            left = booking.event_id in closed and booking.status in HOLDING
            assert not left, f"{booking} outlived its sale"

    def _money_is_right(self, booking: Booking, history: list[str]) -> None:
        if booking.id in self._confirmations_refused:
            assert booking.payment_status == "refunded", f"{booking} hides that it was refunded"
        kept = self.charges[booking.id] - self.refunds[booking.id]
        if booking.status == "CONFIRMED":
            assert booking.payment_status == "paid", f"{booking} is not marked as paid"
            assert kept == 1, f"{booking} is confirmed and its money is not here"
            return
        assert kept == 0, f"{booking} is not confirmed and its money is kept"
        if "CONFIRMED" in history:
            assert booking.payment_status == "refunded", f"{booking} was paid and not refunded"
        refunded = self.refunds[booking.id] == 1
        noted = booking.payment_status == "refunded"
        assert noted == refunded, f"{booking} was refunded {self.refunds[booking.id]} times"

    def _note_is_allowed(self, before: Booking, after: Booking) -> None:
        if before.status == "PENDING":
            extended = after._replace(
                hold_expires_at=before.hold_expires_at, updated_at=before.updated_at
            )
            assert extended == before, f"{before} became {after}"
            assert after.hold_expires_at > before.hold_expires_at, f"{before} became {after}"
            held_for = after.hold_expires_at - after.created_at
            assert held_for <= self._hold_max, f"{after} holds its tickets for {held_for}"
            return
        if after.payment_status == "refunded":
            assert self.refunds[after.id], f"{after} says so before the money went back"
        noted = (before.payment_status, after.payment_status)
        assert noted in NOTED_LATE, f"{before} noted {after.payment_status}"

    def _limit_is_kept(self, booking: Booking, sale: Sale, held: int) -> None:
        total = held + booking.ticket_count
        assert total <= (sale.max_per_user or total), f"{booking.user_id} holds {total} of {sale}"


def _is_within(sale: Sale, moment: datetime) -> bool:
    return (sale.sales_start is None or moment >= sale.sales_start) and (
        sale.sales_end is None or moment < sale.sales_end
    )
