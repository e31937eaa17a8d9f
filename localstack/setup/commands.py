"""Child programs of the set-up: output into a log file, ended together when the user stops."""

import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from supervisor.tail import tail

LOG_TAIL_LINES = 20

# What would lead a child to another environment than the one it is told to make.
_FOREIGN_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "VIRTUAL_ENV",
    "MAKEFLAGS",
    "MAKELEVEL",
)

_MORTAL = ("setpriv", "--pdeathsig=KILL", "--")


class CommandError(Exception):
    """A child program failed; the message holds the end of what it said."""


class Stopped(Exception):  # noqa: N818 - not an error: the user stopped the set-up
    """The set-up is being stopped, so nothing new is started."""


class Commands:
    """Runs child programs from several threads until `stop`, which ends those that run."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self,
        step: str,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        survives: bool = False,
    ) -> None:
        """Run `command` to its end, its output appended to the log of `step`.

        It dies with the set-up, however that ends, so that it never writes into what the next run
        makes. One that `survives`, because cutting it off does harm, ends by itself.

        Raises:
            CommandError: it failed.
            Stopped: `stop` was called.

        """
        log = self.log_path(step)
        with log.open("ab") as output:
            output.write(f"$ {' '.join(map(str, command))}\n".encode())
            output.flush()
            child = self._start(command if survives else [*_MORTAL, *command], output.fileno(), cwd)
            code = child.wait()
        with self._lock:
            self._running.discard(child)
            if self._stopped:
                raise Stopped
        if code != 0:
            raise CommandError(
                f"{Path(command[0]).name} failed (exit {code}), see {log}:\n"
                f"{tail(log, LOG_TAIL_LINES)}"
            )

    def log_path(self, step: str) -> Path:
        """Return the log file of `step`."""
        return self._log_directory / f"setup-{step}.log"

    def stop(self) -> None:
        """Ask every running child to end, and start no other."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()

    def _start(
        self,
        command: Sequence[str | Path],
        output: int,
        cwd: Path | None,
    ) -> subprocess.Popen[bytes]:
        inherited = {k: v for k, v in os.environ.items() if k not in _FOREIGN_VARIABLES}
        with self._lock:
            if self._stopped:
                raise Stopped
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=inherited,
            )
            self._running.add(child)
        return child
