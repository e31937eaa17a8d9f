"""Stock that comes back or is taken again, and the announcement of a reopened sale."""

from booking.database import REOPENED_CHANNEL, Connection
from booking.models import OutboxMessage, Sale

# Called with the sale row locked, so what was read of it is still true.
MOVE_STOCK = """
UPDATE sales
   SET remaining = remaining + %s, stock_version = stock_version + %s, updated_at = now()
 WHERE event_id = %s
"""

ADD_MESSAGES = """
INSERT INTO outbox (id, subject, routing_key, body)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[])
"""


async def move(connection: Connection, sale: Sale, tickets: int) -> None:
    """Add `tickets` (negative: take them) to a locked sale, and tell all tasks if it reopens."""
    reopens = sale.remaining == 0 and tickets > 0
    await connection.execute(MOVE_STOCK, [tickets, int(reopens), sale.event_id])
    if reopens:
        await announce(connection, sale.event_id, sale.stock_version + 1)


async def announce(connection: Connection, event_id: str, stock_version: int) -> None:
    """Tell all tasks, once this transaction commits, that the sale has stock again."""
    await connection.execute(
        "SELECT pg_notify(%s, %s)", [REOPENED_CHANNEL, f"{event_id} {stock_version}"]
    )


async def add_messages(connection: Connection, messages: list[OutboxMessage]) -> None:
    """Put messages into the outbox."""
    await connection.execute(
        ADD_MESSAGES,
        [
            [m.id for m in messages],
            [m.subject for m in messages],
            [m.routing_key for m in messages],
            [m.body for m in messages],
        ],
    )
