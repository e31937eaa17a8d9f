"""What becomes of functions and tasks when LocalStack ends."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cloud import LocalCloud, wait_until

PROGRAM = """
import os, signal, subprocess, sys, time
mark = sys.argv[1]
def stop(*_):
    with open(mark, "w") as file:
        file.write("asked to stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
# A grandchild that ignores what it is asked, in a group of its own.
subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 3600; sleep 3600"], process_group=0)
print("up", flush=True)
time.sleep(3600)
"""
FUNCTION = """
import os, subprocess
def handler(event, context):
    subprocess.Popen(["sleep", "3600"])
    return os.getpid()
"""


@pytest.fixture
def own_cloud(tmp_path: Path) -> Iterator[LocalCloud]:
    running = LocalCloud(tmp_path / "cloud")
    yield running
    running.stop()


def run_everything(cloud: LocalCloud, mark: Path) -> None:
    cloud.create_function("ending", FUNCTION)
    cloud.invoke("ending")
    ecs = cloud.client("ecs")
    ecs.create_cluster(clusterName="test")
    image = cloud.put_image("end.zip", {"end.py": PROGRAM}, command=["python", "end.py", str(mark)])
    options = {"awslogs-group": "/ecs/end", "awslogs-create-group": "true"}
    definition = ecs.register_task_definition(
        family="end",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[
            {
                "name": "main",
                "image": image,
                "stopTimeout": 2,
                "logConfiguration": {"logDriver": "awslogs", "options": options},
            }
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(cluster="test", serviceName="end", taskDefinition=definition, desiredCount=1)
    wait_until(lambda: cloud.log_lines("/ecs/end") == ["up"], what="the task is up")


def test_a_stop_asks_the_tasks_first_and_leaves_nothing(
    own_cloud: LocalCloud, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    run_everything(own_cloud, mark)
    assert len(own_cloud.left_processes()) >= 5
    own_cloud.stop()
    assert mark.read_text() == "asked to stop"
    wait_until(lambda: own_cloud.left_processes() == [], 10, "nothing is left")
    assert not list(own_cloud.temporary.glob("process-cloud-*"))


def test_a_kill_leaves_nothing_either(own_cloud: LocalCloud, tmp_path: Path) -> None:
    run_everything(own_cloud, tmp_path / "mark")
    assert len(own_cloud.left_processes()) >= 5
    own_cloud.kill()
    wait_until(lambda: own_cloud.left_processes() == [], 10, "nothing is left")
    wait_until(lambda: not list(own_cloud.temporary.glob("process-cloud-*")), 10, "no directory")


def test_a_stubborn_task_does_not_hold_up_the_stop(own_cloud: LocalCloud, tmp_path: Path) -> None:
    own_cloud.client("ecs").create_cluster(clusterName="test")
    program = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\n"
    image = own_cloud.put_image(
        "stubborn.zip", {"s.py": program + "time.sleep(3600)"}, command=["python", "s.py"]
    )
    ecs = own_cloud.client("ecs")
    options = {"awslogs-group": "/ecs/end", "awslogs-create-group": "true"}
    definition = ecs.register_task_definition(
        family="stubborn",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[
            {
                "name": "main",
                "image": image,
                "stopTimeout": 120,
                "logConfiguration": {"logDriver": "awslogs", "options": options},
            }
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.run_task(cluster="test", taskDefinition=definition)
    wait_until(lambda: own_cloud.log_lines("/ecs/end") == ["up"], what="the task is up")
    began = time.monotonic()
    own_cloud.stop()
    assert time.monotonic() - began < 25
    wait_until(lambda: own_cloud.left_processes() == [], 10, "nothing is left")
