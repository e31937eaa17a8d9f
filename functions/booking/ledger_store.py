"""The ledger: what each sale should have left, seen over all its bookings.

capacity = remaining + the tickets of PENDING and CONFIRMED bookings, and a booking has a valid
ticket for each seat as long as it is CONFIRMED. Every transaction that changes one side changes the
other, so a difference means that a row was changed by other hands.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from booking import stock
from booking.booking_store import locked_sale
from ticketra.database import Connection, Database
from ticketra.snapshots import SET_TIMEOUT, at_one_moment, patient

LOCK_LIMIT_S = 10
PAGE_LIMIT = 100  # drifted sales in memory at a time

COUNT_SALES = "SELECT count(*) FROM sales"

FIND_DRIFTED = """
SELECT event_id, capacity, remaining, coalesce(held, 0)
  FROM sales
  LEFT JOIN (SELECT event_id, sum(ticket_count) AS held
               FROM bookings
              WHERE status IN ('PENDING', 'CONFIRMED')
              GROUP BY event_id) AS holding USING (event_id)
 WHERE remaining <> capacity - coalesce(held, 0)
 ORDER BY event_id
"""

FIND_WRONG_TICKETS = """
SELECT id::text, status, ticket_count, coalesce(valid, 0)
  FROM bookings
  LEFT JOIN (SELECT booking_id, count(*) AS valid
               FROM tickets
              WHERE status = 'valid'
              GROUP BY booking_id) AS issued ON booking_id = id
 WHERE coalesce(valid, 0) <> CASE status WHEN 'CONFIRMED' THEN ticket_count ELSE 0 END
 ORDER BY id
"""

SUM_HELD = """
SELECT coalesce(sum(ticket_count), 0)
  FROM bookings
 WHERE event_id = %s AND status IN ('PENDING', 'CONFIRMED')
"""


class Entry(NamedTuple):
    """One sale in the ledger; `held` is what its PENDING and CONFIRMED bookings hold together."""

    event_id: str
    capacity: int
    remaining: int
    held: int

    @property
    def expected(self) -> int:
        """What should remain; negative where more is held than there is."""
        return self.capacity - self.held

    @property
    def drifted(self) -> bool:
        """Whether something else remains than should."""
        return self.remaining != self.expected


class Issued(NamedTuple):
    """A booking and how many valid tickets it has."""

    booking_id: str
    status: str
    ticket_count: int
    valid: int


class Snapshot(NamedTuple):
    """All sales and bookings at one moment: how many sales there are, and what does not agree.

    `drifted` are sales, `wrong_tickets` bookings with more or fewer valid tickets than they should
    have.
    """

    sale_count: int
    drifted: AsyncIterator[Entry]
    wrong_tickets: AsyncIterator[Issued]


class LedgerStore:
    """Compares sales with their bookings, and corrects what remains of a sale."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Look at all sales and bookings at one moment, however many there are.

        PostgreSQL sums within its work_mem, and this process holds PAGE_LIMIT entries at a time.

        Raises:
            psycopg.OperationalError: PostgreSQL is away, or took longer than SNAPSHOT_LIMIT_S.

        """
        async with await self._connected() as connection, at_one_moment(connection):
            counted = await (await connection.execute(COUNT_SALES)).fetchone()
            assert counted is not None
            async with (
                connection.cursor(name="drifted") as drifted,
                connection.cursor(name="wrong_tickets") as wrong_tickets,
            ):
                drifted.itersize = wrong_tickets.itersize = PAGE_LIMIT
                await drifted.execute(FIND_DRIFTED)
                await wrong_tickets.execute(FIND_WRONG_TICKETS)
                yield Snapshot(
                    counted[0],
                    (Entry._make(row) async for row in drifted),
                    (Issued._make(row) async for row in wrong_tickets),
                )

    @asynccontextmanager
    async def corrections(self) -> AsyncIterator["Corrections"]:
        """Open a connection to correct sales with."""
        async with await self._connected() as connection:
            yield Corrections(connection)

    async def _connected(self) -> Connection:
        connection = await patient(self._database, "reconcile")
        await connection.execute(SET_TIMEOUT, ["lock_timeout", f"{LOCK_LIMIT_S}s"])
        return connection


class Corrections:
    """Corrects one sale after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def correct(self, event_id: str) -> Entry:
        """Make what remains of a sale what should, or nothing where more is held than there is.

        The sale is compared again under its lock, and the entry that was found then is returned.

        Raises:
            psycopg.errors.LockNotAvailable: others kept the sale locked for LOCK_LIMIT_S.

        """
        async with self._connection.transaction():
            sale = await locked_sale(self._connection, event_id)
            # A statement of its own: it sees what was committed until the lock was there.
            row = await (await self._connection.execute(SUM_HELD, [event_id])).fetchone()
            assert row is not None
            found = Entry(event_id, sale.capacity, sale.remaining, row[0])
            difference = max(0, found.expected) - found.remaining
            if difference:
                await stock.move(self._connection, [(sale, difference)])
            return found
