import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from local_cloud import LocalCloud, wait_until

# One program for all tests: does what its argument says.
PROGRAM = """
import json, os, signal, sys, time
what, *rest = sys.argv[1:]
def stop(*_):
    print("asked to stop", flush=True)
    sys.exit(0)
handlers = {"serve": stop, "stubborn": signal.SIG_IGN}
signal.signal(signal.SIGTERM, handlers.get(what, signal.SIG_DFL))
print(what, "started as", os.getpid(), flush=True)  # from here on it is ready to be stopped
if what in handlers:
    time.sleep(3600)
elif what == "environment":
    print(json.dumps(dict(os.environ)))
    print("to stderr", file=sys.stderr)
elif what == "exit":
    time.sleep(float(rest[1]) if len(rest) > 1 else 0)
    sys.exit(int(rest[0]))
elif what == "touch":
    time.sleep(0.5)
    open(rest[0], "w").close()
elif what == "needs":
    assert os.path.exists(rest[0]), "started too early"
    time.sleep(3600)
"""

LOGS = {
    "logDriver": "awslogs",
    "options": {
        "awslogs-group": "/ecs/test",
        "awslogs-region": "us-east-1",
        "awslogs-stream-prefix": "test",
        "awslogs-create-group": "true",
    },
}


class Ecs:
    """What the tests do with ECS, briefly."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.client = cloud.client("ecs")
        self.image = cloud.put_image(
            "program.zip",
            {"app/program/__init__.py": "", "app/program/__main__.py": PROGRAM},
            working_dir="app",
            env={"PYTHONPATH": "app", "OF_THE_IMAGE": "1"},
            entrypoint=["python", "-m", "program"],
            command=["serve"],
        )

    def container(self, name: str, *command: str, **settings: Any) -> dict[str, Any]:
        return {
            "name": name,
            "image": self.image,
            "command": list(command),
            "logConfiguration": LOGS,
            **settings,
        }

    def define(self, family: str, *containers: dict[str, Any]) -> str:
        answer = self.client.register_task_definition(
            family=family,
            containerDefinitions=list(containers),
            requiresCompatibilities=["FARGATE"],
            cpu="256",
            memory="512",
        )
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def run(self, family: str, *containers: dict[str, Any], **settings: Any) -> str:
        definition = self.define(family, *containers)
        answer = self.client.run_task(cluster="test", taskDefinition=definition, **settings)
        return str(answer["tasks"][0]["taskArn"])

    def task(self, arn: str) -> dict[str, Any]:
        answer = self.client.describe_tasks(cluster="test", tasks=[arn])
        task: dict[str, Any] = answer["tasks"][0]
        return task

    def stopped(self, arn: str, timeout_s: float = 20) -> dict[str, Any]:
        wait_until(lambda: self.task(arn)["lastStatus"] == "STOPPED", timeout_s, "STOPPED")
        return self.task(arn)

    def running(self, arn: str) -> dict[str, Any]:
        wait_until(lambda: self.task(arn)["lastStatus"] == "RUNNING", what="RUNNING")
        return self.task(arn)

    def create(self, name: str, *containers: dict[str, Any], desired: int = 1, **more: Any) -> None:
        definition = self.define(name, *containers)
        self.client.create_service(
            cluster="test",
            serviceName=name,
            taskDefinition=definition,
            desiredCount=desired,
            **more,
        )

    def steady(self, name: str) -> dict[str, Any]:
        def is_steady() -> bool:
            (primary, *older) = self.cloud.services(name)["deployments"]
            return primary["rolloutState"] == "COMPLETED" and not older

        wait_until(is_steady, 30, f"{name} is steady")
        return self.cloud.services(name)

    def pids(self, name: str) -> list[int]:
        tasks = self.cloud.tasks(serviceName=name)
        return [int(c["runtimeId"]) for t in tasks for c in t["containers"] if "runtimeId" in c]

    def lines(self, arn: str, container: str, count: int = 1) -> list[str]:
        """Return a container's lines once there are `count`: they are shipped in batches."""
        return [event["message"] for event in self.events(arn, container, count)]

    def events(self, arn: str, container: str, count: int = 1) -> list[dict[str, Any]]:
        stream = f"test/{container}/{arn.rpartition('/')[2]}"

        def shipped() -> list[dict[str, Any]]:
            events: list[dict[str, Any]] = self.cloud.client("logs").get_log_events(
                logGroupName="/ecs/test", logStreamName=stream, startFromHead=True
            )["events"]
            return events if len(events) >= count else []

        return wait_until(shipped, what=f"{count} lines of {container}")


