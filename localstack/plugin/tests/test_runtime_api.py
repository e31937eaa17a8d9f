import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from process_cloud.runtime_api import (
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

PREFIX = "/2018-06-01/runtime"


class FakeRuntime:
    """A runtime with an HTTP client of its own; its `process` is a pipe that becomes readable."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=5)
        self.exit_fd, self._write_fd = os.pipe()

    def request(self, method: str, path: str, body: bytes | Iterator[bytes] = b"") -> int:
        chunked = not isinstance(body, bytes)
        self.connection.request(method, PREFIX + path, body, encode_chunked=chunked)
        answer = self.connection.getresponse()
        self.last_id = answer.headers.get("Lambda-Runtime-Aws-Request-Id", "")
        self.last_body = answer.read()
        return answer.status

    def exit(self) -> None:
        os.close(self._write_fd)


@pytest.fixture
def api() -> Iterator[RuntimeApi]:
    api = RuntimeApi()
    yield api
    api.close()


@pytest.fixture
def runtime(api: RuntimeApi) -> FakeRuntime:
    runtime = FakeRuntime(api.address)
    api.attach(runtime.exit_fd)
    return runtime


def in_thread(function: Callable[[], Any]) -> None:
    def run() -> None:
        with suppress(http.client.RemoteDisconnected):  # the API closes after the test
            function()

    threading.Thread(target=run, daemon=True).start()


def invoke(api: RuntimeApi, payload: bytes = b"{}", wait_s: float = 5) -> Event:
    headers = {"Lambda-Runtime-Aws-Request-Id": "r1"}
    return api.invoke(headers, payload, time.monotonic() + wait_s)


def test_init_and_invocations_on_one_connection(api: RuntimeApi, runtime: FakeRuntime) -> None:
    def run() -> None:
        for _ in range(3):
            runtime.request("GET", "/invocation/next")
            answer = json.dumps({"got": json.loads(runtime.last_body)})
            runtime.request("POST", f"/invocation/{runtime.last_id}/response", answer.encode())

    in_thread(run)
    assert api.wait_init() == Ready()
    for number in range(3):
        assert invoke(api, b"%d" % number) == Answered("r1", b'{"got": %d}' % number, False)


def test_an_error_of_the_function(api: RuntimeApi, runtime: FakeRuntime) -> None:
    def run() -> None:
        runtime.request("GET", "/invocation/next")
        runtime.request("POST", "/invocation/r1/error", b'{"errorType": "X"}')

    in_thread(run)
    api.wait_init()
    assert invoke(api) == Answered("r1", b'{"errorType": "X"}', True)


def test_a_chunked_response(api: RuntimeApi, runtime: FakeRuntime) -> None:
    def run() -> None:
        runtime.request("GET", "/invocation/next")
        runtime.request("POST", "/invocation/r1/response", iter([b"a" * 70_000, b"b"]))

    in_thread(run)
    api.wait_init()
    assert invoke(api) == Answered("r1", b"a" * 70_000 + b"b", False)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_response_that_is_too_large(
    api: RuntimeApi, runtime: FakeRuntime, *, chunked: bool
) -> None:
    body = b"x" * (RESPONSE_LIMIT_BYTES + 1)

    def run() -> None:
        runtime.request("GET", "/invocation/next")
        runtime.request("POST", "/invocation/r1/response", iter([body]) if chunked else body)

    in_thread(run)
    api.wait_init()
    assert invoke(api) == TooLarge("r1")


def test_a_failed_init(api: RuntimeApi, runtime: FakeRuntime) -> None:
    def run() -> None:
        runtime.request("POST", "/init/error", b'{"errorType": "Runtime.ImportModuleError"}')
        runtime.exit()

    in_thread(run)
    assert api.wait_init() == InitFailed(b'{"errorType": "Runtime.ImportModuleError"}')


def test_what_was_said_just_before_the_exit_counts(api: RuntimeApi, runtime: FakeRuntime) -> None:
    runtime.connection.connect()
    body = b'{"errorType": "X"}'
    runtime.connection.putrequest("POST", f"{PREFIX}/init/error")
    runtime.connection.putheader("Content-Length", str(len(body)))
    runtime.connection.endheaders(body)
    runtime.exit()
    assert api.wait_init() == InitFailed(body)


def test_an_exit_during_init(api: RuntimeApi, runtime: FakeRuntime) -> None:
    runtime.exit()
    assert api.wait_init() == Exited()


def test_an_exit_in_an_invocation(api: RuntimeApi, runtime: FakeRuntime) -> None:
    def run() -> None:
        runtime.request("GET", "/invocation/next")
        runtime.connection.close()
        runtime.exit()

    in_thread(run)
    api.wait_init()
    assert invoke(api) == Exited()


def test_an_invocation_that_takes_too_long(api: RuntimeApi, runtime: FakeRuntime) -> None:
    in_thread(lambda: runtime.request("GET", "/invocation/next"))
    api.wait_init()
    assert invoke(api, wait_s=0.05) == TimedOut()


def test_an_unknown_path(api: RuntimeApi, runtime: FakeRuntime) -> None:
    statuses: list[int] = []

    def run() -> None:
        statuses.append(runtime.request("GET", "/nothing"))
        runtime.request("GET", "/invocation/next")

    in_thread(run)
    assert api.wait_init() == Ready()
    assert statuses == [404]


def test_closing_again_does_nothing(api: RuntimeApi) -> None:
    api.close()
    api.close()
