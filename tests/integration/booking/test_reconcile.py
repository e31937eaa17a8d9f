"""The ledger check against a PostgreSQL whose rows the test has bent."""

import asyncio
import subprocess

import psycopg
import pytest

from booking import reconcile
from booking.ledger_store import LedgerStore
from booking.stock import REOPENED_CHANNEL
from tests.integration.booking.command import run_command
from tests.integration.booking.due_holds import sell_out_with_due_holds
from tests.integration.booking.sold_sales import ISSUE, sell
from tests.integration.booking_task import orders
from tests.integration.servers import PASSWORD, Server
from ticketra.database import Database


def held_sale(postgres: Server, event_id: str, *, capacity: int, held: int, remaining: int) -> None:
    """Make a sale with `held` bookings of one ticket, whatever the rules say."""
    sell_out_with_due_holds(postgres, event_id, held)
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE sales SET capacity = %s, remaining = %s WHERE event_id = %s",
            [capacity, remaining, event_id],
        )


def remaining(postgres: Server) -> dict[str, tuple[int, int]]:
    """Return what remains of each sale, and its stock version."""
    with orders(postgres) as connection:
        rows = connection.execute("SELECT event_id, remaining, stock_version FROM sales").fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


async def checked(database: Database, *, repair: bool) -> tuple[reconcile.Result, list[str]]:
    said: list[str] = []
    result = await reconcile.reconcile(LedgerStore(database), said.append, repair=repair)
    return result, said


