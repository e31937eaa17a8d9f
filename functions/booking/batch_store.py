"""The batch transaction: the SQL that turns many accepted requests into one commit.

Arrays are sent in binary (`%b`): as text, each element would be escaped in Python.

Lock order: sale rows by event id, then bookings (whose unique keys are inserted in sorted order),
then the outbox. Two round trips: read under lock, write and commit.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from booking import bodies
from booking.decisions import EventOfUser, KeyOfUser
from booking.models import Accepted, Booking, CreateRequest, KnownKey, Sale
from booking.stock import ADD_MESSAGES
from ticketra.database import Connection, Database, limited, roll_back
from ticketra.messages import BOOKING_CREATED
from ticketra.postgres_away import AWAY

SALE_COLUMNS = """event_id, version, capacity, remaining, price_amount_minor, price_currency,
       sales_start, sales_end, max_per_booking, max_per_user, closed, stock_version"""
BOOKING_COLUMNS = """id::text, event_id, user_id, ticket_count, amount_minor, currency,
       status, payment_status, reason, hold_expires_at, created_at, updated_at"""
_BOOKING_WIDTH = len(Booking._fields)
_SALE_WIDTH = len(Sale._fields)

LOCK_FREE_SALES = f"""
SELECT {SALE_COLUMNS}, clock_timestamp()
  FROM sales
 WHERE event_id = ANY(%b)
 ORDER BY event_id
   FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - the only inserted text is the constant column list above

LOCK_SALES = LOCK_FREE_SALES.replace("SKIP LOCKED", "")

FIND_SALES = "SELECT event_id FROM sales WHERE event_id = ANY(%b)"

FIND_KEYS = f"""
SELECT {BOOKING_COLUMNS}, idempotency_key, request_hash
  FROM bookings
  JOIN unnest(%b::text[], %b::text[]) AS asked (asked_user, asked_key)
    ON user_id = asked_user AND idempotency_key = asked_key
"""  # noqa: S608

SUM_HELD = """
SELECT event_id, user_id, sum(ticket_count)::integer
  FROM bookings
  JOIN unnest(%b::text[], %b::text[]) AS asked (asked_event, asked_user)
    ON event_id = asked_event AND user_id = asked_user
 WHERE status IN ('PENDING', 'CONFIRMED')
 GROUP BY event_id, user_id
"""

TAKE_STOCK = """
UPDATE sales
   SET remaining = remaining - taken, updated_at = now()
  FROM unnest(%b::text[], %b::integer[]) AS moved (moved_event, taken)
 WHERE event_id = moved_event
"""

INSERT_BOOKINGS = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at,
                      idempotency_key, request_hash)
SELECT id, event_id, user_id, ticket_count, amount_minor, currency, 'PENDING',
       'pending', %s, %s, %s, nullif(key, ''), CASE WHEN key <> '' THEN request_hash END
  FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::integer[], %b::bigint[], %b::text[],
              %b::text[], %b::bytea[])
       AS new (id, event_id, user_id, ticket_count, amount_minor, currency, key, request_hash)
