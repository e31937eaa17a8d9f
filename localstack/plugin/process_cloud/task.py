"""One ECS task: its containers from start to end."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from localstack.aws.connect import connect_to

from localstack import config
from process_cloud import secret_values, task_definition, task_environment
from process_cloud.container import Container, Launch
from process_cloud.host import Host
from process_cloud.images import ImageError
from process_cloud.interpreters import InterpreterMissingError
from process_cloud.logs import LogStream, LogTarget, create_group
from process_cloud.secret_values import SecretError
from process_cloud.spawner import SpawnError
from process_cloud.task_definition import (
    ContainerDefinition,
    Health,
    InvalidTaskDefinitionError,
    Verdict,
)

LOG = logging.getLogger(__name__)

FAILED_TO_START = "TaskFailedToStart"
ESSENTIAL_EXITED = "EssentialContainerExited"
SCHEDULER = "ServiceSchedulerInitiated"
BY_USER = "UserInitiated"
SETTLE_S = 2.0  # a task without health checks has to run for so long to count as steady


class TaskStartError(Exception):
    """The task can't be started; the message is its stopped reason."""


@dataclass(frozen=True)
class TaskRequest:
    """What a task is to run, and for whom.

    Attributes
    ----------
    definition : dict
        The task definition as DescribeTaskDefinition returns it.
    overrides : dict
        RunTask's `overrides`.
    """

    account_id: str
    region: str
    cluster_arn: str
    definition: dict[str, Any]
    group: str
    started_by: str = ""
    launch_type: str = "FARGATE"
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: list[dict[str, str]] = field(default_factory=list)

    @property
    def definition_arn(self) -> str:
        """Return the task definition's ARN."""
        return str(self.definition["taskDefinitionArn"])


