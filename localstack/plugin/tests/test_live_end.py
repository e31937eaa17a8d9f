"""What becomes of functions and tasks when LocalStack ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cloud import LocalCloud, wait_until

POLITE = """
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
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
    """Run a function, and a task with a container that stops when asked and one that does not."""
    cloud.create_function("ending", FUNCTION)
    cloud.invoke("ending")
    ecs = cloud.client("ecs")
    ecs.create_cluster(clusterName="test")
    files = {"polite.py": POLITE, "stubborn.py": STUBBORN}
    image = cloud.put_image("end.zip", files, entrypoint=["python"])
    options = {"awslogs-group": "/ecs/end", "awslogs-create-group": "true"}
    logs = {"logDriver": "awslogs", "options": options}
    definition = ecs.register_task_definition(
        family="end",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[
            {
                "name": name,
                "image": image,
                "command": [f"{name}.py", str(mark)],
                "stopTimeout": 120,
                "logConfiguration": logs,
            }
            for name in ("polite", "stubborn")
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(cluster="test", serviceName="end", taskDefinition=definition, desiredCount=1)
    wait_until(lambda: cloud.log_lines("/ecs/end") == ["up", "up"], what="the task is up")
    assert len(cloud.left_processes()) >= 6


def test_a_stop_asks_first_is_bounded_and_leaves_nothing(
    own_cloud: LocalCloud, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    run_everything(own_cloud, mark)
    own_cloud.stop()
    assert mark.read_text() == "asked to stop"
    wait_until(lambda: own_cloud.left_processes() == [], 10, "nothing is left")
    assert not list(own_cloud.temporary.glob("process-cloud-*"))


def test_a_kill_leaves_nothing_either(own_cloud: LocalCloud, tmp_path: Path) -> None:
    run_everything(own_cloud, tmp_path / "mark")
    own_cloud.kill()
    wait_until(lambda: own_cloud.left_processes() == [], 10, "nothing is left")
    wait_until(lambda: not list(own_cloud.temporary.glob("process-cloud-*")), 10, "no directory")
