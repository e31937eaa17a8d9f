"""Bookings after they were made: reading them, and their transitions.

Lock order: the sale row, then booking rows by id, then their tickets, then the outbox.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from booking import bodies, bulk, stock, ticket_store
from booking.batch_store import BOOKING_COLUMNS, SALE_COLUMNS
from booking.groups import Decision
from booking.models import EXPIRED, Booking, Decided, OutboxMessage, Sale, Transition
from ticketra.database import Connection, Database
from ticketra.ids import IdSource

EXPIRY_BATCH_LIMIT = 500
SALE_WAIT_LIMIT_MS = 200  # several batches of the writer

FIND = f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE id = %s"  # noqa: S608 - constant columns

LIST = f"""
SELECT {BOOKING_COLUMNS}
  FROM bookings
 WHERE user_id = %s AND (%s::uuid IS NULL OR id < %s::uuid)
 ORDER BY id DESC
 LIMIT %s
"""  # noqa: S608

LOCK_SALE = f"SELECT {SALE_COLUMNS} FROM sales WHERE event_id = %s FOR UPDATE"  # noqa: S608

SUM_HELD = """
SELECT coalesce(sum(ticket_count), 0)::integer
  FROM bookings
 WHERE event_id = %s AND user_id = %s AND status IN ('PENDING', 'CONFIRMED')
"""

LOCK_BOOKING = f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE id = %s FOR UPDATE"  # noqa: S608

CHANGE_BOOKING = """
UPDATE bookings
   SET status = %s, payment_status = %s, reason = %s, updated_at = now()
 WHERE id = %s AND status = %s AND payment_status = %s
RETURNING updated_at
"""

LOCK_HOLD = f"SELECT {BOOKING_COLUMNS}, now() FROM bookings WHERE id = %s FOR UPDATE"  # noqa: S608

EXTEND_HOLD = """
UPDATE bookings
   SET hold_expires_at = %s, updated_at = now()
 WHERE id = %s AND status = 'PENDING'
"""

FIND_DUE = """
SELECT id::text, event_id
  FROM bookings
 WHERE status = 'PENDING' AND hold_expires_at <= now() AND event_id <> ALL(%s)
 ORDER BY hold_expires_at
 LIMIT %s
"""

FIND_DUE_OF_EVENT = """
SELECT id::text
  FROM bookings
 WHERE status = 'PENDING' AND hold_expires_at <= now() AND event_id = %s
 ORDER BY hold_expires_at
 LIMIT %s
"""

LIMIT_SALE_WAIT = "SELECT set_config('lock_timeout', %s, true)"

LOCK_SALES_OF_DUE = f"""
SELECT {SALE_COLUMNS} FROM sales WHERE event_id = ANY(%s) ORDER BY event_id
   FOR UPDATE SKIP LOCKED
"""  # noqa: S608

# `waits` says that an outage of ours keeps the payment from starting, and that it may last longer:
# the message that the booking was made, which has the booking's id, is not yet published.
LOCK_DUE = f"""
SELECT {BOOKING_COLUMNS}, now(),
       created_at + make_interval(secs => %s) > now()
       AND EXISTS (SELECT FROM outbox
                    WHERE outbox.id = bookings.id AND published_at IS NULL) AS waits
  FROM bookings
 WHERE id = ANY(%b::uuid[]) AND event_id = ANY(%b::text[])
   AND status = 'PENDING' AND hold_expires_at <= now()
 ORDER BY id
   FOR UPDATE SKIP LOCKED
"""  # noqa: S608

EXTEND = """
UPDATE bookings
   SET hold_expires_at = least(now() + make_interval(secs => %s),
                               created_at + make_interval(secs => %s)),
       updated_at = now()
 WHERE id = ANY(%s::uuid[])
