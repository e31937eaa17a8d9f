"""What the payment store promises to deliveries that meet each other, on a real database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from payment.models import (
    REASON_LIMIT_CHARS,
    BookingCreated,
    Outage,
    Payment,
    Received,
    State,
)
from payment.postgres import connected as orders_connected
from payment.store import PaymentStore
from tests.integration.payment.database import Database, connected
from tests.integration.servers import Server
from ticketra import database as orders_database
from ticketra import messages
from ticketra.ids import IdSource

PARALLEL = 8
STAND_STILL = "idle_in_transaction_session_timeout = '10ms'"
STANDING_STILL_S = 0.5
REQUEST_ID = "r-1"


class Commits:
    """Counts how often there was something to publish."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
def store(orders: orders_database.Database, commits: Commits) -> PaymentStore:
    return PaymentStore(orders, IdSource(), commits)


@pytest.fixture
async def another_store(postgres: Server) -> AsyncIterator[PaymentStore]:
    """The store of a second worker."""
    async with connected(postgres) as orders:
        yield PaymentStore(orders, IdSource(), Commits())


def booking(booking_id: UUID | None = None) -> BookingCreated:
    return BookingCreated(
        booking_id=booking_id or uuid4(),
        ticket_count=2,
        amount_minor=5000,
        currency="EUR",
        hold_expires_at=datetime.now(UTC) + timedelta(minutes=10),
    )


async def received(store: PaymentStore) -> Received:
    return await store.record(str(uuid4()), booking())


async def moved(
    store: PaymentStore, payment: Payment, state: State, reason: str = "", attempt: str = ""
) -> Payment:
    return await store.move(payment, state, reason, attempt or str(uuid4()), REQUEST_ID)


def database_now(database: Database) -> datetime:
    with database.admin() as connection:
        row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


async def test_the_first_message_starts_the_payment_and_the_next_finds_it(
    store: PaymentStore, database: Database
) -> None:
    created = booking()
    message_ids = [str(uuid4()), str(uuid4())]
    before = database_now(database)
    payment, _, started_now, now = await store.record(message_ids[0], created)
    assert started_now
    assert before <= now <= database_now(database)
    assert (payment.booking_id, payment.state) == (created.booking_id, State.STARTED)
    assert (payment.ticket_count, payment.amount_minor, payment.currency) == (2, 5000, "EUR")
    for message_id in (message_ids[0], message_ids[1]):
        again = await store.record(message_id, created)
        assert (again.payment, again.started_now) == (payment, False)
        assert now < again.now <= database_now(database)
        assert database.is_received(message_id)


async def test_of_many_messages_at_once_one_starts_the_payment(
    store: PaymentStore, another_store: PaymentStore, database: Database
) -> None:
    created = booking()
    recorded = await asyncio.gather(
        *(one.record(str(uuid4()), created) for one in [store, another_store] * PARALLEL)
    )
    assert sorted(one.started_now for one in recorded) == [False] * (2 * PARALLEL - 1) + [True]
    assert len({one.attempt for one in recorded}) == 2 * PARALLEL
    assert len(database.attempts(created.booking_id)) == 2 * PARALLEL


async def test_messages_of_many_bookings_at_once_each_find_their_own(
    store: PaymentStore, database: Database
) -> None:
    bookings = [booking() for _ in range(PARALLEL)]
    recorded = await asyncio.gather(
        *(store.record(f"of-{one.booking_id}", one) for one in bookings)
    )
    assert [one.payment.booking_id for one in recorded] == [one.booking_id for one in bookings]
    assert all(one.started_now for one in recorded)
    assert all(database.is_received(f"of-{one.booking_id}") for one in bookings)


async def test_a_message_its_payment_and_its_attempt_are_stored_together_or_not_at_all(
    store: PaymentStore, database: Database
) -> None:
    created = booking()
    with refused(database, "attempts"), pytest.raises(Exception, match="refused for a test"):
        await store.record("together", created)
    assert not database.is_received("together")
    assert database.state(created.booking_id) is None
    await store.record("together", created)
    assert database.is_received("together")
    assert database.state(created.booking_id) is State.STARTED
    assert database.attempts(created.booking_id) == [("started", None, None)]


async def test_of_messages_stored_at_once_only_the_bad_one_fails(
    store: PaymentStore, database: Database
) -> None:
    first, bad, last = booking(), booking(), booking()
    results = await asyncio.gather(
        store.record(str(uuid4()), first),
        store.record("x" * 256, bad),  # longer than the column allows
        store.record(str(uuid4()), last),
        return_exceptions=True,
    )
    assert [isinstance(result, Received) for result in results] == [True, False, True]
    assert database.state(first.booking_id) is State.STARTED
    assert database.state(bad.booking_id) is None


