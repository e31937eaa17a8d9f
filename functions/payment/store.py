"""Payments, their attempts, the inbox and what goes to the outbox, in PostgreSQL.

What many payments want at the same time is one transaction (`ticketra.group_commit`).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import TupleRow

from payment import bodies
from payment.logic import ROUTING_KEY_OF
from payment.models import REASON_LIMIT_CHARS, BookingCreated, Payment, Received, State
from payment.postgres import connected, divides
from ticketra.database import Connection, Database
from ticketra.group_commit import GroupCommit
from ticketra.ids import IdSource

_COLUMNS = "booking_id, ticket_count, amount_minor, currency, state, reason"

_RECEIVE = """
    INSERT INTO inbox (message_id)
    SELECT DISTINCT message_id FROM unnest(%b::text[]) AS received (message_id)
    ORDER BY message_id
    ON CONFLICT (message_id) DO NOTHING
"""
_START = """
    INSERT INTO payments (id, booking_id, ticket_count, amount_minor, currency, state)
    SELECT *, 'started' FROM unnest(%b::uuid[], %b::uuid[], %b::integer[], %b::bigint[], %b::text[])
        AS made (id, booking_id, ticket_count, amount_minor, currency)
    ORDER BY booking_id
    ON CONFLICT (booking_id) DO NOTHING
    RETURNING booking_id
"""
_ATTEMPT = """
    INSERT INTO attempts (id, booking_id, message_id, began_in)
    SELECT attempt.id, booking_id, message_id, state
    FROM unnest(%b::uuid[], %b::uuid[], %b::text[]) AS attempt (id, booking_id, message_id)
    JOIN payments USING (booking_id)
"""
_READ = f"""
    SELECT {_COLUMNS}, now() FROM payments WHERE booking_id = ANY(%b::uuid[])
"""  # noqa: S608 - constant columns
# One statement: the payment, what the world is told of it, and the end of the attempt. An UPDATE
# alone locks rows in the order in which its plan meets them, so that two workers could deadlock.
_MOVE = f"""
    WITH locked AS (
        SELECT move.*
        FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[],
                    %b::uuid[], %b::text[], %b::text[], %b::uuid[])
            AS move (booking_id, present_state, next_state, next_reason,
                     message_id, routing_key, body, attempt_id)
        JOIN payments USING (booking_id)
        WHERE state = present_state
        ORDER BY booking_id FOR NO KEY UPDATE OF payments
    ), moved AS (
        UPDATE payments SET state = next_state, reason = next_reason, updated_at = now()
        FROM locked
        WHERE payments.booking_id = locked.booking_id
        RETURNING {_COLUMNS.replace("booking_id", "payments.booking_id")},
                  message_id, routing_key, body, attempt_id
    ), told AS (
        INSERT INTO outbox (id, subject, routing_key, body)
        SELECT message_id, booking_id::text, routing_key, body FROM moved WHERE routing_key <> ''
    ), ended AS (
        UPDATE attempts SET ended_in = moved.state, ended_at = now()
        FROM moved WHERE attempts.id = attempt_id AND routing_key <> ''
    )
    SELECT {_COLUMNS}, now() FROM moved
"""  # noqa: S608
# An attempt belongs to one delivery, so nobody else waits for its row.
_END_ATTEMPT = """
    UPDATE attempts SET ended_in = state, ended_at = now(), failure = nullif(why, '')
    FROM unnest(%b::uuid[], %b::text[], %b::text[]) AS ended (attempt_id, state, why)
    WHERE id = attempt_id
"""
_PRUNE = """
    DELETE FROM inbox WHERE message_id IN (
        SELECT message_id FROM inbox
        WHERE received_at < now() - make_interval(secs => %s) LIMIT %s
    )
