"""Holds that end: tickets back once, late payments, and outages of ours."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from booking.booking_store import BookingStore
from booking.holds import Sweeper
from booking.transitions import expire
from tests.integration.booking.due_holds import sell_out_with_due_holds
from tests.integration.booking.test_contract import outbox, refused
from tests.integration.booking_task import BookingTask, Client, booking_tasks, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.database import POOL_SIZE, Database
from ticketra.ids import IdSource

HOLD_TTL_S, HOLD_MAX_S = 600, 3600


@pytest.fixture
async def sweeper(database: Database) -> Sweeper:
    """A sweeper to which other tests have left nothing."""
    sweeper = Sweeper(BookingStore(database, IdSource()), HOLD_TTL_S, HOLD_MAX_S, lambda: None)
    await sweeper.sweep()
    return sweeper


def end_hold(
    postgres: Server, booking_id: str, *, published: bool = True, age_s: int = HOLD_TTL_S
) -> None:
    """Make a booking as old as `age_s` seconds, with its hold just over."""
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE bookings SET hold_expires_at = now() - interval '1 second',"
            " created_at = now() - make_interval(secs => %s) WHERE id = %s",
            [age_s, booking_id],
        )
        connection.execute(
            "UPDATE outbox SET published_at = CASE WHEN %s THEN now() END WHERE subject = %s",
            [published, booking_id],
        )


@pytest.fixture
def held(client: Client, task: BookingTask, event_id: str) -> str:
    """A booking of 2 of 2 tickets, whose task no longer runs."""
    client.put_sale(event_id, 2)
    made = client.create(event_id, 2).booking
    task.stop()
    return made.id


def state(postgres: Server, booking_id: str) -> tuple[str, int, int]:
    """Return the status, the sale's remaining tickets and its stock version."""
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT status, remaining, stock_version FROM bookings JOIN sales USING (event_id)"
            " WHERE id = %s",
            [booking_id],
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


async def test_an_ended_hold_gives_its_tickets_back_once(
    postgres: Server, held: str, sweeper: Sweeper
) -> None:
    assert await sweeper.sweep() == 0
    end_hold(postgres, held)
    assert await sweeper.sweep() == 1
    assert state(postgres, held) == ("EXPIRED", 2, 1)
    assert await sweeper.sweep() == 0
    assert state(postgres, held) == ("EXPIRED", 2, 1)
    assert outbox(postgres, held) == ["booking.created", "booking.expired"]


async def test_an_outage_of_ours_extends_the_hold_up_to_its_limit(
    postgres: Server, held: str, sweeper: Sweeper
) -> None:
    end_hold(postgres, held, published=False, age_s=HOLD_MAX_S - 60)
    assert await sweeper.sweep() == 0
    assert state(postgres, held)[0] == "PENDING"
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM hold_expires_at - created_at) FROM bookings WHERE id = %s",
            [held],
        ).fetchone()
    assert row is not None
    assert row[0] == HOLD_MAX_S
    end_hold(postgres, held, published=False, age_s=HOLD_MAX_S + 1)
    assert await sweeper.sweep() == 1


async def test_rows_that_others_have_locked_are_left_for_later(
    postgres: Server, held: str, sweeper: Sweeper, event_id: str
) -> None:
    end_hold(postgres, held)
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
        assert await sweeper.sweep() == 0
    assert await sweeper.sweep() == 1


