"""Redis: Debian's program on a data directory of our own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from supervisor.private_file import write_private
from supervisor.server import NotReadyError, Server, ServerError, without_login
from supervisor.settings import LOOPBACK

ANSWER_TIMEOUT_S = 2.0

# The title would overwrite the environment that marks the process.
_CONFIGURATION = f"""\
bind {LOOPBACK}
protected-mode yes
port {{port}}
requirepass {{password}}
dir {{directory}}
appendonly yes
appendfsync everysec
save ""
set-proc-title no
daemonize no
"""


class Redis(Server):
    """One Redis server for locks, markers and the read cache."""

    name = "redis"
    title = "Redis"
    ports = ("redis_port",)
    start_timeout_s = 30.0
    stop_timeout_s = 15.0

    @property
    @override
    def url_elsewhere(self) -> str:
        return self.settings.redis_url

    @property
    @override
    def address(self) -> str:
        own = f"redis://{LOOPBACK}:{self.settings.redis_port}/0"
        return without_login(self.url_elsewhere) or own

    @override
    def prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        write_private(
            self._configuration_file,
            _CONFIGURATION.format(
                port=self.settings.redis_port,
                password=self.secrets.login("redis").password,
                directory=_quoted(self.data),
            ),
        )

    @override
    def command(self) -> Sequence[str | Path]:
        program = shutil.which("redis-server")
        if program is None:
            raise ServerError("Redis is not installed: apt-get install redis-server.")
        return [program, self._configuration_file]

    @override
    def check(self) -> None:
        login = self.secrets.login("redis")
        client = redis.Redis.from_url(
            self.url_elsewhere or self.address,
            username=login.username or None,
            password=login.password or None,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            with client:
                client.ping()
        except redis.RedisError as error:
            raise NotReadyError(str(error)) from None

    @property
    def _configuration_file(self) -> Path:
        return self.settings.run / "redis.conf"


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
