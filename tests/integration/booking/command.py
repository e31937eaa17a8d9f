"""The booking function's commands, as processes of their own."""

import os
import subprocess
import sys

from tests.integration.booking_task import ROOT
from tests.integration.servers import PASSWORD

LIMIT_S = 60


def run_command(
    module: str, url: str, *arguments: str, stdout: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Run a command against the PostgreSQL at `url`, and return what came of it."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}/functions:{ROOT}/layers/common",
            "PYTHONDONTWRITEBYTECODE": "1",
            "POSTGRES_URL": f"{url}/orders",
            "POSTGRES_USERNAME": "booking",
            "POSTGRES_PASSWORD": PASSWORD,
        },
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