@pytest.fixture(scope="module")
def ecs(cloud: LocalCloud) -> Iterator[Ecs]:
    running = Ecs(cloud)
    yield running
    for arn in running.client.list_services(cluster="test")["serviceArns"]:
        # One that a test deleted is listed while it drains, and may be gone by now.
        with contextlib.suppress(running.client.exceptions.ServiceNotFoundException):
            running.client.delete_service(cluster="test", service=arn, force=True)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# ---- tasks of their own


def test_a_task_runs_and_its_exit_code_is_told(ecs: Ecs) -> None:
    arn = ecs.run("once", ecs.container("main", "exit", "3"))
    task = ecs.stopped(arn)
    assert task["containers"][0]["exitCode"] == 3
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["stoppedReason"].startswith("Essential container in task exited")
    assert ecs.lines(arn, "main")[0].startswith("exit started as")


def test_a_container_sees_only_what_it_was_given(ecs: Ecs) -> None:
    environment = [{"name": "OWN", "value": "1"}]
    arn = ecs.run("clean", ecs.container("main", "environment", environment=environment))
    ecs.stopped(arn)
    _, seen, last = ecs.lines(arn, "main", 3)
    assert last == "to stderr"
    variables = json.loads(seen)
    assert "CANARY_OF_THE_HOST" not in variables
    assert (variables["OWN"], variables["OF_THE_IMAGE"]) == ("1", "1")
    assert variables["AWS_ENDPOINT_URL"] == ecs.cloud.url
    allowed = {"HOME", "LANG", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "TMPDIR"}
    rest = {name for name in variables if not name.startswith("AWS_")}
    assert rest <= allowed | {"OWN", "OF_THE_IMAGE", "LC_CTYPE"}
    assert not Path(variables["HOME"]).exists()


def test_overrides_of_a_run(ecs: Ecs) -> None:
    overrides = {
        "containerOverrides": [
            {
                "name": "main",
                "command": ["environment"],
                "environment": [{"name": "X", "value": "y"}],
            }
        ]
    }
    arn = ecs.run("override", ecs.container("main", "serve"), overrides=overrides)
    ecs.stopped(arn)
    assert json.loads(ecs.lines(arn, "main", 2)[1])["X"] == "y"


def test_secrets_and_parameters_become_variables(ecs: Ecs) -> None:
    secrets = ecs.cloud.client("secretsmanager")
    arn = secrets.create_secret(Name="db", SecretString='{"password": "s3cret"}')["ARN"]
    ecs.cloud.client("ssm").put_parameter(Name="/app/url", Value="u", Type="String")
    values = {"PASSWORD": f"{arn}:password::", "URL": "/app/url"}
    references = [{"name": name, "valueFrom": value} for name, value in values.items()]
    task = ecs.run("secret", ecs.container("main", "environment", secrets=references))
    ecs.stopped(task)
    variables = json.loads(ecs.lines(task, "main", 2)[1])
    assert (variables["PASSWORD"], variables["URL"]) == ("s3cret", "u")


def test_a_missing_secret_stops_the_task_and_says_which(ecs: Ecs) -> None:
    references = [{"name": "PASSWORD", "valueFrom": "no/such/secret"}]
    task = ecs.stopped(ecs.run("nosecret", ecs.container("main", "serve", secrets=references)))
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith("ResourceInitializationError")
    assert "no/such/secret" in task["stoppedReason"]


def test_a_missing_image_stops_the_task(ecs: Ecs) -> None:
    arn = ecs.run("noimage", ecs.container("main", image="s3://images/none.zip"))
    assert ecs.stopped(arn)["stoppedReason"].startswith("CannotPullContainerError: s3://images")


