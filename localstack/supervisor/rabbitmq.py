"""RabbitMQ: Debian's program on a data directory, a cookie and an epmd of our own."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pika
import pika.exceptions
from typing_extensions import override

from supervisor.private_file import write_private
from supervisor.server import NotReadyError, Server, ServerError, without_login
from supervisor.settings import LOOPBACK

ANSWER_TIMEOUT_S = 3.0
DISK_FREE_LIMIT = "200MB"
# Of the log that quorum queues share. What it holds is in memory as well, and read at the start.
LOG_LIMIT_BYTES = 64 * 1024 * 1024

_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# The default user is made with the first start's database: it is our own, so there is no guest.
_CONFIGURATION = f"""\
listeners.tcp.1 = {LOOPBACK}:{{port}}
default_user = {{username}}
default_pass = {{password}}
disk_free_limit.absolute = {DISK_FREE_LIMIT}
raft.wal_max_size_bytes = {LOG_LIMIT_BYTES}
log.file = false
log.console = true
"""
# Distribution on loopback only; idle schedulers sleep at once, because the machine is shared.
_ERLANG_ARGUMENTS = (
    "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
)

# pika logs each refused connection; a server that is starting refuses many.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class RabbitMQ(Server):
    """One RabbitMQ node."""

    name = "rabbitmq"
    title = "RabbitMQ"
    ports = ("rabbitmq_port", "rabbitmq_dist_port", "epmd_port")
    start_timeout_s = 90.0
    stop_timeout_s = 30.0

    @property
    @override
    def url_elsewhere(self) -> str:
        return self.settings.rabbitmq_url

    @property
    @override
    def address(self) -> str:
        own = f"amqp://{LOOPBACK}:{self.settings.rabbitmq_port}/%2F"
        return without_login(self.url_elsewhere) or own

    @override
    def prepare(self) -> None:
        if not _PROGRAM.exists():
            raise ServerError("RabbitMQ is not installed: apt-get install rabbitmq-server.")
        self.data.mkdir(mode=0o700, exist_ok=True)
        login = self.secrets.login("rabbitmq")
        write_private(
            self.data / "rabbitmq.conf",
            _CONFIGURATION.format(
                port=self.settings.rabbitmq_port,
                username=login.username,
                password=login.password,
            ),
        )
        (self.data / "enabled_plugins").write_text("[].\n")

    @override
    def command(self) -> Sequence[str | Path]:
        return [_PROGRAM]

    @override
    def variables(self) -> Mapping[str, str]:
        data = self.data
        return {
            "RABBITMQ_NODENAME": "ticketra@localhost",
            "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(data / "log"),
            "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(data / "generated"),
            "RABBITMQ_CONF_ENV_FILE": str(data / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(data / "node.pid"),
            "RABBITMQ_DIST_PORT": str(self.settings.rabbitmq_dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_ARGUMENTS,
            "ERL_EPMD_PORT": str(self.settings.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP": str(data / "erl_crash.dump"),
        }

    @override
    def check(self) -> None:
        parameters = pika.URLParameters(self.url_elsewhere or self.address)
        login = self.secrets.login("rabbitmq")
        if login.username:
            parameters.credentials = pika.PlainCredentials(login.username, login.password)
        parameters.socket_timeout = ANSWER_TIMEOUT_S
        parameters.stack_timeout = ANSWER_TIMEOUT_S
        parameters.blocked_connection_timeout = ANSWER_TIMEOUT_S
        try:
            pika.BlockingConnection(parameters).close()
        except (pika.exceptions.AMQPError, OSError) as error:
            raise NotReadyError(str(error) or type(error).__name__) from None
