"""What bookings, payments, the bank and tickets say of each other, and whether that is right.

Written without the code that it judges. Every check raises an AssertionError that says what broke.
"""

from collections import Counter
from typing import Any, NamedTuple

import psycopg

# (status, payment status of the booking), state of the payment, status of the charge: all that a
# booking may have come to in the end. A declined charge may come to be of a booking that ended.
ENDS = {
    (("CONFIRMED", "paid"), "succeeded", "paid"),
    (("CANCELLED", "declined"), "failed", "declined"),
    (("EXPIRED", "declined"), "failed", "declined"),
    (("CANCELLED", "refunded"), "refunded", "refunded"),
    (("EXPIRED", "refunded"), "refunded", "refunded"),
    (("CANCELLED", "declined"), "abandoned", None),
    (("EXPIRED", "declined"), "abandoned", None),
    (("CANCELLED", "declined"), "abandoned", "declined"),
    (("EXPIRED", "declined"), "abandoned", "declined"),
}
TOLD = {
    "succeeded": ["payment.succeeded"],
    "failed": ["payment.failed"],
    "abandoned": ["payment.failed"],
}
TOLD_OF_REFUNDED = (
    ["payment.refunded"],
    ["payment.succeeded", "payment.refunded"],
    ["payment.failed", "payment.refunded"],
)

FIND_ENDS = """
SELECT bookings.id::text, bookings.status, bookings.payment_status, bookings.ticket_count,
       payments.state, charges.status, coalesce(valid, 0), coalesce(void, 0),
       bookings.amount_minor = payments.amount_minor
       AND (charges.booking_id IS NULL OR charges.amount_minor = bookings.amount_minor)
  FROM bookings
  LEFT JOIN payment.payments AS payments ON payments.booking_id = bookings.id
  LEFT JOIN payment.mock_bank_charges AS charges ON charges.booking_id = bookings.id
  LEFT JOIN (SELECT booking_id, count(*) FILTER (WHERE status = 'valid') AS valid,
                    count(*) FILTER (WHERE status = 'void') AS void
               FROM tickets GROUP BY booking_id) AS issued ON issued.booking_id = bookings.id
 WHERE event_id = ANY(%s)
"""
FIND_TOLD = "SELECT subject, routing_key FROM payment.outbox ORDER BY position"
FIND_STRANGE_CHARGES = """
SELECT count(*) FROM payment.mock_bank_charges
 WHERE booking_id NOT IN (SELECT id FROM bookings)
"""
FIND_UNFINISHED = """
SELECT count(*)
  FROM bookings
  LEFT JOIN payment.payments AS payments ON payments.booking_id = bookings.id
 WHERE event_id = ANY(%s)
       AND (bookings.payment_status IN ('pending', 'refunding')
            OR payments.state IS NULL
            OR payments.state IN ('started', 'paid', 'declined', 'refunding'))
"""


class End(NamedTuple):
    """What one booking has come to."""

    booking_id: str
    status: str
    payment_status: str
    ticket_count: int
    payment: str | None
    charge: str | None
    valid: int
    void: int
    amounts_agree: bool


def unfinished(connection: "psycopg.Connection[Any]", event_ids: list[str]) -> int:
    """Return how many bookings, or their payments, have not come to an end."""
    row = connection.execute(FIND_UNFINISHED, [event_ids]).fetchone()
    assert row is not None
    return int(row[0])


def check(connection: "psycopg.Connection[Any]", event_ids: list[str]) -> Counter[str]:
    """What holds once everything has ended; return how often each end was met."""
    told: dict[str, list[str]] = {}
    for subject, routing_key in connection.execute(FIND_TOLD).fetchall():
        told.setdefault(subject, []).append(routing_key)
    met: Counter[str] = Counter()
    for row in connection.execute(FIND_ENDS, [event_ids]).fetchall():
        end = End(*row)
        _came_to_one_end(end)
        _tickets_are_right(end)
        _world_was_told(end, told.get(end.booking_id, []))
        met[f"{end.status} {end.payment_status}"] += 1
    strange = connection.execute(FIND_STRANGE_CHARGES).fetchone()
    assert strange == (0,), f"{strange} charges are of no booking: charged twice"
    return met


def _came_to_one_end(end: End) -> None:
    booking = (end.status, end.payment_status)
    assert (booking, end.payment, end.charge) in ENDS, f"not an end: {end}"
    assert end.amounts_agree, f"charged for something else: {end}"


def _tickets_are_right(end: End) -> None:
    if end.status == "CONFIRMED":
        assert (end.valid, end.void) == (end.ticket_count, 0), f"wrong tickets: {end}"
    else:
        assert end.valid == 0, f"tickets of a booking that ended: {end}"
        assert end.void in {0, end.ticket_count}, f"some tickets of a booking: {end}"


def _world_was_told(end: End, told: list[str]) -> None:
    if end.payment == "refunded":
        assert told in TOLD_OF_REFUNDED, f"of {end} was told {told}"
    else:
        assert end.payment is not None
        assert told == TOLD[end.payment], f"of {end} was told {told}"
