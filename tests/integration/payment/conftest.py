"""Real PostgreSQL and RabbitMQ, a fake booking service, and the worker as a process."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pika
import psycopg
import pytest
from pydantic import SecretStr

from migrate import postgresql
from migrate.settings import MigrateSettings
from payment import dlq
from payment.models import State
from payment.worker import SCHEMA, SOURCE
from tests.integration import servers
from tests.integration.payment.fake_booking import CREDENTIAL, FakeBooking
from tests.integration.payment.letters import Command, Done, Letters, rabbitmq_settings
from tests.integration.payment.worker_process import WorkerProcess
from ticketra import database as orders_database
from ticketra import messages
from ticketra.messages import CHARGE_QUEUE, DEAD_LETTER_QUEUE, REFUND_QUEUE

ROLE_PASSWORD = "payment-role-of-the-tests"
CANCEL_REASON = "The event was cancelled."


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Server]:
    with servers.postgres() as server:
        postgresql.apply(_migrate_settings(server))
        yield server


def _migrate_settings(server: servers.Server) -> MigrateSettings:
    secret = SecretStr(ROLE_PASSWORD)
    return MigrateSettings(
        postgres_url=server.url,
        postgres_username=server.username,
        postgres_password=SecretStr(server.password),
        postgres_identity_username="identity",
        postgres_identity_password=secret,
        postgres_booking_username="booking",
        postgres_booking_password=secret,
        postgres_payment_username="payment",
        postgres_payment_password=secret,
        mongodb_url="mongodb://not-used",
        mongodb_event_username="event",
        mongodb_event_password=secret,
    )


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[servers.Server]:
    with servers.rabbitmq() as server:
        yield server


@pytest.fixture(scope="session")
def booking_server() -> Iterator[FakeBooking]:
    # The stub calls the methods that payment never calls abstract; at run time they just refuse.
    service = FakeBooking(servers.free_port())  # type: ignore[abstract]
    service.start()
    yield service
    service.may_answer.set()
    service.stop()


@pytest.fixture
def booking(booking_server: FakeBooking) -> FakeBooking:
    """A booking service that knows nothing of the tests before."""
    booking_server.forget()
    booking_server.start()
    return booking_server


@dataclass
class Database:
    """The orders database; `admin` sees everything, `role` is what the worker logs in with."""

    server: servers.Server

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"{self.server.url}/orders",
            user=self.server.username,
            password=self.server.password,
            autocommit=True,
        )

    def role(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"{self.server.url}/orders", user="payment", password=ROLE_PASSWORD, autocommit=True
        )

    def state(self, booking_id: UUID) -> State | None:
        state: str | None = self._one(
            "SELECT state FROM payment.payments WHERE booking_id = %s", booking_id
        )
        return None if state is None else State(state)

    def reason(self, booking_id: UUID) -> object:
        return self._one("SELECT reason FROM payment.payments WHERE booking_id = %s", booking_id)

    def charge(self, booking_id: UUID) -> object:
        return self._one(
            "SELECT status FROM payment.mock_bank_charges WHERE booking_id = %s", booking_id
        )

    def is_received(self, message_id: str) -> bool:
        return bool(self._one("SELECT true FROM payment.inbox WHERE message_id = %s", message_id))

    def attempts(self, booking_id: UUID) -> list[tuple[str, str | None, str | None]]:
        """Return where each attempt of a payment began and ended, and why it went no further."""
        return self._all(
            "SELECT began_in, ended_in, failure FROM payment.attempts WHERE booking_id = %s"
            " ORDER BY id",
            booking_id,
        )

    def told(self, booking_id: UUID) -> list[str]:
        """Return the routing keys of what the world is told of a booking's payment."""
        return [routing_key for routing_key, _ in self._told(booking_id)]

    def told_in_full(self, booking_id: UUID) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self._told(booking_id)]

    def _told(self, booking_id: UUID) -> list[Any]:
        return self._all(
            "SELECT routing_key, body FROM payment.outbox WHERE subject = %s::text"
            " ORDER BY position",
            booking_id,
        )

    def unpublished(self) -> int:
        """Return how many messages are still to be published."""
        with self.admin() as connection:
            row = connection.execute(
                "SELECT count(*) FROM payment.outbox WHERE published_at IS NULL"
            ).fetchone()
        assert row is not None
        count: int = row[0]
        return count

    def states(self, booking_ids: Sequence[UUID]) -> Counter[str]:
        """Return how many of the payments are in which state."""
        rows = self._all(
            "SELECT state FROM payment.payments WHERE booking_id = ANY(%s)", list(booking_ids)
        )
        return Counter(row[0] for row in rows)

    def open_attempts(self, booking_ids: Sequence[UUID]) -> int:
        """Return how many attempts at the payments have not ended."""
        count: int = self._one(
            "SELECT count(*) FROM payment.attempts WHERE ended_at IS NULL AND booking_id = ANY(%s)",
            list(booking_ids),
        )
        return count

    def asked(self, booking_id: UUID) -> object:
        """Return how often the bank was asked for a charge."""
        return self._one(
            "SELECT asked FROM payment.mock_bank_charges WHERE booking_id = %s", booking_id
        )

    @contextmanager
    def bank_behaves(self, **behaviour: int) -> Iterator[None]:
        """Tell the mock bank how to behave."""
        with self.role() as connection:
            for name, amount in behaviour.items():
                connection.execute(
                    "INSERT INTO payment.mock_bank_behaviour VALUES (%s, %s)", [name, amount]
                )
            try:
                yield
            finally:
                connection.execute("DELETE FROM payment.mock_bank_behaviour")

    def _all(self, query: LiteralString, argument: object) -> list[Any]:
        with self.admin() as connection:
            return connection.execute(query, [argument]).fetchall()

    def _one(self, query: LiteralString, argument: object) -> Any:
        with self.admin() as connection:
            row = connection.execute(query, [argument]).fetchone()
        return None if row is None else row[0]


