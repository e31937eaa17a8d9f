"""Sales with many held and sold bookings, made in one stroke, and what became of them."""

from collections import Counter
from typing import Any, NamedTuple

from tests.integration.booking_task import orders
from tests.integration.servers import Server

OPEN_SALE = """
INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor, price_currency,
                   max_per_booking, max_per_user, closed)
VALUES (%s, 1, %s, %s, 0, '', 0, 0, %s)
"""

BOOK = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at)
SELECT gen_random_uuid(), %s, 'user-' || lpad(number::text, 5, '0'), %s, 0, '',
       CASE WHEN number %% 2 = 0 THEN 'CONFIRMED' ELSE 'PENDING' END,
       CASE WHEN number %% 2 = 0 THEN 'paid' ELSE 'pending' END,
       now() + interval '10 min', now(), now()
  FROM generate_series(1, %s) AS number
"""

ISSUE = """
INSERT INTO tickets (id, booking_id, number)
SELECT gen_random_uuid(), id, number
  FROM bookings, generate_series(1, ticket_count) AS number
 WHERE event_id = %s AND status = 'CONFIRMED'
"""

LOOK = """
SELECT status, payment_status, reason, count(*) FROM bookings
 WHERE event_id = %s GROUP BY status, payment_status, reason
"""

LOOK_AT_TICKETS = """
SELECT tickets.status, count(*) FROM tickets JOIN bookings ON bookings.id = booking_id
 WHERE event_id = %s GROUP BY tickets.status
"""

LOOK_AT_MESSAGES = """
SELECT routing_key, body::json ->> 'status', body::json ->> 'payment_status',
       body::json ->> 'reason', count(*)
  FROM outbox JOIN bookings ON subject = bookings.id::text
 WHERE event_id = %s GROUP BY 1, 2, 3, 4
"""

State = tuple[str, ...]


class Sold(NamedTuple):
    """What is stored about an event: how many bookings, tickets and messages of each kind."""

    remaining: int
    bookings_ended: bool
    bookings: Counter[State]
    tickets: Counter[str]
    messages: Counter[State]


def sell(
    postgres: Server, event_id: str, count: int, *, tickets: int = 1, closed: bool = False
) -> list[str]:
    """Sell an event out to `count` bookings, every second one paid; return their ids by user."""
    with orders(postgres) as connection:
        connection.execute(OPEN_SALE, [event_id, count * tickets, 0, closed])
        connection.execute(BOOK, [event_id, tickets, count])
        connection.execute(ISSUE, [event_id])
        rows = connection.execute(
            "SELECT id::text FROM bookings WHERE event_id = %s ORDER BY user_id", [event_id]
        ).fetchall()
    return [row[0] for row in rows]


def look(postgres: Server, event_id: str) -> Sold:
    """Return what is stored about an event."""
    with orders(postgres) as connection:

        def rows(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query, [event_id]).fetchall()

        [(remaining, bookings_ended)] = rows(
            "SELECT remaining, bookings_ended FROM sales WHERE event_id = %s"
        )
        return Sold(
            remaining,
            bookings_ended,
            Counter({row[:3]: row[3] for row in rows(LOOK)}),
            Counter(dict(rows(LOOK_AT_TICKETS))),
            Counter({row[:4]: row[4] for row in rows(LOOK_AT_MESSAGES)}),
        )


def ended(count: int, *, tickets: int = 1) -> Sold:
    """Return what is to be found of `sell` once the closed sale's bookings have ended."""
    half, reason = count // 2, "The event was cancelled."
    endings = {("CANCELLED", "pending", reason): count - half}
    endings |= {("CANCELLED", "refunding", reason): half}
    told = {("booking.cancelled", *ending): number for ending, number in endings.items()}
    void = Counter({"void": half * tickets})
    return Sold(count * tickets, True, Counter(endings), void, Counter(told))
