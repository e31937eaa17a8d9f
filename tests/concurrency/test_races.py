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

from booking import booking_store, bulk, transitions
from booking.batch_store import BOOKING_COLUMNS, LOCK_SALES, SALE_COLUMNS, BatchStore
from booking.booking_store import (
    BookingStore,
    StateChanged,
)
from booking.bookings import request_hash
from booking.decisions import Decisions, decide
from booking.groups import Decision
from booking.holds import Sweeper
from booking.models import Booking, CreateRequest
from tests.concurrency.meeting import (
    LIMIT_S,
    UNCONDITIONAL_CHANGE,
    UNCONDITIONAL_CHANGES,
    UNLOCKED_BOOKING,
    UNLOCKED_DUE,
    UNLOCKED_SALE,
    UNLOCKED_SALES_OF_DUE,
    MeetingStore,
    drop_stock_check,
    until_blocked,
)
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
from ticketra.database import Database
from ticketra.errors import Conflict
from ticketra.ids import IdSource

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


async def lock_crosswise(
    postgres: Server, database: Database, event_id: str, second_order: str
) -> list[BaseException | None]:
    """Let two batches lock the same three sales, the second one in an order of its own.

    Each batch has locked what it reaches before the sale in the middle when that becomes free.
    """
    events = [f"{event_id}-{name}" for name in "abc"]
    for event in events:
        open_sale(postgres, event, 10)
    ordered = LOCK_SALES.replace("ORDER BY event_id", f"ORDER BY event_id {second_order}")
    stores = [BatchStore(database, wait=True, lock_sales=sql) for sql in (LOCK_SALES, ordered)]

    async def sell(store: BatchStore) -> None:
        await commit(store, await take(store, [request(event, "ada") for event in events]))

    with orders(postgres) as connection:
        with connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [events[1]])
            selling = []
            for count, store in enumerate(stores, 1):
                selling.append(asyncio.create_task(sell(store)))
                await until_blocked(postgres, count)
        failures = await asyncio.gather(*selling, return_exceptions=True)
    for store in stores:
        await store.close()
    return failures


async def test_batches_that_wait_lock_in_one_order(
    postgres: Server, database: Database, event_id: str
) -> None:
    assert await lock_crosswise(postgres, database, event_id, "ASC") == [None, None]


