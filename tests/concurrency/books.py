"""What is stored about some events, what their callers heard, and whether that is right.

Written without the code that it judges. Every check raises an AssertionError that says what broke.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg

HOLDING = frozenset({"PENDING", "CONFIRMED"})
FINAL = frozenset({"CONFIRMED", "CANCELLED", "EXPIRED"})
LIFE_CYCLE = {
    "": {"booking.created"},
    "booking.created": {"booking.confirmed", "booking.cancelled", "booking.expired"},
    "booking.confirmed": {"booking.cancelled"},
    "booking.expired": {"booking.confirmed"},
    "booking.cancelled": set[str](),
}
STATUS_AFTER = {
    "booking.created": "PENDING",
    "booking.confirmed": "CONFIRMED",
    "booking.cancelled": "CANCELLED",
    "booking.expired": "EXPIRED",
}


class Sale(NamedTuple):
    """A row of `sales`."""

    event_id: str
    version: int
    capacity: int
    remaining: int
    closed: bool
    max_per_booking: int
    max_per_user: int


class Booking(NamedTuple):
    """A row of `bookings`."""

    id: str
    event_id: str
    user_id: str
    ticket_count: int
    status: str
    payment_status: str
    key: str | None


class Message(NamedTuple):
    """A row of `outbox`."""

    subject: str
    routing_key: str
    body: dict[str, Any]


class Ticket(NamedTuple):
    """A row of `tickets`."""

    booking_id: str
    number: int
    status: str


class Books(NamedTuple):
    """All that is stored about some events at one moment; messages in their order."""

    sales: dict[str, Sale]
    bookings: dict[str, Booking]
    messages: list[Message]
    tickets: list[Ticket]

    def history(self, subject: str) -> list[str]:
        """Return the routing keys of a booking's messages."""
        return [message.routing_key for message in self.messages if message.subject == subject]

    def bookings_of(self, event_id: str) -> list[Booking]:
        """Return the bookings of an event."""
        return [booking for booking in self.bookings.values() if booking.event_id == event_id]


class Asked(NamedTuple):
    """A CreateBooking call that is answered.

    `booking_id` is empty if it was refused; `refusal` is the code then. `known` says that an
    earlier call with this key had been answered with a booking before this one was sent, and that
    the caller did not call the key fresh.
    """

    event_id: str
    user_id: str
    ticket_count: int
    key: str
    booking_id: str
    replayed: bool
    refusal: str
    known: bool


class Told(NamedTuple):
    """A ConfirmBooking or CancelBooking call that is answered: `became` is a status or a code."""

    call: str
    booking_id: str
    became: str


class Put(NamedTuple):
    """A PutSale or CloseSale call: what was asked for, and the version and state in the answer.

    `capacity` is None for CloseSale; `heard_version` is 0 for a refusal.
    """

    event_id: str
    version: int
    capacity: int | None
    heard_version: int
    heard_closed: bool


Answer = Asked | Told | Put


def read(connection: psycopg.Connection[Any], event_ids: Sequence[str]) -> Books:
    """Read all about `event_ids`; in a REPEATABLE READ transaction, as of one moment."""
    events = [list(event_ids)]
    sales = connection.execute(
        "SELECT event_id, version, capacity, remaining, closed, max_per_booking, max_per_user"
        " FROM sales WHERE event_id = ANY(%s)",
        events,
    ).fetchall()
    bookings = connection.execute(
        "SELECT id::text, event_id, user_id, ticket_count, status, payment_status,"
        " idempotency_key FROM bookings WHERE event_id = ANY(%s)",
        events,
    ).fetchall()
    messages = connection.execute(
        "SELECT subject, routing_key, body FROM outbox"
        " WHERE body::jsonb ->> 'event_id' = ANY(%s) ORDER BY position",
        events,
    ).fetchall()
    tickets = connection.execute(
        "SELECT booking_id::text, number, tickets.status"
        " FROM tickets JOIN bookings ON bookings.id = booking_id"
        " WHERE event_id = ANY(%s) ORDER BY booking_id, number",
        events,
    ).fetchall()
    return Books(
        {row[0]: Sale(*row) for row in sales},
        {row[0]: Booking(*row) for row in bookings},
        [Message(subject, key, json.loads(body)) for subject, key, body in messages],
        [Ticket(*row) for row in tickets],
    )


