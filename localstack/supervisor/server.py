"""What every server of the local cloud has in common."""

import hashlib
import json
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

import psutil

from supervisor import processes
from supervisor.secrets import Secrets
from supervisor.settings import Settings
from supervisor.tail import tail

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_POLL_INTERVAL_S = 0.1
ELSEWHERE_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 15


class ServerError(Exception):
    """A server did not start, does not answer or did not stop; the message says what to do."""


class CancelledError(Exception):
    """The user stopped the run; the server is left as it is."""


class NotReadyError(Exception):
    """A readiness check failed; the message says how."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """How a server is. `state` is running, not answering, stopped or elsewhere."""

    name: str
    state: str
    address: str
    pid: int | None = None
    since: float | None = None
    memory_bytes: int | None = None

    @property
    def is_up(self) -> bool:
        """Tell whether it can be used."""
        return self.state in {"running", "elsewhere"}


class Server(ABC):
    """One server: its processes, its data, its readiness."""

    name: ClassVar[str]
    title: ClassVar[str]
    # Settings' field names of the ports that it listens on.
    ports: ClassVar[tuple[str, ...]]
    start_timeout_s: ClassVar[float]
    stop_timeout_s: ClassVar[float]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self._cancelled = threading.Event()

    @property
    @abstractmethod
    def url_elsewhere(self) -> str:
        """The URL of the server that is used instead, empty where there is none."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The URL without credentials, for the CDK app."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the data directory and the configuration files; safe to repeat."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the program and its arguments; no secret among them."""

    @abstractmethod
    def check(self) -> None:
        """Ask the server something real; raise NotReadyError where it does not answer."""

    def settle(self) -> None:  # noqa: B027 - most servers need nothing
        """Do what is missing until a server that runs can pass the check; safe to repeat."""

    def variables(self) -> Mapping[str, str]:
        """Return variables that this server needs beyond the common ones."""
        return {}

    @property
    def shown_address(self) -> str:
        """The address without its options, for people."""
        return self.address.partition("?")[0].rstrip("/")

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.settings.data / self.name

    @property
    def log(self) -> Path:
        """The log file."""
        return self.settings.logs / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """The file that names the main process."""
        return self.settings.run / f"{self.name}.pid"

    def main_process(self) -> psutil.Process | None:
        """Return the main process, if it runs."""
        return processes.main_process(self.pid_file, self.settings.home, self.name)

    def fingerprint(self) -> str:
        """Return a digest of what the server is started with; secrets are not part of it."""
        ports = [getattr(self.settings, name) for name in self.ports]
        started_with = [list(map(str, self.command())), dict(self.variables()), ports]
        return hashlib.sha256(json.dumps(started_with, sort_keys=True).encode()).hexdigest()

    def needs_start(self) -> bool:
        """Tell whether it does not run, or runs with other settings than it would start with."""
        process = self.main_process()
        if process is None:
            return True
        try:
            running_with = processes.environment_of(process).get(processes.FINGERPRINT_VARIABLE)
        except psutil.NoSuchProcess:
            return True
        return running_with != self.fingerprint()

    def all_processes(self) -> list[psutil.Process]:
        """Return every live process that belongs to this server, also strays of a killed one."""
        own = processes.marked(self.settings.home, self.name)
        return list({p.pid: p for p in (*own, *processes.descendants(own))}.values())

    def start(self) -> None:
        """Start the server, of which nothing may run; `stop` ends what a killed one left."""
        self.prepare()
        environment = {
            "PATH": SEARCH_PATH,
            "HOME": str(self.data),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            **self.variables(),
            **processes.marker(self.settings.home, self.name),
            processes.FINGERPRINT_VARIABLE: self.fingerprint(),
        }
        try:
            processes.launch(
                self.command(),
                environment=environment,
                directory=self.data,
                log=self.log,
                pid_file=self.pid_file,
            )
        except processes.LaunchError as error:
            raise ServerError(str(error)) from None

    def wait_ready(self) -> None:
        """Wait until the server answers and is settled.

        Raises:
            ServerError: it ended, or did not answer in time.

        """
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            try:
                self.check()
            except NotReadyError as error:
                reason = str(error)
            else:
                return
            self.settle()
            if self.main_process() is None:
                raise ServerError(
                    f"{self.title} ended while it started; the end of {self.log}:\n"
                    f"{tail(self.log, LOG_TAIL_LINES)}"
                )
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.title} runs but does not answer on {self.shown_address} after "
                    f"{self.start_timeout_s:.0f} s ({reason}); see {self.log}. "
                    "`make down` ends it."
                )
            self._pause()

    def wait_elsewhere(self) -> None:
        """Check a server that runs elsewhere.

        Raises:
            ServerError: it does not answer.

        """
        deadline = time.monotonic() + ELSEWHERE_TIMEOUT_S
        while True:
            try:
                self.check()
            except NotReadyError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{self.title} at {self.shown_address} does not answer: {error}."
                    ) from None
                self._pause()
            else:
                return

    def cancel(self) -> None:
        """Make a wait in another thread end with CancelledError."""
        self._cancelled.set()

    def _pause(self) -> None:
        if self._cancelled.wait(READY_POLL_INTERVAL_S):
            raise CancelledError

    def stop(self) -> None:
        """Stop every process of the server; one that does not end in time is killed.

        Raises:
            ServerError: a process is there even after that.

        """
        main = self.main_process()
        below = processes.descendants([main]) if main is not None else []
        if main is not None:
            processes.send([main], self.stop_signal)
            processes.wait_gone([main], self.stop_timeout_s)
        # What outlives the main process: helpers like epmd, and all of one that was killed.
        rest = {p.pid: p for p in (*below, *self.all_processes()) if processes.is_alive(p)}
        processes.send(rest.values(), signal.SIGTERM)
        alive = processes.wait_gone(rest.values(), processes.KILL_TIMEOUT_S)
        left = [*processes.kill(alive), *processes.kill_all(self.all_processes)]
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            raise ServerError(f"{self.title}: could not end the processes {pids}.")
        self.pid_file.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Tell whether the server answers right now."""
        try:
            self.check()
        except NotReadyError:
            return False
        return True

    def status(self) -> ServerStatus:
        """Return how the server is."""
        shown = self.shown_address
        if self.url_elsewhere:
            state = "elsewhere" if self.is_ready() else "not answering"
            return ServerStatus(name=self.name, state=state, address=shown)
        process = self.main_process()
        if process is None:
            return ServerStatus(name=self.name, state="stopped", address=shown)
        return ServerStatus(
            name=self.name,
            state="running" if self.is_ready() else "not answering",
            address=shown,
            pid=process.pid,
            since=process.create_time(),
            memory_bytes=processes.memory_bytes(process),
        )


def without_login(url: str) -> str:
    """Return `url` without its user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
