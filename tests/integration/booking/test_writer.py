"""The group-commit writer against a real PostgreSQL, where it gets hard."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from booking.batch_store import BatchStore
from booking.bookings import request_hash
from booking.markers import SoldOutMarkers
from booking.models import Accepted, CreateRequest, Outcome
from booking.queues import EventQueues
from booking.writer import Writer
from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.errors import Busy, Invalid, Unavailable
from ticketra.ids import IdSource

MINT = IdSource()
WAIT_S = 20.0


class OpenLocks:
    """A distributed lock that everybody gets; it remembers who asked."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.signals: list[tuple[str, str]] = []
        self.refused: set[str] = set()

    async def acquire(self, event_ids: Iterable[str]) -> set[str]:
        self.asked |= set(event_ids)
        return self.refused & self.asked

    async def release(self, event_ids: Iterable[str]) -> set[str]:
        return set()

    async def signal(self, kind: str, subject: str = "") -> None:
        self.signals.append((kind, subject))


@asynccontextmanager
async def running(database: Database, locks: OpenLocks | None = None) -> AsyncIterator[Writer]:
    """Run a writer; a broken part of it fails the test."""
    store = BatchStore(database, wait=False)
    waiting_store = BatchStore(database, wait=True)
    writer = Writer(
        database,
        store,
        waiting_store,
        locks or OpenLocks(),
        SoldOutMarkers(),
        hold_ttl=timedelta(minutes=10),
        on_commit=lambda: None,
    )
    parts = [asyncio.create_task(writer.run()), asyncio.create_task(writer.run_expiry())]
    try:
        yield writer
    finally:
        for part in parts:
            part.cancel()
        ended = await asyncio.gather(*parts, return_exceptions=True)
        await store.close()
        await waiting_store.close()
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def wish(event_id: str, user_id: str = "ada", count: int = 1) -> CreateRequest:
    return CreateRequest(
        MINT(), event_id, user_id, count, "", False, request_hash(event_id, count), "test"
    )


def open_sale(postgres: Server, event_id: str, capacity: int = 100) -> None:
    with orders(postgres) as connection:
        connection.execute(
            "INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor,"
            " price_currency, max_per_booking, max_per_user) VALUES (%s, 1, %s, %s, 0, '', 0, 0)",
            [event_id, capacity, capacity],
        )


def booked(postgres: Server, event_id: str) -> list[str]:
    with orders(postgres) as connection:
        rows = connection.execute(
            "SELECT id::text FROM bookings WHERE event_id = %s ORDER BY id", [event_id]
        ).fetchall()
    return [row[0] for row in rows]


async def test_arrival_order_decides_who_gets_the_last_tickets(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id, 5)
    async with running(database) as writer:
        wishes = [wish(event_id, f"user-{n}") for n in range(50)]
        outcomes = await asyncio.gather(*(writer.submit(w, WAIT_S) for w in wishes))
    accepted = [isinstance(outcome, Accepted) for outcome in outcomes]
    assert accepted == [True] * 5 + [False] * 45


async def test_an_event_that_is_stuck_does_not_hold_the_others_up(
    postgres: Server, database: Database, event_id: str
) -> None:
    stuck, free = f"{event_id}-stuck", f"{event_id}-free"
    open_sale(postgres, stuck, 2)
    open_sale(postgres, free)
    locks = OpenLocks()
    async with running(database, locks) as writer:
        with orders(postgres) as connection, connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [stuck])
            waiting = [asyncio.create_task(writer.submit(wish(stuck), WAIT_S)) for _ in range(5)]
            for _ in range(20):
                assert isinstance(await writer.submit(wish(free), WAIT_S), Accepted)
            late = await writer.submit(wish(stuck), 0.1)
            assert isinstance(late, Busy)
            assert late.code == "event_busy"
            assert not any(task.done() for task in waiting)
        outcomes = await asyncio.gather(*waiting)
    accepted = [isinstance(outcome, Accepted) for outcome in outcomes]
    assert accepted == [True, True, False, False, False], "who came first is still first"
    assert len(booked(postgres, stuck)) == 2
    assert stuck in locks.asked, "a contended event asks for the distributed lock"
    assert ("contended", stuck) in locks.signals


async def test_an_event_whose_lock_is_taken_waits_until_it_is_released(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id)
    locks = OpenLocks()
    locks.refused = {event_id}
    async with running(database, locks) as writer:
        writer.mark_contended(event_id)
        waiting = asyncio.create_task(writer.submit(wish(event_id), WAIT_S))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        locks.refused = set()
        writer.unpark(event_id)
        assert isinstance(await waiting, Accepted)


async def test_later_requests_do_not_overtake_those_that_wait_for_the_row(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id)
    async with running(database) as writer:
        writer._waiting_event = event_id
        writer._queues.park(event_id)
        later = asyncio.create_task(writer.submit(wish(event_id), WAIT_S))
        writer.unpark(event_id)
        await asyncio.sleep(0.2)
        assert not later.done()
        writer._waiting_event = None
        writer.unpark(event_id)
        assert isinstance(await later, Accepted)


