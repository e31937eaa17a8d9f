"""The Redis lock of a contended event, and the signals between booking tasks.

The lock makes batches big and keeps tasks from fighting over one row. Correctness never depends on
it: whoever cannot reach Redis carries on as if the lock were free.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ticketra.log import logger

LOCK_TTL_MS = 5_000
WANTED_TTL_MS = 1_000
REDIS_TIMEOUT_S = 0.05
REDIS_PAUSE_S = 1.0  # how long to leave Redis alone after it failed
SUBSCRIBE_RETRY_S = 1.0
CHANNEL = "booking:signals"
RELEASED = "released"
CONTENDED = "contended"
OUTBOX = "outbox"

_ACQUIRE = """
if redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return 1
end
redis.call('set', KEYS[2], ARGV[1], 'PX', ARGV[3])
return 0
"""

# Answers whether another task wants the lock, and wakes it. Whoever makes way for another is in
# line again, so that the other one makes way in its turn without having to be asked.
_RELEASE = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('del', KEYS[1])
local wanted_by = redis.call('get', KEYS[2])
if not wanted_by or wanted_by == ARGV[1] then
    return 0
end
redis.call('set', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('publish', ARGV[3], ARGV[4])
return 1
"""


class EventLock:
    """Takes and releases `lock:event:{id}` for this task, whose `token` nobody else has."""

    def __init__(
        self, url: str, username: str, password: str, token: str, clock: Callable[[], float]
    ) -> None:
        self._client = redis.Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            single_connection_client=False,
            max_connections=4,
            retry=Retry(NoBackoff(), 0),
        )
        self._acquire = self._client.register_script(_ACQUIRE)
        self._release = self._client.register_script(_RELEASE)
        self._token = token
        self._clock = clock
        self._paused_until = 0.0

    async def acquire(self, event_ids: Iterable[str]) -> set[str]:
        """Return those events whose lock somebody else holds; all others may go on."""
        if self._clock() < self._paused_until:
            return set()
        refused = set()
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                for event_id in event_ids:
                    granted = await self._acquire(
                        keys=_keys(event_id), args=[self._token, LOCK_TTL_MS, WANTED_TTL_MS]
                    )
                    if not granted:
                        refused.add(event_id)
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
            return set()
        return refused

    async def release(self, event_ids: Iterable[str]) -> set[str]:
        """Release the locks that this task holds, and return the events that others wait for."""
        if self._clock() < self._paused_until:
            return set()
        wanted = set()
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                for event_id in event_ids:
                    if await self._release(
                        keys=_keys(event_id),
                        args=[
                            self._token,
                            WANTED_TTL_MS,
                            CHANNEL,
                            self._message(RELEASED, event_id),
                        ],
                    ):
                        wanted.add(event_id)
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
        return wanted

    async def signal(self, kind: str, subject: str = "") -> None:
        """Tell all other tasks; a signal may be lost."""
        if self._clock() < self._paused_until:
            return
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                await self._client.publish(CHANNEL, self._message(kind, subject))
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):
            await self._client.aclose()

    def _message(self, kind: str, subject: str) -> str:
        return f"{self._token} {kind} {subject}"

    def _pause(self, error: BaseException) -> None:
        self._paused_until = self._clock() + REDIS_PAUSE_S
        logger.warning("Redis is away: going on without the lock", extra={"error": repr(error)})


class Signals:
    """Hears what the other tasks tell; `handlers` by kind get the subject.

    What the task with `token` tells is not heard: it is this one.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: str,
        token: str,
        handlers: dict[str, Callable[[str], None]],
    ) -> None:
        self._client = redis.Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._token = token
        self._handlers = handlers

    async def listen(self) -> None:
        """Subscribe again and again; never returns."""
        while True:
            with suppress(RedisError, OSError):
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(CHANNEL)
                    async for message in subscription.listen():
                        self._hear(message)
            await asyncio.sleep(SUBSCRIBE_RETRY_S)

    async def close(self) -> None:
        """Close the connection."""
        with suppress(RedisError, OSError):
            await self._client.aclose()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        token, kind, subject = message["data"].split(" ", 2)
        handler = self._handlers.get(kind)
        if handler is not None and token != self._token:
            handler(subject)


def _keys(event_id: str) -> list[str]:
    return [f"lock:event:{event_id}", f"lock:event:{event_id}:wanted"]