def check(books: Books) -> None:
    """What holds at every commit."""
    for sale in books.sales.values():
        _stock_adds_up(sale, books.bookings_of(sale.event_id))
        _limits_are_kept(sale, books.bookings_of(sale.event_id))
    keys = Counter((b.user_id, b.key) for b in books.bookings.values() if b.key is not None)
    assert all(count == 1 for count in keys.values()), f"a key made two bookings: {keys}"
    for booking in books.bookings.values():
        _history_is_right(booking, books)
    for message in books.messages:
        known = books.bookings.keys() | books.sales.keys()
        assert message.subject in known, f"{message} is about a booking that is not there"
    for sale in books.sales.values():
        closings = books.history(sale.event_id)
        assert closings == ["sale.closed"] * sale.closed, f"of {sale} was told {closings}"
    for booking in books.bookings.values():
        _tickets_are_right(booking, books)


def check_step(before: Books, after: Books) -> None:
    """What holds between any two moments."""
    gone = before.bookings.keys() - after.bookings.keys()
    assert not gone, f"bookings are gone: {gone}"
    for booking_id in before.bookings:
        told, now = before.history(booking_id), after.history(booking_id)
        assert now[: len(told)] == told, f"the history {told} of {booking_id} became {now}"
    for event_id, sale in before.sales.items():
        now_sale = after.sales[event_id]
        assert now_sale.version >= sale.version, f"{sale} became {now_sale}"
        if sale.closed:
            assert now_sale[:3] == sale[:3], f"{sale} was closed and became {now_sale}"
            assert now_sale.closed, f"{sale} was closed and is open again"
            new = {b.id for b in after.bookings_of(event_id)} - before.bookings.keys()
            assert not new, f"{sale} was closed and sold {new}"
            assert now_sale.remaining >= sale.remaining, f"{sale} was closed and sold on"


def check_at_rest(books: Books, answers: Iterable[Answer], opened: dict[str, int]) -> None:
    """What holds once every call is answered and every booking has ended.

    `opened` is the capacity that each sale was opened with, as version 1.
    """
    check(books)
    answered = list(answers)
    for booking in books.bookings.values():
        assert booking.status in FINAL, f"{booking} never ended"
    _creations_agree(books, [a for a in answered if isinstance(a, Asked)])
    for told in (a for a in answered if isinstance(a, Told)):
        _ending_agrees(books, told)
    puts = [a for a in answered if isinstance(a, Put)]
    for sale in books.sales.values():
        held = [b for b in books.bookings_of(sale.event_id) if b.status in HOLDING]
        assert not (sale.closed and held), f"{sale} is closed and {held} never ended"
        _newest_terms_won(
            sale, opened[sale.event_id], [p for p in puts if p.event_id == sale.event_id]
        )


def _stock_adds_up(sale: Sale, bookings: Iterable[Booking]) -> None:
    held = sum(booking.ticket_count for booking in bookings if booking.status in HOLDING)
    assert 0 <= sale.remaining <= sale.capacity, f"{sale} is oversold"
    assert sale.capacity == sale.remaining + held, f"{held} are held or sold of {sale}"


def _limits_are_kept(sale: Sale, bookings: Iterable[Booking]) -> None:
    held: Counter[str] = Counter()
    for booking in bookings:
        at_most = sale.max_per_booking or booking.ticket_count
        assert booking.ticket_count <= at_most, f"{booking} is too large for {sale}"
        if booking.status in HOLDING:
            held[booking.user_id] += booking.ticket_count
    for user_id, count in held.items():
        assert count <= (sale.max_per_user or count), f"{user_id} holds {count} of {sale}"