async def test_a_full_line_is_refused_at_once(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id)
    async with running(database) as writer:
        writer._queues = EventQueues(event_limit=2)
        tasks = [asyncio.create_task(writer.submit(wish(event_id), WAIT_S)) for _ in range(4)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True, True, False, False]
    assert all(isinstance(outcome, Busy) for outcome in outcomes[2:])


async def test_only_the_request_that_the_database_refuses_is_refused(
    own_postgres: Server, own_database: Database
) -> None:
    open_sale(own_postgres, "concert")
    with orders(own_postgres) as connection:
        connection.execute("ALTER TABLE bookings ADD CHECK (user_id <> 'poison')")
    users = ["a", "b", "poison", "c", "d", "e", "f"]
    async with running(own_database) as writer:
        outcomes = await asyncio.gather(*(writer.submit(wish("concert", u), WAIT_S) for u in users))
    good = [isinstance(outcome, Accepted) for outcome in outcomes]
    assert good == [user != "poison" for user in users]
    refused = outcomes[2]
    assert isinstance(refused, Invalid)
    assert refused.code == "validation_failed"
    assert len(booked(own_postgres, "concert")) == 6


SLOW_COMMIT = """
CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON sales
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pause();
"""


def writer_backend(postgres: Server) -> int:
    """Wait until a writer's COMMIT is under way, and return the id of its backend."""
    deadline = time.monotonic() + 10
    with orders(postgres) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'booking-writer' AND wait_event = 'PgSleep'"
            ).fetchone()
            if row is not None:
                return int(row[0])
            time.sleep(0.01)
    raise AssertionError("no COMMIT was seen")


async def break_during_commit(
    postgres: Server, database: Database, *, server_side: bool
) -> tuple[CreateRequest, Outcome]:
    """Book one ticket, and break the connection while COMMIT is under way."""
    open_sale(postgres, "concert", 10)
    with orders(postgres) as connection:
        connection.execute(SLOW_COMMIT)
    async with running(database) as writer:
        asked = wish("concert")
        answer = asyncio.create_task(writer.submit(asked, WAIT_S))
        backend = await asyncio.to_thread(writer_backend, postgres)
        if server_side:
            with orders(postgres) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", [backend])
        else:
            connection_of_writer = writer._store._connection
            assert connection_of_writer is not None
            with socket.fromfd(
                connection_of_writer.fileno(), socket.AF_INET, socket.SOCK_STREAM
            ) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        return asked, await answer


async def test_a_commit_whose_answer_is_lost_is_read_back(
    own_postgres: Server, own_database: Database
) -> None:
    """Our side breaks: the server still commits, and the booking must not be made twice."""
    asked, outcome = await break_during_commit(own_postgres, own_database, server_side=False)
    assert isinstance(outcome, Accepted)
    assert booked(own_postgres, "concert") == [asked.id]


async def test_a_commit_that_never_happened_is_done_again_with_the_same_id(
    own_postgres: Server, own_database: Database
) -> None:
    """The server's side breaks: nothing was committed, and the request is served after all."""
    asked, outcome = await break_during_commit(own_postgres, own_database, server_side=True)
    assert isinstance(outcome, Accepted)
    assert booked(own_postgres, "concert") == [asked.id]
    with orders(own_postgres) as connection:
        row = connection.execute("SELECT remaining FROM sales").fetchone()
    assert row == (9,)


async def test_an_unknown_outcome_is_never_taken_for_a_success(
    own_postgres: Server, own_database: Database
) -> None:
    """The server is gone when the outcome is read back: the caller hears that, and asks again."""
    open_sale(own_postgres, "concert", 10)
    with orders(own_postgres) as connection:
        connection.execute(SLOW_COMMIT)
    async with running(own_database) as writer:
        answer = asyncio.create_task(writer.submit(wish("concert"), WAIT_S))
        await asyncio.to_thread(writer_backend, own_postgres)
        await asyncio.to_thread(own_postgres.kill)
        assert isinstance(await answer, Unavailable)
        own_postgres.start()
        assert booked(own_postgres, "concert") == []
        assert isinstance(await writer.submit(wish("concert"), WAIT_S), Accepted)


async def test_while_postgresql_is_away_requests_are_refused_and_the_line_is_emptied(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id)
    async with running(database) as writer:
        with orders(postgres) as connection, connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            waiting = asyncio.create_task(writer.submit(wish(event_id), WAIT_S))
            await asyncio.sleep(0.05)
            database.available = False
            with pytest.raises(Unavailable):
                await writer.submit(wish(event_id), WAIT_S)
            assert isinstance(await waiting, Unavailable)


def test_the_schema_refuses_what_the_rules_forbid(postgres: Server, event_id: str) -> None:
    open_sale(postgres, event_id, 5)
    with orders(postgres) as connection:
        for change in ("remaining = 6", "remaining = -1", "capacity = 4", "version = 0"):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(f"UPDATE sales SET {change} WHERE event_id = '{event_id}'")
