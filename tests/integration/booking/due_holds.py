"""Sales with many bookings whose hold has just ended, made in one stroke."""

from tests.integration.booking_task import orders
from tests.integration.servers import Server

OPEN_SALE = """
INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor, price_currency,
                   max_per_booking, max_per_user)
VALUES (%s, 1, %s, 0, 0, '', 0, 0)
"""

HOLD = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at)
SELECT gen_random_uuid(), %s, 'bob', 1, 0, '', 'PENDING', 'pending',
       now() - interval '1 s', now() - interval '10 min', now()
  FROM generate_series(1, %s)
RETURNING id::text
"""


def sell_out_with_due_holds(postgres: Server, event_id: str, count: int) -> list[str]:
    """Open a sale of `count` tickets, all held by bookings that are due; return their ids."""
    with orders(postgres) as connection:
        connection.execute(OPEN_SALE, [event_id, count])
        rows = connection.execute(HOLD, [event_id, count]).fetchall()
    return [row[0] for row in rows]
