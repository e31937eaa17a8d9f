"""Runs an execution environment of a Python function as a process.

The process runs AWS's own runtime interface client against a Lambda Runtime API inside LocalStack.
"""

import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from localstack.services.lambda_.invocation.executor_endpoint import (
    ShutdownDuringStartup,
    StatusErrorException,
)
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from process_cloud import lambda_environment, lambda_log
from process_cloud.host import host
from process_cloud.interpreters import Interpreter
from process_cloud.lambda_environment import FunctionFiles
from process_cloud.lambda_log import InvocationLog, error_document
from process_cloud.logs import LogStream, LogTarget
from process_cloud.runtime_api import (
    HOST,
    RESPONSE_LIMIT_BYTES,
    Answered,
    Event,
    Exited,
    InitFailed,
    Ready,
    RuntimeApi,
    TimedOut,
    TooLarge,
)
from process_cloud.spawner import Process

LOG = logging.getLogger(__name__)

KILL_TIMEOUT_S = 5.0


class UnsupportedRuntimeError(Exception):
    """The function can't run as a process on this machine; the message says why."""


class InitError(StatusErrorException):
    """The function's init failed; carries AWS's error document and what was logged."""

    def __init__(self, payload: bytes, logs: str) -> None:
        super().__init__("init failed", payload=payload)
        self.logs = logs


@dataclass(frozen=True)
class Runtime:
    """A runtime process and the API that it talks to."""

    process: Process
    api: RuntimeApi

    @property
    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self.process.returncode is not None

    def kill(self) -> None:
        """End the process and wait for it."""
        self.process.signal_group(signal.SIGKILL)
        if not self.process.wait(KILL_TIMEOUT_S):
            LOG.error("Runtime process %d does not end", self.process.pid)


class ProcessRuntimeExecutor(RuntimeExecutor):
    """One execution environment; LocalStack gives it one invocation at a time."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:  # noqa: A002
        super().__init__(id, function_version)
        self._config = function_version.config
        self._interpreter = host().interpreters.get(_python_version(function_version))
        self._files = _files(function_version, self._interpreter, id)
        self._log = InvocationLog(_log_stream(function_version, id))
        self._offered: Mapping[str, object] = {}
        self._runtime: Runtime | None = None
        self._init_ms: float | None = None
        self._in_use = threading.Lock()
        self._stopped = threading.Event()

    # ---- a function version

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unzip code and layers; fail if the version can't run on this machine."""
        interpreter = host().interpreters.get(_python_version(function_version))
        _runtime_client(interpreter)
        function_version.config.code.prepare_for_execution()
        for layer in function_version.config.layers:
            layer.code.prepare_for_execution()
        host().layers.acquire(_layers(function_version), _revision(function_version))

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Let go of the layers."""
        host().layers.release(_layers(function_version), _revision(function_version))

    # ---- life cycle

    def start(self, env_vars: dict[str, object]) -> None:
        """Start the process and wait until its init is done; raise InitError if that fails."""
        self._offered = env_vars
        self._files.tmp.mkdir(parents=True)
        with self._in_use:
            self._runtime = self._init()

    def stop(self) -> None:
        """End the process and remove what it left behind."""
        self._stopped.set()
        if self._runtime:
            self._runtime.kill()
        with self._in_use:  # whoever waits for the process has noticed its end
            if self._runtime:
                self._runtime.api.close()
            self._log.close()
            shutil.rmtree(self._files.private, ignore_errors=True)

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """Run one invocation; a runtime that ended since the last one is started anew first."""
        with self._in_use:
            return self._invoke(payload)

    def _init(self) -> Runtime:
        """Start a runtime process and see it through its init."""
        began = time.monotonic()
        api = RuntimeApi()
        environment = lambda_environment.build(
            self._offered,
            self._config.environment or {},
            files=self._files,
            interpreter=self._interpreter,
            runtime_api=api.address,
        )
        process = host().spawner.spawn(
            ["python", "-P", "-m", "awslambdaric", self._config.handler],
            environment=environment,
            cwd=self._files.task_root,
            sink=self._log.write,
        )
        api.attach(process.pidfd)
        self._runtime = runtime = Runtime(process, api)
        if self._stopped.is_set():  # by LocalStack's start-up timer, before it could be killed
            runtime.kill()
        event = api.wait_init()
        self._init_ms = (time.monotonic() - began) * 1000
        if isinstance(event, Ready):
            return runtime
        if self._stopped.is_set():
            msg = "stopped during its init"
            raise ShutdownDuringStartup(msg)
        raise self._init_error(event, runtime, self._init_ms)

    def _init_error(self, event: Event, runtime: Runtime, init_ms: float) -> InitError:
        if isinstance(event, InitFailed):
            payload = event.payload
            runtime.kill()
        else:
            payload = self._exit_document(runtime, "")
        error_type = json.loads(payload).get("errorType", "Unhandled")
        self._log.write([lambda_log.init_report(init_ms, error_type)])
        return InitError(payload, self._log.tail())

    # ---- an invocation

    def _invoke(self, payload: dict[str, str]) -> InvocationResult:
        request_id = payload["invoke-id"]
        runtime = self._runtime
        if runtime:
            runtime.process.drain()  # what was written since the last invocation
        self._log.begin(request_id, self.function_version.id.qualifier)
        if runtime is None or runtime.ended:
            runtime = self._restart(runtime)
        began = time.monotonic()
        event = runtime.api.invoke(
            self._headers(payload), payload["payload"].encode(), began + self._config.timeout
        )
        duration_ms = (time.monotonic() - began) * 1000
        used_mb = lambda_log.peak_memory_mb(runtime.process.pid)
        body, is_error, notes = self._outcome(event, runtime, request_id)
        runtime.process.drain()
        report = lambda_log.report(
            request_id,
            duration_ms=duration_ms,
            init_ms=self._init_ms,
            size_mb=self._config.memory_size,
            used_mb=used_mb,
        )
        self._init_ms = None
        self._log.write([*notes, f"END RequestId: {request_id}", report])
        return InvocationResult(request_id, body, is_error=is_error, logs=self._log.tail())

    def _restart(self, ended: Runtime | None) -> Runtime:
        if ended:
            ended.api.close()
        self._runtime = self._init()
        return self._runtime

    def _headers(self, payload: dict[str, str]) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": payload["invoke-id"],
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self._config.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": payload["invoked-function-arn"],
            "Lambda-Runtime-Trace-Id": payload["trace-id"],
        }

    def _outcome(
        self, event: Event, runtime: Runtime, request_id: str
    ) -> tuple[bytes, bool, list[str]]:
        """Return the caller's payload, whether it is an error, and what AWS logs with it."""
        match event:
            case Answered(answered_id, payload, is_error) if answered_id == request_id:
                return payload, is_error, []
            case TooLarge():
                limit = f"maximum allowed payload size ({RESPONSE_LIMIT_BYTES} bytes)"
                message = f"Response payload size exceeded {limit}."
                return error_document("Function.ResponseSizeTooLarge", message), True, []
            case TimedOut():
                runtime.kill()
                line = lambda_log.timeout_line(request_id, self._config.timeout)
                message = f"RequestId: {request_id} Error: {line.partition(f'{request_id} ')[2]}"
                return error_document("Sandbox.Timedout", message), True, [line]
            case Exited():
                document = self._exit_document(runtime, request_id)
                notes = [json.loads(document)["errorMessage"], "Runtime.ExitError"]
                return document, True, notes
        LOG.warning("Unexpected %s from the runtime of environment %s", event, self.id)
        runtime.kill()
        message = f"RequestId: {request_id} Error: the runtime answered another request"
        return error_document("Runtime.InvalidResponse", message), True, [message]

    def _exit_document(self, runtime: Runtime, request_id: str) -> bytes:
        runtime.process.wait(KILL_TIMEOUT_S)
        message = lambda_log.exit_message(runtime.process.returncode or 0, request_id)
        return error_document("Runtime.ExitError", message)

    # ---- what LocalStack asks of an executor

    def get_address(self) -> str:
        """Return where the environment is reachable."""
        return HOST

    def get_endpoint_from_executor(self) -> str:
        """Return where the environment reaches LocalStack."""
        return HOST

    def get_runtime_endpoint(self) -> str:
        """Return the address of the Runtime API."""
        return f"http://{self._runtime.api.address}" if self._runtime else ""

    def get_logs(self) -> str:
        """Return the tail of the log."""
        return self._log.tail()


