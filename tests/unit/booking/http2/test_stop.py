"""A server that stops: no call is lost, and nothing goes on after it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from booking.http2 import connection
from booking.http2 import server as server_module
from tests.unit.booking.http2 import peer as p
from tests.unit.booking.http2.conftest import Failures, Start
from tests.unit.booking.http2.peer import Peer, frame, message, number, request_fields
from tests.unit.booking.http2.service import Echo, EchoServer, eventually
from tests.unit.booking.http2.wire import Wire

SLOW = request_fields("/test.Echo/Slow")
LAST_ID = number(2**31 - 1)
CALLERS = 20


@pytest.fixture
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DRAIN_PING_LIMIT_S", 0.2)
    monkeypatch.setattr(connection, "LINGER_LIMIT_S", 0.2)


@pytest.fixture
async def stopping(peer: Peer, server: EchoServer, echo: Echo) -> AsyncIterator[asyncio.Task[None]]:
    """A stop, with a call that runs; the peer has seen the first GOAWAY and not answered yet."""
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    task = asyncio.create_task(server.server.stop(20))
    goaway = await peer.until(p.GOAWAY)
    assert (goaway.payload[:4], goaway.code) == (LAST_ID, p.NO_ERROR)
    yield task
    echo.proceed.set()
    await task


async def test_calls_that_were_on_their_way_are_served(
    peer: Peer, server: EchoServer, echo: Echo, stopping: asyncio.Task[None]
) -> None:
    peer.call(3, b"on its way")
    assert (await peer.until(p.DATA, 3)).payload == message(b"on its way")
    peer.call(5, fields=SLOW)
    peer.send(frame(p.PING, p.ACK, 0, b"draining"))
    goaway = await peer.until(p.GOAWAY)
    assert (goaway.payload[:4], goaway.code) == (number(5), p.NO_ERROR)
    # What the peer opens after that, it can safely send elsewhere.
    peer.call(7)
    assert (await peer.answer(7)).reset == p.REFUSED_STREAM
    echo.proceed.set()
    answers = await peer.answers(1, 5)
    assert [answers[i].status for i in (1, 5)] == [0, 0]
    await peer.close()
    await stopping
    assert server.is_idle()


@pytest.mark.usefixtures("_impatience")
async def test_the_stop_does_not_wait_for_ever_for_the_ping(
    peer: Peer, echo: Echo, stopping: asyncio.Task[None]
) -> None:
    goaway = await peer.until(p.GOAWAY)
    assert goaway.payload[:4] == number(1)
    echo.proceed.set()
    assert (await peer.answer(1)).status == 0
    assert await peer.is_closed()  # nor for the peer to close
    await stopping


@pytest.mark.usefixtures("_impatience")
async def test_a_connection_that_was_accepted_just_before_the_stop_is_drained_too(
    server: EchoServer, stopping: asyncio.Task[None]
) -> None:
    wire = Wire(server.server._connect())
    await asyncio.sleep(0)
    assert frame(p.GOAWAY, payload=LAST_ID + number(p.NO_ERROR)) in wire.written
    wire.close()


@pytest.mark.usefixtures("_impatience")
async def test_a_connection_without_calls_ends_while_others_go_on(
    peer: Peer, connect: Start, server: EchoServer, echo: Echo
) -> None:
    idle = await connect()
    await idle.barrier()
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    stop = asyncio.create_task(server.server.stop(20))
    assert await idle.is_closed()
    assert echo.running
    assert not stop.done()
    echo.proceed.set()
    assert (await peer.answer(1)).status == 0
    await stop


async def test_an_idle_connection_is_drained_before_it_ends(peer: Peer, server: EchoServer) -> None:
    await peer.barrier()
    stop = asyncio.create_task(server.server.stop(20))
    assert (await peer.until(p.GOAWAY)).payload[:4] == LAST_ID
    peer.call(1, b"on its way")
    peer.send(frame(p.PING, p.ACK, 0, b"draining"))
    assert (await peer.answer(1)).body == message(b"on its way")
    await peer.close()
    await stop
    assert server.is_idle()


async def test_what_still_runs_after_the_grace_is_cancelled(
    peer: Peer, server: EchoServer, echo: Echo
) -> None:
    peer.call(1, fields=SLOW)
    peer.send(peer.headers(3, request_fields("/test.Echo/Deaf")))
    await eventually(lambda: echo.running)
    stop = asyncio.create_task(server.server.stop(0.05))
    await eventually(lambda: echo.cancelled)
    await asyncio.sleep(0.05)
    assert not stop.done()  # a method may clean up
    echo.clean_up.set()
    await stop
    assert echo.cleaned == 1
    assert server.is_idle()
    assert await peer.is_closed()


async def test_a_method_that_does_not_return_is_left_behind_and_logged(
    peer: Peer,
    server: EchoServer,
    echo: Echo,
    failures: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "CANCEL_LIMIT_S", 0.05)
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    await server.server.stop(0)
    assert [failures.pop()] == ["methods did not return"]
    echo.clean_up.set()
    await server.idle_calls()


async def test_a_server_that_was_never_used_stops_at_once(start: Start) -> None:
    server = await start()
    async with asyncio.timeout(5):
        await server.server.stop(1_000)


async def test_after_the_stop_nobody_can_connect(server: EchoServer) -> None:
    await server.server.stop(0)
    with pytest.raises(ConnectionRefusedError):
        await Peer.connect(server.port)


async def test_no_call_is_lost_when_servers_take_turns_under_load(start: Start) -> None:
    """Each server is started on the same port before the one before it stops."""
    servers = [await start(calls_limit=1_000)]
    port = servers[0].port
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    done, calls = asyncio.Event(), 0

    async def call_on(channel: grpc.aio.Channel, name: bytes) -> None:
        nonlocal calls
        unary: Any = channel.unary_unary("/test.Echo/Unary")
        while not done.is_set():
            assert await unary(name, wait_for_ready=True, timeout=20) == name
            calls += 1

    async with asyncio.TaskGroup() as group:
        for i in range(CALLERS):
            group.create_task(call_on(channels[i % len(channels)], b"%d" % i))
        for _ in range(5):
            before = calls
            await eventually(lambda reached=before + 200: calls > reached)
            servers.append(await start(port=port, calls_limit=1_000))
            async with asyncio.timeout(20):
                await servers[-2].server.stop(20)
            assert servers[-2].is_idle()
        before = calls
        await eventually(lambda: calls > before + 200)
        done.set()
    for channel in channels:
        await channel.close()
