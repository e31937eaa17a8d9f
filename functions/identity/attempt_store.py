"""Counters of failed logins in Redis, which all execution environments share.

While Redis is away each environment counts for itself, by the same rules. Letting everybody
through would make an outage of Redis the time to guess passwords, and letting nobody through would
make it an outage of logging in. The number of environments is bounded, and so are then the guesses.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from identity.slow_down import (
    FIRST_WAIT_MS,
    FORGET_AFTER_MS,
    LONGEST_WAIT_MS,
    LocalAttempts,
    MonotonicMs,
    Subject,
)
from ticketra.errors import Unavailable
from ticketra.log import logger

if TYPE_CHECKING:
    import redis

REDIS_TIMEOUT_S = 0.25
REDIS_PAUSE_MS = 2_000  # how long to leave Redis alone after it failed
RECONNECTS_LIMIT = 1

# KEYS: account, address. ARGV: allowance of each, first wait, longest wait, time to forget (ms).
# The server's clock decides: it is one for all environments.
_BEGIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = 0
for i = 1, 2 do
    local not_before = tonumber(redis.call('HGET', KEYS[i], 'not_before') or 0)
    waiting = math.max(waiting, not_before - now)
end
if waiting > 0 then
    return waiting
end
for i = 1, 2 do
    local failures = redis.call('HINCRBY', KEYS[i], 'failures', 1)
    local beyond = failures - tonumber(ARGV[i])
    if beyond >= 0 then
        local wait = math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ beyond)
        redis.call('HSET', KEYS[i], 'not_before', string.format('%.0f', now + wait))
    end
    if i == 1 or failures == 1 then
        redis.call('PEXPIRE', KEYS[i], ARGV[5])
    end
end
return 0
"""

# One failure less for each key; a counter that expired meanwhile is not made again.
_TAKE_BACK = """
for _, key in ipairs(KEYS) do
    if redis.call('HINCRBY', key, 'failures', -1) <= 0 then
        redis.call('DEL', key)
    else
        redis.call('HDEL', key, 'not_before')
    end
end
"""

Result = TypeVar("Result")


def connect(url: str, username: str, password: str) -> "redis.Redis":
    """Return a client that reconnects once and otherwise fails fast; nothing is sent yet."""
    # The import takes a tenth of a second that only logins need.
    import redis  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    return redis.Redis.from_url(
        url,
        username=username or None,
        password=password or None,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), RECONNECTS_LIMIT, supported_errors=(redis.ConnectionError,)),
    )


class SharedAttempts:
    """Counts tries in Redis, or in this process while Redis is away; see `slow_down.Attempts`."""

    def __init__(self, open_client: Callable[[], "redis.Redis"], monotonic_ms: MonotonicMs) -> None:
        self._open_client = open_client
        self._client: redis.Redis | None = None
        self._local = LocalAttempts(monotonic_ms)
        self._monotonic_ms = monotonic_ms
        self._paused_until_ms = 0

    def begin(self, account: Subject, address: Subject) -> int:
        """Count a try as failed and return 0, or count nothing and return the ms to wait."""
        keys = [account.key, address.key]
        arguments = (FIRST_WAIT_MS, LONGEST_WAIT_MS, FORGET_AFTER_MS)
        return self._run(
            lambda client: int(
                client.register_script(_BEGIN)(
                    keys=keys, args=[account.allowance, address.allowance, *arguments]
                )
            ),
            lambda: self._local.begin(account, address),
        )

    def succeed(self, account: Subject, address: Subject) -> None:
        """Forget the account's failures, and this one of the address."""

        def succeed(client: "redis.Redis") -> None:
            client.delete(account.key)
            client.register_script(_TAKE_BACK)(keys=[address.key])

        self._run(succeed, lambda: self._local.succeed(account, address))

    def take_back(self, account: Subject, address: Subject) -> None:
        """Forget this try."""

        def take_back(client: "redis.Redis") -> None:
            client.register_script(_TAKE_BACK)(keys=[account.key, address.key])

        self._run(take_back, lambda: self._local.take_back(account, address))

    def close(self) -> None:
        """Close the connections; the next call opens others."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _run(
        self, shared: Callable[["redis.Redis"], Result], local: Callable[[], Result]
    ) -> Result:
        import redis  # noqa: PLC0415

        if self._monotonic_ms() < self._paused_until_ms:
            return local()
        try:
            if self._client is None:
                self._client = self._open_client()
            return shared(self._client)
        except (redis.RedisError, OSError, Unavailable) as error:
            self._paused_until_ms = self._monotonic_ms() + REDIS_PAUSE_MS
            logger.warning("Redis is away: counting logins here", extra={"error": repr(error)})
            return local()
