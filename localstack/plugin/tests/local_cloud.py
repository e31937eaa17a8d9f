"""A LocalStack of the tests' own, and what they put on it."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

REPOSITORY = Path(__file__).parents[3]
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SERVICES = "apigateway,cloudformation,cloudwatch,ec2,ecs,iam,lambda,logs,s3,secretsmanager,ssm,sts"
# Below those that the kernel gives to outgoing connections, and beside those of all other tests.
PORTS = range(20_000, 22_000)
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
ENVIRONMENTS_LIMIT = 2
QUEUE_LIMIT = 3
KEEPALIVE_MS = 60_000


def runtime_client_dir() -> Path:
    """Return where AWS's runtime interface client is installed."""
    configured = os.environ.get("LAMBDA_PROCESS_RIC_DIR")
    directory = Path(configured) if configured else REPOSITORY / ".local" / "env" / "ric"
    assert directory.is_dir(), f"{directory} is missing: set LAMBDA_PROCESS_RIC_DIR"
    return directory


def free_port() -> int:
    """Return a free port, never the same one twice."""
    for port in _ports:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError(f"no free port in {PORTS}")


_ports = iter(random.sample(PORTS, len(PORTS)))


def wait_until(condition: Callable[[], Any], timeout_s: float = 20, what: str = "") -> Any:
    """Return the condition's first true value; fail loudly if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what or condition}")


def make_zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def processes_with(text: str) -> list[int]:
    """Return the processes that have `text` in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if text.encode() in known:
                    found.append(int(entry.name))
    return found


class LocalCloud:
    """LocalStack as a process; everything it makes lies in `directory`."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.port, self.api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(self.temporary),
            "CANARY_OF_THE_HOST": "seen",
            "PYTHONFAULTHANDLER": "1",
            "OVERRIDE_IN_DOCKER": "0",
            "FILESYSTEM_ROOT": str(directory / "files"),
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0",
            "AWS_MAX_ATTEMPTS": "1",
            "IN_MEMORY_CLIENT": "1",
            "GATEWAY_SERVER": "hypercorn",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port},127.0.0.1:{self.api_port}",
            "SERVICES": SERVICES,
            "STRICT_SERVICE_LOADING": "1",
            "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
            "LAMBDA_RUNTIME_EXECUTOR": "process",
            "LAMBDA_PROCESS_RIC_DIR": str(runtime_client_dir()),
            f"LAMBDA_PROCESS_PYTHON{PYTHON_VERSION.replace('.', '_')}": sys.executable,
            "LAMBDA_PROCESS_MAX_ENVIRONMENTS": str(ENVIRONMENTS_LIMIT),
            "LAMBDA_PROCESS_QUEUE_LIMIT": str(QUEUE_LIMIT),
            "LAMBDA_KEEPALIVE_MS": str(KEEPALIVE_MS),
            "API_PORT_ROUTES": f"{self.api_port}=testapi/local",
            **settings,
        }
        self.log = directory / "localstack.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "localstack.runtime.main"],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, START_TIMEOUT_S, f"LocalStack is ready, see {self.log}")
        except AssertionError:
            self.kill()
            raise

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                retries={"total_max_attempts": 1},
                max_pool_connections=50,
                s3={"addressing_style": "path"},
            ),
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGABRT)  # writes all threads' stacks to the log
                self.process.wait(STOP_TIMEOUT_S)
                raise AssertionError(self.log.read_text()[-6000:]) from None

    def left_processes(self) -> list[int]:
        return processes_with(str(self.directory))

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.url}/_localstack/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    # ---- functions

    def create_function(self, name: str, source: str, **settings: Any) -> None:
        client = self.client("lambda")
        client.create_function(
            **{
                "FunctionName": name,
                "Runtime": f"python{PYTHON_VERSION}",
                "Role": "arn:aws:iam::000000000000:role/function",
                "Handler": "main.handler",
                "Code": {"ZipFile": make_zip({"main.py": source})},
                "Timeout": 20,
                **settings,
            }
        )
        client.get_waiter("function_active_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )

    def invoke(self, name: str, event: Any = None, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """Return the payload and the whole answer."""
        payload = json.dumps(event if event is not None else {})
        answer = self.client("lambda").invoke(FunctionName=name, Payload=payload, **settings)
        return json.loads(answer["Payload"].read()), answer

    def log_lines(self, group: str) -> list[str]:
        logs = self.client("logs")
        lines = []
        try:
            streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
        except logs.exceptions.ResourceNotFoundException:
            return []
        for stream in streams:
            events = logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
            lines += [event["message"] for event in events]
        return lines

    # ---- tasks

    def put_image(self, key: str, files: dict[str, str], **description: Any) -> str:
        s3 = self.client("s3")
        s3.create_bucket(Bucket="images")
        described = {"python": PYTHON_VERSION, **description}
        body = make_zip({"image.json": json.dumps(described), **files})
        s3.put_object(Bucket="images", Key=key, Body=body)
        return f"s3://images/{key}"

    def services(self, name: str) -> dict[str, Any]:
        answer = self.client("ecs").describe_services(cluster="test", services=[name])
        service: dict[str, Any] = answer["services"][0]
        return service

    def tasks(self, **filters: str) -> list[dict[str, Any]]:
        ecs = self.client("ecs")
        arns = ecs.list_tasks(cluster="test", **filters)["taskArns"]
        if not arns:
            return []
        tasks: list[dict[str, Any]] = ecs.describe_tasks(cluster="test", tasks=arns)["tasks"]
        return tasks
