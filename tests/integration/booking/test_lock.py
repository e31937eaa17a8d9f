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


def wait_for_subscriber(client: "redis_client.Redis") -> None:
    while not client.pubsub_numsub(CHANNEL)[0][1]:
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
        assert await two.release([event_id]) == set(), "nobody waits any more"


async def test_a_release_wakes_who_waits(redis: Server, event_id: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    signals = Signals(redis.url, redis.username, redis.password, {RELEASED: heard.put_nowait})
    listening = asyncio.create_task(signals.listen())
    with raw(redis) as client:
        await asyncio.to_thread(wait_for_subscriber, client)
    async with lock_of(redis, "one") as one, lock_of(redis, "two") as two:
        await one.acquire([event_id])
        await two.acquire([event_id])
        await one.release([event_id])
        async with asyncio.timeout(10):
            assert await heard.get() == event_id
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