async def test_sales_that_agree_are_not_named(own_postgres: Server, own_database: Database) -> None:
    held_sale(own_postgres, "agrees", capacity=10, held=4, remaining=6)
    held_sale(own_postgres, "sold-out", capacity=3, held=3, remaining=0)
    with orders(own_postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'CANCELLED' WHERE event_id = 'sold-out'")
        connection.execute("UPDATE sales SET remaining = 3 WHERE event_id = 'sold-out'")
        connection.execute(
            "UPDATE bookings SET status = 'CONFIRMED', payment_status = 'paid'"
            " WHERE event_id = 'agrees'"
        )
        connection.execute(ISSUE, ["agrees"])
    assert await checked(own_database, repair=False) == (reconcile.Result(2, 0, 0, 0), [])


async def test_bookings_with_wrong_tickets_are_named_and_left(
    own_postgres: Server, own_database: Database
) -> None:
    ids = sell(own_postgres, "concert", 8, tickets=3)
    pending, confirmed = ids[::2], ids[1::2]
    with orders(own_postgres) as connection:
        for statement, booking_id in (
            ("DELETE FROM tickets WHERE number = 2 AND booking_id = %s", confirmed[0]),
            ("UPDATE tickets SET status = 'void' WHERE booking_id = %s", confirmed[1]),
            ("UPDATE bookings SET status = 'CANCELLED' WHERE id = %s", confirmed[2]),
            (
                "INSERT INTO tickets (id, booking_id, number) VALUES (gen_random_uuid(), %s, 1)",
                pending[0],
            ),
        ):
            assert connection.execute(statement, [booking_id]).rowcount
        connection.execute("UPDATE sales SET remaining = 3")
    for repair in (False, True):
        result, said = await checked(own_database, repair=repair)
        assert result == (1, 0, 0, 4)
        assert sorted(said) == sorted(
            f"booking {booking_id}: {wrong}, seats 3)"
            for booking_id, wrong in (
                (confirmed[0], "3 tickets should be valid, 2 are (CONFIRMED"),
                (confirmed[1], "3 tickets should be valid, 0 are (CONFIRMED"),
                (confirmed[2], "0 tickets should be valid, 3 are (CANCELLED"),
                (pending[0], "0 tickets should be valid, 1 are (PENDING"),
            )
        )
    assert run(own_postgres.url).returncode == 1


async def test_a_drift_is_named_and_corrected_only_when_told_to(
    own_postgres: Server, own_database: Database
) -> None:
    held_sale(own_postgres, "agrees", capacity=10, held=4, remaining=6)
    held_sale(own_postgres, "lost", capacity=10, held=4, remaining=0)
    held_sale(own_postgres, "won", capacity=10, held=4, remaining=7)
    before = remaining(own_postgres)
    result, said = await checked(own_database, repair=False)
    assert result == (3, 2, 2, 0)
    assert said == [
        "lost: 6 should remain, 0 remain (capacity 10, held or sold 4)",
        "won: 6 should remain, 7 remain (capacity 10, held or sold 4)",
    ]
    assert remaining(own_postgres) == before

    with orders(own_postgres) as listening:
        listening.execute(f"LISTEN {REOPENED_CHANNEL}")
        result, said = await checked(own_database, repair=True)
        announced = [notify.payload for notify in listening.notifies(timeout=10, stop_after=1)]
    assert result == (3, 2, 0, 0)
    assert said[1::2] == ["lost: corrected from 0 to 6", "won: corrected from 7 to 6"]
    assert remaining(own_postgres) == {"agrees": (6, 0), "lost": (6, 1), "won": (6, 0)}
    assert announced == ["lost 1"], "a sale that has stock again is announced"
    assert await checked(own_database, repair=True) == ((3, 0, 0, 0), [])


async def test_an_oversold_sale_stops_selling_and_stays_reported(
    own_postgres: Server, own_database: Database
) -> None:
    held_sale(own_postgres, "oversold", capacity=5, held=7, remaining=2)
    for said_at_the_end in (
        ["oversold: corrected from 2 to 0"],
        [],
    ):
        result, said = await checked(own_database, repair=True)
        assert result == (1, 1, 1, 0)
        assert said[1:] == [
            *said_at_the_end,
            "oversold: oversold by 2: raise its capacity or cancel bookings",
        ]
    assert remaining(own_postgres) == {"oversold": (0, 0)}


async def test_a_sale_is_compared_again_under_its_lock(
    own_postgres: Server, own_database: Database
) -> None:
    held_sale(own_postgres, "concert", capacity=10, held=4, remaining=6)
    async with LedgerStore(own_database).corrections() as corrections:
        with orders(own_postgres) as connection, connection.transaction():
            connection.execute("UPDATE sales SET remaining = 7 WHERE event_id = 'concert'")
            correcting = asyncio.create_task(corrections.correct("concert"))
            async with asyncio.timeout(10):
                while not waits_for_a_lock(own_postgres):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            connection.execute(
                "UPDATE bookings SET status = 'CANCELLED'"
                " WHERE id = (SELECT id FROM bookings LIMIT 1)"
            )
        assert await correcting == ("concert", 10, 7, 3)
    assert remaining(own_postgres) == {"concert": (7, 0)}


def waits_for_a_lock(postgres: Server) -> bool:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'booking-reconcile'"
            " AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None


async def test_all_sales_are_seen_at_one_moment(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a page of drifted sales: what is committed after the first one is not seen."""
    monkeypatch.setattr("booking.ledger_store.PAGE_LIMIT", 2)
    for number in range(7):
        held_sale(own_postgres, f"e{number}", capacity=10, held=1, remaining=8)
    seen = []
    async with LedgerStore(own_database).snapshot() as snapshot:
        async for entry in snapshot.drifted:
            seen.append(entry.event_id)
            with orders(own_postgres) as connection:
                connection.execute("UPDATE sales SET remaining = 9")
    assert seen == [f"e{number}" for number in range(7)]


async def test_sales_are_counted_and_compared_at_the_same_moment(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while the sales are counted is not compared either."""
    gate = 1
    monkeypatch.setattr(
        "booking.ledger_store.COUNT_SALES",
        f"SELECT count(*), pg_advisory_lock_shared({gate}) FROM sales",
    )
    held_sale(own_postgres, "a-drifted", capacity=10, held=4, remaining=7)
    with orders(own_postgres) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [gate])
        checking = asyncio.create_task(checked(own_database, repair=False))
        async with asyncio.timeout(10):
            while not waits_for_a_lock(own_postgres):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        held_sale(own_postgres, "b-later", capacity=10, held=4, remaining=7)
        connection.execute("SELECT pg_advisory_unlock(%s)", [gate])
    result, said = await checking
    assert result == (1, 1, 1, 0)
    assert [line.split(":")[0] for line in said] == ["a-drifted"]


async def test_looking_cannot_change_anything(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the statement that looks would."""
    monkeypatch.setattr(
        "booking.ledger_store.COUNT_SALES",
        "WITH changed AS (UPDATE sales SET remaining = 0 RETURNING 1) SELECT count(*) FROM changed",
    )
    held_sale(own_postgres, "drifted", capacity=10, held=4, remaining=7)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await checked(own_database, repair=True)
    assert remaining(own_postgres) == {"drifted": (7, 0)}


async def test_a_sale_that_others_keep_locked_is_reported_and_left(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.ledger_store.LOCK_LIMIT_S", 1)
    held_sale(own_postgres, "a-stuck", capacity=10, held=4, remaining=7)
    held_sale(own_postgres, "b-free", capacity=10, held=4, remaining=7)
    with orders(own_postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM sales WHERE event_id = 'a-stuck' FOR UPDATE")
        result, said = await checked(own_database, repair=True)
    assert result == (2, 2, 1, 0)
    assert "not corrected" in said[1]
    assert remaining(own_postgres) == {"a-stuck": (7, 0), "b-free": (6, 0)}


def test_the_command_says_what_it_found_by_its_exit_code(own_postgres: Server) -> None:
    held_sale(own_postgres, "concert", capacity=10, held=4, remaining=7)
    reported = run(own_postgres.url)
    assert reported.returncode == 1
    assert reported.stdout == (
        "concert: 6 should remain, 7 remain (capacity 10, held or sold 4)\n"
        "checked: 1, drifted: 1, left: 1, bookings with wrong tickets: 0\n"
    )
    assert run(own_postgres.url, "--repair").returncode == 0
    assert run(own_postgres.url).returncode == 0
    own_postgres.stop()
    away = run(own_postgres.url)
    assert away.returncode == 2
    assert away.stderr.startswith("The ledger could not be checked:")
    assert PASSWORD not in away.stderr


def run(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command("booking.reconcile", url, *arguments)


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    assert reconcile.main([]) == 2
    assert "POSTGRES_URL" in capsys.readouterr().err