async def test_a_cancellation_finds_the_payment_and_starts_none(
    store: PaymentStore, database: Database
) -> None:
    created, unknown = booking(), uuid4()
    payment = (await store.record(str(uuid4()), created)).payment
    found = await store.record_cancellation("cancelled-1", created.booking_id)
    assert found is not None
    assert (found.payment, found.started_now) == (payment, False)
    assert len(database.attempts(created.booking_id)) == 2
    assert await store.record_cancellation("cancelled-2", unknown) is None
    assert database.state(unknown) is None
    assert database.attempts(unknown) == []
    assert database.is_received("cancelled-1")
    assert database.is_received("cancelled-2")


async def test_a_cancellation_stored_beside_the_creation_of_its_booking_finds_the_payment(
    store: PaymentStore,
) -> None:
    created = booking()
    _, made, cancelled = await asyncio.gather(
        received(store),  # the first one goes alone, the two others as one batch
        store.record(str(uuid4()), created),
        store.record_cancellation(str(uuid4()), created.booking_id),
    )
    assert cancelled is not None
    assert (made.started_now, cancelled.started_now) == (True, False)


async def test_a_payment_is_moved_only_from_the_state_that_it_was_read_in(
    store: PaymentStore,
) -> None:
    payment = (await received(store)).payment
    paid = await moved(store, payment, State.PAID)
    assert paid.state is State.PAID
    assert await moved(store, payment, State.DECLINED, "stale") == paid
    for state in State:
        other = (await received(store)).payment
        assert (await moved(store, other, state, "why")).state is state
    refunding = await moved(store, paid, State.REFUNDING, "x" * (REASON_LIMIT_CHARS + 1))
    assert refunding.reason == "x" * REASON_LIMIT_CHARS


async def test_two_workers_that_move_the_same_payments_do_not_lock_each_other_out(
    store: PaymentStore, another_store: PaymentStore, database: Database
) -> None:
    payments = [(await received(store)).payment for _ in range(2)]
    with slow_updates_of_payments(database):
        results = await asyncio.gather(
            *(moved(store, payment, State.PAID) for payment in payments),
            *(moved(another_store, payment, State.PAID) for payment in reversed(payments)),
        )
    assert [payment.state for payment in results] == [State.PAID] * 4


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (State.PAID, []),
        (State.DECLINED, []),
        (State.REFUNDING, []),
        (State.SUCCEEDED, [messages.PAYMENT_SUCCEEDED]),
        (State.FAILED, [messages.PAYMENT_FAILED]),
        (State.ABANDONED, [messages.PAYMENT_FAILED]),
        (State.REFUNDED, [messages.PAYMENT_REFUNDED]),
    ],
)
async def test_the_world_is_told_of_the_end_and_the_attempt_ends_with_it(
    store: PaymentStore, commits: Commits, database: Database, state: State, told: list[str]
) -> None:
    payment, attempt, *_ = await received(store)
    assert commits.count == 0
    await moved(store, payment, state, "why", attempt)
    assert database.told(payment.booking_id) == told
    ended_in = state if told else None
    assert database.attempts(payment.booking_id) == [("started", ended_in, None)]
    assert commits.count == 1


async def test_what_the_world_is_told_says_what_it_needs_to_know(
    store: PaymentStore, database: Database
) -> None:
    payment = (await received(store)).payment
    await moved(store, payment, State.FAILED, "no funds")
    assert database.told_in_full(payment.booking_id) == [
        {
            "booking_id": str(payment.booking_id),
            "ticket_count": 2,
            "amount_minor": 5000,
            "currency": "EUR",
            "state": "failed",
            "reason": "no funds",
            "request_id": REQUEST_ID,
        }
    ]


@pytest.mark.parametrize("table", ["outbox", "attempts"])
async def test_a_payment_its_message_and_its_attempt_move_together_or_not_at_all(
    store: PaymentStore, database: Database, table: str
) -> None:
    payment, attempt, *_ = await received(store)
    with refused(database, table), pytest.raises(Exception, match="refused for a test"):
        await moved(store, payment, State.SUCCEEDED, "", attempt)
    assert database.state(payment.booking_id) is State.STARTED
    assert database.told(payment.booking_id) == []
    assert database.attempts(payment.booking_id) == [("started", None, None)]


async def test_of_two_workers_that_move_a_payment_one_wins_and_the_world_is_told_once(
    store: PaymentStore, another_store: PaymentStore, database: Database
) -> None:
    for _ in range(PARALLEL):
        payment = (await received(store)).payment
        results = await asyncio.gather(
            moved(store, payment, State.SUCCEEDED),
            moved(another_store, payment, State.FAILED, "no"),
        )
        assert results[0] == results[1]
        expected = {State.SUCCEEDED: "payment.succeeded", State.FAILED: "payment.failed"}
        assert database.told(payment.booking_id) == [expected[results[0].state]]


