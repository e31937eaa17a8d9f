"""The server runs on uvloop, as it does in a booking task, and no test may leave work behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from booking.http2 import call, connection
from booking.http2 import server as server_module
from tests.unit.booking.http2.peer import Peer
from tests.unit.booking.http2.service import Echo, EchoServer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class Failures(list[object]):
    """What was logged as a failure, or reached the loop."""

    def error(self, message: str, **_: object) -> None:
        self.append(message)

    def exception(self, message: str, **_: object) -> None:
        self.append(message)

    def reached_loop(self, _: object, context: dict[str, object]) -> None:
        self.append(context)


@pytest.fixture(autouse=True)
async def failures(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Failures]:
    """A test that expects a failure takes it out of the list."""
    seen = Failures()
    monkeypatch.setattr(call, "logger", seen)
    monkeypatch.setattr(connection, "logger", seen)
    monkeypatch.setattr(server_module, "logger", seen)
    asyncio.get_running_loop().set_exception_handler(seen.reached_loop)
    yield seen
    assert seen == []


@pytest.fixture
async def opened(failures: Failures) -> AsyncIterator[AsyncExitStack]:
    """What a test opens; closed in the reverse order."""
    async with AsyncExitStack() as stack:
        yield stack


Start = Callable[..., Any]


@pytest.fixture
def start(opened: AsyncExitStack) -> Start:
    """Start a server with the limits that are given."""

    async def start_one(**limits: int) -> EchoServer:
        server = await EchoServer.start(**limits)
        opened.push_async_callback(server.end)
        return server

    return start_one


@pytest.fixture
async def server(start: Start) -> EchoServer:
    started: EchoServer = await start()
    return started


@pytest.fixture
def echo(server: EchoServer) -> Echo:
    return server.echo


@pytest.fixture
def connect(server: EchoServer, opened: AsyncExitStack) -> Start:
    """Connect a peer that has sent its settings."""

    async def connect_one(settings: dict[int, int] | None = None, port: int | None = None) -> Peer:
        peer = await Peer.connect(port or server.port)
        opened.push_async_callback(peer.close)
        peer.greet(settings or {})
        return peer

    return connect_one


@pytest.fixture
async def peer(connect: Start) -> Peer:
    connected: Peer = await connect()
    return connected
