"""A task definition as the runner needs it, and the rules of `dependsOn`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from typing import Any

STOP_TIMEOUT_S = 30  # ECS's default


class InvalidTaskDefinitionError(Exception):
    """The task definition can't be run; the message says why."""


class Condition(Enum):
    """What a container waits for in another."""

    START = "START"
    COMPLETE = "COMPLETE"
    SUCCESS = "SUCCESS"
    HEALTHY = "HEALTHY"


class Health(Enum):
    """What the health check of a container says."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"


@dataclass(frozen=True)
class HealthCheck:
    """A container's health check; times in seconds."""

    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    retries: int
    start_period_s: float


@dataclass(frozen=True)
class LogOptions:
    """The awslogs options."""

    group: str
    region: str | None
    prefix: str
    create_group: bool


@dataclass(frozen=True)
class ContainerDefinition:
    """One container of a task."""

    name: str
    image: str
    essential: bool
    entry_point: list[str]
    command: list[str]
    working_directory: str | None
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    depends_on: Mapping[str, Condition]
    health_check: HealthCheck | None
    log: LogOptions | None
    stop_timeout_s: float


@dataclass(frozen=True)
class ContainerState:
    """What `dependsOn` looks at."""

    started: bool = False
    exit_code: int | None = None
    health: Health = Health.UNKNOWN


class Verdict(Enum):
    """Whether a container may start."""

    START = "start"
    WAIT = "wait"
    NEVER = "never"


def parse(containers: list[dict[str, Any]]) -> list[ContainerDefinition]:
    """Read `containerDefinitions`, in the order in which the containers start."""
    definitions = {raw["name"]: _container(raw) for raw in containers}
    _check(definitions)
    order = {name: set(each.depends_on) for name, each in definitions.items()}
    try:
        return [definitions[name] for name in TopologicalSorter(order).static_order()]
    except CycleError as error:
        msg = f"dependsOn goes round in a circle: {' > '.join(error.args[1])}"
        raise InvalidTaskDefinitionError(msg) from error


def judge(
    container: ContainerDefinition, states: Mapping[str, ContainerState]
) -> tuple[Verdict, str]:
    """Say whether a container may start; with NEVER comes the reason."""
    for name, condition in container.depends_on.items():
        verdict, why = _judge_one(name, condition, states[name])
        if verdict is not Verdict.START:
            return verdict, why
    return Verdict.START, ""


def _judge_one(name: str, condition: Condition, state: ContainerState) -> tuple[Verdict, str]:
    ended = state.exit_code is not None
    match condition:
        case Condition.START:
            met = state.started
        case Condition.COMPLETE:
            met = ended
        case Condition.SUCCESS:
            met = state.exit_code == 0
        case Condition.HEALTHY:
            met = not ended and state.health is Health.HEALTHY
    if met:
        return Verdict.START, ""
    if ended:
        why = f'container "{name}" ended with exit code {state.exit_code}, not {condition.value}'
        return Verdict.NEVER, why
    return Verdict.WAIT, ""


def _check(definitions: Mapping[str, ContainerDefinition]) -> None:
    if not any(each.essential for each in definitions.values()):
        msg = "A task definition must have at least one essential container."
        raise InvalidTaskDefinitionError(msg)
    for container in definitions.values():
        for name, condition in container.depends_on.items():
            needed = definitions.get(name)
            if needed is None:
                msg = f'container "{container.name}" depends on "{name}", which does not exist'
                raise InvalidTaskDefinitionError(msg)
            if needed.essential and condition in {Condition.COMPLETE, Condition.SUCCESS}:
                msg = f'container "{name}" is essential, so none can wait for its {condition.value}'
                raise InvalidTaskDefinitionError(msg)
            if needed.health_check is None and condition is Condition.HEALTHY:
                msg = f'container "{name}" has no health check, so none can wait for its HEALTHY'
                raise InvalidTaskDefinitionError(msg)


def _container(raw: dict[str, Any]) -> ContainerDefinition:
    return ContainerDefinition(
        name=raw["name"],
        image=raw.get("image", ""),
        essential=raw.get("essential", True),
        entry_point=raw.get("entryPoint") or [],
        command=raw.get("command") or [],
        working_directory=raw.get("workingDirectory"),
        environment={each["name"]: each["value"] for each in raw.get("environment") or []},
        secrets={each["name"]: each["valueFrom"] for each in raw.get("secrets") or []},
        depends_on={
            each["containerName"]: Condition(each["condition"])
            for each in raw.get("dependsOn") or []
        },
        health_check=_health_check(raw.get("healthCheck")),
        log=_log_options(raw.get("logConfiguration")),
        stop_timeout_s=float(raw.get("stopTimeout") or STOP_TIMEOUT_S),
    )


def _health_check(raw: dict[str, Any] | None) -> HealthCheck | None:
    if not raw or not raw.get("command") or raw["command"][0] == "NONE":
        return None
    kind, *command = raw["command"]
    if kind == "CMD-SHELL":
        command = ["/bin/sh", "-c", *command]
    elif kind != "CMD":
        command = [kind, *command]
    return HealthCheck(
        command=tuple(command),
        interval_s=float(raw.get("interval") or 30),
        timeout_s=float(raw.get("timeout") or 5),
        retries=int(raw.get("retries") or 3),
        start_period_s=float(raw.get("startPeriod") or 0),
    )


def _log_options(raw: dict[str, Any] | None) -> LogOptions | None:
    if not raw:
        return None
    if raw.get("logDriver") != "awslogs":
        msg = f"log driver {raw.get('logDriver')} is not supported: use awslogs"
        raise InvalidTaskDefinitionError(msg)
    options = raw.get("options") or {}
    return LogOptions(
        group=options["awslogs-group"],
        region=options.get("awslogs-region"),
        prefix=options.get("awslogs-stream-prefix", ""),
        create_group=options.get("awslogs-create-group", "false").lower() == "true",
    )
