"""Races on tickets, keys and states. Each guard has a negative control that fails without it."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import psycopg
import pytest

from booking import transitions
from booking.batch_store import BOOKING_COLUMNS, SALE_COLUMNS, BatchStore
from booking.booking_store import (
    BookingStore,
    Decision,
    StateChanged,
)
from booking.bookings import request_hash
from booking.database import Database
from booking.decisions import Decisions, decide
from booking.holds import Sweeper
from booking.ids import IdSource
from booking.models import Booking, CreateRequest
from tests.integration.booking_task import (
    CREDENTIALS,
    BookingTask,
    Client,
    booking_tasks,
    orders,
)
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc
from ticketra.errors import Conflict

MINT = IdSource()
HOLD_TTL = timedelta(minutes=10)


def request(event_id: str, user_id: str, key: str = "") -> CreateRequest:
    return CreateRequest(MINT(), event_id, user_id, 1, key, True, request_hash(event_id, 1), "test")


def open_sale(postgres: Server, event_id: str, capacity: int) -> None:
    with orders(postgres) as connection:
        connection.execute(
            "INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor,"
            " price_currency, max_per_booking, max_per_user) VALUES (%s, 1, %s, %s, 0, '', 0, 0)",
            [event_id, capacity, capacity],
        )


def held_and_remaining(postgres: Server, event_id: str) -> tuple[int, int]:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT (SELECT coalesce(sum(ticket_count), 0)::int FROM bookings"
            " WHERE event_id = sales.event_id AND status IN ('PENDING', 'CONFIRMED')), remaining"
            " FROM sales WHERE event_id = %s",
            [event_id],
        ).fetchone()
    assert row is not None
    return row[0], row[1]


async def create_many(
    tasks: list[BookingTask], requests: list[pb.CreateBookingRequest]
) -> list[pb.CreateBookingResponse | str]:
    """Send all requests at once over one channel for each task; a refusal is its code."""
    metadata = rpc.caller_metadata("gateway", CREDENTIALS["gateway"])

    async def create(
        stub: "pb_grpc.BookingServiceAsyncStub", wish: pb.CreateBookingRequest
    ) -> pb.CreateBookingResponse | str:
        try:
            return await stub.CreateBooking(wish, metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            refusal = rpc.to_refusal(error)
            return refusal.code if refusal else str(error.code())

    async with channels(tasks) as stubs:
        return await asyncio.gather(
            *(create(stub, wish) for stub, wish in zip(itertools.cycle(stubs), requests))
        )


@asynccontextmanager
async def channels(
    tasks: list[BookingTask],
) -> AsyncIterator["list[pb_grpc.BookingServiceAsyncStub]"]:
    """Open many connections to the shared port, so that the kernel spreads them over the tasks."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    opened = [grpc.aio.insecure_channel(tasks[0].address, options=options) for _ in range(16)]
    try:
        yield [pb_grpc.BookingServiceStub(channel) for channel in opened]
    finally:
        for channel in opened:
            await channel.close()


