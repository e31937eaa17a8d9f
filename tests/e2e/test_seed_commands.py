"""The three commands of the project that Ticketra follows work exactly as printed there.

They need the access policy `open`: no token, a three-character password, any buyer's label, and a
date that has passed.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cloud import Cloud

REGISTER = """\
curl -X POST http://localhost:3000/api/auth/register \\
-H "Content-Type: application/json" \\
-d '{"email": "kerem@test.com", "password": "123"}'
"""
CREATE_EVENT = """\
curl -X POST http://localhost:3000/api/events \\
-H "Content-Type: application/json" \\
-d '{
    "title": "Tarkan Konseri",
    "location": "Harbiye",
    "date": "2026-07-20T21:00:00Z",
    "total_tickets": 100
}'
"""
BOOK = """\
curl -X POST http://localhost:3000/api/bookings \\
-H "Content-Type: application/json" \\
-d '{
    "user_id": "kerem_user",
    "event_id": "BURAYA_EVENT_ID_YAPISTIR",
    "ticket_count": 2
}'
"""


@pytest.fixture(scope="module")
def open_cloud(cloud: Cloud) -> Iterator[Cloud]:
    cloud.deploy(TICKETRA_ACCESS_POLICY="open")
    yield cloud
    cloud.deploy()


def _run(cloud: Cloud, command: str, home: Path) -> dict[str, Any]:
    """Run a command as it stands; only where curl connects for port 3000 is told from outside."""
    port = cloud.settings.api_port
    (home / ".curlrc").write_text(
        f'connect-to = "localhost:3000:127.0.0.1:{port}"\nsilent\nfail-with-body\n'
    )
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"CURL_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_three_commands(open_cloud: Cloud, tmp_path: Path) -> None:
    user = _run(open_cloud, REGISTER, tmp_path)
    assert user["email"] == "kerem@test.com"

    event = _run(open_cloud, CREATE_EVENT, tmp_path)
    assert (event["title"], event["total_tickets"]) == ("Tarkan Konseri", 100)

    booking = _run(open_cloud, BOOK.replace("BURAYA_EVENT_ID_YAPISTIR", event["id"]), tmp_path)
    assert (booking["user_id"], booking["ticket_count"]) == ("kerem_user", 2)
    assert booking["status"] == "PENDING"
    assert open_cloud.ledger(event["id"])["remaining"] == 98
