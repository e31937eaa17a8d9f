"""Fixtures of the booking tests: one server of each kind for all of them, one event for each test.

A conftest.py imports what its tests need.
"""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration import servers
from tests.integration.booking_task import BookingTask, Client, booking_tasks, migrate_postgres
from tests.integration.servers import PASSWORD, Server
from ticketra.database import Database

_event_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A migrated PostgreSQL."""
    with servers.postgres() as server:
        migrate_postgres(server)
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    """A Redis."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Server]:
    """A RabbitMQ node."""
    with servers.rabbitmq() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A migrated PostgreSQL that the test may stop, or whose schema it may change."""
    with servers.postgres() as server:
        migrate_postgres(server)
        yield server


@pytest.fixture
def task(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> Iterator[BookingTask]:
    """A booking task."""
    with booking_tasks(postgres, redis, rabbitmq, tmp_path) as tasks:
        yield tasks[0]


@pytest.fixture
def client(task: BookingTask) -> Iterator[Client]:
    """A client of `task`."""
    with task.channel() as channel:
        yield Client(channel)


@pytest.fixture
def event_id() -> str:
    """An event of the test's own."""
    return f"event-{next(_event_numbers)}"


@pytest.fixture
async def database(postgres: Server) -> AsyncIterator[Database]:
    """The booking task's view of `postgres`, in this process."""
    async with opened(postgres) as database:
        yield database


@pytest.fixture
async def own_database(own_postgres: Server) -> AsyncIterator[Database]:
    """The booking task's view of `own_postgres`, in this process."""
    async with opened(own_postgres) as database:
        yield database


class opened:  # noqa: N801 - reads as a statement
    """A Database that takes the server to be there."""

    def __init__(self, postgres: Server) -> None:
        self._database = Database(f"{postgres.url}/orders", "booking", PASSWORD, name="booking")

    async def __aenter__(self) -> Database:
        await self._database.open()
        self._database.available = True
        return self._database

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()
