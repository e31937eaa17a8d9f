"""LocalStack, the AWS emulator, from an environment of its own and with nothing of the host's."""

import json
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from typing_extensions import override

from setup import stamps
from supervisor.aws import client_settings, session
from supervisor.server import NotReadyError, Server, ServerError, without_login
from supervisor.settings import API_ID, ENVIRONMENTS, LOOPBACK, REGION, STAGE

HEALTH_TIMEOUT_S = 3
GATEWAY_WORKERS = 256

# The user's proxy leads away from this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# What the CDK app uses, and nothing more: others are refused instead of half emulated.
SERVICES = (
    "apigateway",
    "cloudformation",
    "cloudwatch",
    "ec2",
    "ecs",
    "events",
    "iam",
    "kms",
    "lambda",
    "logs",
    "s3",
    "secretsmanager",
    "sns",
    "sqs",
    "ssm",
    "sts",
)


class LocalStack(Server):
    """One LocalStack with the project's plugin."""

    name = "localstack"
    title = "LocalStack"
    ports = ("localstack_port", "api_port", "booking_port")
    start_timeout_s = 90.0
    stop_timeout_s = 15.0

    @property
    @override
    def url_elsewhere(self) -> str:
        return self.settings.aws_endpoint_url

    @property
    @override
    def address(self) -> str:
        return without_login(self.settings.aws_endpoint)

    @override
    def prepare(self) -> None:
        if not self._python.exists():
            raise ServerError("LocalStack is not set up; `make up` does that.")
        self.data.mkdir(mode=0o700, exist_ok=True)
        # It forgets its state when it stops, so what a killed one left is only in the way.
        for leftover in (self._root / "tmp", self._temporary):
            shutil.rmtree(leftover, ignore_errors=True)
        self._temporary.mkdir(mode=0o700)

    @override
    def command(self) -> Sequence[str | Path]:
        # -P: no directory of ours may stand in for the namespace package `localstack`.
        return [self._python, "-P", "-m", "localstack.runtime.main"]

    @override
    def variables(self) -> Mapping[str, str]:
        settings = self.settings
        main, api = settings.localstack_port, settings.api_port
        version = f"{sys.version_info.major}_{sys.version_info.minor}"
        return {
            "AWS_MAX_ATTEMPTS": "1",  # else a throttled function is asked again for seconds
            "API_PORT_ROUTES": f"{api}={API_ID}/{STAGE}",
            "AWS_DEFAULT_REGION": REGION,
            "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            "FILESYSTEM_ROOT": str(self._root),
            "GATEWAY_LISTEN": f"{LOOPBACK}:{main},{LOOPBACK}:{api}",
            "GATEWAY_SERVER": "hypercorn",  # the default one binds every address
            "GATEWAY_WORKER_COUNT": str(GATEWAY_WORKERS),
            "IN_MEMORY_CLIENT": "1",  # services call each other without a request
            "LAMBDA_PROCESS_RIC_DIR": str(ENVIRONMENTS / "ric"),
            f"LAMBDA_PROCESS_PYTHON{version}": base_python(),
            "LAMBDA_RUNTIME_EXECUTOR": "process",
            "LOCALSTACK_HOST": f"localhost:{main}",
            "OVERRIDE_IN_DOCKER": "0",
            "SERVICES": ",".join(SERVICES),
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "STRICT_SERVICE_LOADING": "1",
            "TMPDIR": str(self._temporary),
            # A LocalStack of another environment, or with an older plugin, is started again.
            "TICKETRA_EMULATOR_STAMP": _stamp(),
        }

    @override
    def check(self) -> None:
        if self.url_elsewhere:
            self._check_elsewhere()
            return
        url = f"{self.address}/_localstack/health"
        try:
            with _DIRECT.open(url, timeout=HEALTH_TIMEOUT_S) as answer:
                json.load(answer)["services"]["s3"]
        except (OSError, ValueError, KeyError) as error:
            raise NotReadyError(str(error)) from None

    def _check_elsewhere(self) -> None:
        """Ask any emulator or AWS itself who is calling."""
        try:
            session().client("sts", **client_settings(self.settings)).get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            raise NotReadyError(str(error)) from None

    @property
    def _python(self) -> Path:
        return ENVIRONMENTS / "emulator" / "bin" / "python"

    @property
    def _temporary(self) -> Path:
        """Where it unzips functions."""
        return self.data / "tmp"

    @property
    def _root(self) -> Path:
        return self.data / "root"


def _stamp() -> str:
    return stamps.read(ENVIRONMENTS / "emulator") or ""


def base_python() -> str:
    """Return the interpreter below the project's environment, which sees no project packages."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return str(Path(base).resolve())
