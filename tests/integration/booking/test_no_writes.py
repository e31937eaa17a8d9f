"""A PostgreSQL that takes no writes, and one that has ended a transaction that stood still."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import psycopg
import pytest

from booking.batch_store import BatchStore
from booking.bookings import request_hash
from booking.models import CreateRequest
from tests.integration.booking.test_outages import eventually, succeeds
from tests.integration.booking_task import BookingTask, Client, booking_tasks, orders
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.database import Database
from ticketra.ids import IdSource
from ticketra.outbox_store import OutboxStore
from ticketra.postgres_away import AWAY

LIMIT_S = 10.0
FIND_SESSION = "SELECT FROM pg_stat_activity WHERE pid = %s"
STAND_STILL = "SET idle_in_transaction_session_timeout = '10ms'"


def take_writes(postgres: Server, *, on: bool) -> None:
    """Have the server take writes or not, in sessions that exist too."""
    with orders(postgres) as connection:
        connection.execute("SET default_transaction_read_only = off")
        read_only = "off" if on else "on"
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {read_only}".encode())
        connection.execute("SELECT pg_reload_conf()")


def code_of(call: Callable[[], object]) -> str:
    """Return what the call is refused with; nothing if its session may still write."""
    try:
        call()
    except grpc.RpcError as error:
        refusal = rpc.to_refusal(error)
        return refusal.code if refusal else error.code().name
    return ""


def test_a_task_whose_server_takes_no_writes_says_so_until_it_does(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(own_postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 30)
        made = [client.create(event_id).booking.id for _ in range(4)]
        take_writes(own_postgres, on=False)
        try:
            refused = codes_until_away(task, client, event_id, made)
            assert refused - {""} == {"unavailable"}
        finally:
            take_writes(own_postgres, on=True)
        task.wait_for_health("SERVING")
        for call in (
            lambda: client.create(event_id),
            lambda: client.confirm(made[0]),
            lambda: client.decline(made[1]),
            lambda: client.put_sale(event_id, 40, version=9),
        ):
            eventually(lambda call=call: succeeds(call))  # type: ignore[misc]
        assert "a call failed" not in task.log.read_text()
        assert task.stop() == 0


def codes_until_away(task: BookingTask, client: Client, event_id: str, made: list[str]) -> set[str]:
    """Return how calls that write are refused, from the first moment on until health says why."""
    codes = {code_of(lambda: client.put_sale(event_id, 30, version=2))}
    codes |= {code_of(lambda: client.confirm(made[0])), code_of(lambda: client.decline(made[1]))}
    codes |= {
        code_of(lambda: client.extend_hold(made[2])),
        code_of(lambda: client.create(event_id)),
    }
    task.wait_for_health("NOT_SERVING")
    return codes | {code_of(lambda: client.confirm(made[3])), code_of(lambda: client.get(made[3]))}


async def test_a_server_that_takes_no_writes_is_not_connected_to(
    own_postgres: Server, own_database: Database
) -> None:
    with orders(own_postgres) as connection:
        connection.execute("ALTER ROLE booking SET default_transaction_read_only = on")
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        await own_database.connect("test")
    with orders(own_postgres) as connection:
        connection.execute("ALTER ROLE booking RESET default_transaction_read_only")
    async with await own_database.connect("test") as connection:
        await connection.execute("SELECT")


async def test_a_connection_that_cannot_write_is_not_lent_again(own_database: Database) -> None:
    lent: list[int] = []

    async def write() -> None:
        async with own_database.lend() as connection:
            lent.append(connection.info.backend_pid)
            await connection.execute("SET default_transaction_read_only = on")
            await connection.execute("UPDATE sales SET version = 2")

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await write()
    await until_gone(own_database, lent[0])


async def test_the_relay_does_not_lead_where_it_can_mark_nothing(
    own_postgres: Server, own_database: Database
) -> None:
    store = OutboxStore(own_database)
    assert await store.lead()
    take_writes(own_postgres, on=False)
    await until(store, leads=False)
    with pytest.raises(AWAY):
        await store.lead()
    take_writes(own_postgres, on=True)
    await until(store, leads=True)
    await store.close()


async def until(store: OutboxStore, *, leads: bool) -> None:
    """Return when the sessions have heard of it."""

    async def is_leading() -> bool:
        try:
            return await store.lead()
        except AWAY:
            return False

    async with asyncio.timeout(LIMIT_S):
        while await is_leading() != leads:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_transaction_that_stood_still_counts_as_an_outage(database: Database) -> None:
    async def stand_still() -> None:
        async with database.lend() as connection, connection.transaction():
            await connection.execute(STAND_STILL)
            await until_gone(database, connection.info.backend_pid)
            await connection.execute("SELECT")

    with pytest.raises(AWAY) as ended:
        await stand_still()
    assert isinstance(ended.value, psycopg.errors.IdleInTransactionSessionTimeout)
    async with database.lend() as connection:
        await connection.execute("SELECT")


async def test_the_writer_gets_over_a_transaction_that_stood_still(
    postgres: Server, database: Database, event_id: str
) -> None:
    store = StandingStill(database, wait=False)
    wish = CreateRequest(
        IdSource()(), event_id, "ada", 1, "", False, request_hash(event_id, 1), "test"
    )
    await store.read([wish], trust_fresh=True)
    await until_gone(database, await store.stand_still())
    await store.end()
    locked = await store.read([wish], trust_fresh=True)
    assert locked.sales == {}
    await store.end()
    await store.close()


class StandingStill(BatchStore):
    """A store whose transaction is ended by the server if nothing is done in it."""

    async def stand_still(self) -> int:
        assert self._connection is not None
        await self._connection.execute(STAND_STILL)
        return self._connection.info.backend_pid


async def until_gone(database: Database, pid: int) -> None:
    """Return when the server has ended a session."""
    async with await database.connect("look") as connection, asyncio.timeout(LIMIT_S):
        found = True
        while found:
            cursor = await connection.execute(FIND_SESSION, [pid])
            found = await cursor.fetchone() is not None
