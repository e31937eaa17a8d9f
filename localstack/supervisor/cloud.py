"""The local cloud as a whole: start it, stop it, say how it is."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from supervisor import aws, ports, processes
from supervisor.emulator import LocalStack
from supervisor.lock import locked
from supervisor.mongodb import MongoDB
from supervisor.postgres import Postgres
from supervisor.progress import Progress
from supervisor.rabbitmq import RabbitMQ
from supervisor.redis_server import Redis
from supervisor.secrets import Secrets, load_or_make, read
from supervisor.server import Server, ServerError, ServerStatus
from supervisor.settings import REPOSITORY, Settings
from supervisor.waiting import wait_all

_KINDS: Final[Sequence[type[Server]]] = (Postgres, Redis, RabbitMQ, MongoDB, LocalStack)
SERVER_NAMES: Final = tuple(kind.name for kind in _KINDS)
SILENT: Final = Progress(None)


def up(
    settings: Settings, progress: Progress = SILENT, *, only: Collection[str] | None = None
) -> None:
    """Start what does not run, wait until all of it answers, and put the secrets in place.

    A server that runs with other settings is started again with the present ones. With `only`, the
    other servers are left as they are.

    Raises:
        PortTakenError: before anything is started.
        ServerError: a server did not come up; the others run, and the next `up` carries on.

    """
    _make_directories(settings)
    with locked(settings.lock_file, "up", progress.say):
        secrets = load_or_make(settings)
        servers = _servers(settings, secrets, only)
        stale = [s for s in servers if not s.url_elsewhere and s.needs_start()]
        _in_parallel(stale, Server.stop)  # a killed server leaves helpers that hold its ports
        _require_ports(settings, stale)
        _write_endpoints(settings, _servers(settings, secrets, None))
        _write_shell_file(settings)
        _in_parallel(servers, lambda server: _bring_up(server, progress))


def down(settings: Settings, progress: Progress = SILENT) -> None:
    """Stop every server and prove that no process of the instance is left.

    Raises:
        ServerError: one is left.

    """
    if not settings.home.exists():
        return
    with locked(settings.lock_file, "down", progress.say):
        _stop_all(settings, progress)


def clean(settings: Settings, progress: Progress = SILENT) -> None:
    """Stop every server and remove the instance's data, secrets and logs."""
    if not settings.home.exists():
        return
    with locked(settings.lock_file, "clean", progress.say):
        _stop_all(settings, progress)
        for directory in filter(Path.exists, (settings.data, settings.run, settings.logs)):
            shutil.rmtree(directory)
        for file in (settings.secrets_file, settings.endpoints_file, settings.shell_file):
            file.unlink(missing_ok=True)


def empty_emulator(settings: Settings) -> None:
    """Start LocalStack anew with nothing but the secrets; the caller holds the instance's lock.

    Raises:
        ServerError: it did not come up, or runs elsewhere and is not ours to restart.

    """
    emulator = LocalStack(settings, load_or_make(settings))
    if emulator.url_elsewhere:
        raise ServerError(f"Remove the failed stack at {emulator.address} by hand.")
    emulator.stop()
    _start(emulator)
    _provision(emulator, SILENT)


def status(settings: Settings) -> list[ServerStatus]:
    """Return how each server is; nothing is changed."""
    servers = _servers(settings, read(settings), None)
    with ThreadPoolExecutor(max_workers=len(servers)) as pool:
        return list(pool.map(Server.status, servers))


def _servers(settings: Settings, secrets: Secrets, only: Collection[str] | None) -> list[Server]:
    return [kind(settings, secrets) for kind in _KINDS if only is None or kind.name in only]


def _make_directories(settings: Settings) -> None:
    """Make the instance's directories.

    As root, PostgreSQL's own user has to pass through to its data; the secrets beside it are files
    that only their owner reads.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    for directory in (settings.home, settings.data):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
    for directory in (settings.logs, settings.run):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711 if directory == settings.run else 0o700)


def _require_ports(settings: Settings, servers: Sequence[Server]) -> None:
    wanted = [name for server in servers for name in server.ports]
    ports.require_free({name: getattr(settings, name) for name in wanted})


def _bring_up(server: Server, progress: Progress) -> None:
    with progress.step(server.title) as step:
        if server.url_elsewhere:
            server.wait_elsewhere()
            step.outcome = f"runs elsewhere, {server.shown_address}"
        elif server.main_process() is None:
            step.outcome = f"started, {server.shown_address}"
            _start(server)
        else:
            step.outcome = f"was running, {server.shown_address}"
            server.wait_ready()
    if isinstance(server, LocalStack):
        _provision(server, progress)


def _start(server: Server) -> None:
    """Start a server, and leave nothing of it where that fails."""
    try:
        server.start()
        server.wait_ready()
    except ServerError:
        server.stop()
        raise


def _provision(server: LocalStack, progress: Progress) -> None:
    with progress.step("Secrets") as step:
        try:
            changes = aws.provision(server.settings, server.secrets)
        except (BotoCoreError, ClientError) as error:
            raise ServerError(f"{server.address} did not take the secrets: {error}") from None
        step.outcome = f"{changes} put in place" if changes else "in place"


def _stop_all(settings: Settings, progress: Progress) -> None:
    servers = _servers(settings, read(settings), None)
    running = [server for server in servers if server.all_processes()]
    # LocalStack first: the functions and tasks that it runs use all others.
    _in_parallel([s for s in running if isinstance(s, LocalStack)], lambda s: _stop(s, progress))
    _in_parallel(
        [s for s in running if not isinstance(s, LocalStack)], lambda s: _stop(s, progress)
    )
    left = processes.kill_all(lambda: processes.marked(settings.home))
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ServerError(f"These processes could not be ended: {pids}.")


def _stop(server: Server, progress: Progress) -> None:
    with progress.step(server.title) as step:
        server.stop()
        step.outcome = "stopped"


def _in_parallel(servers: Sequence[Server], action: Callable[[Server], None]) -> None:
    """Do `action` for all servers at once; raise the first failure when all have ended."""
    if not servers:
        return
    with ThreadPoolExecutor(max_workers=len(servers)) as pool:
        try:
            futures = [pool.submit(action, server) for server in servers]
            wait_all(futures)
        except KeyboardInterrupt:
            for server in servers:
                server.cancel()
            raise
    for future in futures:
        future.result()


def _write_endpoints(settings: Settings, servers: Sequence[Server]) -> None:
    addresses = {server.name: server.address for server in servers}
    endpoints = {
        "postgres_url": addresses["postgres"],
        "redis_url": addresses["redis"],
        "rabbitmq_url": addresses["rabbitmq"],
        "mongodb_url": addresses["mongodb"],
        "aws_endpoint_url": addresses["localstack"],
        "api_url": settings.api_url,
        "booking_port": settings.booking_port,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    _write(settings.endpoints_file, json.dumps(endpoints, indent=2) + "\n")


def _write_shell_file(settings: Settings) -> None:
    """Write what a shell reads to use `cdklocal` and `awslocal` with this instance."""
    programs = [REPOSITORY / "node_modules" / ".bin", REPOSITORY / ".venv" / "bin"]
    path = ":".join([*map(shlex.quote, map(str, programs)), "$PATH"])
    lines = [f"export PATH={path}"]
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in aws.tool_environment(settings).items()
    ]
    _write(settings.shell_file, "\n".join(lines) + "\n")


def _write(file: Path, text: str) -> None:
    """Write `file` so that nobody ever reads half of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(file)