def _history_is_right(booking: Booking, books: Books) -> None:
    last = ""
    for message in books.messages:
        if message.subject != booking.id:
            continue
        routing_key, body = message.routing_key, message.body
        assert routing_key in LIFE_CYCLE[last], f"of {booking} was told {routing_key} after {last}"
        assert body["booking_id"] == booking.id, f"{message} names another booking"
        assert body["ticket_count"] == booking.ticket_count, f"{message} is not about {booking}"
        status = body.get("status", "PENDING")
        assert status == STATUS_AFTER[routing_key], f"{message} says {status}"
        last = routing_key
    assert last, f"nobody was told of {booking}"
    assert STATUS_AFTER[last] == booking.status, f"{booking} was last told as {last}"


def _tickets_are_right(booking: Booking, books: Books) -> None:
    """One for each seat since the booking was confirmed, and void since it was cancelled."""
    found = [(t.number, t.status) for t in books.tickets if t.booking_id == booking.id]
    seats = booking.ticket_count if "booking.confirmed" in books.history(booking.id) else 0
    status = "valid" if booking.status == "CONFIRMED" else "void"
    right = [(number, status) for number in range(1, seats + 1)]
    assert found == right, f"{booking} has the tickets {found}"


def _creations_agree(books: Books, asked: Sequence[Asked]) -> None:
    made = [call for call in asked if call.booking_id]
    acknowledged = {call.booking_id for call in made}
    lost, unasked = acknowledged - books.bookings.keys(), books.bookings.keys() - acknowledged
    assert not lost, f"acknowledged and not there: {lost}"
    assert not unasked, f"there and acknowledged to nobody: {unasked}"
    for call in made:
        booking = books.bookings[call.booking_id]
        assert booking[1:4] == call[:3], f"{call} was answered with {booking}"
        assert (booking.key or "") == call.key, f"{call} was answered with {booking}"
    first = Counter(call.booking_id for call in made if not call.replayed)
    wrong = {id_: first[id_] for id_ in acknowledged if first[id_] != 1}
    assert not wrong, f"answered as new more or less than once: {wrong}"
    for call in asked:
        if call.known:
            answered = call.booking_id or call.refusal in {"idempotency_mismatch", "event_busy"}
            assert answered, f"{call} was not answered as before"
        if call.refusal == "idempotency_mismatch":
            others = [b for b in made if b[1:2] == call[1:2] and b.key == call.key]
            assert others, f"{call} mismatches nothing"
            assert (others[0].event_id, others[0].ticket_count) != (
                call.event_id,
                call.ticket_count,
            ), f"{call} matches {others[0]}"


def _ending_agrees(books: Books, told: Told) -> None:
    booking, history = books.bookings[told.booking_id], books.history(told.booking_id)
    if told.became in {"CONFIRMED", "booking_confirmed"}:
        assert "booking.confirmed" in history, f"{told} and {history}"
    elif told.became == "CANCELLED":
        assert booking.status == "CANCELLED", f"{told} and {booking}"
    elif told.became in {"EXPIRED", "booking_expired"}:
        assert "booking.expired" in history, f"{told} and {history}"
    elif told.became in {"tickets_gone", "booking_cancelled"}:
        assert booking.status != "CONFIRMED", f"{told}: {booking} was refunded and sold"
        owed = booking.payment_status
        assert owed in {"refunding", "declined"}, f"{told} and {booking}"


def _newest_terms_won(sale: Sale, opened_with: int, puts: Sequence[Put]) -> None:
    newest = max([1, *(put.heard_version for put in puts)])
    assert sale.version == newest, f"somebody heard of version {newest} of {sale}"
    assert sale.closed == any(put.heard_closed for put in puts), f"{sale} and {puts}"
    if not sale.closed:
        capacities = {1: opened_with} | {p.version: p.capacity for p in puts if p.capacity}
        assert sale.capacity == capacities[newest], f"{sale} has not the terms of its version"
