"""Peers that want too much, or nothing: the server stays small, quick and free of them."""

import asyncio
from typing import Any

import pytest

from booking.http2 import call, connection
from tests.unit.booking.http2 import peer as p
from tests.unit.booking.http2.conftest import Start
from tests.unit.booking.http2.peer import Peer, frame, message, number, request_fields
from tests.unit.booking.http2.service import Echo, EchoServer, eventually

SLOW = request_fields("/test.Echo/Slow")
DEAF = request_fields("/test.Echo/Deaf")
FLOOD = request_fields("/test.Echo/Flood")
EMPTY_HEADERS = frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1)
CHEAP = {
    "pings": frame(p.PING, payload=bytes(8)),
    "answers to no ping": frame(p.PING, p.ACK, 0, bytes(8)),
    "empty settings": frame(p.SETTINGS),
    "answers to no settings": frame(p.SETTINGS, p.ACK),
    "priorities": frame(p.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": frame(0xEE),
    "goaways": frame(p.GOAWAY, payload=bytes(8)),
    "resets": frame(p.RESET, 0, 1, number(p.CANCEL)),
    "empty data": frame(p.DATA, 0, 3),
    "padding": frame(p.DATA, p.PADDED, 3, b"\0"),
    "headers of an ended stream": EMPTY_HEADERS,
}


@pytest.mark.parametrize("name", CHEAP)
async def test_a_flood_of_what_asks_for_nothing_ends_the_connection(
    peer: Peer, server: EchoServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(connection, "CHEAP_FRAMES_INTERVAL_S", 1_000.0)
    peer.call(1)
    await peer.answer(1)
    peer.send(peer.headers(3, DEAF))
    await peer.barrier()
    cost = connection.SETTINGS_COST if "settings" in name else 1
    peer.send(CHEAP[name] * (connection.CHEAP_FRAMES_LIMIT // cost))
    assert await peer.failure() == p.ENHANCE_YOUR_CALM
    await peer.close()
    await eventually(server.is_idle)


async def test_a_flood_of_empty_continuations_ends_the_connection(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHEAP_FRAMES_INTERVAL_S", 1_000.0)
    peer.send(frame(p.HEADERS, 0, 1), frame(p.CONTINUATION, 0, 1) * connection.CHEAP_FRAMES_LIMIT)
    assert await peer.failure() == p.ENHANCE_YOUR_CALM


async def test_a_rapid_reset_ends_the_connection(
    peer: Peer, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHEAP_FRAMES_INTERVAL_S", 1_000.0)
    for stream_id in range(1, 2 * connection.CHEAP_FRAMES_LIMIT, 2):
        peer.send(peer.headers(stream_id, SLOW), frame(p.RESET, 0, stream_id, number(p.CANCEL)))
    assert await peer.failure() == p.ENHANCE_YOUR_CALM
    await peer.close()
    await eventually(server.is_idle)


async def test_cheap_frames_are_counted_anew_after_a_while(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHEAP_FRAMES_INTERVAL_S", 0.0)
    peer.send(CHEAP["answers to no ping"] * (3 * connection.CHEAP_FRAMES_LIMIT))
    peer.call(1)
    assert (await peer.answer(1)).status == 0


async def test_a_header_block_above_the_limit_ends_the_connection(peer: Peer) -> None:
    part = bytes(16_384)
    peer.send(frame(p.HEADERS, 0, 1, part), frame(p.CONTINUATION, 0, 1, part) * 4)
    assert await peer.failure() == p.ENHANCE_YOUR_CALM


async def test_a_header_list_above_the_limit_ends_the_connection(peer: Peer) -> None:
    """A bomb: few bytes that refer to a large field again and again."""
    peer.send(peer.headers(1, request_fields(x_large="y" * 3_900)))
    assert (await peer.answer(1)).status == 8
    peer.send(frame(p.HEADERS, p.END_HEADERS, 3, b"\xbe" * 20))
    assert await peer.failure() == p.ENHANCE_YOUR_CALM


async def test_a_stream_above_the_limit_is_refused(
    connect: Start, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STREAMS_LIMIT", 3)
    peer = await connect()
    for stream_id in (1, 3, 5):
        peer.call(stream_id, fields=SLOW)
    peer.call(7)
    assert (await peer.answer(7)).reset == p.REFUSED_STREAM
    echo.proceed.set()
    await peer.answers(1, 3, 5)
    peer.call(9)
    assert (await peer.answer(9)).status == 0


async def test_streams_do_not_end_up_with_more_than_their_windows(
    start: Start, connect: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that would hold too much is ended; the other ones go on."""
    monkeypatch.setattr(connection, "HELD_LIMIT_BYTES", 100_000)
    server = await start(message_limit_bytes=60_000, calls_limit=100)
    peer = await connect(port=server.port)
    begun = b"\0" + number(50_000) + bytes(9_995)
    ids = range(1, 21, 2)
    for stream_id in ids:
        peer.send(peer.headers(stream_id), frame(p.DATA, 0, stream_id, begun))
    peer.send(peer.headers(21), frame(p.DATA, 0, 21, begun))
    assert (await peer.answer(21)).reset == p.ENHANCE_YOUR_CALM
    # What is given up is not counted any more.
    peer.send(*(frame(p.RESET, 0, stream_id, number(p.CANCEL)) for stream_id in ids))
    for stream_id in range(23, 43, 2):
        peer.send(peer.headers(stream_id), frame(p.DATA, 0, stream_id, begun))
    assert not [seen for seen in await peer.barrier() if seen.kind == p.RESET]
    (held,) = [one._held for one in server.server._connections]
    assert held == 100_000


async def test_what_is_taken_of_a_stream_that_was_given_up_is_not_counted_again(
    peer: Peer, server: EchoServer, echo: Echo
) -> None:
    peer.send(peer.headers(1, request_fields("/test.Echo/Stubborn")))
    peer.send(frame(p.DATA, 0, 1, message(b"a")), frame(p.DATA, 0, 1, message(b"b")))
    await peer.barrier()
    peer.send(frame(p.RESET, 0, 1, number(p.CANCEL)))
    await server.idle_calls()
    assert echo.taken == [b"a", b"b"]
    (one,) = server.server._connections
    assert one._held == 0
    assert not [seen for seen in await peer.barrier() if seen.stream_id == 1]


async def test_answers_that_nobody_waits_for_are_not_kept(
    connect: Start, server: EchoServer, echo: Echo
) -> None:
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    echo.answer = bytes(70_000)
    for stream_id in (1, 3, 5):
        peer.call(stream_id, fields=request_fields("/test.Echo/Fixed"))
    (one,) = server.server._connections
    await eventually(lambda: len(one._starved) == 3)
    peer.send(*(frame(p.RESET, 0, stream_id, number(p.CANCEL)) for stream_id in (1, 3, 5)))
    await peer.barrier()
    assert not one._starved


async def test_what_was_taken_is_not_held(peer: Peer, server: EchoServer) -> None:
    peer.send(peer.headers(1, request_fields("/test.Echo/Chat")))
    for _ in range(3):
        peer.send(frame(p.DATA, 0, 1, message(b"a" * 900)))
        await peer.until(p.WINDOW, 1)
    (one,) = server.server._connections
    assert one._held == 0
    peer.send(frame(p.DATA, 0, 1, message(b"a")[:3]))
    await peer.until(p.WINDOW, 1)
    peer.send(frame(p.DATA, p.END_STREAM, 1, message(b"a")[3:]))
    assert (await peer.answer(1)).status == 0
    assert one._held == 0


async def test_a_peer_that_does_not_greet_is_sent_away(
    server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PREFACE_LIMIT_S", 0.05)
    silent, half = await Peer.connect(server.port), await Peer.connect(server.port)
    half.send(p.PREFACE[:10])
    greeted = await Peer.connect(server.port)
    greeted.greet({})
    assert await silent.is_closed()
    assert await half.is_closed()
    greeted.call(1)
    assert (await greeted.answer(1)).status == 0
    for peer in (silent, half, greeted):
        await peer.close()
    await eventually(server.is_idle)


@pytest.mark.parametrize("begun", [b"", message(b"hello")[:-1], message(b"hello")])
async def test_a_request_that_never_ends_is_given_up(
    peer: Peer, server: EchoServer, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(call, "REQUEST_LIMIT_S", 0.05)
    peer.send(peer.headers(1), frame(p.DATA, 0, 1, begun))
    answer = await peer.answer(1)
    assert answer.status == 4
    assert answer.headers["grpc-message"] == "The request took too long."
    assert not server.server._calls


async def test_only_the_request_is_timed_and_only_of_one_message(
    peer: Peer, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "REQUEST_LIMIT_S", 0.05)
    peer.call(1, fields=SLOW)
    peer.send(peer.headers(3, DEAF), frame(p.DATA, 0, 3, message(b"a")))
    await asyncio.sleep(0.3)
    echo.proceed.set()
    assert (await peer.answer(1)).status == 0
    peer.send(frame(p.DATA, p.END_STREAM, 3))
    assert (await peer.answer(3)).body == message(b"a")


async def test_a_peer_that_reads_nothing_holds_up_the_method_and_is_sent_away(
    server: EchoServer, echo: Echo, connect: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_LIMIT_S", 0.3)
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    await peer.barrier()
    reading: Any = peer._writer.transport
    reading.pause_reading()
    peer.send(frame(p.WINDOW, 0, 0, number(2**30)))
    peer.call(1, b"x" * 1_000, FLOOD)
    await eventually(lambda: echo.taken)
    (one,) = server.server._connections
    await eventually(lambda: one._is_paused)
    before = len(echo.taken)
    assert before < 50_000  # 50 MB; the sockets take some of it
    await asyncio.sleep(0.1)
    assert len(echo.taken) <= before + 1
    await eventually(server.is_idle)


async def test_a_peer_that_reads_again_gets_all(
    server: EchoServer, echo: Echo, connect: Start
) -> None:
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    await peer.barrier()
    peer.send(frame(p.WINDOW, 0, 0, number(2**30)))
    echo.answer = bytes(20_000_000)
    reading: Any = peer._writer.transport
    reading.pause_reading()
    peer.call(1, fields=request_fields("/test.Echo/Fixed"))
    peer.call(3, fields=request_fields("/test.Echo/Fixed"))
    (one,) = server.server._connections
    await eventually(lambda: one._is_paused)
    peer.call(5)
    reading.resume_reading()
    answers = await peer.answers(1, 3, 5)
    assert [len(answers[i].body) for i in (1, 3, 5)] == [20_000_005, 20_000_005, 10]
    assert not one._is_paused
    assert one._stall_timer is not None
    assert one._stall_timer.cancelled()


async def test_a_peer_that_reads_nothing_cannot_make_the_server_answer_pings(
    server: EchoServer, connect: Start
) -> None:
    peer = await connect()
    await peer.barrier()
    reading: Any = peer._writer.transport
    reading.pause_reading()
    (one,) = server.server._connections
    transport: Any = one._transport
    sent = 0
    while not one._is_paused and sent < 5_000:
        # Settings are answered, too; their cost is not what is looked at here.
        one._cheap_left = connection.CHEAP_FRAMES_LIMIT
        peer.send(frame(p.PING, payload=bytes(8)) * 5_000)
        sent += 1
        await asyncio.sleep(0)
    assert one._is_paused
    assert not transport.is_reading()
    assert transport.get_write_buffer_size() < 1_000_000
    reading.resume_reading()


async def test_a_connection_that_is_closed_ends_though_the_peer_reads_nothing(
    server: EchoServer, echo: Echo, connect: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_LIMIT_S", 0.1)
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    await peer.barrier()
    reading: Any = peer._writer.transport
    reading.pause_reading()
    echo.answer = bytes(20_000_000)
    peer.send(frame(p.WINDOW, 0, 0, number(2**30)))
    peer.call(1, fields=request_fields("/test.Echo/Fixed"))
    (one,) = server.server._connections
    await eventually(lambda: one._is_paused)
    one.close()
    await eventually(server.is_idle)


async def test_a_peer_that_only_closes_its_half_is_gone(
    peer: Peer, server: EchoServer, echo: Echo
) -> None:
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    echo.clean_up.set()
    peer._writer.write_eof()
    assert await peer.is_closed()
    await eventually(server.is_idle)


async def test_a_connection_is_watched_by_the_system(server: EchoServer, peer: Peer) -> None:
    await peer.barrier()
    (one,) = server.server._connections
    sock = one._transport.get_extra_info("socket")
    assert sock.getsockopt(1, 9) == 1  # SO_KEEPALIVE
    assert sock.getsockopt(6, 4) == connection.KEEPALIVE_IDLE_S


async def test_calls_leave_nothing_to_the_garbage_collector(
    server: EchoServer, peer: Peer, connect: Start
) -> None:
    import gc

    await peer.barrier()
    gc.collect()
    gc.disable()
    try:
        gc.collect()
        for stream_id in range(1, 401, 2):
            peer.call(stream_id)
            await peer.answer(stream_id)
        found = gc.collect()
    finally:
        gc.enable()
    assert found < 200
