"""What counts as the orders database being away, and what as bad data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from payment.models import Outage
from ticketra.database import Connection, Database
from ticketra.errors import Unavailable


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[Connection]:
    """Run one transaction on a pooled connection, committed unless the block raises.

    Raises:
        Outage: the database is away, or did not answer in time. The outcome is unknown.

    """
    try:
        async with database.lend() as connection, connection.transaction():
            yield connection
    except (Unavailable, psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Outage("PostgreSQL is away") from error


def divides(error: Exception) -> bool:
    """Say whether one row of several may be to blame for `error`, and not the server."""
    return isinstance(error, psycopg.Error)
