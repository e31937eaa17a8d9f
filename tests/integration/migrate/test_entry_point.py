"""`python -m migrate` as the deployment runs it."""

import os
import subprocess
import sys

from tests.integration.booking_task import ROOT
from tests.integration.servers import free_port


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migrate"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}/functions:{ROOT}/layers/common",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_settings_are_named() -> None:
    done = run(POSTGRES_URL="postgresql://127.0.0.1:1")
    assert done.returncode == 1
    assert "MONGODB_URL" in done.stdout
    assert "POSTGRES_USERNAME" in done.stdout


def test_a_server_that_is_away_is_an_error_without_a_password_in_the_log() -> None:
    roles = {
        f"POSTGRES_{role.upper()}_USERNAME": role for role in ("identity", "booking", "payment")
    }
    done = run(
        POSTGRES_URL=f"postgresql://127.0.0.1:{free_port()}",
        POSTGRES_USERNAME="admin",
        POSTGRES_PASSWORD="sesame",
        MONGODB_URL="mongodb://127.0.0.1:1",
        MONGODB_EVENT_USERNAME="event",
        MONGODB_EVENT_PASSWORD="sesame",
        **roles,
        **{name.replace("USERNAME", "PASSWORD"): "sesame" for name in roles},
    )
    assert done.returncode == 1
    assert "OperationalError" in done.stdout
    assert "sesame" not in done.stdout + done.stderr
