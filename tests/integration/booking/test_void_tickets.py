"""The list of an event's void tickets, from a real PostgreSQL to the door."""

import subprocess
from collections.abc import Callable

import psycopg
import pytest

from booking.void_store import VoidStore
from booking.void_tickets import lines
from tests.integration.booking.command import run_command
from tests.integration.booking.sold_sales import sell
from tests.integration.booking_task import orders
from tests.integration.servers import PASSWORD, Server, free_port
from ticketra import void_list
from ticketra.database import Database
from ticketra.errors import NotFound

MAKE_ALL_VOID = """
UPDATE tickets SET status = 'void' FROM bookings WHERE bookings.id = booking_id AND event_id = %s
"""

MAKE_VOID = """
UPDATE tickets SET status = 'void' WHERE booking_id = ANY(%s::uuid[]) RETURNING id::text
"""

END_LISTING = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'booking-void-tickets'
"""


def cancel(postgres: Server, booking_ids: list[str]) -> list[str]:
    """Make the tickets of bookings void; return their ids in order."""
    with orders(postgres) as connection:
        return sorted(row[0] for row in connection.execute(MAKE_VOID, [booking_ids]).fetchall())


def change(postgres: Server, statement: str, *arguments: str) -> None:
    with orders(postgres) as connection:
        connection.execute(statement, arguments)


async def list_with(
    database: Database, event_id: str, listed: list[str], meanwhile: Callable[[], None]
) -> None:
    """Add the lines of the list to `listed`; after each of them, `meanwhile` happens."""
    async for line in lines(VoidStore(database), event_id):
        listed.append(line)
        meanwhile()


@pytest.fixture
def void(postgres: Server, event_id: str) -> list[str]:
    """Void tickets: those of 2 of an event's 4 sold bookings, 3 each."""
    cancel(postgres, sell(postgres, f"other-{event_id}", 2))
    return cancel(postgres, sell(postgres, event_id, 8, tickets=3)[1:5])


def test_the_command_lists_them_and_a_door_takes_the_list(
    postgres: Server, event_id: str, void: list[str]
) -> None:
    done = run(postgres.url, event_id)
    assert (done.returncode, done.stderr) == (0, "")
    *ids, end = done.stdout.splitlines()
    assert ids == void
    assert len(ids) == 6
    assert end.startswith(f"# end: 6 void, event {event_id}, at 2")
    assert void_list.read(done.stdout.splitlines(), event_id) == set(void)


def test_an_event_without_void_tickets_has_an_empty_list(postgres: Server, event_id: str) -> None:
    sell(postgres, event_id, 2)
    done = run(postgres.url, event_id)
    assert done.returncode == 0
    assert void_list.read(done.stdout.splitlines(), event_id) == set()


async def test_they_are_seen_at_one_moment(
    postgres: Server,
    database: Database,
    event_id: str,
    void: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("booking.void_store.PAGE_LIMIT", 2)
    listed: list[str] = []
    await list_with(database, event_id, listed, lambda: change(postgres, MAKE_ALL_VOID, event_id))
    assert listed[:-1] == void
    assert void_list.read(listed, event_id) == set(void)


@pytest.mark.usefixtures("void")
async def test_they_come_page_by_page_and_a_list_that_breaks_off_is_none(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.void_store.PAGE_LIMIT", 2)
    listed: list[str] = []
    with pytest.raises(psycopg.OperationalError):
        await list_with(database, event_id, listed, lambda: change(postgres, END_LISTING))
    assert len(listed) == 2, "what is behind the page in hand has not been read yet"
    with pytest.raises(ValueError, match="breaks off"):
        void_list.read(listed)


async def test_an_unknown_event_has_no_list(database: Database) -> None:
    with pytest.raises(NotFound):
        _ = [line async for line in lines(VoidStore(database), "unheard-of")]


@pytest.mark.usefixtures("void")
def test_the_command_says_by_its_exit_code_why_there_is_no_list(
    postgres: Server, event_id: str
) -> None:
    unknown = run(postgres.url, "unheard-of")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "There is no such event: check event_id.\n"
    away = run(f"postgresql://127.0.0.1:{free_port()}", event_id)
    assert (away.returncode, away.stdout) == (2, "")
    assert away.stderr.startswith("The list of void tickets is not whole:")
    assert PASSWORD not in away.stderr
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no path of ours
        unwritten = run(postgres.url, event_id, stdout=full.fileno())
    assert unwritten.returncode == 2
    assert unwritten.stderr.splitlines() == [
        "The list of void tickets is not whole: [Errno 28] No space left on device"
    ]


def run(
    url: str, event_id: str, *, stdout: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    return run_command("booking.void_tickets", url, "--", event_id, stdout=stdout)
