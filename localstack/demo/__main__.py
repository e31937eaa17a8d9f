"""The demo: start the local cloud, deploy to it, sell a ticket over HTTP."""

import sys
import time

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from demo import flow, show
from demo.client import DemoError
from supervisor import cloud
from supervisor.deploy import DeployError, deploy
from supervisor.ports import PortTakenError
from supervisor.progress import Progress
from supervisor.secrets import SecretsError
from supervisor.server import ServerError
from supervisor.settings import Settings, SettingsError

EXIT_INTERRUPTED = 130
_KNOWN = (SettingsError, SecretsError, PortTakenError, ServerError, DeployError, DemoError)


def _run() -> None:
    started = time.monotonic()
    settings = Settings.load()
    progress = Progress(sys.stdout)
    show.headline("The local cloud")
    cloud.up(settings, progress)
    deploy(settings, progress)
    flow.run(settings.api_url)
    show.headline(f"Done in {time.monotonic() - started:.0f} s")
    print(_what_next(settings))


def _what_next(settings: Settings) -> str:
    return f"""
  API             {settings.api_url}/api
  AWS endpoint    {settings.aws_endpoint}

  Try next
    curl -s {settings.api_url}/api/events
    make status                     how each server is
    make logs NAME=booking          what the booking service logged
    . .local/env.sh                 puts cdklocal and awslocal on the PATH, pointed here; then
      awslocal ecs describe-services --cluster ticketra-local --services ticketra-local-booking
      awslocal logs tail /ecs/ticketra-local-booking
      cdklocal deploy               after you changed something
    make down                       stop everything
"""


def main() -> int:
    """Return the exit status: 0 sold, 1 not, 130 stopped by the user."""
    try:
        _run()
    except (*_KNOWN, httpx.HTTPError, BotoCoreError, ClientError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; run it again whenever you like.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
