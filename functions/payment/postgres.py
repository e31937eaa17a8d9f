"""What counts as the orders database being away, and what as bad data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from payment.models import Outage
from ticketra.database import Connection, Database
from ticketra.errors import Unavailable
from ticketra.postgres_away import AWAY


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[Connection]:
    """Lend a pooled connection; each statement commits, unless the block begins a transaction.

    Raises:
        Outage: the database is away, takes no writes, or did not answer in time. The outcome is
            unknown.

    """
    try:
        async with database.lend() as connection:
            yield connection
    except (Unavailable, *AWAY, psycopg.InterfaceError) as error:
        raise Outage("PostgreSQL is away") from error


def divides(error: Exception) -> bool:
    """Say whether one row of several may be to blame for `error`, and not the server."""
    return isinstance(error, psycopg.Error)