"""

FIND_BOOKINGS = "SELECT id::text FROM bookings WHERE id = ANY(%b::uuid[])"


class CommitUnknown(Exception):  # noqa: N818 - neither success nor failure
    """The connection broke after COMMIT was sent: only reading back tells what happened."""


class Locked(NamedTuple):
    """What a batch may decide on. Events in `skipped` have a sale that somebody else has locked."""

    sales: dict[str, Sale]
    skipped: frozenset[str]
    known: dict[KeyOfUser, KnownKey]
    now: datetime | None  # None if no sale was locked


class BatchStore:
    """Runs batch transactions on a connection of its own, one at a time.

    `wait` makes it wait for locked rows (up to the lock time-out) where it would skip them.
    `lock_sales` can be replaced by tests that show what the lock is for.
    """

    def __init__(
        self,
        database: Database,
        *,
        wait: bool,
        lock_sales: str | None = None,
    ) -> None:
        self._database = database
        self._wait = wait
        self._lock_sales = lock_sales or (LOCK_SALES if wait else LOCK_FREE_SALES)
        self._connection: Connection | None = None

    async def read(self, requests: Sequence[CreateRequest], *, trust_fresh: bool) -> Locked:
        """Begin a transaction, lock the sales of `requests` and look up their keys.

        With `trust_fresh`, keys that are marked as fresh are not looked up.

        Raises:
            psycopg.Error: the server is away or refused; the transaction is over.

        """
        connection = await self._connected()
        event_ids = list({request.event_id for request in requests})
        keyed = [r for r in requests if r.key and not (trust_fresh and r.key_is_fresh)]
        with limited(connection):
            async with connection.pipeline():
                await connection.execute("BEGIN")
                locking = await connection.execute(self._lock_sales, [event_ids], prepare=True)
                finding = None
                if keyed:
                    finding = await connection.execute(
                        FIND_KEYS,
                        [[r.user_id for r in keyed], [r.key for r in keyed]],
                        prepare=True,
                    )
                sale_rows = await locking.fetchall()
                key_rows = [] if finding is None else await finding.fetchall()
            sales = {row[0]: Sale._make(row[:_SALE_WIDTH]) for row in sale_rows}
            skipped = await self._skipped(connection, event_ids, sales)
        known = {
            (row[2], row[_BOOKING_WIDTH]): KnownKey(
                row[_BOOKING_WIDTH + 1], Booking._make(row[:_BOOKING_WIDTH])
            )
            for row in key_rows
        }
        now = sale_rows[0][_SALE_WIDTH] if sale_rows else None
        return Locked(sales, skipped, known, now)

    async def held(
        self, requests: Sequence[CreateRequest], sales: Mapping[str, Sale]
    ) -> dict[EventOfUser, int]:
        """Return the tickets that the users of `requests` hold, where a sale limits them."""
        pairs = {
            (r.event_id, r.user_id)
            for r in requests
            if r.event_id in sales and sales[r.event_id].max_per_user > 0
        }
        if not pairs:
            return {}
        connection = await self._connected()
        with limited(connection):
            cursor = await connection.execute(
                SUM_HELD, [[p[0] for p in pairs], [p[1] for p in pairs]], prepare=True
            )
            return {(row[0], row[1]): row[2] for row in await cursor.fetchall()}

    async def write(self, accepted: Sequence[Accepted], taken: Mapping[str, int]) -> None:
        """Move the stock, insert the bookings and their messages, and commit.

        Raises:
            CommitUnknown: the connection broke on the way.
            psycopg.Error: the server refused, and nothing was written.

        """
        connection = await self._connected()
        # Unique keys are taken in sorted order, so that two tasks never wait for each other.
        rows = sorted(accepted, key=_key_order)
        bookings = [row.booking for row in rows]
        first = bookings[0]
        try:
            with limited(connection):
                async with connection.pipeline():
                    await connection.execute(
                        TAKE_STOCK, [list(taken), list(taken.values())], prepare=True
                    )
                    await connection.execute(
                        INSERT_BOOKINGS,
                        [
                            first.hold_expires_at,
                            first.created_at,
                            first.updated_at,
                            [b.id for b in bookings],
                            [b.event_id for b in bookings],
                            [b.user_id for b in bookings],
                            [b.ticket_count for b in bookings],
                            [b.amount_minor for b in bookings],
                            [b.currency for b in bookings],
                            [row.request.key for row in rows],
                            [row.request.request_hash for row in rows],
                        ],
                        prepare=True,
                    )
                    await connection.execute(
                        ADD_MESSAGES,
                        [
                            # A booking's first message has its id: the sweeper finds it by that.
                            [a.booking.id for a in accepted],
                            [a.booking.id for a in accepted],
                            [BOOKING_CREATED] * len(accepted),
                            [bodies.created(a.booking, a.request.request_id) for a in accepted],
                        ],
                        prepare=True,
                    )
                    await connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            if connection.closed:
                raise CommitUnknown from error
            raise

    async def end(self) -> None:
        """End a transaction that writes nothing; an aborted or broken one too."""
        connection = self._connection
        if connection is None:
            return
        try:
            with limited(connection):
                await roll_back(connection)
        except AWAY:
            # Closing it ends the transaction as well.
            await connection.close()

    async def committed(self, accepted: Sequence[Accepted]) -> bool:
        """Read back whether the transaction that would have inserted `accepted` committed.

        The sale rows are locked first: whoever gets the lock knows that the old transaction, which
        held it, is over.

        Raises:
            psycopg.Error: the server is away, so nobody knows yet.

        """
        connection = await self._connected()
        event_ids = list({a.booking.event_id for a in accepted})
        with limited(connection):
            async with connection.transaction():
                await connection.execute(LOCK_SALES, [event_ids])
                cursor = await connection.execute(FIND_BOOKINGS, [[a.booking.id for a in accepted]])
                return await cursor.fetchone() is not None

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            name = "writer-waiting" if self._wait else "writer"
            self._connection = await self._database.connect(name)
        return self._connection

    async def _skipped(
        self, connection: Connection, event_ids: list[str], sales: Mapping[str, Sale]
    ) -> frozenset[str]:
        """Tell a sale that is locked by somebody else from one that does not exist."""
        absent = [event_id for event_id in event_ids if event_id not in sales]
        if not absent or self._wait:
            return frozenset()
        cursor = await connection.execute(FIND_SALES, [absent], prepare=True)
        return frozenset(row[0] for row in await cursor.fetchall())


def _key_order(accepted: Accepted) -> tuple[str, str]:
    return accepted.request.user_id, accepted.request.key
