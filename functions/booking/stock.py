"""Stock that comes back or is taken again, and the announcement of a reopened sale."""

from collections.abc import Callable, Sequence

from booking.models import OutboxMessage, Sale
from ticketra.database import Connection, Database

REOPENED_CHANNEL = "sale_reopened"

# Called with the sale rows locked, so what was read of them is still true.
MOVE_STOCK = """
UPDATE sales
   SET remaining = remaining + tickets, stock_version = stock_version + reopening,
       updated_at = now()
  FROM unnest(%b::text[], %b::integer[], %b::integer[]) AS moved (moved_event, tickets, reopening)
 WHERE event_id = moved_event
"""

ANNOUNCE = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS announced (payload)"

# Binary: as text, each quotation mark of the JSON bodies would be escaped on its own.
ADD_MESSAGES = """
INSERT INTO outbox (id, subject, routing_key, body)
SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[])
"""


async def move(connection: Connection, moves: Sequence[tuple[Sale, int]]) -> None:
    """Add tickets (negative: take them) to locked sales, and tell all tasks which ones reopen."""
    reopens = [sale.remaining == 0 and tickets > 0 for sale, tickets in moves]
    await connection.execute(
        MOVE_STOCK,
        [
            [sale.event_id for sale, _ in moves],
            [tickets for _, tickets in moves],
            [int(one_reopens) for one_reopens in reopens],
        ],
    )
    reopened = [sale for (sale, _), one_reopens in zip(moves, reopens, strict=True) if one_reopens]
    await announce(connection, [(sale.event_id, sale.stock_version + 1) for sale in reopened])


async def announce(connection: Connection, reopened: Sequence[tuple[str, int]]) -> None:
    """Tell all tasks, once this transaction commits, which sales have stock again.

    `reopened` are event ids with their new stock versions.
    """
    if not reopened:
        return
    payloads = [f"{event_id} {stock_version}" for event_id, stock_version in reopened]
    await connection.execute(ANNOUNCE, [REOPENED_CHANNEL, payloads])


def listen(database: Database, reopen: Callable[[str, int], None]) -> None:
    """Have `reopen` hear of each sale that any task announces: event id and stock version."""

    def announced(payload: str) -> None:
        event_id, _, stock_version = payload.rpartition(" ")
        reopen(event_id, int(stock_version))

    database.on_notify[REOPENED_CHANNEL] = announced


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