"""


class _Delivery(NamedTuple):
    """A message about a booking. Only one that says that it was made starts a payment."""

    message_id: str
    booking_id: UUID
    made: BookingCreated | None


class _Move(NamedTuple):
    """What shall become of a payment, and which attempt did it for which request."""

    payment: Payment
    state: State
    reason: str
    attempt: str
    request_id: str


class _Ending(NamedTuple):
    attempt: str
    state: State
    failure: str


class PaymentStore:
    """Records messages, moves payments, and ends attempts.

    Every method raises payment.models.Outage when the database is away. `on_commit` is called when
    there may be something to publish.
    """

    def __init__(
        self, database: Database, mint_id: IdSource, on_commit: Callable[[], None]
    ) -> None:
        self._database = database
        self._mint_id = mint_id
        self._on_commit = on_commit
        self._records = GroupCommit(self._record, divides=divides)
        self._moves = GroupCommit(self._move, divides=divides)
        self._endings = GroupCommit(self._end_attempts, divides=divides)

    async def record(self, message_id: str, booking: BookingCreated) -> Received:
        """Record that a message was received and start its payment if there is none."""
        received = await self._records.submit(_Delivery(message_id, booking.booking_id, booking))
        assert received is not None
        return received

    async def record_cancellation(self, message_id: str, booking_id: UUID) -> Received | None:
        """Record that a message was received; return the booking's payment, if there is one."""
        return await self._records.submit(_Delivery(message_id, booking_id, None))

    async def move(
        self, payment: Payment, state: State, reason: str, attempt: str, request_id: str
    ) -> Payment:
        """Bring `payment` to `state`, unless another delivery of its message moved it before.

        A state of which the world is told ends the attempt, whoever brought the payment there.

        Returns:
            The payment as it is stored now, which in that case is in the other's state.

        """
        return await self._moves.submit(_Move(payment, state, reason, attempt, request_id))

    async def end_attempt(self, attempt: str, state: State, failure: str) -> None:
        """Say where an attempt left its payment, and what kept it from getting further."""
        await self._endings.submit(_Ending(attempt, state, failure))

    async def prune_inbox(self, keep_s: int, limit: int) -> int:
        """Forget up to `limit` messages that came more than `keep_s` ago; return how many."""
        async with connected(self._database) as connection:
            return (await connection.execute(_PRUNE, [keep_s, limit])).rowcount

    async def _record(self, deliveries: Sequence[_Delivery]) -> list[Received | None]:
        made = [delivery.made for delivery in deliveries if delivery.made is not None]
        booking_ids = [delivery.booking_id for delivery in deliveries]
        attempts = [self._mint_id() for _ in deliveries]
        message_ids = [delivery.message_id for delivery in deliveries]
        async with (
            connected(self._database) as connection,
            connection.pipeline(),  # outside, so that BEGIN and COMMIT travel with the rest
            connection.transaction(),
        ):
            await connection.execute(_RECEIVE, [message_ids])
            starting = await connection.execute(
                _START,
                [
                    [self._mint_id() for _ in made],
                    [booking.booking_id for booking in made],
                    [booking.ticket_count for booking in made],
                    [booking.amount_minor for booking in made],
                    [booking.currency for booking in made],
                ],
            )
            await connection.execute(_ATTEMPT, [attempts, booking_ids, message_ids])
            found = await _payments(connection, _READ, [booking_ids])
            started = {row[0] for row in await starting.fetchall()}
        results: list[Received | None] = []
        for delivery, attempt in zip(deliveries, attempts, strict=True):
            payment, now = found.get(delivery.booking_id, (None, None))
            if payment is None or now is None:
                results.append(None)
                continue
            # Of two deliveries in one batch, only one may take the provider for ignorant.
            started_now = delivery.booking_id in started
            started.discard(delivery.booking_id)
            results.append(Received(payment, attempt, started_now, now))
        return results

    async def _move(self, moves: Sequence[_Move]) -> list[Payment]:
        booking_ids = [move.payment.booking_id for move in moves]
        async with connected(self._database) as connection:
            moved = await _payments(
                connection,
                _MOVE,
                [
                    booking_ids,
                    [move.payment.state.value for move in moves],
                    [move.state.value for move in moves],
                    [move.reason[:REASON_LIMIT_CHARS] for move in moves],
                    [self._mint_id() for _ in moves],
                    [ROUTING_KEY_OF.get(move.state, "") for move in moves],
                    [_body(move) for move in moves],
                    [move.attempt for move in moves],
                ],
            )
            left = [move for move in moves if move.payment.booking_id not in moved]
            if left:
                moved |= await self._moved_by_others(connection, left)
        self._on_commit()
        return [moved[booking_id][0] for booking_id in booking_ids]

    async def _moved_by_others(
        self, connection: Connection, moves: Sequence[_Move]
    ) -> dict[UUID, tuple[Payment, datetime]]:
        """Return payments that came to be elsewhere; where that is an end, so it is of attempts."""
        found = await _payments(connection, _READ, [[move.payment.booking_id for move in moves]])
        states = [(move.attempt, found[move.payment.booking_id][0].state) for move in moves]
        endings = [_Ending(attempt, state, "") for attempt, state in states if _is_told(state)]
        if endings:
            await _write_endings(connection, endings)
        return found

    async def _end_attempts(self, endings: Sequence[_Ending]) -> list[None]:
        async with connected(self._database) as connection:
            await _write_endings(connection, endings)
        return [None] * len(endings)


async def _write_endings(connection: Connection, endings: Sequence[_Ending]) -> None:
    await connection.execute(
        _END_ATTEMPT,
        [
            [ending.attempt for ending in endings],
            [ending.state.value for ending in endings],
            [ending.failure[:REASON_LIMIT_CHARS] for ending in endings],
        ],
    )


def _is_told(state: State) -> bool:
    return state in ROUTING_KEY_OF


def _body(move: _Move) -> str:
    if not _is_told(move.state):
        return ""
    return bodies.ended(move.payment, move.state, move.reason, move.request_id)


async def _payments(
    connection: Connection, query: str, arguments: list[Any]
) -> dict[UUID, tuple[Payment, datetime]]:
    """Return the payments that `query` yields, and the database's time, by booking id."""
    cursor = await connection.execute(query, arguments)
    return {row[0]: _payment_and_time(row) for row in await cursor.fetchall()}


def _payment_and_time(row: TupleRow) -> tuple[Payment, datetime]:
    booking_id, ticket_count, amount_minor, currency, state, reason, now = row
    return Payment(booking_id, ticket_count, amount_minor, currency, State(state), reason), now
