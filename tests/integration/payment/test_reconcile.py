"""The comparison of bookings, payments and charges, in a database whose rows the test has bent."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from migrate import postgresql
from payment import reconcile, reconcile_store
from payment.models import BookingCancelled, BookingCreated, State, read_body
from payment.reconcile_store import ReconcileStore
from payment.verdicts import GRACE_S
from tests.integration import servers
from tests.integration.payment.database import ROLE_PASSWORD, Database, migrate_settings
from tests.integration.payment.fake_booking import CREDENTIAL, FakeBooking
from tests.integration.payment.worker_process import ROOT, WorkerProcess, eventually
from ticketra import messages
from ticketra.broker import Publication
from ticketra.database import Database as Orders
from ticketra.ids import IdSource

OLD = timedelta(seconds=GRACE_S + 60)
NEW = timedelta(0)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[servers.Server]:
    """A server of one's own: what other tests leave behind would be compared too."""
    with servers.postgres() as server:
        postgresql.apply(migrate_settings(server))
        yield server


@pytest.fixture
def books(own_postgres: servers.Server) -> Iterator["Books"]:
    with Database(own_postgres).admin() as connection:
        connection.execute("TRUNCATE sales, bookings, tickets, payment.payments")
        connection.execute("TRUNCATE payment.mock_bank_charges")
        connection.execute(
            "INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor,"
            " price_currency, max_per_booking, max_per_user)"
            " VALUES ('e', 1, 100, 100, 100, 'EUR', 0, 0)"
        )
        yield Books(connection)


class Books:
    """Writes into the three books what no service would."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def booking(
        self,
        status: str,
        payment_status: str,
        *,
        age: timedelta = NEW,
        updated: timedelta | None = None,
        booking_id: UUID | None = None,
    ) -> UUID:
        booking_id = booking_id or uuid4()
        self._connection.execute(
            "INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency,"
            " status, payment_status, reason, hold_expires_at, created_at, updated_at)"
            " VALUES (%s, 'e', 'u', 2, 200, 'EUR', %s, %s, 'by hand', '2030-01-01', now() - %s,"
            " now() - %s)",
            [booking_id, status, payment_status, age, age if updated is None else updated],
        )
        return booking_id

    def payment(self, booking_id: UUID, state: State, *, age: timedelta = NEW) -> UUID:
        self._connection.execute(
            "INSERT INTO payment.payments (id, booking_id, ticket_count, amount_minor, currency,"
            " state, updated_at) VALUES (gen_random_uuid(), %s, 3, 300, 'USD', %s, now() - %s)",
            [booking_id, state, age],
        )
        return booking_id

    def charge(
        self, booking_id: UUID, status: str, *, age: timedelta = NEW, late: timedelta = NEW
    ) -> UUID:
        self._connection.execute(
            "INSERT INTO payment.mock_bank_charges (booking_id, ticket_count, amount_minor,"
            " currency, status, reason, charged_at, answered_at, refunded_at)"
            " VALUES (%(id)s, 4, 400, 'TRY', %(status)s, '', now() - %(age)s,"
            " now() - %(age)s + %(late)s,"
            " CASE %(status)s WHEN 'refunded' THEN now() - %(age)s END)",
            {"id": booking_id, "status": status, "age": age, "late": late},
        )
        return booking_id

    def sold(self) -> UUID:
        booking_id = self.booking("CONFIRMED", "paid", age=OLD)
        return self.charge(self.payment(booking_id, State.SUCCEEDED, age=OLD), "paid", age=OLD)


class Publisher:
    """Takes every message."""

    def __init__(self) -> None:
        self.published: list[Publication] = []

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        self.published += batch
        return {publication.properties.message_id for publication in batch}

    async def close(self) -> None:
        """Nothing is open."""


async def compared(
    server: servers.Server, publisher: Publisher | None = None
) -> tuple[reconcile.Result, list[str]]:
    said: list[str] = []
    result = await reconcile.reconcile(store(server), said.append, publisher, IdSource())
    return result, said


def store(server: servers.Server) -> ReconcileStore:
    return ReconcileStore(
        Orders(f"{server.url}/orders", "payment", ROLE_PASSWORD, name="test", schema="payment")
    )


async def test_books_that_agree_or_soon_will_are_not_named(
    own_postgres: servers.Server, books: Books
) -> None:
    books.sold()
    books.booking("PENDING", "pending")
    unpaid = books.payment(books.booking("CANCELLED", "pending", age=OLD), State.STARTED, age=OLD)
    books.charge(unpaid, "paid")
    late = books.payment(books.booking("PENDING", "pending", age=OLD), State.STARTED, age=OLD)
    books.charge(late, "paid", age=OLD, late=OLD + timedelta(minutes=1))
    forgotten = books.payment(uuid4(), State.REFUNDED)
    books.charge(forgotten, "refunded")
    assert await compared(own_postgres) == ((5, 0, 0), [])


async def test_what_is_wrong_is_named_with_what_to_do(
    own_postgres: servers.Server, books: Books
) -> None:
    given = books.booking("CONFIRMED", "paid", booking_id=UUID(int=1))
    kept = books.booking("CANCELLED", "declined", booking_id=UUID(int=2))
    books.charge(books.payment(kept, State.FAILED), "paid")
    alone = books.charge(UUID(int=3), "declined")
    books.sold()
    result, said = await compared(own_postgres)
    assert result == (4, 3, 0)
    assert "\n".join(said) == (
        f"{given}: booking CONFIRMED (paid), no payment, no charge: the tickets are sold, but the"
        " provider holds no money for them; cancel the booking, unless it was given away\n"
        f"{kept}: booking CANCELLED (declined), payment failed, charge paid: the money was kept,"
        " but the booking holds no tickets; give the money back at the provider\n"
        f"{alone}: no booking, no payment, charge declined: it was charged, but there is no"
        " payment; REPAIR=1 has it put right"
    )


async def test_extending_a_hold_is_no_progress_but_ending_a_booking_is(
    own_postgres: servers.Server, books: Books
) -> None:
    waits = books.booking("PENDING", "pending", age=OLD, updated=NEW)
    ended = books.booking("EXPIRED", "pending", age=OLD, updated=NEW)
    _, said = await compared(own_postgres)
    assert [line.split(":")[0] for line in said] == [str(waits)]
    assert "stuck for 11 min" in said[0]
    assert str(ended) not in said[0]


async def test_all_books_are_seen_at_one_moment_in_pages(
    own_postgres: servers.Server, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed after the first page is not seen, not even in part."""
    monkeypatch.setattr(reconcile_store, "PAGE_LIMIT", 2)
    sold = sorted(books.sold() for _ in range(5))
    seen = []
    async with store(own_postgres).snapshot() as pages:
        async for page in pages:
            assert len(page) <= 2
            seen += [(entry.booking_id, entry.standing.charge) for entry in page]
            with Database(own_postgres).admin() as connection:
                connection.execute(
                    "UPDATE payment.mock_bank_charges SET status = 'refunded', refunded_at = now()"
                )
                connection.execute("UPDATE bookings SET status = 'CANCELLED'")
    assert seen == [(booking_id, "paid") for booking_id in sold]


