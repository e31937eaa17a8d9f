"""PostgreSQL with the users table, as the migrate task leaves it."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from identity.store import Connection, UserStore, connect
from tests.integration.booking_task import migrate_postgres
from tests.integration.servers import PASSWORD, Server, postgres
from ticketra.secrets import Credentials

IDENTITY = Credentials("identity", PASSWORD)


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with postgres() as running:
        migrate_postgres(running)
        yield running


@pytest.fixture
def database(server: Server) -> Server:
    """The server, running and without users."""
    if server.process is None:
        server.start()
    with admin(server) as connection:
        connection.execute("TRUNCATE users")
    return server


@pytest.fixture
def open_connection(database: Server) -> Callable[[], Connection]:
    return lambda: connect(f"{database.url}/auth", IDENTITY)


@pytest.fixture
def users(open_connection: Callable[[], Connection]) -> Iterator[UserStore]:
    store = UserStore(open_connection)
    yield store
    store.close()


def admin(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    """Open an autocommit connection to the auth database as its owner."""
    return psycopg.connect(
        f"{server.url}/auth", user=server.username, password=server.password, autocommit=True
    )