async def test_of_two_moves_in_one_batch_one_wins_and_the_world_is_told_once(
    store: PaymentStore, database: Database
) -> None:
    first, payment = (await received(store)).payment, (await received(store)).payment
    _, *results = await asyncio.gather(
        moved(store, first, State.PAID),  # goes alone; the others wait for it together
        moved(store, payment, State.SUCCEEDED),
        moved(store, payment, State.FAILED, "no"),
    )
    assert results[0] == results[1]
    expected = {State.SUCCEEDED: "payment.succeeded", State.FAILED: "payment.failed"}
    assert database.told(payment.booking_id) == [expected[results[0].state]]


async def test_a_move_that_comes_too_late_ends_no_attempt_at_a_payment_in_hand(
    store: PaymentStore, database: Database
) -> None:
    payment, attempt, *_ = await received(store)
    await moved(store, payment, State.PAID)
    await moved(store, payment, State.FAILED, "stale", attempt)
    assert database.told(payment.booking_id) == []
    assert database.attempts(payment.booking_id) == [("started", None, None)]


async def test_an_attempt_ends_with_its_payment_even_if_another_one_ended_that(
    store: PaymentStore, database: Database
) -> None:
    payment, attempt, *_ = await received(store)
    ended = await moved(store, payment, State.FAILED, "declined")
    assert await moved(store, payment, State.SUCCEEDED, "", attempt) == ended
    assert database.told(payment.booking_id) == ["payment.failed"]
    assert database.attempts(payment.booking_id) == [("started", "failed", None)]


async def test_an_attempt_that_failed_says_why(store: PaymentStore, database: Database) -> None:
    payment, attempt, *_ = await received(store)
    long = "x" * (REASON_LIMIT_CHARS + 1)
    await store.end_attempt(attempt, State.PAID, long)
    expected = ("started", "paid", long[:REASON_LIMIT_CHARS])
    assert database.attempts(payment.booking_id) == [expected]
    await store.end_attempt(attempt, State.SUCCEEDED, "")
    assert database.attempts(payment.booking_id) == [("started", "succeeded", None)]


async def test_old_messages_are_forgotten_in_bounded_batches(
    store: PaymentStore, database: Database
) -> None:
    keep_s = 3600
    await store.record("fresh", booking())
    with database.admin() as connection:
        connection.execute(
            "INSERT INTO payment.inbox (message_id, received_at)"
            " SELECT 'old-' || n, now() - make_interval(secs => %s)"
            " FROM generate_series(1, 5) AS n",
            [keep_s + 60],
        )
    assert await store.prune_inbox(keep_s, limit=3) == 3
    assert await store.prune_inbox(keep_s, limit=3) == 2
    assert await store.prune_inbox(keep_s, limit=3) == 0
    assert database.is_received("fresh")


async def test_a_database_that_cannot_be_reached_is_an_outage() -> None:
    nowhere = orders_database.Database(
        "postgresql://127.0.0.1:1/orders", "payment", "", name="test"
    )
    store = PaymentStore(nowhere, IdSource(), Commits())
    with pytest.raises(Outage):
        await received(store)


@pytest.mark.parametrize("setting", ["default_transaction_read_only = on", STAND_STILL])
async def test_a_session_without_writes_and_one_that_was_ended_are_outages(
    orders: orders_database.Database, setting: LiteralString
) -> None:
    async def write() -> None:
        async with orders_connected(orders) as connection:
            await connection.execute(f"SET {setting}")
            async with connection.transaction():
                if setting is STAND_STILL:
                    await asyncio.sleep(STANDING_STILL_S)
                await connection.execute("DELETE FROM inbox WHERE false")

    with pytest.raises(Outage) as outage:
        await write()
    assert isinstance(outage.value.__cause__, psycopg.InternalError)


@contextmanager
def refused(database: Database, table: str) -> Iterator[None]:
    """Let every write to a table fail."""
    with database.admin() as connection:
        connection.execute(
            f"""
            CREATE FUNCTION payment.refuse_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'refused for a test';
            END $$;
            CREATE TRIGGER refuse_for_test BEFORE INSERT OR UPDATE ON payment.{table}
            FOR EACH ROW EXECUTE FUNCTION payment.refuse_for_test();
            """
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION payment.refuse_for_test() CASCADE")


@contextmanager
def slow_updates_of_payments(database: Database) -> Iterator[None]:
    """Have each updated row take a while, in which others come to theirs."""
    with database.admin() as connection:
        connection.execute(
            """
            CREATE FUNCTION payment.slow_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$;
            CREATE TRIGGER slow_for_test BEFORE UPDATE ON payment.payments
            FOR EACH ROW EXECUTE FUNCTION payment.slow_for_test();
            """
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION payment.slow_for_test() CASCADE")
