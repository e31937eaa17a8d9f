"""What holds while PostgreSQL, Redis or RabbitMQ are away, and when a task is stopped."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pika
import psycopg
import pytest
import redis as redis_client

from booking import stock
from tests.integration import servers
from tests.integration.booking.test_contract import refused
from tests.integration.booking_task import CREDENTIALS, BookingTask, Client, booking_tasks, orders
from tests.integration.servers import PASSWORD, Server
from ticketra import messages, rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc
from ticketra.database import Database

LIMIT_S = 30.0
Tap = Callable[[list[str], int], list[tuple[str, str]]]


def eventually(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def unpublished(postgres: Server, event_id: str) -> int:
    """Count the messages of an event's bookings: those of other tests may expire meanwhile."""
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT count(*) FROM outbox WHERE published_at IS NULL"
            " AND subject IN (SELECT id::text FROM bookings WHERE event_id = %s)",
            [event_id],
        ).fetchone()
    assert row is not None
    return int(row[0])


def waits_for(connection: "psycopg.Connection[Any]") -> bool:
    """Say whether somebody waits for what this connection has locked."""
    row = connection.execute(
        "SELECT count(*) FROM pg_locks"
        " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ).fetchone()
    assert row is not None
    return bool(row[0])


def broker_connection(rabbitmq: Server) -> pika.BlockingConnection:
    parameters = pika.URLParameters(rabbitmq.url)
    parameters.credentials = pika.PlainCredentials(rabbitmq.username, PASSWORD)
    return pika.BlockingConnection(parameters)


@pytest.fixture
def tap(rabbitmq: Server) -> Iterator[Tap]:
    """Hears all messages from now on, and returns the first so many (routing key, subject)."""
    connection = broker_connection(rabbitmq)
    channel = connection.channel()
    channel.exchange_declare(messages.EXCHANGE, "topic", durable=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, messages.EXCHANGE, "#")

    def wait_for(subjects: list[str], count: int) -> list[tuple[str, str]]:
        heard: list[tuple[str, str]] = []
        deadline = time.monotonic() + LIMIT_S
        for method, properties, _ in channel.consume(queue, inactivity_timeout=0.1):
            if method is not None and properties.headers["cloudEvents:subject"] in subjects:
                heard.append((method.routing_key, properties.headers["cloudEvents:subject"]))
            if len(heard) == count or time.monotonic() > deadline:
                break
        channel.cancel()
        return heard

    yield wait_for
    connection.close()


def test_messages_of_a_booking_go_out_in_order(client: Client, event_id: str, tap: Tap) -> None:
    client.put_sale(event_id, 50)
    ids = [client.create(event_id).booking.id for _ in range(10)]
    for booking_id in ids:
        client.confirm(booking_id)
        client.cancel(booking_id)
    heard = tap(ids, 30)
    for booking_id in ids:
        assert [key for key, subject in heard if subject == booking_id] == [
            "booking.created",
            "booking.confirmed",
            "booking.cancelled",
        ]


def test_a_created_booking_that_no_queue_takes_stays_in_the_outbox(
    task: BookingTask, client: Client, event_id: str, postgres: Server, rabbitmq: Server
) -> None:
    def refusals() -> int:
        return task.log.read_text().count("messages were not taken over")

    client.put_sale(event_id, 5)
    client.create(event_id)
    eventually(lambda: unpublished(postgres, event_id) == 0)
    with broker_connection(rabbitmq) as connection:
        channel = connection.channel()
        channel.queue_unbind(messages.CHARGE_QUEUE, messages.EXCHANGE, messages.BOOKING_CREATED)
        made = client.create(event_id).booking
        client.confirm(made.id)
        before = refusals()
        eventually(lambda: refusals() >= before + 2)  # the second time it knew of the confirmation
        assert unpublished(postgres, event_id) == 2, "what comes after it waits for it"
        channel.queue_bind(messages.CHARGE_QUEUE, messages.EXCHANGE, messages.BOOKING_CREATED)
    eventually(lambda: unpublished(postgres, event_id) == 0)
    assert client.get(made.id).status == pb.BOOKING_STATUS_CONFIRMED


async def test_a_reopened_sale_is_announced_to_every_task(
    client: Client, event_id: str, database: Database
) -> None:
    heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    stock.listen(database, lambda event, version: heard.put_nowait((event, version)))
    database.available = False
    watching = asyncio.create_task(database.watch())
    while not database.available:  # noqa: ASYNC110 - it has no event to wait for
        await asyncio.sleep(0.01)
    await asyncio.to_thread(client.put_sale, event_id, 1)
    held = await asyncio.to_thread(client.create, event_id)
    await asyncio.to_thread(client.cancel, held.booking.id)
    async with asyncio.timeout(LIMIT_S):
        while (announced := await heard.get())[0] != event_id:
            pass
    assert announced == (event_id, 1)
    # The task hears it too, perhaps a moment later.
    await asyncio.to_thread(eventually, lambda: succeeds(lambda: client.create(event_id)))
    await asyncio.to_thread(client.put_sale, event_id, 2, 2)
    async with asyncio.timeout(LIMIT_S):
        assert await heard.get() == (event_id, 2)
    watching.cancel()


def test_a_sold_out_sale_reopens_at_once(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 1)
    held = client.create(event_id).booking
    for _ in range(3):
        with refused("sold_out"):
            client.create(event_id)
        client.cancel(held.id)
        deadline = time.monotonic() + 5
        while True:
            try:
                held = client.create(event_id).booking
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline


def test_selling_goes_on_while_redis_is_away(
    postgres: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        servers.redis_server() as redis,
        booking_tasks(postgres, redis, rabbitmq, tmp_path, count=2) as tasks,
        tasks[0].channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 30)
        for _ in range(10):
            client.create(event_id)
        redis.kill()
        for _ in range(10):
            client.create(event_id)
        redis.start()
        for _ in range(10):
            client.create(event_id)
        assert client.remaining(event_id) == 0


def lock_attempts(redis: redis_client.Redis) -> int:
    """Count how often the tasks have asked for a lock, or given one back."""
    stats: dict[str, dict[str, int]] = redis.info("commandstats")
    return stats.get("cmdstat_evalsha", {"calls": 0})["calls"]


def test_selling_goes_on_while_redis_forgets_everything_again_and_again(
    postgres: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    """Two tasks fight over one event; locks and scripts may vanish at any moment."""
    with ExitStack() as stack:
        redis = stack.enter_context(servers.redis_server())
        clients = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            [task] = stack.enter_context(booking_tasks(postgres, redis, rabbitmq, tmp_path / name))
            channels = [stack.enter_context(task.channel()) for _ in range(4)]
            clients += [Client(channel) for channel in channels]
        admin = stack.enter_context(redis_client.Redis.from_url(redis.url, password=PASSWORD))
        clients[0].put_sale(event_id, 300)

        def buy(number: int) -> str:
            try:
                return clients[number % len(clients)].create(event_id).booking.id
            except grpc.RpcError as error:
                refusal = rpc.to_refusal(error)
                return refusal.code if refusal else str(error)

        pool = stack.enter_context(ThreadPoolExecutor(64))
        with orders(postgres) as connection, connection.transaction():
            # While nobody gets the row, both tasks learn that it is contended.
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            buying = [pool.submit(buy, number) for number in range(600)]
            eventually(lambda: lock_attempts(admin) >= 4)
        forgotten = 0
        while not all(one.done() for one in buying):
            admin.flushall()
            admin.script_flush()
            forgotten += 1
            time.sleep(0.002)
        answers = [one.result() for one in buying]
        remaining = clients[0].remaining(event_id)
    assert forgotten > 1
    sold = [answer for answer in answers if answer != "sold_out"]
    assert answers.count("sold_out") == 300
    assert remaining == 0
    with orders(postgres) as connection:
        rows = connection.execute(
            "SELECT id::text FROM bookings WHERE event_id = %s", [event_id]
        ).fetchall()
    assert sorted(row[0] for row in rows) == sorted(sold)


def test_selling_goes_on_while_rabbitmq_is_away(
    postgres: Server, redis: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        servers.rabbitmq() as rabbitmq,
        booking_tasks(postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 30)
        client.create(event_id)
        eventually(lambda: unpublished(postgres, event_id) == 0)
        with broker_connection(rabbitmq) as connection:
            everything = connection.channel()
            everything.queue_declare("all", durable=True)
            everything.queue_bind("all", messages.EXCHANGE, "#")
        rabbitmq.stop()
        ids = [client.create(event_id).booking.id for _ in range(10)]
        for booking_id in ids:
            client.confirm(booking_id)
        for booking_id in reversed(ids):
            client.cancel(booking_id)
        assert unpublished(postgres, event_id) == 30
        rabbitmq.start()
        eventually(lambda: unpublished(postgres, event_id) == 0)
        heard = drained(rabbitmq, "all")
    for booking_id in ids:
        assert [key for key, subject in heard if subject == booking_id] == [
            "booking.created",
            "booking.confirmed",
            "booking.cancelled",
        ]


def drained(rabbitmq: Server, queue: str) -> list[tuple[str, str]]:
    """Take all messages from a queue, as (routing key, subject)."""
    heard = []
    with broker_connection(rabbitmq) as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
            method, properties, _ = message
            heard.append((method.routing_key, properties.headers["cloudEvents:subject"]))
    return heard


def test_without_postgresql_calls_are_refused_and_health_says_so_until_it_is_back(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(own_postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 30)
        made = client.create(event_id).booking
        own_postgres.kill()
        task.wait_for_health("NOT_SERVING")
        with refused("unavailable", grpc.StatusCode.UNAVAILABLE) as answer:
            client.create(event_id)
        assert answer.refusal.retry_after_s == 1
        with refused("unavailable", grpc.StatusCode.UNAVAILABLE):
            client.get(made.id)
        own_postgres.start()
        task.wait_for_health("SERVING")
        eventually(lambda: succeeds(lambda: client.create(event_id)))
        eventually(lambda: succeeds(lambda: client.get(made.id)))


def test_a_postgresql_that_does_not_answer_is_not_waited_for(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(own_postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
    ):
        client = Client(channel)
        client.put_sale(event_id, 30)
        own_postgres.freeze()
        try:
            with pytest.raises(grpc.RpcError) as failure:
                client.create(event_id, key="k")
            assert failure.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            task.wait_for_health("NOT_SERVING")
            with refused("unavailable", grpc.StatusCode.UNAVAILABLE):
                client.create(event_id)
        finally:
            own_postgres.thaw()
        task.wait_for_health("SERVING")
        eventually(lambda: succeeds(lambda: client.create(event_id, key="k")))
        assert client.remaining(event_id) == 29


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_another_task_takes_over_the_relay(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with booking_tasks(postgres, redis, rabbitmq, tmp_path, count=2) as (first, second):
        with first.channel() as channel:
            client = Client(channel)
            client.put_sale(event_id, 5)
            client.create(event_id)
        eventually(lambda: unpublished(postgres, event_id) == 0)
        first.kill()
        with second.channel() as channel:
            Client(channel).create(event_id)
        eventually(lambda: unpublished(postgres, event_id) == 0)


def test_stopping_waits_for_a_request_that_is_in_line(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
        ThreadPoolExecutor() as pool,
    ):
        client = Client(channel)
        client.put_sale(event_id, 5)
        with orders(postgres) as connection, connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            asking = pool.submit(client.create, event_id)
            eventually(lambda: waits_for(connection))
            stopping = pool.submit(task.stop)
            task.wait_for_health("AWAY")  # it takes no new calls any more
        assert asking.result().booking.event_id == event_id
        assert stopping.result() == 0


def test_stopping_waits_for_the_broker_to_take_what_is_committed(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with (
        booking_tasks(postgres, redis, rabbitmq, tmp_path) as (task,),
        task.channel() as channel,
        ThreadPoolExecutor() as pool,
    ):
        client = Client(channel)
        client.put_sale(event_id, 5)
        client.create(event_id)
        eventually(lambda: unpublished(postgres, event_id) == 0)
        rabbitmq.freeze()
        try:
            client.create(event_id)
            stopping = pool.submit(task.stop)
            task.wait_for_health("AWAY")  # all calls are answered, the message is on its way
        finally:
            rabbitmq.thaw()
        assert stopping.result() == 0
    assert unpublished(postgres, event_id) == 0


async def test_stopping_answers_what_waits_and_empties_the_outbox(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path, event_id: str
) -> None:
    with booking_tasks(postgres, redis, rabbitmq, tmp_path) as (task,):
        with task.channel() as channel:
            Client(channel).put_sale(event_id, 1000)
        metadata = rpc.caller_metadata("gateway", CREDENTIALS["gateway"])
        async with grpc.aio.insecure_channel(task.address) as channel:
            stub = pb_grpc.BookingServiceStub(channel)
            wish = pb.CreateBookingRequest(event_id=event_id, user_id="ada", ticket_count=1)
            calls = [stub.CreateBooking(wish, metadata=metadata, timeout=20) for _ in range(300)]
            await calls[0]
            code = await asyncio.to_thread(task.stop)
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert code == 0
        outcomes = Counter(
            "made" if isinstance(a, pb.CreateBookingResponse) else str(getattr(a, "code")())  # noqa: B009
            for a in answers
        )
        with orders(postgres) as connection:
            row = connection.execute(
                "SELECT count(*) FROM bookings WHERE event_id = %s", [event_id]
            ).fetchone()
        assert row == (outcomes["made"],)
        assert unpublished(postgres, event_id) == 0