"""


class StateChanged(Exception):  # noqa: N818 - the caller decides again
    """The booking is no longer what the decision was made on."""


class Expiry(NamedTuple):
    """What became of one batch of due bookings.

    `full` says that there may be more. The sales of `locked` events were locked by others.
    """

    full: bool
    expired: int = 0
    extended: int = 0
    locked: frozenset[str] = frozenset()


Ending = Callable[[Booking], Transition]
Extension = Callable[[Booking, datetime], datetime | None]


class BookingStore:
    """Reads bookings and changes them one at a time, or expires many at once.

    `lock_booking` and `change_booking` can be replaced by tests that show what they guard.
    """

    def __init__(
        self,
        database: Database,
        mint_id: IdSource,
        *,
        lock_booking: str = LOCK_BOOKING,
        change_booking: str = CHANGE_BOOKING,
    ) -> None:
        self._database = database
        self._mint_id = mint_id
        self._lock_booking = lock_booking
        self._change_booking = change_booking

    async def find(self, booking_id: str) -> Booking | None:
        """Return a booking, or None."""
        async with self._database.lend() as connection:
            row = await (await connection.execute(FIND, [booking_id])).fetchone()
        return None if row is None else Booking._make(row)

    async def of_user(self, user_id: str, before: str | None, limit: int) -> list[Booking]:
        """Return up to `limit` bookings of a user, newest first, older than the id `before`."""
        async with self._database.lend() as connection:
            cursor = await connection.execute(LIST, [user_id, before, before, limit])
            return [Booking._make(row) for row in await cursor.fetchall()]

    async def change(
        self, booking: Booking, decision: Decision, request_id: str, *, lock_sale: bool
    ) -> tuple[Booking, Transition | None]:
        """Apply what `decision` makes of the locked booking (and sale), in one transaction.

        It is also told how many tickets the user holds of the sale: 0 unless the sale is locked and
        limits them, and the booking is EXPIRED and could be taken again.

        Returns the booking as it is now, and what was done.

        Raises:
            StateChanged: the conditional update found another state.
            psycopg.errors.LockNotAvailable: others kept one of the two locked for
                SALE_WAIT_LIMIT_MS.
            Whatever `decision` raises; nothing is changed then.

        """
        async with self._database.lend() as connection, connection.transaction():
            await connection.execute(LIMIT_SALE_WAIT, [f"{SALE_WAIT_LIMIT_MS}ms"])
            sale = await locked_sale(connection, booking.event_id) if lock_sale else None
            row = await (await connection.execute(self._lock_booking, [booking.id])).fetchone()
            if row is None:
                raise StateChanged
            present = Booking._make(row)
            held = await _held_beside(connection, present, sale)
            transition = decision(present, sale, held)
            if transition is None:
                return present, None
            changed = await self._apply(connection, present, transition)
            if transition.stock_delta and sale is not None:
                await stock.move(connection, [(sale, transition.stock_delta)])
            await ticket_store.follow(connection, [(changed, transition)], self._mint_id)
            if transition.routing_key is not None:
                message = self._message(changed, transition.routing_key, request_id)
                await stock.add_messages(connection, [message])
            return changed, transition

    async def extend_hold(self, booking: Booking, extension: Extension) -> Booking:
        """Hold the tickets until the time that `extension` makes of the booking and of now.

        Nothing but the booking's row is locked, and nobody is told. Returns the booking as it is
        then.
        """
        async with self._database.lend() as connection, connection.transaction():
            row = await (await connection.execute(LOCK_HOLD, [booking.id])).fetchone()
            assert row is not None
            present, now = Booking._make(row[:-1]), row[-1]
            until = extension(present, now)
            if until is None:
                return present
            await connection.execute(EXTEND_HOLD, [until, booking.id])
            return present._replace(hold_expires_at=until, updated_at=now)

    async def expire_due(
        self,
        ending: Ending,
        hold_ttl_s: int,
        hold_max_s: int,
        passing_over: Sequence[str] = (),
    ) -> Expiry:
        """Do `ending` to, or extend, up to EXPIRY_BATCH_LIMIT bookings whose hold has ended.

        Rows that others have locked are left for the next round, events in `passing_over` too.
        """
        async with self._database.lend() as connection, connection.transaction():
            cursor = await connection.execute(FIND_DUE, [list(passing_over), EXPIRY_BATCH_LIMIT])
            due = await cursor.fetchall()
            if not due:
                return Expiry(full=False)
            event_ids = {row[1] for row in due}
            cursor = await connection.execute(LOCK_SALES_OF_DUE, [list(event_ids)])
            sales = {row[0]: Sale._make(row) for row in await cursor.fetchall()}
            done = await self._end_holds(
                connection,
                ending,
                [row[0] for row in due],
                sales,
                hold_ttl_s=hold_ttl_s,
                hold_max_s=hold_max_s,
            )
            return done._replace(locked=frozenset(event_ids - sales.keys()))

    async def expire_due_of(
        self, event_id: str, ending: Ending, hold_ttl_s: int, hold_max_s: int
    ) -> Expiry:
        """Do the same for one event, and wait for its sale.

        Raises:
            psycopg.errors.LockNotAvailable: others kept it locked for SALE_WAIT_LIMIT_MS.

        """
        async with self._database.lend() as connection, connection.transaction():
            await connection.execute(LIMIT_SALE_WAIT, [f"{SALE_WAIT_LIMIT_MS}ms"])
            sale = await locked_sale(connection, event_id)
            cursor = await connection.execute(FIND_DUE_OF_EVENT, [event_id, EXPIRY_BATCH_LIMIT])
            due = [row[0] for row in await cursor.fetchall()]
            return await self._end_holds(
                connection,
                ending,
                due,
                {event_id: sale},
                hold_ttl_s=hold_ttl_s,
                hold_max_s=hold_max_s,
            )

    async def _end_holds(
        self,
        connection: Connection,
        ending: Ending,
        due: list[str],
        sales: dict[str, Sale],
        *,
        hold_ttl_s: int,
        hold_max_s: int,
    ) -> Expiry:
        """End or extend those of the `due` bookings that still are, whose sales are locked."""
        full = len(due) == EXPIRY_BATCH_LIMIT
        if not due or not sales:
            return Expiry(full)
        cursor = await connection.execute(LOCK_DUE, [hold_max_s, due, list(sales)])
        rows = await cursor.fetchall()
        waiting = [row[0] for row in rows if row[-1]]
        ended = [Booking._make(row[:-2]) for row in rows if not row[-1]]
        if waiting:
            await connection.execute(EXTEND, [hold_ttl_s, hold_max_s, waiting])
        if ended:
            decided = [Decided(booking, ending(booking), "") for booking in ended]
            await self._expire(connection, decided, sales)
        return Expiry(full, len(ended), len(waiting))

    async def _apply(
        self, connection: Connection, present: Booking, transition: Transition
    ) -> Booking:
        cursor = await connection.execute(
            self._change_booking,
            [
                transition.status,
                transition.payment_status,
                transition.reason,
                present.id,
                present.status,
                present.payment_status,
            ],
        )
        row = await cursor.fetchone()
        if row is None:
            raise StateChanged
        return transition.apply(present, row[0])

    async def _expire(
        self, connection: Connection, decided: list[Decided], sales: dict[str, Sale]
    ) -> None:
        await bulk.change(connection, decided, sales, self._mint_id)

    def _message(self, booking: Booking, routing_key: str, request_id: str) -> OutboxMessage:
        body = bodies.changed(booking, request_id)
        return OutboxMessage(self._mint_id(), booking.id, routing_key, body)


async def locked_sale(connection: Connection, event_id: str) -> Sale:
    """Lock a sale that exists, and return it as it is then."""
    row = await (await connection.execute(LOCK_SALE, [event_id])).fetchone()
    assert row is not None
    return Sale._make(row)


async def _held_beside(connection: Connection, booking: Booking, sale: Sale | None) -> int:
    """Return what the user of an EXPIRED booking holds now, if the locked sale limits that."""
    if sale is None or sale.max_per_user == 0 or booking.status != EXPIRED:
        return 0
    cursor = await connection.execute(SUM_HELD, [booking.event_id, booking.user_id])
    row = await cursor.fetchone()
    assert row is not None
    held: int = row[0]
    return held