async def test_comparing_cannot_change_anything(
    own_postgres: servers.Server, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the statement that compares would."""
    monkeypatch.setattr(reconcile_store, "COMPARE", "SELECT nextval('payment.probe')")
    with Database(own_postgres).admin() as connection:
        connection.execute("CREATE SEQUENCE IF NOT EXISTS payment.probe")
        connection.execute("GRANT ALL ON SEQUENCE payment.probe TO payment")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await compared(own_postgres)


async def test_repairing_sends_the_message_that_the_worker_needs(
    own_postgres: servers.Server, books: Books
) -> None:
    unpaid = books.booking("PENDING", "pending", age=OLD)
    cancelled = books.booking("CANCELLED", "refunding", age=OLD)
    books.charge(books.payment(cancelled, State.SUCCEEDED, age=OLD), "paid", age=OLD)
    forgotten = books.payment(uuid4(), State.STARTED, age=OLD)
    alone = books.charge(uuid4(), "paid")
    given = books.booking("CONFIRMED", "paid")
    books.sold()
    publisher = Publisher()
    result, said = await compared(own_postgres, publisher)
    assert result == (6, 5, 4)
    assert not [line for line in said if line.startswith(str(given)) and "sent" in line]

    made = {}
    for publication in publisher.published:
        if publication.routing_key == messages.CHARGE_QUEUE:
            booking = read_body(BookingCreated, publication.body)
            assert publication.properties.message_id == str(booking.booking_id)
            assert f"{booking.booking_id}: booking.created sent again" in said
            made[booking.booking_id] = booking
    # Who knows the booking is asked first what it was about.
    assert {key: (b.ticket_count, b.amount_minor, b.currency) for key, b in made.items()} == {
        unpaid: (2, 200, "EUR"),
        forgotten: (3, 300, "USD"),
        alone: (4, 400, "TRY"),
    }
    assert made[unpaid].hold_expires_at.year == 2030

    [refund] = [p for p in publisher.published if p.routing_key == messages.REFUND_QUEUE]
    body = read_body(BookingCancelled, refund.body)
    assert body == BookingCancelled(
        booking_id=cancelled, payment_status="refunding", reason="by hand"
    )
    assert refund.properties.type == messages.BOOKING_CANCELLED
    assert {p.exchange for p in publisher.published} == {""}, "nobody else gets it twice"
    assert all(p.mandatory for p in publisher.published)


async def test_a_message_that_rabbitmq_does_not_take_is_not_called_sent(
    own_postgres: servers.Server, books: Books
) -> None:
    class Refusing(Publisher):
        async def publish(self, batch: Sequence[Publication]) -> set[str]:
            return set()

    unpaid = books.booking("PENDING", "pending", age=OLD)
    result, said = await compared(own_postgres, Refusing())
    assert result == (1, 1, 0)
    assert said[-1] == f"{unpaid}: booking.created not sent, because its queue is missing"


def test_a_stuck_refund_is_resumed_by_the_worker(
    own_postgres: servers.Server,
    rabbitmq: servers.Server,
    booking: FakeBooking,
    books: Books,
    tmp_path: Path,
) -> None:
    stuck = books.booking("CANCELLED", "refunding", age=OLD)
    books.charge(books.payment(stuck, State.SUCCEEDED, age=OLD), "paid", age=OLD)
    settings = {
        "POSTGRES_URL": f"{own_postgres.url}/orders",
        "POSTGRES_USERNAME": "payment",
        "POSTGRES_PASSWORD": ROLE_PASSWORD,
        "RABBITMQ_URL": rabbitmq.url,
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
    }
    compared = run(settings)
    assert compared.returncode == 1, compared.stderr
    assert compared.stdout.endswith("payments compared: 1, wrong or stuck: 1, sent again: 0\n")
    repaired = run(settings, "--repair")
    assert repaired.returncode == 1, repaired.stderr
    assert repaired.stdout.endswith(
        f"{stuck}: booking.cancelled sent again\n"
        "payments compared: 1, wrong or stuck: 1, sent again: 1\n"
    )
    worker = WorkerProcess(
        settings | {"BOOKING_ENDPOINT": booking.endpoint, "BOOKING_CALLER_CREDENTIAL": CREDENTIAL},
        tmp_path,
    )
    try:
        worker.start()
        database = Database(own_postgres)
        eventually(lambda: database.state(stuck) == State.REFUNDED, "the refund")
        assert database.charge(stuck) == "refunded"
        worker.tell_to_stop()
        assert worker.wait() == 0, worker.log
    finally:
        worker.kill()
    with database.admin() as connection:  # as booking does when it is told of the refund
        connection.execute("UPDATE bookings SET payment_status = 'refunded'")
    assert run(settings).returncode == 0
    assert run(settings, "--grace-s", "-1").returncode == 0


def test_a_shorter_grace_names_what_is_in_flight(
    own_postgres: servers.Server, books: Books
) -> None:
    books.booking("PENDING", "pending")
    settings = {
        "POSTGRES_URL": f"{own_postgres.url}/orders",
        "POSTGRES_USERNAME": "payment",
        "POSTGRES_PASSWORD": ROLE_PASSWORD,
    }
    assert run(settings).returncode == 0
    assert run(settings, "--grace-s", "0").returncode == 1


@pytest.mark.parametrize(
    ("away", "arguments"), [("POSTGRES_URL", []), ("RABBITMQ_URL", ["--repair"])]
)
def test_what_could_not_be_found_out_is_no_agreement(
    own_postgres: servers.Server, books: Books, away: str, arguments: list[str]
) -> None:
    books.booking("PENDING", "pending", age=OLD)
    nobody = servers.free_port()
    settings = {
        "POSTGRES_URL": f"{own_postgres.url}/orders",
        "POSTGRES_USERNAME": "payment",
        "POSTGRES_PASSWORD": ROLE_PASSWORD,
        "RABBITMQ_URL": "amqp://127.0.0.1/",
        away: f"{'amqp' if away == 'RABBITMQ_URL' else 'postgresql'}://127.0.0.1:{nobody}/orders",
    }
    done = run(settings, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("The payments could not be compared:")
    assert ROLE_PASSWORD not in done.stderr


def run(settings: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "payment.reconcile", *arguments],
        env={
            "PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'layers' / 'common'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    assert reconcile.main([]) == 2
    assert "POSTGRES_URL" in capsys.readouterr().err