def test_a_missing_log_group_stops_the_task(ecs: Ecs) -> None:
    options = {**LOGS["options"], "awslogs-group": "/none", "awslogs-create-group": "false"}
    configuration = {"logDriver": "awslogs", "options": options}
    arn = ecs.run("nogroup", ecs.container("main", "serve", logConfiguration=configuration))
    reason = ecs.stopped(arn)["stoppedReason"]
    assert reason.startswith("ResourceInitializationError: log group /none")


def test_a_command_that_does_not_exist_stops_the_task(ecs: Ecs) -> None:
    arn = ecs.run("nocommand", ecs.container("main", entryPoint=["no-such-program"]))
    assert "CannotStartContainerError" in ecs.stopped(arn)["stoppedReason"]


def test_init_containers_finish_before_the_others_start(ecs: Ecs, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    depends_on = [{"containerName": "init", "condition": "SUCCESS"}]
    arn = ecs.run(
        "initialised",
        ecs.container("main", "needs", mark, dependsOn=depends_on),
        ecs.container("init", "touch", mark, essential=False),
    )
    task = ecs.running(arn)
    states = {each["name"]: each["lastStatus"] for each in task["containers"]}
    assert states == {"init": "STOPPED", "main": "RUNNING"}
    ecs.client.stop_task(cluster="test", task=arn)
    ecs.stopped(arn)


def test_a_failing_init_container_stops_the_task_and_says_so(ecs: Ecs) -> None:
    depends_on = [{"containerName": "init", "condition": "SUCCESS"}]
    arn = ecs.run(
        "badinit",
        ecs.container("main", "serve", dependsOn=depends_on),
        ecs.container("init", "exit", "5", essential=False),
    )
    task = ecs.stopped(arn)
    assert task["stopCode"] == "TaskFailedToStart"
    assert 'container "init" ended with exit code 5' in task["stoppedReason"]
    assert {each["name"]: each.get("exitCode") for each in task["containers"]} == {
        "init": 5,
        "main": None,
    }


def test_stopping_asks_first_and_loses_no_log_line(ecs: Ecs) -> None:
    arn = ecs.run("polite", ecs.container("main", "serve"))
    ecs.running(arn)
    wait_until(lambda: ecs.lines(arn, "main"), what="the program has started")
    ecs.client.stop_task(cluster="test", task=arn, reason="enough")
    task = ecs.stopped(arn)
    assert task["containers"][0]["exitCode"] == 0
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough")
    assert ecs.lines(arn, "main", 2)[-1] == "asked to stop"


def test_whoever_does_not_stop_in_time_is_killed(ecs: Ecs) -> None:
    arn = ecs.run("stubborn", ecs.container("main", "stubborn", stopTimeout=2))
    ecs.running(arn)
    wait_until(lambda: ecs.lines(arn, "main"), what="the program has started")
    began = time.monotonic()
    ecs.client.stop_task(cluster="test", task=arn)
    task = ecs.stopped(arn)
    assert time.monotonic() - began >= 2
    assert task["containers"][0]["exitCode"] == 128 + signal.SIGKILL


def test_what_can_not_be_run_is_not_registered(ecs: Ecs) -> None:
    with pytest.raises(ClientError, match="at least one essential"):
        ecs.define("nothing", ecs.container("main", essential=False))


# ---- services


def test_a_service_starts_scales_and_ends(ecs: Ecs) -> None:
    ecs.create("scaled", ecs.container("main", "serve"), desired=2)
    service = ecs.steady("scaled")
    assert (service["runningCount"], service["pendingCount"], service["desiredCount"]) == (2, 0, 2)
    pids = ecs.pids("scaled")
    assert len(pids) == 2
    assert all(map(alive, pids))
    cluster = ecs.client.describe_clusters(clusters=["test"])["clusters"][0]
    assert cluster["activeServicesCount"] >= 1
    assert cluster["runningTasksCount"] >= 2
    ecs.client.update_service(cluster="test", service="scaled", desiredCount=1)
    wait_until(lambda: len(ecs.pids("scaled")) == 1, what="scaled down")
    assert ecs.steady("scaled")["runningCount"] == 1
    ecs.client.update_service(cluster="test", service="scaled", desiredCount=3)
    wait_until(lambda: len(ecs.pids("scaled")) == 3, what="scaled up")
    pids = ecs.pids("scaled")
    ecs.client.delete_service(cluster="test", service="scaled", force=True)
    wait_until(lambda: ecs.cloud.services("scaled")["status"] == "INACTIVE", what="INACTIVE")
    assert not any(map(alive, pids))


def test_a_killed_task_is_replaced(ecs: Ecs) -> None:
    ecs.create("mortal", ecs.container("main", "serve"))
    ecs.steady("mortal")
    (pid,) = ecs.pids("mortal")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ecs.pids("mortal") not in ([], [pid]), 15, "another task runs")
    ecs.steady("mortal")
    events = [event["message"] for event in ecs.cloud.services("mortal")["events"]]
    assert any('"main" with exit code 137' in message for message in events)
    ecs.client.delete_service(cluster="test", service="mortal", force=True)