class Task:
    """A task; `on_change` is called whenever its state may have changed."""

    def __init__(self, request: TaskRequest, host: Host, on_change: Callable[[], None]) -> None:
        self.request = request
        self.id = uuid.uuid4().hex
        self.arn = f"{request.cluster_arn.replace(':cluster/', ':task/')}/{self.id}"
        self.tags = list(request.tags)
        self.last_status = "PROVISIONING"
        self.stop_code = ""
        self.stopped_reason = ""
        self._host = host
        self._on_change = on_change
        self._containers: list[Container] = []
        self._wake = threading.Event()
        self._stop_requested = threading.Event()
        self._stop_lock = threading.Lock()
        self._stop_limit_s: float | None = None
        self._ended = threading.Event()
        self._times: dict[str, datetime] = {"createdAt": datetime.now(UTC)}
        self._thread = threading.Thread(target=self._run, name=f"task-{self.id[:8]}", daemon=True)

    # ---- what others ask of it

    @property
    def running(self) -> bool:
        """Return whether all containers have started and it is not being stopped."""
        return self.last_status == "RUNNING"

    @property
    def ended(self) -> bool:
        """Return whether nothing of it runs any more."""
        return self._ended.is_set()

    @property
    def stopping(self) -> bool:
        """Return whether it was told to stop, or has stopped."""
        return self._stop_requested.is_set()

    @property
    def health(self) -> Health:
        """Return the health of its essential containers that have a health check."""
        states = [
            each.state.health
            for each in self._containers
            if each.definition.essential and each.definition.health_check
        ]
        for health in (Health.UNHEALTHY, Health.UNKNOWN):
            if health in states:
                return health
        return Health.HEALTHY if states else Health.UNKNOWN

    @property
    def steady(self) -> bool:
        """Return whether it runs and is healthy, or without health checks has run for a while."""
        if not self.running:
            return False
        if any(each.definition.health_check for each in self._containers):
            return self.health is Health.HEALTHY
        return self.ran_s >= SETTLE_S

    @property
    def ran_s(self) -> float:
        """Return for how long it was RUNNING, in seconds."""
        if "startedAt" not in self._times:
            return 0
        until = self._times.get("stoppingAt") or datetime.now(UTC)
        return (until - self._times["startedAt"]).total_seconds()

    def start(self) -> None:
        """Begin to start the containers."""
        self._thread.start()

    def stop(self, code: str, reason: str, limit_s: float | None = None) -> None:
        """Ask the task to stop; `limit_s` bounds the containers' own stop time-outs."""
        with self._stop_lock:
            if not self._stop_requested.is_set():
                self.stop_code, self.stopped_reason = code, reason
                self._times["stoppingAt"] = datetime.now(UTC)
            self._stop_limit_s = limit_s
            self._stop_requested.set()
        self._wake.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""
        return self._ended.wait(timeout_s)

    def describe(self) -> dict[str, Any]:
        """Return the task as DescribeTasks shows it."""
        request = self.request
        described: dict[str, Any] = {
            "taskArn": self.arn,
            "clusterArn": request.cluster_arn,
            "taskDefinitionArn": request.definition_arn,
            "group": request.group,
            "launchType": request.launch_type,
            "desiredStatus": "STOPPED" if self.stopping else "RUNNING",
            "lastStatus": self.last_status,
            "healthStatus": self.health.value,
            "containers": [
                {"taskArn": self.arn, "containerArn": f"{self.arn}/{n}", **each.describe()}
                for n, each in enumerate(self._containers)
            ],
            "overrides": request.overrides,
            "attachments": [],
            "tags": self.tags,
            "version": 1,
            **self._times,
        }
        optional = {
            "startedBy": request.started_by,
            "stopCode": self.stop_code,
            "stoppedReason": self.stopped_reason,
            "cpu": request.definition.get("cpu"),
            "memory": request.definition.get("memory"),
        }
        described.update({name: value for name, value in optional.items() if value})
        return described

    # ---- its own thread

    def _run(self) -> None:
        try:
            self._containers = self._prepare()
            self._set_status("PENDING")
            self._supervise()
        except (
            ImageError,
            InterpreterMissingError,
            InvalidTaskDefinitionError,
            SecretError,
            SpawnError,
            TaskStartError,
        ) as error:
            self.stop(FAILED_TO_START, str(error))
        self._shut_down()

    def _supervise(self) -> None:
        while not self.stopping:
            self._wake.clear()
            self._start_ready()
            started = all(each.state.started for each in self._containers)
            if started and "startedAt" not in self._times:
                self._times["startedAt"] = datetime.now(UTC)
                self._set_status("RUNNING")
            self._check_ended()
            self._on_change()
            if not self.stopping:
                self._wake.wait()

    def _start_ready(self) -> None:
        for container in self._containers:
            states = {each.definition.name: each.state for each in self._containers}
            if states[container.definition.name].started:
                continue
            verdict, why = task_definition.judge(container.definition, states)
            if verdict is Verdict.NEVER:
                msg = f'container "{container.definition.name}" can not start: {why}'
                raise TaskStartError(msg)
            if verdict is Verdict.START:
                try:
                    container.start()
                except SpawnError as error:
                    container.reason = f"CannotStartContainerError: {error}"
                    raise TaskStartError(container.reason) from error

    def _check_ended(self) -> None:
        ended = [each for each in self._containers if each.state.exit_code is not None]
        for container in ended:
            if container.definition.essential:
                name, code = container.definition.name, container.state.exit_code
                reason = f'Essential container in task exited: "{name}" with exit code {code}'
                self.stop(ESSENTIAL_EXITED, reason)
                return

    def _shut_down(self) -> None:
        self._set_status("STOPPING")
        began = time.monotonic()
        while live := [each for each in self._containers if each.running]:
            needed = {name for each in live for name in each.definition.depends_on}
            last = [each for each in live if each.definition.name not in needed]
            for container in last:
                container.terminate()
            for container in last:
                container.finish(self._deadline(began, container.definition.stop_timeout_s))
        for container in self._containers:
            container.remove()
        self._times["stoppedAt"] = datetime.now(UTC)
        self._times.setdefault("stoppingAt", self._times["stoppedAt"])
        self._ended.set()
        self._set_status("STOPPED")

    def _deadline(self, began: float, stop_timeout_s: float) -> float:
        deadline = time.monotonic() + stop_timeout_s
        if self._stop_limit_s is not None:
            deadline = min(deadline, began + self._stop_limit_s)
        return deadline

    def _set_status(self, status: str) -> None:
        self.last_status = status
        self._on_change()

    # ---- preparations

    def _prepare(self) -> list[Container]:
        definitions = task_definition.parse(self.request.definition["containerDefinitions"])
        return [self._container(_overridden(each, self.request.overrides)) for each in definitions]

    def _container(self, definition: ContainerDefinition) -> Container:
        request = self.request
        clients = connect_to(aws_access_key_id=request.account_id, region_name=request.region)
        image = self._host.images.pull(definition.image, clients.s3)
        interpreter = self._host.interpreters.get(image.python)
        values = {
            name: secret_values.resolve(value_from, clients)
            for name, value_from in definition.secrets.items()
        }
        private = self._host.private_directory(f"{self.id}-{definition.name}")
        endpoint_url = f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}"
        environment = task_environment.build(
            image=image,
            interpreter=interpreter,
            private=private,
            platform=task_environment.platform(
                account_id=request.account_id, region=request.region, endpoint_url=endpoint_url
            ),
            own={**definition.environment, **values},
        )
        argv = image.argv(definition.entry_point, definition.command)
        if not argv:
            msg = f'CannotStartContainerError: container "{definition.name}" has no command'
            raise TaskStartError(msg)
        cwd = image.working_directory
        if definition.working_directory:
            cwd = image.root / definition.working_directory.lstrip("/")
        launch = Launch(argv, environment, cwd, private, self._log_stream(definition))
        return Container(definition, launch, self._host.spawner, self._wake.set)

    def _log_stream(self, definition: ContainerDefinition) -> LogStream | None:
        options = definition.log
        if options is None:
            return None
        prefix = options.prefix or "ecs"
        target = LogTarget(
            account_id=self.request.account_id,
            region=options.region or self.request.region,
            group=options.group,
            stream=f"{prefix}/{definition.name}/{self.id}",
        )
        try:
            client = target.client()
            if options.create_group:
                create_group(client, target.group)
            client.create_log_stream(logGroupName=target.group, logStreamName=target.stream)
        except (ClientError, BotoCoreError) as error:
            msg = f"ResourceInitializationError: log group {target.group}: {error}"
            raise TaskStartError(msg) from error
        return self._host.logs.stream(target)


def _overridden(definition: ContainerDefinition, overrides: dict[str, Any]) -> ContainerDefinition:
    for override in overrides.get("containerOverrides") or []:
        if override.get("name") == definition.name:
            added = {each["name"]: each["value"] for each in override.get("environment") or []}
            return replace(
                definition,
                command=override.get("command") or definition.command,
                environment={**definition.environment, **added},
            )
    return definition
