"""The payment worker as a process of its own, as it is deployed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
START_LIMIT_S = 30
STOP_LIMIT_S = 20
EVENTUALLY_LIMIT_S = 45
POLL_INTERVAL_S = 0.05


def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait until `holds` is true; fail, saying `what` was waited for, if it never is."""
    deadline = time.monotonic() + EVENTUALLY_LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(POLL_INTERVAL_S)


@dataclass
class WorkerProcess:
    """`python -m payment.worker` with the given settings and a temporary directory of its own."""

    settings: dict[str, str]
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def forget_log(self) -> None:
        """Have the log begin here; a running worker goes on writing to it."""
        (self.directory / "log").write_text("")

    @property
    def times_consuming(self) -> int:
        """How often it has connected and begun to consume, as far as the log goes back."""
        log = self.directory / "log"
        return log.read_text().count('"consuming"') if log.exists() else 0

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "payment.worker"]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'layers' / 'common'}",
            "TMPDIR": str(self.directory),
            "STAGE": "test",
            "LOG_LEVEL": "INFO",
            "POWERTOOLS_SERVICE_NAME": "payment",
            **self.settings,
        }

    def start(self) -> None:
        """Start it and wait until it consumes."""
        before = self.times_consuming
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while self.times_consuming == before:
            assert self.is_running, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(POLL_INTERVAL_S)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tell_to_stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until it has ended; return its exit code."""
        assert self.process is not None
        return self.process.wait(STOP_LIMIT_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
