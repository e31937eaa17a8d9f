"""One container of a task: a process, its log stream, its health."""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from process_cloud.logs import LogStream
from process_cloud.spawner import Process, Spawner, SpawnError
from process_cloud.task_definition import ContainerDefinition, ContainerState, Health, HealthCheck

LOG = logging.getLogger(__name__)

START_INTERVAL_S = 1.0  # between health checks while a container is in its start period
KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Launch:
    """All that a container needs to start."""

    argv: list[str]
    environment: Mapping[str, str]
    cwd: Path
    private: Path
    log: LogStream | None


class Container:
    """A container; `on_change` is called whenever its state may have changed."""

    def __init__(
        self,
        definition: ContainerDefinition,
        launch: Launch,
        spawner: Spawner,
        on_change: Callable[[], None],
    ) -> None:
        self.definition = definition
        self.reason = ""
        self._launch = launch
        self._spawner = spawner
        self._on_change = on_change
        self._process: Process | None = None
        self._health = Health.UNKNOWN
        self._ended = threading.Event()
        self._started_at: datetime | None = None

    @property
    def state(self) -> ContainerState:
        """Return what decides about this container and those that depend on it."""
        exit_code = None
        if self._ended.is_set() and self._process and self._process.returncode is not None:
            status = self._process.returncode
            exit_code = status if status >= 0 else 128 - status  # as a shell and Docker say it
        return ContainerState(self._process is not None, exit_code, self._health)

    @property
    def running(self) -> bool:
        """Return whether its process runs."""
        return self._process is not None and not self._ended.is_set()

    def start(self) -> None:
        """Start the process; raise SpawnError."""
        sink = self._launch.log.write if self._launch.log else _discard
        self._process = self._spawner.spawn(
            self._launch.argv,
            environment=self._launch.environment,
            cwd=self._launch.cwd,
            sink=sink,
            on_exit=self._exited,
        )
        self._started_at = datetime.now(UTC)
        if check := self.definition.health_check:
            name = f"health-{self.definition.name}"
            threading.Thread(
                target=self._watch_health, args=(check,), name=name, daemon=True
            ).start()

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.running and self._process:
            self._process.signal_group(signal.SIGTERM)

    def finish(self, deadline: float) -> None:
        """Wait until `deadline` (time.monotonic) for the end, then force it."""
        if not self.running or not self._process:
            return
        if self._ended.wait(max(deadline - time.monotonic(), 0)):
            return
        self.reason = "SIGKILL after the stop time-out"
        self._process.signal_group(signal.SIGKILL)
        if not self._ended.wait(KILL_TIMEOUT_S):
            LOG.error("Process %d does not end", self._process.pid)

    def remove(self) -> None:
        """Remove what the process left behind."""
        shutil.rmtree(self._launch.private, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Return the container as DescribeTasks shows it."""
        state = self.state
        status = "RUNNING" if self.running else "STOPPED" if state.started else "PENDING"
        described: dict[str, Any] = {
            "name": self.definition.name,
            "image": self.definition.image,
            "lastStatus": status,
            "healthStatus": state.health.value,
            "networkInterfaces": [],
        }
        if self._process:
            described["runtimeId"] = str(self._process.pid)
        if state.exit_code is not None:
            described["exitCode"] = state.exit_code
        if self.reason:
            described["reason"] = self.reason
        return described

    def _exited(self) -> None:
        if self._launch.log:
            self._launch.log.close()
        self._ended.set()
        self._on_change()

    def _watch_health(self, check: HealthCheck) -> None:
        graceful_until = time.monotonic() + check.start_period_s
        failures = 0
        while True:
            graceful = self._health is Health.UNKNOWN and time.monotonic() < graceful_until
            interval_s = min(check.interval_s, START_INTERVAL_S) if graceful else check.interval_s
            if self._ended.wait(interval_s):
                return
            if self._is_healthy(check):
                failures = 0
                self._set_health(Health.HEALTHY)
            elif not graceful:
                failures += 1
                if failures >= check.retries:
                    self._set_health(Health.UNHEALTHY)

    def _is_healthy(self, check: HealthCheck) -> bool:
        try:
            process = self._spawner.spawn(
                check.command,
                environment=self._launch.environment,
                cwd=self._launch.cwd,
                sink=_discard,
            )
        except SpawnError as error:
            LOG.warning("Health check of %s: %s", self.definition.name, error)
            return False
        if not process.wait(check.timeout_s):
            process.signal_group(signal.SIGKILL)
            process.wait(KILL_TIMEOUT_S)
            return False
        return process.returncode == 0

    def _set_health(self, health: Health) -> None:
        if health is not self._health:
            self._health = health
            self._on_change()


def _discard(_lines: list[str]) -> None:
    """Drop the lines of a process that has no log configuration."""
