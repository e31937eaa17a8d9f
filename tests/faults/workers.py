"""Payment workers that die as they are told, and what a worker is started with."""

import select
import subprocess
import sys
from pathlib import Path

from tests.integration.booking_task import CREDENTIALS, ROOT, BookingTask
from tests.integration.servers import PASSWORD


def worker_environment(task: BookingTask, directory: Path) -> dict[str, str]:
    """Return what a worker needs that uses the same servers as `task`, and `task` itself."""
    return {
        **{name: task.environment[name] for name in ("PATH", *_SAME)},
        "PYTHONPATH": f"{ROOT}:{ROOT}/functions:{ROOT}/layers/common",
        "PYTHONDONTWRITEBYTECODE": "1",
        "POWERTOOLS_SERVICE_NAME": "payment",
        "TMPDIR": str(directory),
        "POSTGRES_USERNAME": "payment",
        "POSTGRES_PASSWORD": PASSWORD,
        "BOOKING_ENDPOINT": task.address,
        "BOOKING_CALLER_CREDENTIAL": CREDENTIALS["payment"],
    }


_SAME = ("POSTGRES_URL", "RABBITMQ_URL", "RABBITMQ_USERNAME", "RABBITMQ_PASSWORD")


class Workers:
    """Starts workers that die as told, one after the other."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.doomed_worker"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, where: int | str, flaw: str = "") -> None:
        """Start one that dies at a point (0: never), or right before a method."""
        self._say(f"{where} {flaw}")
        assert self._hear() == "started"

    def end(self, wait_s: float, otherwise: str) -> str:
        """Wait until it died, and else tell it to "stop" or to be "kill"ed; say how it ended."""
        assert self._process.stdout is not None
        died, _, _ = select.select([self._process.stdout], [], [], wait_s)
        if died:
            return self._hear()
        self._say(otherwise)
        return "idle " + self._hear()

    def close(self) -> None:
        """End everything."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
