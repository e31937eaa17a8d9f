"""PostgreSQL with the users table, as the migrate task leaves it."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
import redis

from identity.database import Connection, Database, connect
from identity.refresh_store import RefreshTokenStore
from identity.store import UserStore
from tests.integration.booking_task import migrate_postgres
from tests.integration.servers import PASSWORD, Server, postgres, redis_server
from ticketra.secrets import Credentials

IDENTITY = Credentials("identity", PASSWORD)


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with postgres() as running:
        migrate_postgres(running)
        yield running


@pytest.fixture(scope="package")
def redis_process() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.fixture
def counters(redis_process: Server) -> Server:
    """Redis, running and empty."""
    if redis_process.process is None:
        redis_process.start()
    with redis_client(redis_process) as client:
        client.flushall()
    return redis_process


@pytest.fixture
def database(server: Server) -> Server:
    """The server, running and without users."""
    if server.process is None:
        server.start()
    with admin(server) as connection:
        connection.execute("TRUNCATE users CASCADE")
    return server


@pytest.fixture
def open_connection(database: Server) -> Callable[[], Connection]:
    return lambda: connect(f"{database.url}/auth", IDENTITY)


@pytest.fixture
def kept(open_connection: Callable[[], Connection]) -> Iterator[Database]:
    """The function's view of the database."""
    database = Database(open_connection)
    yield database
    database.close()


@pytest.fixture
def users(kept: Database) -> UserStore:
    return UserStore(kept)


@pytest.fixture
def tokens(kept: Database) -> RefreshTokenStore:
    return RefreshTokenStore(kept)


def redis_client(server: Server) -> redis.Redis:
    """Open a client of `server`."""
    return redis.Redis.from_url(server.url, password=server.password)


def admin(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    """Open an autocommit connection to the auth database as its owner."""
    return psycopg.connect(
        f"{server.url}/auth", user=server.username, password=server.password, autocommit=True
    )