@pytest.fixture
def two_tasks(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> Iterator[list[BookingTask]]:
    with booking_tasks(postgres, redis, rabbitmq, tmp_path, count=2) as tasks:
        yield tasks


async def test_two_tasks_sell_exactly_the_capacity(
    two_tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    open_sale(postgres, event_id, 100)
    wishes = [
        pb.CreateBookingRequest(event_id=event_id, user_id=f"user-{n}", ticket_count=1)
        for n in range(500)
    ]
    answers = await create_many(two_tasks, wishes)
    assert Counter(a if isinstance(a, str) else "sold" for a in answers) == {
        "sold": 100,
        "sold_out": 400,
    }
    assert held_and_remaining(postgres, event_id) == (100, 0)
    ids = {a.booking.id for a in answers if not isinstance(a, str)}
    assert len(ids) == 100
    for task in two_tasks:
        assert task.stop() == 0


async def test_many_events_are_sold_by_two_tasks_without_a_deadlock(
    two_tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    events = [f"{event_id}-{n}" for n in range(20)]
    for event in events:
        open_sale(postgres, event, 10)
    wishes = [
        pb.CreateBookingRequest(event_id=event, user_id=f"user-{n}", ticket_count=1)
        for n in range(15)
        for event in events
    ]
    answers = await create_many(two_tasks, wishes)
    assert Counter(a if isinstance(a, str) else "sold" for a in answers) == {
        "sold": 200,
        "sold_out": 100,
    }
    assert all(held_and_remaining(postgres, event) == (10, 0) for event in events)


async def test_a_hundred_duplicates_make_one_booking(
    two_tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    open_sale(postgres, event_id, 1000)
    for fresh in (False, True):
        wish = pb.CreateBookingRequest(
            event_id=event_id,
            user_id="ada",
            ticket_count=1,
            idempotency_key=f"{event_id}-{fresh}",
            key_is_fresh=fresh,
        )
        answers = await create_many(two_tasks, [wish] * 100)
        made = [a for a in answers if not isinstance(a, str)]
        assert len(made) == 100, Counter(a for a in answers if isinstance(a, str))
        assert len({a.booking.id for a in made}) == 1
        assert [a.replayed for a in made].count(False) == 1
    assert held_and_remaining(postgres, event_id) == (2, 998)


async def test_duplicates_after_a_restart_are_replayed(
    two_tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    open_sale(postgres, event_id, 1000)
    wish = pb.CreateBookingRequest(
        event_id=event_id, user_id="ada", ticket_count=1, idempotency_key=event_id
    )
    first = await create_many(two_tasks, [wish])
    two_tasks[0].kill()
    assert two_tasks[1].stop() == 0
    for task in two_tasks:
        task.start()
    wish.key_is_fresh = True  # a gateway that knows no better
    answers = [*await create_many(two_tasks, [wish] * 100), *first]
    assert len({a.booking.id for a in answers if not isinstance(a, str)}) == 1
    assert [a if isinstance(a, str) else a.replayed for a in answers] == [True] * 100 + [False]
    assert held_and_remaining(postgres, event_id) == (1, 999)


async def test_without_the_unique_key_duplicates_at_two_tasks_make_several_bookings(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> None:
    """Negative control of the two tests above."""
    with booking_tasks(own_postgres, redis, rabbitmq, tmp_path, count=2) as tasks:
        open_sale(own_postgres, "concert", 1000)
        with orders(own_postgres) as connection:
            connection.execute("DROP INDEX bookings_idempotency_key")
        wish = pb.CreateBookingRequest(
            event_id="concert",
            user_id="ada",
            ticket_count=1,
            idempotency_key="k",
            key_is_fresh=True,
        )
        await create_many(tasks, [wish])
        await create_many(tasks, [wish] * 100)
        held, remaining = held_and_remaining(own_postgres, "concert")
    assert held > 1
    assert held + remaining == 1000


async def take(store: BatchStore, requests: list[CreateRequest]) -> Decisions | None:
    """Decide `requests` under the lock of `store`, without committing; None if it was skipped."""
    locked = await store.read(requests, trust_fresh=True)
    if locked.skipped:
        await store.end()
        return None
    assert locked.now is not None
    return decide(requests, locked.sales, locked.known, {}, now=locked.now, hold_ttl=HOLD_TTL)


async def commit(store: BatchStore, decisions: Decisions | None) -> None:
    assert decisions is not None
    await store.write(decisions.accepted, decisions.taken)


def batch_stores(database: Database, lock_sales: str | None = None) -> list[BatchStore]:
    return [BatchStore(database, MINT, wait=False, lock_sales=lock_sales) for _ in range(2)]


async def test_a_second_batch_cannot_decide_on_stock_that_the_first_has_locked(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id, 3)
    first, second = batch_stores(database)
    taken = await take(first, [request(event_id, f"a{n}") for n in range(3)])
    assert await take(second, [request(event_id, "b")]) is None
    await commit(first, taken)
    assert held_and_remaining(postgres, event_id) == (3, 0)
    await first.close()
    await second.close()


async def test_without_the_lock_the_check_stops_the_second_batch(
    own_postgres: Server, own_database: Database
) -> None:
    """Negative control: take the row lock away, then the CHECK, and tickets are sold twice."""
    unlocked = f"SELECT {SALE_COLUMNS}, clock_timestamp() FROM sales WHERE event_id = ANY(%s)"
    open_sale(own_postgres, "concert", 3)

    async def race() -> None:
        first, second = batch_stores(own_database, unlocked)
        try:
            one = await take(first, [request("concert", f"a{n}") for n in range(3)])
            two = await take(second, [request("concert", f"b{n}") for n in range(3)])
            await commit(first, one)
            await commit(second, two)
        finally:
            await first.close()
            await second.close()

    with pytest.raises(psycopg.errors.CheckViolation):
        await race()
    assert held_and_remaining(own_postgres, "concert") == (3, 0)

    with orders(own_postgres) as connection:
        connection.execute("ALTER TABLE sales DROP CONSTRAINT sales_remaining_within_capacity")
        connection.execute("UPDATE sales SET remaining = 3")
        connection.execute("DELETE FROM bookings")
    await race()
    assert held_and_remaining(own_postgres, "concert") == (6, -3)


async def test_without_the_unique_key_a_duplicate_books_twice(
    own_postgres: Server, own_database: Database
) -> None:
    """Negative control of the unique index behind keys that are taken to be fresh."""
    open_sale(own_postgres, "concert", 9)
    store = batch_stores(own_database)[0]
    await commit(store, await take(store, [request("concert", "ada", key="k")]))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await commit(store, await take(store, [request("concert", "ada", key="k")]))
    await store.end()
    assert held_and_remaining(own_postgres, "concert") == (1, 8)
    with orders(own_postgres) as connection:
        connection.execute("DROP INDEX bookings_idempotency_key")
    await commit(store, await take(store, [request("concert", "ada", key="k")]))
    assert held_and_remaining(own_postgres, "concert") == (2, 7)
    await store.close()


# A statement that reads a booking and then waits, so that two transitions always overlap.
SLOW_READ = f"SELECT {BOOKING_COLUMNS} FROM bookings, pg_sleep(0.5) WHERE id = %s"
SLOW_LOCK = f"""
WITH locked AS MATERIALIZED (SELECT * FROM bookings WHERE id = %s FOR UPDATE)
SELECT {BOOKING_COLUMNS} FROM locked, pg_sleep(0.5)
"""
UNCONDITIONAL_CHANGE = """
UPDATE bookings SET status = %s, payment_status = %s, reason = %s, updated_at = now()
 WHERE id = %s AND %s::text IS NOT NULL AND %s::text IS NOT NULL
RETURNING updated_at
"""


async def held_booking(
    postgres: Server, database: Database, event_id: str, *, due: bool = False
) -> Booking:
    """Make a booking of the only ticket of an event."""
    open_sale(postgres, event_id, 1)
    store = batch_stores(database)[0]
    wish = request(event_id, "ada")
    await commit(store, await take(store, [wish]))
    await store.close()
    if due:
        with orders(postgres) as connection:
            connection.execute("UPDATE outbox SET published_at = now()")
            connection.execute(
                "UPDATE bookings SET hold_expires_at = now() WHERE id = %s", [wish.id]
            )
    found = await BookingStore(database, MINT).find(wish.id)
    assert found is not None
    return found


async def attempt(
    store: BookingStore, booking: Booking, decision: Decision, *, lock_sale: bool
) -> bool:
    """Say whether this transition is the one that happened."""
    try:
        _, transition = await store.change(booking, decision, "test", lock_sale=lock_sale)
    except (StateChanged, transitions.SaleNeeded, Conflict):
        return False
    return transition is not None and transition.routing_key is not None


async def race_cancel_and_confirm(store: BookingStore, booking: Booking) -> tuple[bool, bool]:
    # The confirmation starts last, so that its reading always overlaps the cancellation.
    return await asyncio.gather(
        attempt(store, booking, lambda b, *_: transitions.decline(b, "no"), lock_sale=True),
        attempt(store, booking, transitions.confirm, lock_sale=False),
    )


async def test_of_cancelling_and_confirming_exactly_one_happens(
    postgres: Server, database: Database, event_id: str
) -> None:
    booking = await held_booking(postgres, database, event_id)
    store = BookingStore(database, MINT, lock_booking=SLOW_LOCK)
    assert (await race_cancel_and_confirm(store, booking)).count(True) == 1
    held, remaining = held_and_remaining(postgres, event_id)
    assert held + remaining == 1


async def test_without_the_lock_the_condition_lets_only_one_happen(
    postgres: Server, database: Database, event_id: str
) -> None:
    booking = await held_booking(postgres, database, event_id)
    store = BookingStore(database, MINT, lock_booking=SLOW_READ)
    assert (await race_cancel_and_confirm(store, booking)).count(True) == 1
    held, remaining = held_and_remaining(postgres, event_id)
    assert held + remaining == 1


async def test_without_lock_and_condition_both_happen(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control of the two tests above."""
    booking = await held_booking(postgres, database, event_id)
    store = BookingStore(
        database, MINT, lock_booking=SLOW_READ, change_booking=UNCONDITIONAL_CHANGE
    )
    assert all(await race_cancel_and_confirm(store, booking))


async def test_twenty_cancellations_give_the_tickets_back_once(
    postgres: Server, database: Database, event_id: str
) -> None:
    booking = await held_booking(postgres, database, event_id)
    store = BookingStore(database, MINT)
    done = await asyncio.gather(
        *(
            attempt(store, booking, lambda b, *_: transitions.cancel(b, "no"), lock_sale=True)
            for _ in range(20)
        )
    )
    assert done.count(True) == 1
    assert held_and_remaining(postgres, event_id) == (0, 1)


@pytest.mark.parametrize("attempt_number", range(5))
async def test_expiry_confirmation_and_cancellation_agree(
    postgres: Server, database: Database, event_id: str, attempt_number: int
) -> None:
    booking = await held_booking(postgres, database, event_id, due=True)
    store = BookingStore(database, MINT)
    sweepers = [Sweeper(store, 600, 3600, lambda: None) for _ in range(2)]
    cancelled, confirmed, *expired = await asyncio.gather(
        attempt(store, booking, lambda b, *_: transitions.decline(b, "no"), lock_sale=True),
        attempt(store, booking, transitions.confirm, lock_sale=False),
        *(sweeper.sweep() for sweeper in sweepers),
    )
    assert int(cancelled) + int(confirmed) + sum(expired) == 1
    present = await store.find(booking.id)
    assert present is not None
    assert present.status in {"CONFIRMED", "CANCELLED", "EXPIRED"}
    held, remaining = held_and_remaining(postgres, event_id)
    assert (held, remaining) == ((1, 0) if present.status == "CONFIRMED" else (0, 1))


def test_no_acknowledged_booking_is_lost_by_a_kill(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with booking_tasks(postgres, redis, rabbitmq, tmp_path) as (task,):
        open_sale(postgres, event_id, 100_000)

        def kill_under_load() -> None:
            while held_and_remaining(postgres, event_id)[0] < 200:
                time.sleep(0.01)
            task.kill()

        async def load() -> list[pb.CreateBookingResponse | str]:
            wishes = [
                pb.CreateBookingRequest(
                    event_id=event_id, user_id="ada", ticket_count=1, idempotency_key=f"k{n}"
                )
                for n in range(3000)
            ]
            sending = asyncio.create_task(create_many([task], wishes))
            await asyncio.to_thread(kill_under_load)
            return await sending

        answers = asyncio.run(load())
        acknowledged = {a.booking.id for a in answers if not isinstance(a, str)}
        assert len(acknowledged) < 3000, "the task was to die under load"
        task.start()
        with task.channel() as channel:
            client = Client(channel)
            assert all(client.get(booking_id).user_id == "ada" for booking_id in acknowledged)
            again = client.create(event_id, key="k0")
            assert again.replayed or again.booking.id not in acknowledged
        held, remaining = held_and_remaining(postgres, event_id)
        assert held + remaining == 100_000
        assert held >= len(acknowledged)
