"""Connections to the orders database, and what counts as the database being away."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import ConnectionPool

from payment.models import Outage

POOL_WAIT_S = 2
CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 2000
RECONNECT_TIMEOUT_S = 3

Pool = ConnectionPool[psycopg.Connection[tuple[object, ...]]]


def create_pool(url: str, username: str, password: str, *, name: str, size: int) -> Pool:
    """Return an opened pool of at most `size` connections; it does not wait for the database.

    `url` carries no credentials. An empty `username` leaves them to the server's own defaults.
    """
    credentials = {"user": username, "password": password} if username else {}
    return ConnectionPool(
        url,
        kwargs={
            **credentials,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": name,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c search_path=payment",
        },
        name=name,
        min_size=1,
        max_size=size,
        timeout=POOL_WAIT_S,
        # Short, because the pool's pause between attempts doubles until this has passed; the next
        # message starts over.
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        open=True,
    )


@contextmanager
def transaction(pool: Pool) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Run one transaction on a connection of `pool`, committed unless the block raises.

    Raises:
        Outage: the database is away, or did not answer in time. The outcome is unknown.

    """
    try:
        with pool.connection() as connection:
            yield connection
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Outage("PostgreSQL is away") from error
