"""Runs the ledger check of the booking function against the instance's PostgreSQL."""

import json
import subprocess
import sys

from supervisor.secrets import read
from supervisor.server import ServerError
from supervisor.settings import REPOSITORY, Settings


def reconcile(settings: Settings, *, repair: bool) -> int:
    """Compare capacity, stock and bookings; return the check's exit status.

    Raises:
        ServerError: nothing was started here yet.

    """
    try:
        endpoints = json.loads(settings.endpoints_file.read_text())
    except FileNotFoundError:
        raise ServerError("Nothing runs here yet; make up does that.") from None
    login = read(settings).login("postgres/booking")
    path = (REPOSITORY / "functions", REPOSITORY / "layers" / "common")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "booking.reconcile", *(["--repair"] if repair else [])],
        env={
            "PYTHONPATH": ":".join(map(str, path)),
            "POWERTOOLS_SERVICE_NAME": "reconcile",
            "POSTGRES_URL": f"{endpoints['postgres_url']}/orders",
            "POSTGRES_USERNAME": login.username,
            "POSTGRES_PASSWORD": login.password,
        },
        check=False,
    )
    return done.returncode