@pytest.fixture
def database(postgres: servers.Server) -> Database:
    return Database(postgres)


@pytest.fixture
async def orders(postgres: servers.Server) -> AsyncIterator[orders_database.Database]:
    """The orders database as the worker's own code reaches it."""
    async with connected(postgres) as database:
        yield database


@asynccontextmanager
async def connected(server: servers.Server) -> AsyncIterator[orders_database.Database]:
    """Connect as the worker does, and wait until the database is there."""
    database = orders_database.Database(
        f"{server.url}/orders", "payment", ROLE_PASSWORD, name="test", schema=SCHEMA
    )
    await database.open()
    watch = asyncio.create_task(database.watch())
    async with asyncio.timeout(servers.START_LIMIT_S):
        while not database.available:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    try:
        yield database
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await database.close()


def booking_created(
    ticket_count: int, booking_id: UUID, message_id: str | None = None, hold_left_s: int = 600
) -> tuple[str, bytes, pika.BasicProperties]:
    """Return the routing key, body and properties of a booking.created message."""
    body = json.dumps(_body(ticket_count, booking_id, hold_left_s)).encode()
    key = messages.BOOKING_CREATED
    return key, body, _properties(key, message_id)


def _body(ticket_count: int, booking_id: UUID, hold_left_s: int) -> dict[str, object]:
    hold_expires_at = datetime.now(UTC) + timedelta(seconds=hold_left_s)
    return {
        "booking_id": str(booking_id),
        "event_id": "66f000000000000000000000",
        "user_id": str(uuid4()),
        "ticket_count": ticket_count,
        "amount_minor": ticket_count * 2500,
        "currency": "EUR",
        "hold_expires_at": hold_expires_at.isoformat(),
        "request_id": "r-1",
    }


def _properties(routing_key: str, message_id: str | None) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=messages.PERSISTENT,
        message_id=message_id or str(uuid4()),
        type=routing_key,
        headers={"cloudEvents:specversion": messages.SPEC_VERSION},
    )


class Broker:
    """What the tests themselves do at the broker, over a new connection each time."""

    def __init__(self, server: servers.Server) -> None:
        self.server = server
        self.parameters = pika.URLParameters(server.url)
        self.parameters.credentials = pika.PlainCredentials(server.username, server.password)

    def publish(
        self,
        body: bytes,
        properties: pika.BasicProperties,
        routing_key: str = messages.BOOKING_CREATED,
    ) -> None:
        self.publish_all([(routing_key, body, properties)])

    def publish_all(self, batch: Sequence[tuple[str, bytes, pika.BasicProperties]]) -> None:
        """Publish messages with their routing keys, in order, over one connection."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for routing_key, body, properties in batch:
                channel.basic_publish(
                    messages.EXCHANGE, routing_key, body, properties, mandatory=True
                )

    def publish_booking(
        self,
        ticket_count: int,
        booking_id: UUID | None = None,
        message_id: str | None = None,
        hold_left_s: int = 600,
    ) -> UUID:
        """Publish a booking.created message; return the booking's id."""
        booking_id = booking_id or uuid4()
        self.publish_all([booking_created(ticket_count, booking_id, message_id, hold_left_s)])
        return booking_id

    def publish_cancellation(
        self,
        booking_id: UUID,
        payment_status: str = "refunding",
        message_id: str | None = None,
        headers: dict[str, int] | None = None,
    ) -> None:
        """Publish a booking.cancelled message."""
        body = {
            **_body(2, booking_id, 600),
            "status": "CANCELLED",
            "payment_status": payment_status,
            "reason": CANCEL_REASON,
        }
        properties = _properties(messages.BOOKING_CANCELLED, message_id)
        properties.headers |= headers or {}
        self.publish(json.dumps(body).encode(), properties, messages.BOOKING_CANCELLED)

    def take(self, queue: str, *, put_back: bool = False) -> tuple[Any, bytes] | None:
        """Return the properties and body of the first message of `queue`, None if it is empty."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return None
            if put_back:
                channel.basic_nack(method.delivery_tag, requeue=True)
            else:
                channel.basic_ack(method.delivery_tag)
            return properties, body

    def ready(self, queue: str) -> int:
        """Return how many messages wait in `queue`, without those that somebody is handling."""
        with pika.BlockingConnection(self.parameters) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            count: int = declared.method.message_count
            return count

    def bind(self, queue: str, routing_key: str) -> None:
        """Have a durable queue that takes what is published with a routing key."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.exchange_declare(messages.EXCHANGE, "topic", durable=True)
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, messages.EXCHANGE, routing_key)

    def take_all(self, queue: str) -> list[tuple[Any, bytes]]:
        """Return the properties and bodies of all messages of `queue`, which is empty then."""
        taken = []
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                taken.append(found[1:])
        return taken

    def delete(self, queue: str) -> None:
        with pika.BlockingConnection(self.parameters) as connection:
            connection.channel().queue_delete(queue)


