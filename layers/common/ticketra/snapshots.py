"""Looks at all that is stored, as operators' commands take them: long ones, at one moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ticketra.database import Connection, Database

# One statement, or the time between two of them, in which a page of what was seen may be published.
SNAPSHOT_LIMIT_S = 600

# A cursor is planned for its first rows only; here all rows are wanted.
PLAN_FOR_ALL_ROWS = "SET LOCAL cursor_tuple_fraction = 1"
SET_TIMEOUT = "SELECT set_config(%s, %s, false)"


async def patient(database: Database, purpose: str) -> Connection:
    """Open a connection whose statements may take SNAPSHOT_LIMIT_S.

    Raises:
        psycopg.OperationalError: PostgreSQL is away.

    """
    connection = await database.connect(purpose)
    for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(SET_TIMEOUT, [name, f"{SNAPSHOT_LIMIT_S}s"])
    return connection


@asynccontextmanager
async def at_one_moment(connection: Connection) -> AsyncIterator[None]:
    """Begin a transaction that changes nothing and sees nothing of what others change meanwhile."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute(PLAN_FOR_ALL_ROWS)
        yield
