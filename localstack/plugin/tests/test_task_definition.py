from typing import Any

import pytest

from process_cloud.task_definition import (
    ContainerState,
    Health,
    InvalidTaskDefinitionError,
    Verdict,
    judge,
    parse,
)


def container(name: str, depends_on: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    conditions = [
        {"containerName": other, "condition": condition}
        for other, condition in (depends_on or {}).items()
    ]
    return {"name": name, "image": "s3://b/k.zip", "dependsOn": conditions, **more}


def verdict(condition: str, state: ContainerState, **more: Any) -> Verdict:
    first = container("first", essential=False, **more)
    definitions = parse([first, container("second", {"first": condition})])
    return judge(definitions[1], {"first": state, "second": ContainerState()})[0]


def test_containers_come_after_what_they_depend_on() -> None:
    definitions = parse(
        [
            container("app", {"migrate": "SUCCESS", "proxy": "START"}),
            container("migrate", {"proxy": "START"}, essential=False),
            container("proxy"),
        ]
    )
    assert [each.name for each in definitions] == ["proxy", "migrate", "app"]


@pytest.mark.parametrize(
    ("condition", "state", "expected"),
    [
        ("START", ContainerState(), Verdict.WAIT),
        ("START", ContainerState(started=True), Verdict.START),
        ("START", ContainerState(started=True, exit_code=1), Verdict.START),
        ("COMPLETE", ContainerState(started=True), Verdict.WAIT),
        ("COMPLETE", ContainerState(started=True, exit_code=3), Verdict.START),
        ("SUCCESS", ContainerState(started=True), Verdict.WAIT),
        ("SUCCESS", ContainerState(started=True, exit_code=0), Verdict.START),
        ("SUCCESS", ContainerState(started=True, exit_code=3), Verdict.NEVER),
    ],
)
def test_conditions(condition: str, state: ContainerState, expected: Verdict) -> None:
    assert verdict(condition, state) is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (ContainerState(started=True), Verdict.WAIT),
        (ContainerState(started=True, health=Health.UNHEALTHY), Verdict.WAIT),
        (ContainerState(started=True, health=Health.HEALTHY), Verdict.START),
        (ContainerState(started=True, exit_code=0, health=Health.HEALTHY), Verdict.NEVER),
    ],
)
def test_healthy(state: ContainerState, expected: Verdict) -> None:
    assert verdict("HEALTHY", state, healthCheck={"command": ["CMD", "true"]}) is expected


def test_a_never_says_why() -> None:
    definitions = parse(
        [container("migrate", essential=False), container("app", {"migrate": "SUCCESS"})]
    )
    states = {"migrate": ContainerState(started=True, exit_code=7), "app": ContainerState()}
    assert judge(definitions[1], states)[1] == (
        'container "migrate" ended with exit code 7, not SUCCESS'
    )


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([container("a", essential=False)], "at least one essential"),
        ([container("a", {"b": "START"}), container("b", {"a": "START"})], "circle"),
        ([container("a", {"b": "START"})], '"b", which does not exist'),
        ([container("a", {"b": "SUCCESS"}), container("b")], "essential"),
        ([container("a", {"b": "HEALTHY"}), container("b")], "no health check"),
        ([container("a", logConfiguration={"logDriver": "splunk"})], "splunk"),
    ],
)
def test_what_can_not_work_is_refused(containers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidTaskDefinitionError, match=message):
        parse(containers)


def test_defaults_are_those_of_ecs() -> None:
    (definition,) = parse([container("a", healthCheck={"command": ["CMD-SHELL", "exit 0"]})])
    assert definition.essential
    assert definition.stop_timeout_s == 30
    check = definition.health_check
    assert check is not None
    assert check.command == ("/bin/sh", "-c", "exit 0")
    assert (check.interval_s, check.timeout_s, check.retries, check.start_period_s) == (30, 5, 3, 0)
