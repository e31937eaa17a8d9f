"""Sold out is answered from memory, and tickets that come back reopen the sale in every task."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from booking import stock
from booking.batch_store import BatchStore
from booking.booking_store import BookingStore
from booking.bookings import Bookings
from booking.changes import Changes
from booking.group_store import GroupStore
from booking.holds import Sweeper
from booking.markers import MARKER_TTL_S, SoldOutMarkers
from booking.models import Booking, SaleTerms
from booking.sale_group_store import SaleGroupStore
from booking.sale_store import SaleStore
from booking.writer import Writer
from tests.integration.booking.test_contract import refused
from tests.integration.booking.test_outages import eventually, succeeds
from tests.integration.booking.test_writer import OpenLocks, open_sale
from tests.integration.booking_task import Client, booking_tasks, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.database import Database
from ticketra.errors import Conflict
from ticketra.ids import IdSource

MINT = IdSource()
ANSWERS = 200
ATTEMPTS = 5
REOPENING_LIMIT_S = 10.0


class Clock:
    """Stands still until it is moved, so that no marker ends by itself."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class CountingStore(BatchStore):
    """Counts how often PostgreSQL is asked for a booking."""

    asked = 0

    async def read(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        self.asked += 1
        return await super().read(*args, **kwargs)  # type: ignore[arg-type]


class Task:
    """What of a booking task sells, with a clock of its own for its markers."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.database = database
        self.store = CountingStore(database, wait=False)
        self.waiting_store = BatchStore(database, wait=True)
        self.markers = SoldOutMarkers(self.clock)
        self.writer = Writer(
            database,
            self.store,
            self.waiting_store,
            OpenLocks(),
            self.markers,
            hold_ttl=timedelta(minutes=10),
            on_commit=lambda: None,
        )
        store = BookingStore(database, MINT)
        self.bookings = Bookings(
            self.writer,
            store,
            Changes(
                store, GroupStore(database, MINT), SaleGroupStore(database, MINT), lambda: None
            ),
            SaleStore(database),
            markers=self.markers,
            mint_id=MINT,
            hold_ttl=timedelta(minutes=10),
            hold_max=timedelta(hours=1),
            on_commit=lambda: None,
            on_close=lambda: None,
        )

    async def create(self, event_id: str) -> Booking:
        booking, _ = await self.bookings.create(
            event_id, "ada", 1, "", key_is_fresh=False, request_id="test", wait_s=20
        )
        return booking

    async def cancel(self, booking: Booking) -> None:
        await self.bookings.cancel(booking.id, "", "", payment_declined=False, request_id="test")

    def hides(self, event_id: str) -> bool:
        """Say whether this task would answer "sold out" without asking."""
        return self.markers.is_sold_out(event_id)

    async def is_sold_out(self, event_id: str) -> bool:
        """Ask for a ticket, and give it back if there was one."""
        try:
            await self.create(event_id)
        except Conflict as refusal:
            return refusal.code == "sold_out"
        return False


@asynccontextmanager
async def running(postgres: Server, *, hears: bool) -> AsyncIterator[Task]:
    """Run a task's selling parts; it `hears` the announcements, or all are lost."""
    async with opened(postgres) as database:
        task = Task(database)
        parts = [asyncio.create_task(task.writer.run())]
        if hears:
            database.available = False
            stock.listen(database, task.markers.reopen)
            parts.append(asyncio.create_task(database.watch()))
            while not database.available:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.01)
        yield task
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await task.store.close()
        await task.waiting_store.close()


async def test_a_returned_ticket_reopens_the_sale_in_both_tasks_by_its_announcement(
    postgres: Server, event_id: str
) -> None:
    open_sale(postgres, event_id, 1)
    async with running(postgres, hears=True) as one, running(postgres, hears=True) as two:
        held = await one.create(event_id)
        for seller, other in [(two, one), (one, two)] * 2:
            assert await one.is_sold_out(event_id)
            assert await two.is_sold_out(event_id)
            asked = one.store.asked, two.store.asked
            for _ in range(20):
                assert await one.is_sold_out(event_id)
                assert await two.is_sold_out(event_id)
            assert (one.store.asked, two.store.asked) == asked, "answered from memory"
            await other.cancel(held)
            async with asyncio.timeout(10):
                while one.hides(event_id) or two.hides(event_id):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            held = await seller.create(event_id)


async def cancel(task: Task, held: Booking) -> None:
    await task.cancel(held)


async def decline(task: Task, held: Booking) -> None:
    await task.bookings.cancel(held.id, "", "", payment_declined=True, request_id="test")


async def expire(task: Task, held: Booking) -> None:
    async with task.database.lend() as connection:
        await connection.execute(
            "UPDATE bookings SET hold_expires_at = now(), created_at = now() - interval '2 h'"
            " WHERE id = %s",
            [held.id],
        )
    await Sweeper(BookingStore(task.database, MINT), 600, 3600, lambda: None).sweep()


async def raise_capacity(task: Task, held: Booking) -> None:
    terms = SaleTerms(2, 0, "", None, None, 0, 0)
    await task.bookings.put_sale(held.event_id, 2, terms)


