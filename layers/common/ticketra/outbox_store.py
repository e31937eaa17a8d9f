"""The table `outbox`, as the relay sees it.

Rows are picked by state, never by a remembered position, because the order of positions is not the
order of commits. Of each subject only the oldest unpublished row is picked, so that its messages go
out in order.
"""

from datetime import datetime
from typing import NamedTuple

import psycopg

from ticketra.database import Connection, Database, limited

RELAY_BATCH_LIMIT = 500
PRUNE_BATCH_LIMIT = 1_000

# Each outbox table has one relay. Where no row can be marked, it would publish the same ones again
# and again.
LEAD = """
SELECT pg_try_advisory_lock('outbox'::regclass::oid::bigint),
       current_setting('transaction_read_only')::boolean
"""

FIND_UNPUBLISHED = """
WITH oldest AS (
    SELECT id::text, subject, routing_key, body, created_at, position
      FROM outbox
     WHERE published_at IS NULL
     ORDER BY position
     LIMIT %s
), heads AS (
    SELECT DISTINCT ON (subject) * FROM oldest ORDER BY subject, position
)
SELECT id, subject, routing_key, body, created_at FROM heads ORDER BY position
"""

MARK_PUBLISHED = "UPDATE outbox SET published_at = now() WHERE id = ANY(%s::uuid[])"

PRUNE = """
DELETE FROM outbox
 WHERE id IN (SELECT id FROM outbox
               WHERE published_at < now() - make_interval(secs => %s)
               LIMIT %s)
"""


class OutboxRow(NamedTuple):
    """An unpublished message."""

    id: str
    subject: str
    routing_key: str
    body: str
    created_at: datetime


class OutboxStore:
    """Reads and marks the outbox on a connection that holds the relay's advisory lock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    async def lead(self) -> bool:
        """Become the one relay, and say whether this worked.

        Raises:
            ticketra.postgres_away.AWAY: PostgreSQL is away, or takes no writes.

        """
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.connect("relay")
        with limited(self._connection):
            row = await (await self._connection.execute(LEAD)).fetchone()
        assert row is not None
        is_leader, is_read_only = row
        if is_read_only:
            await self.close()
            raise psycopg.errors.ReadOnlySqlTransaction("the server takes no writes")
        return bool(is_leader)

    async def unpublished(self) -> list[OutboxRow]:
        """Return up to RELAY_BATCH_LIMIT messages that may be published now, in order."""
        connection = self._leading()
        with limited(connection):
            cursor = await connection.execute(FIND_UNPUBLISHED, [RELAY_BATCH_LIMIT], prepare=True)
            return [OutboxRow._make(row) for row in await cursor.fetchall()]

    async def mark_published(self, ids: set[str]) -> None:
        """Mark messages that the broker has confirmed."""
        connection = self._leading()
        with limited(connection):
            await connection.execute(MARK_PUBLISHED, [list(ids)], prepare=True)

    async def prune(self, keep_s: int) -> int:
        """Delete up to PRUNE_BATCH_LIMIT messages published more than `keep_s` ago."""
        connection = self._leading()
        with limited(connection):
            return (await connection.execute(PRUNE, [keep_s, PRUNE_BATCH_LIMIT])).rowcount

    async def close(self) -> None:
        """Close the connection, and with it give up the lead."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _leading(self) -> Connection:
        assert self._connection is not None
        return self._connection
