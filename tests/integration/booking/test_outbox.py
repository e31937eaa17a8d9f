"""The outbox table: which rows may go out, and which are deleted."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.outbox_store import OutboxStore

DAY_S = 24 * 3600
LEAD_LIMIT_S = 10.0
ADD = """
INSERT INTO outbox (id, subject, routing_key, body, created_at, published_at)
VALUES (gen_random_uuid(), %s, %s, '{}', now() - make_interval(days => 3),
        now() - make_interval(secs => %s))
"""


@pytest.fixture
async def store(own_database: Database) -> AsyncIterator[OutboxStore]:
    """The store of the leading task."""
    store = OutboxStore(own_database)
    assert await store.lead()
    yield store
    await store.close()


def add(postgres: Server, subject: str, key: str, published_s_ago: int | None) -> None:
    with orders(postgres) as connection:
        connection.execute(ADD, [subject, key, published_s_ago])


def subjects(postgres: Server) -> list[str]:
    with orders(postgres) as connection:
        rows = connection.execute("SELECT subject FROM outbox ORDER BY position").fetchall()
    return [row[0] for row in rows]


async def test_only_what_was_published_long_ago_is_pruned_in_bounded_bites(
    own_postgres: Server, store: OutboxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ticketra.outbox_store.PRUNE_BATCH_LIMIT", 2)
    for number in range(3):
        add(own_postgres, f"old-{number}", "booking.created", DAY_S + 60)
    add(own_postgres, "fresh", "booking.created", DAY_S - 60)
    add(own_postgres, "unpublished", "booking.created", None)
    assert await store.prune(DAY_S) == 2
    assert await store.prune(DAY_S) == 1
    assert await store.prune(DAY_S) == 0
    assert subjects(own_postgres) == ["fresh", "unpublished"]


async def test_of_each_subject_only_the_oldest_unpublished_row_may_go_out(
    own_postgres: Server, store: OutboxStore
) -> None:
    for key in ("booking.created", "booking.confirmed", "booking.cancelled"):
        for subject in ("a", "b"):
            add(own_postgres, subject, key, None)
    for key in ("booking.created", "booking.confirmed", "booking.cancelled"):
        rows = await store.unpublished()
        assert [(row.subject, row.routing_key) for row in rows] == [("a", key), ("b", key)]
        await store.mark_published({row.id for row in rows})
    assert await store.unpublished() == []


async def test_a_row_that_commits_late_is_not_overlooked(
    own_postgres: Server, store: OutboxStore
) -> None:
    """Positions are given before the commit: a lower one may become visible after a higher one."""
    with orders(own_postgres) as connection, connection.transaction():
        connection.execute(ADD, ["late", "booking.created", None])
        add(own_postgres, "early", "booking.created", None)
        early = await store.unpublished()
        assert [row.subject for row in early] == ["early"]
        await store.mark_published({row.id for row in early})
    assert [row.subject for row in await store.unpublished()] == ["late"]


async def test_only_one_store_leads(store: OutboxStore, own_database: Database) -> None:
    other = OutboxStore(own_database)
    assert not await other.lead()
    await store.close()
    async with asyncio.timeout(LEAD_LIMIT_S):
        # PostgreSQL ends the closed connection in its own time.
        while not await other.lead():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await other.close()
