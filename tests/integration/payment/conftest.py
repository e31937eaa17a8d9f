"""Real PostgreSQL and RabbitMQ, a fake booking service, and the worker as a process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pika
import pytest

from migrate import postgresql
from payment import dlq
from tests.integration import servers
from tests.integration.payment.broker import Broker, Events
from tests.integration.payment.database import ROLE_PASSWORD, Database, connected, migrate_settings
from tests.integration.payment.fake_booking import CREDENTIAL, FakeBooking
from tests.integration.payment.letters import Command, Done, Letters, rabbitmq_settings
from tests.integration.payment.worker_process import WorkerProcess
from ticketra import database as orders_database
from ticketra import messages
from ticketra.messages import CHARGE_QUEUE, DEAD_LETTER_QUEUE, REFUND_QUEUE


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Server]:
    with servers.postgres() as server:
        postgresql.apply(migrate_settings(server))
        yield server


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


@pytest.fixture
def database(postgres: servers.Server) -> Database:
    return Database(postgres)


@pytest.fixture
async def orders(postgres: servers.Server) -> AsyncIterator[orders_database.Database]:
    """The orders database as the worker's own code reaches it."""
    async with connected(postgres) as database:
        yield database


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