async def test_a_locked_sale_with_a_full_batch_of_due_holds_stalls_no_other(
    postgres: Server, sweeper: Sweeper, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.booking_store.EXPIRY_BATCH_LIMIT", 5)
    sell_out_with_due_holds(postgres, event_id, 20)
    other = sell_out_with_due_holds(postgres, f"{event_id}-other", 10)
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
        assert await sweeper.sweep() == 10
        assert {state(postgres, booking_id) for booking_id in other} == {("EXPIRED", 10, 1)}
    assert await sweeper.sweep() == 20


async def test_a_sale_that_is_locked_all_the_time_is_waited_for(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.booking_store.SALE_WAIT_LIMIT_MS", 10_000)
    sweeper = Sweeper(BookingStore(database, IdSource()), HOLD_TTL_S, HOLD_MAX_S, lambda: None)
    due = sell_out_with_due_holds(postgres, event_id, 3)
    with orders(postgres) as connection:
        with connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            sweeping = asyncio.create_task(sweeper.sweep())
            async with asyncio.timeout(10):
                while not waits_for_a_lock(postgres):  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
        assert await sweeping == 3
    assert {state(postgres, booking_id) for booking_id in due} == {("EXPIRED", 3, 1)}
    limits = set()
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):  # all of them, and so the one that waited as well
            lent = await stack.enter_async_context(database.lend())
            limits.add(await (await lent.execute("SHOW lock_timeout")).fetchone())
    assert limits == {("1s",)}, "the limit is for the transactions that wait"


async def test_a_sale_that_stays_locked_is_not_waited_for_longer_than_its_limit(
    own_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other limit on waiting for a lock is there, so it is this one that ends the wait."""
    monkeypatch.setattr("ticketra.database.LOCK_TIMEOUT_MS", 0)
    due = sell_out_with_due_holds(own_postgres, "stuck", 3)
    async with opened(own_postgres) as database:
        sweeper = Sweeper(BookingStore(database, IdSource()), HOLD_TTL_S, HOLD_MAX_S, lambda: None)
        with orders(own_postgres) as connection, connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = 'stuck' FOR UPDATE")
            assert await sweeper.sweep() == 0
        assert state(own_postgres, due[0])[0] == "PENDING"
        assert await sweeper.sweep() == 3


def waits_for_a_lock(postgres: Server) -> bool:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'booking'"
            " AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None


async def test_a_booking_that_is_being_confirmed_is_left_alone(
    postgres: Server, held: str, sweeper: Sweeper
) -> None:
    end_hold(postgres, held)
    with orders(postgres) as connection, connection.transaction():
        connection.execute(
            "UPDATE bookings SET status = 'CONFIRMED', payment_status = 'paid' WHERE id = %s",
            [held],
        )
        assert await sweeper.sweep() == 0
    assert await sweeper.sweep() == 0
    assert state(postgres, held) == ("CONFIRMED", 0, 0)


async def test_more_than_a_batch_is_expired_in_several(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = sell_out_with_due_holds(postgres, event_id, 100)
    monkeypatch.setattr("booking.booking_store.EXPIRY_BATCH_LIMIT", 40)
    store = BookingStore(database, IdSource())
    first = await store.expire_due(expire, HOLD_TTL_S, HOLD_MAX_S)
    assert (first.expired, first.full) == (40, True)
    assert await Sweeper(store, HOLD_TTL_S, HOLD_MAX_S, lambda: None).sweep() == 60
    assert state(postgres, due[0]) == ("EXPIRED", 100, 1)


def test_a_late_payment_takes_the_tickets_again_only_if_they_are_there(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 3)
    early, late = client.create(event_id, 2).booking, client.create(event_id, 1).booking
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'EXPIRED' WHERE event_id = %s", [event_id])
        connection.execute("UPDATE sales SET remaining = 2 WHERE event_id = %s", [event_id])
    assert client.confirm(early.id).status == pb.BOOKING_STATUS_CONFIRMED
    assert client.remaining(event_id) == 0
    with refused("tickets_gone"):
        client.confirm(late.id)
    client.cancel(early.id)
    with refused("tickets_gone"):
        client.confirm(late.id)
    assert client.get(late.id).payment_status == pb.PAYMENT_STATUS_REFUNDING
    with refused("booking_expired"):
        client.cancel(late.id)


def test_a_late_payment_takes_no_more_than_its_user_may_hold(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 10, max_per_user=3)
    late, fits = client.create(event_id, 2).booking, client.create(event_id, 1).booking
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'EXPIRED' WHERE event_id = %s", [event_id])
        connection.execute("UPDATE sales SET remaining = 10 WHERE event_id = %s", [event_id])
    again = client.create(event_id, 2).booking
    with refused("tickets_gone"):
        client.confirm(late.id)
    assert client.get(late.id).payment_status == pb.PAYMENT_STATUS_REFUNDING
    assert client.remaining(event_id) == 8
    assert client.confirm(fits.id).status == pb.BOOKING_STATUS_CONFIRMED
    assert client.remaining(event_id) == 7
    client.cancel(again.id)
    with refused("tickets_gone"):
        client.confirm(late.id)


def test_a_late_payment_counts_no_tickets_of_other_users_or_events(
    client: Client, event_id: str, postgres: Server
) -> None:
    other = f"{event_id}-other"
    client.put_sale(event_id, 10, max_per_user=2)
    client.put_sale(other, 10, max_per_user=2)
    late = client.create(event_id, 2).booking
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'EXPIRED' WHERE id = %s", [late.id])
        connection.execute("UPDATE sales SET remaining = 10 WHERE event_id = %s", [event_id])
    client.create(event_id, 2, user="another")
    client.create(other, 2)
    assert client.confirm(late.id).status == pb.BOOKING_STATUS_CONFIRMED
    assert client.remaining(event_id) == 6


def test_a_running_task_expires_by_itself(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(postgres, redis, rabbitmq, tmp_path, HOLD_TTL_S="1") as (task,),
        task.channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 1)
        made = client.create(event_id).booking
        deadline = time.monotonic() + 15
        while client.get(made.id).status == pb.BOOKING_STATUS_PENDING:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.get(made.id).status == pb.BOOKING_STATUS_EXPIRED
        assert client.create(event_id).booking.id, "the reopened sale sells again"
