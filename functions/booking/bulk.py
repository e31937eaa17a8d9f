"""Many transitions in one stroke: a statement each for bookings, stock, tickets and the outbox."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from booking import bodies, stock, ticket_store
from booking.models import Booking, Decided, OutboxMessage, Sale
from ticketra.database import Connection
from ticketra.ids import IdSource

CHANGE_BOOKINGS = """
UPDATE bookings
   SET status = new_status, payment_status = new_payment_status, reason = new_reason,
       updated_at = now()
  FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
       AS changed (changed_id, old_status, old_payment_status,
                   new_status, new_payment_status, new_reason)
 WHERE id = changed_id AND status = old_status AND payment_status = old_payment_status
RETURNING id::text, updated_at
"""


async def change(
    connection: Connection,
    decided: Sequence[Decided],
    sales: Mapping[str, Sale],
    mint_id: IdSource,
) -> dict[str, Booking]:
    """Write what was decided about locked bookings, none of them twice, in this transaction.

    `sales` are the locked sales of all whose stock moves. Returns the bookings by id as they are
    then; one that was found in another state than it was decided on is left alone, and not among
    them.
    """
    if not decided:
        return {}
    cursor = await connection.execute(
        CHANGE_BOOKINGS,
        [
            [one.booking.id for one in decided],
            [one.booking.status for one in decided],
            [one.booking.payment_status for one in decided],
            [one.transition.status for one in decided],
            [one.transition.payment_status for one in decided],
            [one.transition.reason for one in decided],
        ],
        prepare=True,
    )
    changed_at: dict[str, datetime] = dict(await cursor.fetchall())
    written = [one for one in decided if one.booking.id in changed_at]
    changed = {
        one.booking.id: one.transition.apply(one.booking, changed_at[one.booking.id])
        for one in written
    }
    moves = _moves(written, sales)
    if moves:
        await stock.move(connection, moves)
    followed = [(changed[one.booking.id], one.transition) for one in written]
    await ticket_store.follow(connection, followed, mint_id)
    await stock.add_messages(
        connection,
        [
            OutboxMessage(
                mint_id(),
                one.booking.id,
                one.transition.routing_key,
                bodies.changed(changed[one.booking.id], one.request_id),
            )
            for one in written
            if one.transition.routing_key is not None
        ],
    )
    return changed


def _moves(written: Sequence[Decided], sales: Mapping[str, Sale]) -> list[tuple[Sale, int]]:
    tickets: dict[str, int] = {}
    for booking, transition, _ in written:
        if transition.stock_delta:
            moved = tickets.get(booking.event_id, 0)
            tickets[booking.event_id] = moved + transition.stock_delta
    return [(sales[event_id], count) for event_id, count in tickets.items()]
