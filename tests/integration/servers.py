"""Private servers for tests: each on loopback, in a directory of its own, leaving nothing.

Every function here is a context manager that yields what a test needs to reach one server, and the
means to stop, freeze or kill it. The interface is the URLs and credentials, so that other servers
can take their place.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pika
import psutil
import psycopg
import redis
from pika.exceptions import AMQPError

from tests import ports

START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
POLL_INTERVAL_S = 0.1
PASSWORD = "only-for-tests"
ADMIN = "ticketra_admin"

free_port = ports.free_port


class ServerStartError(Exception):
    """A server process ended, or was not ready in time; the message holds the end of its log."""


@dataclass
class Server:
    """A server process that can be stopped and started again on the same data and port."""

    name: str
    url: str
    username: str
    password: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    ready: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServerStartError(
                    f"{self.name}: {self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(POLL_INTERVAL_S)

    def stop(self) -> None:
        """Ask the process to end, and make it end."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the process and all that it started, without any warning."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Keep the process and its children from running, without ending their connections."""
        for process in self._family():
            process.suspend()

    def thaw(self) -> None:
        """Let them run again."""
        for process in self._family():
            process.resume()

    def _family(self) -> list[psutil.Process]:
        assert self.process is not None
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]

    def _end(self, how: signal.Signals) -> None:
        process = self.process
        if process is None:
            return
        self.process = None
        with suppress(ProcessLookupError):
            if how is signal.SIGKILL:
                os.killpg(process.pid, how)
            else:
                process.send_signal(how)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind


@contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; `url` holds no database."""
    port = free_port()
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_of)[-1]
    with _directory("postgres") as directory:
        prefix = _as_postgres_user(directory)
        data = directory / "data"
        secret = directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [
                *prefix,
                str(binaries / "initdb"),
                f"--pgdata={data}",
                f"--username={ADMIN}",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=_environment(),
        )
        server = Server(
            name="postgres",
            url=f"postgresql://127.0.0.1:{port}",
            username=ADMIN,
            password=PASSWORD,
            command=[
                *prefix,
                str(binaries / "postgres"),
                "-D",
                str(data),
                f"--port={port}",
                "--listen-addresses=127.0.0.1",
                f"--unix-socket-directories={directory}",
                "--timezone=UTC",
            ],
            environment=_environment(),
            log=directory / "log",
            ready=lambda: _postgres_answers(port),
            stop_signal=signal.SIGINT,
        )
        yield from _running(server)


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis server that asks for a password."""
    port = free_port()
    with _directory("redis") as directory:
        configuration = directory / "redis.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\nrequirepass {PASSWORD}\nsave ''\n"
        )
        server = Server(
            name="redis",
            url=f"redis://127.0.0.1:{port}/0",
            username="",
            password=PASSWORD,
            command=["redis-server", str(configuration)],
            environment=_environment(),
            log=directory / "log",
            ready=lambda: _redis_answers(port),
        )
        yield from _running(server)


@contextmanager
def rabbitmq() -> Iterator[Server]:
    """A RabbitMQ node of its own, with its own Erlang port mapper."""
    port, distribution, mapper = free_port(), free_port(), free_port()
    with _directory("rabbitmq") as directory:
        configuration = directory / "rabbitmq.conf"
        configuration.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"default_user = {ADMIN}\ndefault_pass = {PASSWORD}\n"
            "vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
        )
        plugins = directory / "enabled_plugins"
        plugins.write_text("[].\n")
        environment = _environment() | {
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        server = Server(
            name="rabbitmq",
            url=f"amqp://127.0.0.1:{port}/%2F",
            username=ADMIN,
            password=PASSWORD,
            command=["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            environment=environment,
            log=directory / "log",
            ready=lambda: _rabbitmq_answers(port),
        )
        try:
            yield from _running(server)
        finally:
            # The port mapper outlives the node; it ends itself once told to, when no node is left.
            subprocess.run(
                ["epmd", "-port", str(mapper), "-kill"],
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def _directory(name: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f"ticketra-test-{name}-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"}


def _as_postgres_user(directory: Path) -> list[str]:
    """PostgreSQL refuses to run as root: give the directory to its own user, and become it."""
    if os.geteuid() != 0:
        return []
    shutil.chown(directory, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]


def _version_of(binaries: Path) -> int:
    return int(binaries.parent.name)


def _postgres_answers(port: int) -> bool:
    try:
        psycopg.connect(
            host="127.0.0.1", port=port, dbname="postgres", user=ADMIN, password=PASSWORD
        ).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(port: int) -> bool:
    client = redis.Redis(port=port, password=PASSWORD)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _rabbitmq_answers(port: int) -> bool:
    credentials = pika.PlainCredentials(ADMIN, PASSWORD)
    parameters = pika.ConnectionParameters("127.0.0.1", port, credentials=credentials)
    try:
        pika.BlockingConnection(parameters).close()
    except (AMQPError, OSError):
        return False
    return True
