"""What the AWS tools show of the deployed stack is the truth, and it changes as they say."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.settings import REPOSITORY
from tests.e2e.cloud import CLUSTER, Cloud, User, wait_for

PAYLOADS = sorted((REPOSITORY / "docs" / "payloads").glob("*.json"))


@pytest.mark.parametrize("payload", PAYLOADS, ids=[path.stem for path in PAYLOADS])
def test_a_sample_payload_is_answered(cloud: Cloud, payload: Path, tmp_path: Path) -> None:
    path = json.loads(payload.read_text())["path"]
    name = {"auth": "identity", "events": "event", "bookings": "gateway"}[path.split("/")[2]]
    output = tmp_path / "answer.json"

    cloud.run(
        *("awslocal", "lambda", "invoke", "--function-name", f"ticketra-local-{name}"),
        *("--payload", f"file://{payload}", str(output)),
    )

    answer = json.loads(output.read_text())
    assert answer["statusCode"] in {200, 201, 401}, answer  # some need a token
    json.loads(answer["body"])


def test_logs_of_a_function_and_of_a_task_carry_the_request_id(
    cloud: Cloud, organizer: User, buyer: User
) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)
    answer = cloud.book(buyer, event_id, 6)  # which the bank declines
    assert answer.status_code == 201, answer.text
    request_id = answer.headers["X-Request-Id"]

    def has_line(group: str) -> bool:
        return request_id in cloud.run("awslocal", "logs", "tail", group)

    for group in ("/aws/lambda/ticketra-local-gateway", "/ecs/ticketra-local-payment"):
        wait_for(partial(has_line, group), f"{group} has no line of the request")


def test_ecs_shows_what_runs(cloud: Cloud) -> None:
    shown: dict[str, Any] = json.loads(
        cloud.run(
            *("awslocal", "ecs", "describe-services", "--cluster", CLUSTER),
            *("--services", "ticketra-local-booking", "ticketra-local-payment"),
        )
    )
    counts = {s["serviceName"]: (s["desiredCount"], s["runningCount"]) for s in shown["services"]}
    assert counts == {"ticketra-local-booking": (1, 1), "ticketra-local-payment": (1, 1)}
    assert len(cloud.task_processes("booking.server")) == 1
    assert len(cloud.task_processes("payment.worker")) == 1


def test_a_plain_cdklocal_deploy_changes_what_runs(cloud: Cloud, tmp_path: Path) -> None:
    """Deployed twice, the second time with two booking tasks, and back."""
    cloud.deploy(TICKETRA_BOOKING_TASKS="2")
    try:
        assert len(cloud.task_processes("booking.server")) == 2
    finally:
        cloud.run("cdklocal", "deploy", "--require-approval", "never", "--output", str(tmp_path))
    wait_for(
        lambda: len(cloud.task_processes("booking.server")) == 1, "the second task did not end"
    )
    assert cloud.deploy() is False


def test_everything_listens_on_loopback_only(cloud: Cloud) -> None:
    emulated = [*cloud.task_processes("booking.server"), *cloud.task_processes("payment.worker")]
    own = {p.pid for p in emulated} | {
        process.pid
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("TICKETRA_INSTANCE") == str(cloud.settings.home)
    }
    listening = [
        connection
        for connection in psutil.net_connections("inet")
        if connection.pid in own and connection.status == psutil.CONN_LISTEN
    ]
    addresses = {(str(c.laddr[0]), int(c.laddr[1])) for c in listening if c.laddr}
    assert {cloud.settings.api_port, cloud.settings.booking_port} <= {port for _, port in addresses}
    assert {ip.removeprefix("::ffff:") for ip, _ in addresses} <= {"127.0.0.1", "::1"}