def _files(
    function_version: FunctionVersion, interpreter: Interpreter, environment_id: str
) -> FunctionFiles:
    return FunctionFiles(
        task_root=Path(function_version.config.code.get_unzipped_code_location()),
        opt=host().layers.path(_layers(function_version)),
        runtime_client=_runtime_client(interpreter),
        private=host().directory / "private" / environment_id,
    )


def _log_stream(function_version: FunctionVersion, environment_id: str) -> LogStream:
    version = function_version.id
    target = LogTarget(
        account_id=version.account,
        region=version.region,
        group=f"/aws/lambda/{version.function_name}",
        stream=f"{datetime.now(UTC):%Y/%m/%d}/[{version.qualifier}]{environment_id}",
    )
    return host().logs.stream(target)


def _runtime_client(interpreter: Interpreter) -> Path:
    directory = host().settings.runtime_client_dir
    if directory:
        for candidate in (directory / f"python{interpreter.version}", directory):
            if (candidate / "awslambdaric").is_dir():
                return candidate
    msg = (
        f"The Lambda runtime interface client for Python {interpreter.version} is missing: "
        "LAMBDA_PROCESS_RIC_DIR must name a directory that holds it"
    )
    raise UnsupportedRuntimeError(msg)


def _python_version(function_version: FunctionVersion) -> str:
    runtime = str(function_version.config.runtime or "of a container image")
    if not runtime.startswith("python"):
        msg = f"Runtime {runtime} is not supported: use python3.11 or later"
        raise UnsupportedRuntimeError(msg)
    return runtime.removeprefix("python")


def _layers(function_version: FunctionVersion) -> list[tuple[str, Path]]:
    return [
        (layer.layer_version_arn, Path(layer.code.get_unzipped_code_location()))
        for layer in function_version.config.layers
    ]


def _revision(function_version: FunctionVersion) -> str:
    return str(function_version.config.internal_revision)
