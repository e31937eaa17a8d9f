"""Runs a command of a function against the instance's servers."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from supervisor.secrets import read
from supervisor.server import ServerError
from supervisor.settings import REPOSITORY, Settings


class Commands:
    """Commands of functions, as modules; they get addresses and logins as their tasks do.

    Raises:
        ServerError: nothing was started here yet.

    """

    def __init__(self, settings: Settings) -> None:
        try:
            self._endpoints = json.loads(settings.endpoints_file.read_text())
        except FileNotFoundError:
            raise ServerError("Nothing runs here yet; make up does that.") from None
        self._secrets = read(settings)

    def postgres(self, role: str) -> Mapping[str, str]:
        """Return the settings by which a role reaches the `orders` database."""
        login = self._secrets.login(f"postgres/{role}")
        return {
            "POSTGRES_URL": f"{self._endpoints['postgres_url']}/orders",
            "POSTGRES_USERNAME": login.username,
            "POSTGRES_PASSWORD": login.password,
        }

    def rabbitmq(self) -> Mapping[str, str]:
        """Return the settings by which RabbitMQ is reached."""
        login = self._secrets.login("rabbitmq")
        return {
            "RABBITMQ_URL": self._endpoints["rabbitmq_url"],
            "RABBITMQ_USERNAME": login.username,
            "RABBITMQ_PASSWORD": login.password,
        }

    def run(self, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
        """Run `python -m module`, and return its exit status."""
        path = (REPOSITORY / "functions", REPOSITORY / "layers" / "common")
        done = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env={
                "PYTHONPATH": ":".join(map(str, path)),
                "POWERTOOLS_SERVICE_NAME": module.partition(".")[2],
                **variables,
            },
            check=False,
        )
        return done.returncode
