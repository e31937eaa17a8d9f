"""A real booking task on PostgreSQL; Redis and RabbitMQ are away, and it sells without them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.booking_task import BookingTask, booking_tasks, migrate_postgres
from tests.integration.servers import Server, free_port, postgres


@pytest.fixture(scope="package")
def database() -> Iterator[Server]:
    with postgres() as server:
        migrate_postgres(server)
        yield server


@pytest.fixture
def task(database: Server, tmp_path: Path) -> Iterator[BookingTask]:
    redis, rabbitmq = _away("redis"), _away("amqp")
    with booking_tasks(database, redis, rabbitmq, tmp_path) as [running]:
        yield running


def _away(scheme: str) -> Server:
    return Server(
        name=scheme,
        url=f"{scheme}://127.0.0.1:{free_port()}",
        username="",
        password="",
        command=[],
        environment={},
        log=Path("/dev/null"),
        ready=lambda: False,
        stop_signal=signal.SIGTERM,
    )