class Events:
    """What the world was told of payments, in a queue that outlives the broker."""

    queue = "payment-events-of-the-tests"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._seen: list[tuple[str, str]] = []

    def of(self, booking_id: UUID) -> list[str]:
        """Return the routing keys of what came for a booking until now, in order."""
        for properties, body in self._broker.take_all(self.queue):
            said = json.loads(body)
            assert properties.delivery_mode == messages.PERSISTENT
            assert properties.headers["cloudEvents:source"] == SOURCE
            assert properties.headers["cloudEvents:subject"] == said["booking_id"]
            self._seen.append((said["booking_id"], properties.type))
        return [routing_key for subject, routing_key in self._seen if subject == str(booking_id)]


@pytest.fixture
def events(broker: Broker) -> Iterator[Events]:
    broker.bind(Events.queue, "payment.*")
    yield Events(broker)
    broker.delete(Events.queue)


@pytest.fixture
def broker(rabbitmq: servers.Server) -> Broker:
    return Broker(rabbitmq)


@pytest.fixture
def letters(rabbitmq: servers.Server, broker: Broker) -> Iterator[Letters]:
    with pika.BlockingConnection(broker.parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queues = (DEAD_LETTER_QUEUE, CHARGE_QUEUE, REFUND_QUEUE)
        for queue in queues:
            channel.queue_declare(queue, durable=True)
            channel.queue_purge(queue)
        yield Letters(channel)
        for queue in queues:
            channel.queue_purge(queue)


@pytest.fixture
def command(
    rabbitmq: servers.Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command as `make dlq` does, but in this process."""
    for name, value in rabbitmq_settings(rabbitmq).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Done:
        code = dlq.main(arguments)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def workers() -> list[WorkerProcess]:
    """The worker for all tests, once it was started: that takes longer than most tests do."""
    return []


@pytest.fixture(autouse=True)
def no_worker_unasked(workers: list[WorkerProcess], request: pytest.FixtureRequest) -> None:
    """Keep the worker away from the queues of tests that do without it."""
    for process in workers:
        if "worker" not in request.fixturenames and process.is_running:
            process.tell_to_stop()
            assert process.wait() == 0, process.log


@pytest.fixture(scope="session")
def worker_process(
    postgres: servers.Server,
    rabbitmq: servers.Server,
    booking_server: FakeBooking,
    workers: list[WorkerProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WorkerProcess]:
    settings = {
        "POSTGRES_URL": f"{postgres.url}/orders",
        "POSTGRES_USERNAME": "payment",
        "POSTGRES_PASSWORD": ROLE_PASSWORD,
        "RABBITMQ_URL": rabbitmq.url,
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "BOOKING_ENDPOINT": booking_server.endpoint,
        "BOOKING_CALLER_CREDENTIAL": CREDENTIAL,
    }
    with _running(WorkerProcess(settings, tmp_path_factory.mktemp("worker"))) as process:
        workers.append(process)
        yield process


@pytest.fixture
def worker(
    worker_process: WorkerProcess, booking: FakeBooking, broker: Broker
) -> Iterator[WorkerProcess]:
    """A worker that consumes, with an empty log. At the end every message must be settled."""
    if not worker_process.is_running:
        worker_process.start()
    worker_process.forget_log()
    yield worker_process
    left = {queue.name: broker.take_all(queue.name) for queue in messages.QUEUES}
    assert not any(left.values()), f"{left} {worker_process.log}"
    for name, secret in worker_process.settings.items():
        if name.endswith(("PASSWORD", "CREDENTIAL")):
            assert secret not in worker_process.log, f"{name} is in the log"


@pytest.fixture
def another_worker(
    worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A second worker that consumes from the same queues."""
    directory = tmp_path_factory.mktemp("another-worker")
    with _running(WorkerProcess(worker.settings, directory)) as process:
        yield process


@contextmanager
def _running(process: WorkerProcess) -> Iterator[WorkerProcess]:
    try:
        process.start()
        yield process
        if process.is_running:
            process.tell_to_stop()
        assert process.wait() == 0, process.log
    finally:
        process.kill()
