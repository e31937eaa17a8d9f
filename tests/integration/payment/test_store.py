"""What the payment store promises to deliveries that meet each other, on a real database."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from payment.models import REASON_LIMIT_CHARS, BookingCreated, State
from payment.postgres import create_pool
from payment.store import PaymentStore
from tests.integration.payment.conftest import ROLE_PASSWORD, Database
from tests.integration.servers import Server

PARALLEL = 8


@pytest.fixture
def store(postgres: Server) -> Iterator[PaymentStore]:
    url = f"{postgres.url}/orders"
    with create_pool(url, "payment", ROLE_PASSWORD, name="test", size=PARALLEL) as pool:
        yield PaymentStore(pool)


def booking() -> BookingCreated:
    return BookingCreated(
        booking_id=uuid4(),
        ticket_count=2,
        amount_minor=5000,
        currency="EUR",
        hold_expires_at=datetime.now(UTC) + timedelta(minutes=10),
    )


def database_now(database: Database) -> datetime:
    with database.admin() as connection:
        row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def test_the_first_message_starts_the_payment_and_the_next_finds_it(
    store: PaymentStore, database: Database
) -> None:
    created = booking()
    message_ids = [str(uuid4()), str(uuid4())]
    before = database_now(database)
    payment, started_now, now = store.record(message_ids[0], created)
    assert started_now
    assert before <= now <= database_now(database)
    assert (payment.booking_id, payment.state) == (created.booking_id, State.STARTED)
    assert (payment.ticket_count, payment.amount_minor, payment.currency) == (2, 5000, "EUR")
    for message_id in (message_ids[0], message_ids[1]):
        again = store.record(message_id, created)
        assert (again.payment, again.started_now) == (payment, False)
        assert now < again.now <= database_now(database)
        assert database.is_received(message_id)


def test_of_many_messages_at_once_one_starts_the_payment(store: PaymentStore) -> None:
    created = booking()
    barrier = threading.Barrier(PARALLEL)

    def record(_: int) -> bool:
        barrier.wait()
        return store.record(str(uuid4()), created).started_now

    with ThreadPoolExecutor(PARALLEL) as executor:
        assert sorted(executor.map(record, range(PARALLEL))) == [False] * (PARALLEL - 1) + [True]


def test_a_payment_is_moved_only_from_the_state_that_it_was_read_in(store: PaymentStore) -> None:
    payment = store.record(str(uuid4()), booking()).payment
    paid = store.move(payment, State.PAID, "")
    assert paid.state is State.PAID
    assert store.move(payment, State.DECLINED, "stale") == paid
    for state in State:
        other = store.record(str(uuid4()), booking()).payment
        assert store.move(other, state, "why").state is state
    refunding = store.move(paid, State.REFUNDING, "x" * (REASON_LIMIT_CHARS + 1))
    assert refunding.reason == "x" * REASON_LIMIT_CHARS