GiveBack = Callable[[Task, Booking], Awaitable[None]]


@pytest.mark.parametrize("give_back", [cancel, decline, expire, raise_capacity])
async def test_however_a_ticket_comes_back_both_tasks_hear_of_it(
    postgres: Server, event_id: str, give_back: GiveBack
) -> None:
    """The clocks of the markers stand still, and there is no Redis: only the announcement helps."""
    open_sale(postgres, event_id, 1)
    async with running(postgres, hears=True) as one, running(postgres, hears=True) as two:
        held = await one.create(event_id)
        assert await one.is_sold_out(event_id)
        assert await two.is_sold_out(event_id)
        assert one.hides(event_id)
        assert two.hides(event_id)
        await give_back(one, held)
        async with asyncio.timeout(10):
            while one.hides(event_id) or two.hides(event_id):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        await two.create(event_id)


@pytest.mark.parametrize("give_back", [cancel, decline, expire, raise_capacity])
async def test_a_lost_announcement_hides_a_returned_ticket_for_a_second(
    postgres: Server, event_id: str, give_back: GiveBack
) -> None:
    open_sale(postgres, event_id, 1)
    async with running(postgres, hears=False) as one, running(postgres, hears=False) as two:
        held = await one.create(event_id)
        for task in (one, two):
            assert await task.is_sold_out(event_id)
        await give_back(one, held)
        for task in (one, two):
            assert await task.is_sold_out(event_id), "nobody told this task"
            task.clock.now = time.monotonic() + 1.0
            assert not task.hides(event_id)
        await two.create(event_id)


def test_a_running_task_sells_a_ticket_of_which_nobody_told_it(
    client: Client, postgres: Server, event_id: str
) -> None:
    client.put_sale(event_id, 1)
    held = client.create(event_id).booking
    with refused("sold_out"):
        client.create(event_id)
    with orders(postgres) as connection, connection.transaction():
        # Everything that a cancellation does, except that it is announced.
        connection.execute("UPDATE bookings SET status = 'CANCELLED' WHERE id = %s", [held.id])
        connection.execute(
            "UPDATE sales SET remaining = 1, stock_version = stock_version + 1 WHERE event_id = %s",
            [event_id],
        )
    eventually(lambda: succeeds(lambda: client.create(event_id)), REOPENING_LIMIT_S)


@pytest.fixture
def talkative_postgres(own_postgres: Server) -> Server:
    """A PostgreSQL that logs every statement with the name of who sent it."""
    with orders(own_postgres) as connection:
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("ALTER SYSTEM SET log_line_prefix = '%a: '")
        connection.execute("SELECT pg_reload_conf()")
    eventually(lambda: logs_statements(own_postgres))
    return own_postgres


def logs_statements(postgres: Server) -> bool:
    with orders(postgres) as connection:
        return connection.execute("SHOW log_statement").fetchone() == ("all",)


def questions(postgres: Server) -> int:
    """Count how often the writers have asked for a sale."""
    lines = postgres.log.read_text().splitlines()
    return sum(line.startswith("booking-writer") and "BEGIN" in line for line in lines)


def test_running_tasks_answer_sold_out_without_postgresql_and_reopen(
    talkative_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        booking_tasks(talkative_postgres, redis, rabbitmq, tmp_path / "one") as (one,),
        booking_tasks(talkative_postgres, redis, rabbitmq, tmp_path / "two") as (two,),
        one.channel() as first_channel,
        two.channel() as second_channel,
    ):
        clients = [Client(first_channel), Client(second_channel)]
        clients[0].put_sale(event_id, 1)
        held = clients[0].create(event_id).booking
        assert questions(talkative_postgres) == 1
        started = time.monotonic()
        for _ in range(ANSWERS):
            for client in clients:
                with refused("sold_out"):
                    client.create(event_id)
        lives = (time.monotonic() - started) / MARKER_TTL_S
        asked = questions(talkative_postgres) - 1
        assert 1 <= asked <= 2 * (lives + 1), f"of {2 * ANSWERS} answers, {asked} asked PostgreSQL"
        waits_s = []
        for _ in range(ATTEMPTS):
            held, wait_s = reopened(clients[0], clients[1], talkative_postgres, held)
            waits_s.append(wait_s)
        assert min(waits_s) < MARKER_TTL_S / 2, "without the announcement, no wait is that short"


def reopened(
    canceller: Client, buyer: Client, postgres: Server, held: pb.Booking
) -> tuple[pb.Booking, float]:
    """Cancel through one task, and buy again through the other, whose marker is new.

    Returns the new booking and how many seconds the other task was still sold out.
    """
    asked = questions(postgres)
    while questions(postgres) == asked:
        with refused("sold_out"):
            buyer.create(held.event_id)
    canceller.cancel(held.id)
    started = time.monotonic()
    while True:
        try:
            made = buyer.create(held.event_id).booking
        except grpc.RpcError:
            assert time.monotonic() - started < REOPENING_LIMIT_S
        else:
            return made, time.monotonic() - started