def test_tasks_that_keep_dying_are_started_ever_more_slowly(ecs: Ecs) -> None:
    ecs.create("dying", ecs.container("main", "exit", "1"))
    wait_until(
        lambda: ecs.cloud.services("dying")["deployments"][0]["failedTasks"] >= 3, 20, "3 failures"
    )
    events = ecs.cloud.services("dying")["events"]
    started = sorted(e["createdAt"] for e in events if "has started" in e["message"])
    delays = [(b - a).total_seconds() for a, b in pairwise(started)]
    assert delays[1] >= 1
    ecs.client.delete_service(cluster="test", service="dying", force=True)


def test_an_update_starts_the_new_task_before_it_stops_the_old(ecs: Ecs) -> None:
    ecs.create("updated", ecs.container("main", "serve"))
    ecs.steady("updated")
    (old,) = ecs.pids("updated")
    definition = ecs.define("updated", ecs.container("main", "serve", environment=[]))
    ecs.client.update_service(cluster="test", service="updated", taskDefinition=definition)
    seen = set()

    def replaced() -> bool:
        pids = tuple(ecs.pids("updated"))
        seen.add(len([pid for pid in pids if alive(pid)]))
        return bool(pids) and old not in pids

    wait_until(replaced, 20, "the old task is replaced")
    assert 0 not in seen
    service = ecs.steady("updated")
    assert service["taskDefinition"] == definition
    wait_until(lambda: not alive(old), what="the old process has ended")
    (new,) = ecs.pids("updated")
    ecs.client.update_service(cluster="test", service="updated", forceNewDeployment=True)
    wait_until(lambda: ecs.pids("updated") not in ([], [new]) and not alive(new), what="forced")
    ecs.client.delete_service(cluster="test", service="updated", force=True)


def test_an_update_that_never_runs_keeps_the_old_task(ecs: Ecs) -> None:
    ecs.create("kept", ecs.container("main", "serve"))
    ecs.steady("kept")
    (old,) = ecs.pids("kept")
    definition = ecs.define("kept", ecs.container("main", image="s3://images/none.zip"))
    ecs.client.update_service(cluster="test", service="kept", taskDefinition=definition)
    wait_until(lambda: ecs.cloud.services("kept")["deployments"][0]["failedTasks"] >= 2, 15)
    assert alive(old)
    assert ecs.cloud.services("kept")["runningCount"] == 1
    ecs.client.delete_service(cluster="test", service="kept", force=True)


def test_the_circuit_breaker_goes_back_to_what_worked(ecs: Ecs) -> None:
    breaker = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}
    ecs.create("broken", ecs.container("main", "serve"), deploymentConfiguration=breaker)
    good = ecs.steady("broken")["taskDefinition"]
    definition = ecs.define("broken", ecs.container("main", image="s3://images/none.zip"))
    ecs.client.update_service(cluster="test", service="broken", taskDefinition=definition)
    wait_until(lambda: ecs.cloud.services("broken")["taskDefinition"] == good, 20, "rolled back")
    assert ecs.steady("broken")["runningCount"] == 1
    ecs.client.delete_service(cluster="test", service="broken", force=True)