async def test_without_one_order_they_wait_for_each_other(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: both hold what the other wants, until the server or a time-out ends it."""
    failures = await lock_crosswise(postgres, database, event_id, "DESC")
    ended = [failure for failure in failures if failure is not None]
    assert ended
    locked_out = psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable
    assert all(isinstance(failure, locked_out) for failure in ended)


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


READ_SALES = f"SELECT {SALE_COLUMNS}, clock_timestamp() FROM sales WHERE event_id = ANY(%s)"


def batch_stores(database: Database, lock_sales: str | None = None) -> list[BatchStore]:
    return [BatchStore(database, wait=False, lock_sales=lock_sales) for _ in range(2)]


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
    open_sale(own_postgres, "concert", 3)

    async def race() -> None:
        first, second = batch_stores(own_database, READ_SALES)
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

    drop_stock_check(own_postgres)
    with orders(own_postgres) as connection:
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


# Takes its time with the lock, so that the other transition comes while it is held.
SLOW_LOCK = f"""
WITH locked AS MATERIALIZED (SELECT * FROM bookings WHERE id = %s FOR UPDATE)
SELECT {BOOKING_COLUMNS} FROM locked, pg_sleep(0.1)
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
    store = MeetingStore(database, asyncio.Barrier(2), lock_booking=UNLOCKED_BOOKING)
    assert (await race_cancel_and_confirm(store, booking)).count(True) == 1
    held, remaining = held_and_remaining(postgres, event_id)
    assert held + remaining == 1


async def test_without_lock_and_condition_both_happen(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control of the two tests above."""
    booking = await held_booking(postgres, database, event_id)
    assert all(await race_cancel_and_confirm(unguarded(database, 2), booking))


def unguarded(database: Database, racers: int) -> MeetingStore:
    """Return a store that neither locks a booking nor asks for its state when it changes it."""
    return MeetingStore(
        database,
        asyncio.Barrier(racers),
        lock_booking=UNLOCKED_BOOKING,
        change_booking=UNCONDITIONAL_CHANGE,
    )


async def cancel_together(store: BookingStore, booking: Booking, count: int) -> Counter[str]:
    """Cancel a booking so many times at once, and count what became of it."""

    async def cancel() -> str:
        try:
            happened = await attempt(
                store, booking, lambda b, *_: transitions.cancel(b, "no"), lock_sale=True
            )
        except psycopg.errors.CheckViolation:
            return "stopped by the CHECK"
        return "cancelled" if happened else "nothing"

    async with asyncio.timeout(LIMIT_S):
        return Counter(await asyncio.gather(*(cancel() for _ in range(count))))


async def test_twenty_cancellations_give_the_tickets_back_once(
    postgres: Server, database: Database, event_id: str
) -> None:
    booking = await held_booking(postgres, database, event_id)
    store = BookingStore(database, MINT)
    assert await cancel_together(store, booking, 20) == {"cancelled": 1, "nothing": 19}
    assert held_and_remaining(postgres, event_id) == (0, 1)


async def test_without_the_locks_the_condition_gives_the_tickets_back_once(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking_store, "LOCK_SALE", UNLOCKED_SALE)
    booking = await held_booking(postgres, database, event_id)
    store = MeetingStore(database, asyncio.Barrier(5), lock_booking=UNLOCKED_BOOKING)
    assert await cancel_together(store, booking, 5) == {"cancelled": 1, "nothing": 4}
    assert held_and_remaining(postgres, event_id) == (0, 1)


async def test_without_locks_and_condition_each_cancellation_gives_the_tickets_back(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control; the CHECK is the last guard, and without it five tickets come back."""
    monkeypatch.setattr(booking_store, "LOCK_SALE", UNLOCKED_SALE)
    booking = await held_booking(own_postgres, own_database, "checked")
    done = await cancel_together(unguarded(own_database, 5), booking, 5)
    assert done == {"cancelled": 1, "stopped by the CHECK": 4}
    assert held_and_remaining(own_postgres, "checked") == (0, 1)

    drop_stock_check(own_postgres)
    booking = await held_booking(own_postgres, own_database, "unchecked")
    assert await cancel_together(unguarded(own_database, 5), booking, 5) == {"cancelled": 5}
    assert held_and_remaining(own_postgres, "unchecked") == (0, 5)


async def race_all_endings(store: BookingStore, booking: Booking) -> None:
    """Let a declined payment, a payment and two sweepers end a due booking at once."""
    sweepers = [Sweeper(store, 600, 3600, lambda: None) for _ in range(2)]
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            attempt(store, booking, lambda b, *_: transitions.decline(b, "no"), lock_sale=True),
            attempt(store, booking, transitions.confirm, lock_sale=False),
            *(sweeper.sweep() for sweeper in sweepers),
        )


def endings(postgres: Server, booking: Booking) -> list[str]:
    """Return what the world is told about a booking after it was made."""
    with orders(postgres) as connection:
        rows = connection.execute(
            "SELECT routing_key FROM outbox WHERE subject = %s ORDER BY position", [booking.id]
        ).fetchall()
    assert rows[0] == ("booking.created",)
    return [row[0] for row in rows[1:]]


async def agrees(postgres: Server, store: BookingStore, booking: Booking) -> None:
    """State, message and stock tell of one and the same ending."""
    present = await store.find(booking.id)
    assert present is not None
    assert endings(postgres, booking) == [f"booking.{present.status.lower()}"]
    assert held_and_remaining(postgres, booking.event_id) == (
        (1, 0) if present.status == "CONFIRMED" else (0, 1)
    )


@pytest.mark.parametrize("attempt_number", range(5))
async def test_expiry_confirmation_and_cancellation_agree(
    postgres: Server, database: Database, event_id: str, attempt_number: int
) -> None:
    booking = await held_booking(postgres, database, event_id, due=True)
    store = BookingStore(database, MINT)
    await race_all_endings(store, booking)
    await agrees(postgres, store, booking)


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away the locks of all that ends a booking."""
    monkeypatch.setattr(booking_store, "LOCK_SALE", UNLOCKED_SALE)
    monkeypatch.setattr(booking_store, "LOCK_SALES_OF_DUE", UNLOCKED_SALES_OF_DUE)
    monkeypatch.setattr(booking_store, "LOCK_DUE", UNLOCKED_DUE)


@pytest.mark.usefixtures("unlocked")
async def test_without_the_locks_the_conditions_let_one_ending_happen(
    own_postgres: Server, own_database: Database
) -> None:
    booking = await held_booking(own_postgres, own_database, "concert", due=True)
    store = MeetingStore(own_database, asyncio.Barrier(4), lock_booking=UNLOCKED_BOOKING)
    await race_all_endings(store, booking)
    await agrees(own_postgres, store, booking)


@pytest.mark.usefixtures("unlocked")
async def test_without_locks_and_conditions_a_booking_ends_in_every_way(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the two tests above; the CHECK is off as well."""
    monkeypatch.setattr(bulk, "CHANGE_BOOKINGS", UNCONDITIONAL_CHANGES)
    drop_stock_check(own_postgres)
    booking = await held_booking(own_postgres, own_database, "concert", due=True)
    await race_all_endings(unguarded(own_database, 4), booking)
    assert Counter(endings(own_postgres, booking)) == {
        "booking.cancelled": 1,
        "booking.confirmed": 1,
        "booking.expired": 2,
    }
    assert held_and_remaining(own_postgres, "concert")[1] == 3


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
