"""Starts processes that never outlive LocalStack.

Every process leads a session of its own, gets SIGKILL from the kernel when LocalStack's spawning
thread ends (PR_SET_PDEATHSIG is bound to the *thread* that forks, so one thread does it and lives
as long as LocalStack), and is known to the reaper, which ends its grandchildren.
"""

import logging
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from process_cloud import reaper

LOG = logging.getLogger(__name__)

READ_SIZE_BYTES = 65_536
LINE_LIMIT_BYTES = 131_072  # a longer line is cut into several
SPAWN_TIMEOUT_S = 30
DRAIN_AFTER_EXIT_S = 2.0  # a grandchild that escaped may hold the pipe open

Sink = Callable[[list[str]], None]


class SpawnError(Exception):
    """The process could not be started; the message says why."""


class Process:
    """A running process, its group, and its output.

    Standard output and error go, line by line, to `sink`, which may block to slow the process.
    """

    def __init__(self, popen: subprocess.Popen[bytes], output: IO[bytes], sink: Sink) -> None:
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self.exited = threading.Event()
        self._popen = popen
        self._output = output
        self._sink = sink
        self._partial = b""
        self._output_lock = threading.Lock()
        self._signal_lock = threading.Lock()
        os.set_blocking(self._output.fileno(), False)

    def __del__(self) -> None:
        if pidfd := getattr(self, "pidfd", None):
            os.close(pidfd)

    @property
    def returncode(self) -> int | None:
        """Return the exit status (negative: the signal), or None while it runs."""
        return self._popen.returncode

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended and all its output was delivered; return whether it has."""
        return self.exited.wait(timeout_s)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and those it started in its group."""
        with self._signal_lock:
            if self._popen.returncode is None:
                os.killpg(self.pid, number)

    def drain(self) -> bool:
        """Deliver the output written so far; return False at its end."""
        with self._output_lock:
            while not self._output.closed:
                try:
                    data = os.read(self._output.fileno(), READ_SIZE_BYTES)
                except BlockingIOError:
                    return True
                if not data:
                    return False
                self._deliver(data)
            return False

    def watch(self) -> None:
        """Deliver output until the process ends; then end what it left in its session."""
        open_output = self._pump_until_exit()
        # The leader is not reaped yet, so its session's id can't have been given to anybody else.
        reaper.kill_sessions({self.pid})
        with self._signal_lock:
            self._popen.wait()
        poller = _poller(self._output.fileno())
        while open_output and poller.poll(DRAIN_AFTER_EXIT_S * 1000):
            open_output = self.drain()
        with self._output_lock:
            if self._partial:
                self._sink([_text(self._partial)])
            self._output.close()
        self.exited.set()

    def _pump_until_exit(self) -> bool:
        output_fd = self._output.fileno()
        poller = _poller(output_fd, self.pidfd)
        open_output = True
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if output_fd in ready and not self.drain():
                open_output = False
                poller.unregister(output_fd)
            if self.pidfd in ready:
                return open_output

    def _deliver(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_LIMIT_BYTES:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            self._sink([_text(line) for line in lines])


class Spawner:
    """Starts processes from one thread that lives as long as LocalStack.

    Parameters
    ----------
    directory : Path
        Working directory of everything started; the reaper removes it at the end.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._requests: SimpleQueue[tuple[Callable[[], Process], Future[Process]]] = SimpleQueue()
        self._live: set[int] = set()
        self._lock = threading.Lock()
        self._reaper_fd = _start_reaper(directory)
        threading.Thread(target=self._serve, name="process-spawner", daemon=True).start()

    def spawn(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        sink: Sink,
        on_exit: Callable[[], None] | None = None,
    ) -> Process:
        """Start `argv` with exactly `environment`; raise SpawnError.

        The program is looked up on the environment's own PATH. `on_exit` is called once the
        process has ended and its output was delivered.
        """
        program = shutil.which(argv[0], path=environment.get("PATH", os.defpath))
        if program is None:
            msg = f'exec: "{argv[0]}": executable file not found in PATH'
            raise SpawnError(msg)
        if not cwd.is_dir():
            msg = f"working directory {cwd} does not exist"
            raise SpawnError(msg)
        future: Future[Process] = Future()

        def start() -> Process:
            read_fd, write_fd = os.pipe()
            output = os.fdopen(read_fd, "rb", buffering=0)
            try:
                popen = subprocess.Popen(
                    [_SETPRIV, "--pdeathsig", "KILL", "--", program, *argv[1:]],
                    env=dict(environment),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=write_fd,
                    stderr=write_fd,
                    start_new_session=True,
                )
            except OSError:
                output.close()
                raise
            finally:
                os.close(write_fd)
            return Process(popen, output, sink)

        self._requests.put((start, future))
        process = future.result(SPAWN_TIMEOUT_S)
        threading.Thread(
            target=self._watch,
            args=(process, on_exit),
            name=f"process-{process.pid}",
            daemon=True,
        ).start()
        return process

    def _watch(self, process: Process, on_exit: Callable[[], None] | None) -> None:
        process.watch()
        with self._lock:
            self._live.discard(process.pid)
            self._tell(f"end {process.pid}\n")
        if on_exit:
            on_exit()

    def _serve(self) -> None:
        while True:
            start, future = self._requests.get()
            try:
                process = start()
            except OSError as error:
                future.set_exception(SpawnError(str(error)))
                continue
            with self._lock:
                self._live.add(process.pid)
                self._tell(f"start {process.pid}\n")
            future.set_result(process)

    def _tell(self, line: str) -> None:
        """Tell the reaper; a reaper that was killed is replaced and told everything again."""
        try:
            os.write(self._reaper_fd, line.encode())
        except BrokenPipeError:
            LOG.warning("The reaper of local processes is gone: starting another")
            os.close(self._reaper_fd)
            self._reaper_fd = _start_reaper(self.directory)
            os.write(self._reaper_fd, "".join(f"start {pid}\n" for pid in self._live).encode())


def _start_reaper(directory: Path) -> int:
    """Start a reaper; return the pipe to tell it what lives, which nobody else holds open."""
    read_fd, write_fd = os.pipe()
    subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, str(directory)],
        stdin=read_fd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_fd)
    return write_fd


def _poller(*fds: int) -> select.poll:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


_SETPRIV = shutil.which("setpriv") or "/usr/bin/setpriv"