def test_an_unhealthy_task_is_replaced_and_a_healthy_one_is_waited_for(
    ecs: Ecs, tmp_path: Path
) -> None:
    mark = tmp_path / "healthy"
    check = {"command": ["CMD-SHELL", f"test -e {mark}"], "interval": 1, "retries": 2}
    ecs.create("checked", ecs.container("main", "serve", healthCheck={**check, "startPeriod": 60}))
    wait_until(lambda: ecs.cloud.services("checked")["runningCount"] == 1, what="runs")
    assert ecs.cloud.services("checked")["deployments"][0]["rolloutState"] == "IN_PROGRESS"
    assert ecs.cloud.tasks(serviceName="checked")[0]["healthStatus"] == "UNKNOWN"
    mark.touch()
    ecs.steady("checked")
    (task,) = ecs.cloud.tasks(serviceName="checked")
    assert task["healthStatus"] == task["containers"][0]["healthStatus"] == "HEALTHY"
    (old,) = ecs.pids("checked")
    mark.unlink()
    wait_until(lambda: not alive(old), 15, "the unhealthy task is stopped")
    mark.touch()
    ecs.steady("checked")
    assert ecs.pids("checked") not in ([], [old])
    ecs.client.delete_service(cluster="test", service="checked", force=True)


def test_a_sidecar_waits_for_health_and_stops_before_what_it_needs(ecs: Ecs) -> None:
    check = {"command": ["CMD", "python", "-c", "pass"], "interval": 1, "startPeriod": 10}
    depends_on = [{"containerName": "main", "condition": "HEALTHY"}]
    arn = ecs.run(
        "sidecar",
        ecs.container("main", "serve", healthCheck=check),
        ecs.container("side", "serve", dependsOn=depends_on),
    )
    ecs.running(arn)
    for container in ("main", "side"):
        ecs.lines(arn, container)  # it runs before it is ready to be stopped
    ecs.client.stop_task(cluster="test", task=arn)
    ecs.stopped(arn)

    def last_event(container: str) -> int:
        last = ecs.events(arn, container, 2)[-1]
        assert last["message"] == "asked to stop"
        return int(last["timestamp"])

    assert last_event("side") <= last_event("main")


def test_tags_and_lists(ecs: Ecs) -> None:
    tags = [{"key": "a", "value": "1"}]
    ecs.create("tagged", ecs.container("main", "serve"), tags=tags)
    arn = ecs.steady("tagged")["serviceArn"]
    ecs.client.tag_resource(resourceArn=arn, tags=[{"key": "b", "value": "2"}])
    ecs.client.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert ecs.client.list_tags_for_resource(resourceArn=arn)["tags"] == [
        {"key": "b", "value": "2"}
    ]
    assert arn in ecs.client.list_services(cluster="test")["serviceArns"]
    with pytest.raises(ClientError, match="scaled above 0"):
        ecs.client.delete_service(cluster="test", service="tagged")
    with pytest.raises(ClientError, match="ClusterContainsServices"):
        ecs.client.delete_cluster(cluster="test")
    ecs.client.delete_service(cluster="test", service="tagged", force=True)


def test_what_does_not_exist_is_said(ecs: Ecs) -> None:
    with pytest.raises(ClientError, match="ClusterNotFound"):
        ecs.client.describe_services(cluster="none", services=["x"])
    with pytest.raises(ClientError, match="ServiceNotFound"):
        ecs.client.update_service(cluster="test", service="none", desiredCount=1)
    with pytest.raises(ClientError, match="Task definition none"):
        ecs.client.run_task(cluster="test", taskDefinition="none")
    assert ecs.client.describe_services(cluster="test", services=["none"])["failures"] == [
        {
            "arn": "arn:aws:ecs:us-east-1:000000000000:service/test/none",
            "reason": "MISSING",
        }
    ]
