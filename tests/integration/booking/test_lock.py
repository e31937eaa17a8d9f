"""The Redis lock of a contended event: who holds it, who waits, and Redis away."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import redis as redis_client

from booking.lock import CHANNEL, LOCK_TTL_MS, RELEASED, EventLock, Signals
from tests.integration import servers
from tests.integration.servers import Server


@asynccontextmanager
async def lock_of(
    redis: Server, token: str, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[EventLock]:
    lock = EventLock(redis.url, redis.username, redis.password, token, clock)
    await lock.acquire([])  # connects before anything is measured
    try:
        yield lock
    finally:
        await lock.close()


def raw(redis: Server) -> "redis_client.Redis":
    return redis_client.Redis.from_url(redis.url, password=redis.password, decode_responses=True)


def wait_for_subscribers(client: "redis_client.Redis", count: int) -> None:
    while client.pubsub_numsub(CHANNEL)[0][1] < count:
        time.sleep(0.01)


async def test_one_token_holds_the_lock_and_only_it_releases(redis: Server, event_id: str) -> None:
    async with lock_of(redis, "one") as one, lock_of(redis, "two") as two:
        assert await one.acquire([event_id]) == set()
        assert await two.acquire([event_id]) == {event_id}
        assert await two.release([event_id]) == set()
        with raw(redis) as client:
            assert client.get(f"lock:event:{event_id}") == "one"
            assert 0 < int(client.pttl(f"lock:event:{event_id}")) <= LOCK_TTL_MS
        assert await one.release([event_id]) == {event_id}, "the other one waits for it"
        assert await two.acquire([event_id]) == set()
        assert await two.release([event_id]) == {event_id}, "who made way is in line again"


async def test_a_task_does_not_make_way_for_itself(redis: Server, event_id: str) -> None:
    async with lock_of(redis, "one") as one, lock_of(redis, "two") as two:
        await one.acquire([event_id])
        await two.acquire([event_id])
        assert await one.release([event_id]) == {event_id}
        assert await one.acquire([event_id]) == set()
        assert await one.release([event_id]) == set(), "the other one did not come"


async def test_a_release_wakes_the_others(redis: Server, event_id: str) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    async with heard_by(redis, "one", heard), heard_by(redis, "two", heard):
        async with lock_of(redis, "one") as one, lock_of(redis, "two") as two:
            await one.acquire([event_id])
            await two.acquire([event_id])
            await one.release([event_id])
            await two.signal(RELEASED, "last")
        async with asyncio.timeout(10):
            assert {await heard.get(), await heard.get()} == {("two", event_id), ("one", "last")}
        assert heard.empty(), "a task hears what it tells itself"


@asynccontextmanager
async def heard_by(
    redis: Server, token: str, heard: "asyncio.Queue[tuple[str, str]]"
) -> AsyncIterator[None]:
    """Put what the task with `token` hears into `heard`."""
    handlers = {RELEASED: lambda subject: heard.put_nowait((token, subject))}
    signals = Signals(redis.url, redis.username, redis.password, token, handlers)
    with raw(redis) as client:
        present = client.pubsub_numsub(CHANNEL)[0][1]
        listening = asyncio.create_task(signals.listen())
        await asyncio.to_thread(wait_for_subscribers, client, present + 1)
    yield
    listening.cancel()
    await signals.close()


async def test_a_lock_that_was_lost_is_not_released_for_its_new_holder(
    redis: Server, event_id: str
) -> None:
    async with lock_of(redis, "one") as one, lock_of(redis, "two") as two:
        await one.acquire([event_id])
        with raw(redis) as client:
            client.flushall()
        assert await two.acquire([event_id]) == set()
        await one.release([event_id])
        with raw(redis) as client:
            assert client.get(f"lock:event:{event_id}") == "two"


async def test_without_redis_everybody_may_go_on_and_redis_is_left_alone_for_a_while(
    event_id: str,
) -> None:
    now = 0.0
    with servers.redis_server() as redis:
        async with lock_of(redis, "one", lambda: now) as one, lock_of(redis, "two") as two:
            assert await two.acquire([event_id]) == set()
            redis.kill()
            assert await one.acquire([event_id]) == set()
            redis.start()
            with raw(redis) as client:
                client.set(f"lock:event:{event_id}", "two")
            assert await one.acquire([event_id]) == set(), "still in its pause"
            now = 10.0
            assert await one.acquire([event_id]) == {event_id}
