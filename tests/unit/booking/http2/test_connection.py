"""One connection, spoken to in frames: streams, flow control, settings, and what is no HTTP/2."""

import asyncio
import random
import struct
from typing import Any

import grpc
import pytest

from booking.http2 import connection, frames
from tests.unit.booking.http2 import peer as p
from tests.unit.booking.http2.conftest import Failures, Start
from tests.unit.booking.http2.peer import Peer, frame, message, number, request_fields
from tests.unit.booking.http2.service import Echo, EchoServer, Status, eventually

SLOW = request_fields("/test.Echo/Slow")
JOIN = request_fields("/test.Echo/Join")
CHAT = request_fields("/test.Echo/Chat")
FLOOD = request_fields("/test.Echo/Flood")
FIXED = request_fields("/test.Echo/Fixed")


async def test_the_server_says_its_settings_first_and_confirms_the_peers(peer: Peer) -> None:
    first = await peer.next()
    assert (first.kind, first.flags, first.stream_id) == (p.SETTINGS, 0, 0)
    values = dict(struct.iter_unpack(">HI", first.payload))
    assert values[p.STREAMS] == connection.STREAMS_LIMIT
    assert values[p.WINDOW_SIZE] >= 65_535
    ack = await peer.until(p.SETTINGS, flags=p.ACK)
    assert ack.payload == b""


async def test_a_call_is_answered_with_headers_a_message_and_trailers(peer: Peer) -> None:
    peer.call(1, b"hello")
    answer = await peer.answer(1)
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"] == "application/grpc"
    assert answer.body == message(b"hello")
    assert answer.status == 0
    assert answer.reset is None


async def test_a_session_may_come_byte_by_byte(server: EchoServer, connect: Start) -> None:
    peer = await Peer.connect(server.port)
    session = (
        p.PREFACE
        + p.settings({})
        + peer.headers(1)
        + frame(p.DATA, p.END_STREAM, 1, message(b"a"))
        + peer.headers(3)
        + frame(p.DATA, p.END_STREAM, 3, message(b"b"))
    )
    for byte in session:
        peer.send(bytes((byte,)))
        await asyncio.sleep(0)
    answers = await peer.answers(1, 3)
    assert [answers[i].body for i in (1, 3)] == [message(b"a"), message(b"b")]
    await peer.close()


async def test_an_empty_data_frame_may_end_a_call(peer: Peer) -> None:
    peer.send(peer.headers(1), frame(p.DATA, 0, 1, message(b"hello")))
    peer.send(frame(p.DATA, p.END_STREAM, 1))
    assert (await peer.answer(1)).body == message(b"hello")


async def test_trailers_may_end_a_call(peer: Peer) -> None:
    peer.send(peer.headers(1), frame(p.DATA, 0, 1, message(b"hello")))
    peer.send(peer.headers(1, [("x-a", "b")], p.END_STREAM))
    assert (await peer.answer(1)).body == message(b"hello")


@pytest.mark.parametrize("size", [0, 1, 2, 10, 1_000])
async def test_a_header_block_may_be_continued_and_padded(peer: Peer, size: int) -> None:
    block = peer.encoder.encode(request_fields(x_long="y" * size))
    first = b"\x07" + bytes(5) + block[:3] + bytes(7)
    peer.send(
        frame(p.HEADERS, p.PADDED | p.WITH_PRIORITY, 1, first),
        frame(p.CONTINUATION, 0, 1, block[3:20]),
        frame(p.CONTINUATION, 0, 1),
        frame(p.CONTINUATION, p.END_HEADERS, 1, block[20:]),
        frame(p.DATA, p.END_STREAM | p.PADDED, 1, b"\x05" + message(b"hello") + bytes(5)),
    )
    assert (await peer.answer(1)).body == message(b"hello")


async def test_streams_may_be_interleaved(start: Start, connect: Start) -> None:
    server = await start(calls_limit=100)
    peer = await connect(port=server.port)
    ids = range(1, 41, 2)
    bodies = {i: message(b"%d" % i * 50) for i in ids}
    peer.send(*(peer.headers(i) for i in ids))
    for position in range(0, 120, 7):
        for i in ids:
            piece = bodies[i][position : position + 7]
            if piece:
                end = p.END_STREAM if position + 7 >= len(bodies[i]) else 0
                peer.send(frame(p.DATA, end, i, piece))
    answers = await peer.answers(*ids)
    assert {i: answer.body for i, answer in answers.items()} == bodies


async def test_pings_are_answered_and_unknown_frames_ignored(peer: Peer) -> None:
    peer.send(frame(0xFE, 0xFF, 7, b"?"), frame(p.PING, payload=b"12345678"))
    pong = await peer.until(p.PING)
    assert (pong.flags, pong.payload) == (p.ACK, b"12345678")
    peer.send(frame(p.PING, p.ACK, 0, b"12345678"), frame(p.PRIORITY, 0, 9, bytes(5)))
    peer.send(frame(p.GOAWAY, payload=bytes(8)))
    peer.call(1)
    assert (await peer.answer(1)).status == 0


# Answers that need no message


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "application/json"}, "415"),
        ({"content-type": "application/grpc-web"}, "415"),
    ],
)
async def test_what_is_no_grpc_gets_a_status_of_http(
    peer: Peer, changes: dict[str, str], status: str
) -> None:
    peer.send(peer.headers(1, list((dict(request_fields()) | changes).items())))
    answer = await peer.answer(1)
    assert answer.headers == {":status": status}
    # The peer learns that nobody waits for its body.
    assert (await peer.until(p.RESET, 1)).code == p.NO_ERROR


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (request_fields("/test.Echo/None"), grpc.StatusCode.UNIMPLEMENTED),
        (request_fields(grpc_timeout="1x"), grpc.StatusCode.INTERNAL),
        (request_fields(x_bin="?"), grpc.StatusCode.INVALID_ARGUMENT),
        (request_fields(x_long="y" * 2_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_call_is_refused_by_its_header(
    peer: Peer, server: EchoServer, fields: p.Fields, code: grpc.StatusCode
) -> None:
    peer.send(peer.headers(1, fields))
    answer = await peer.answer(1)
    assert answer.status == code.value[0]
    assert answer.headers[":status"] == "200"
    assert (await peer.until(p.RESET, 1)).code == p.NO_ERROR
    # What the peer sent before it knew is ignored.
    peer.send(frame(p.DATA, p.END_STREAM, 1, message(b"late")), frame(p.RESET, 0, 1, number(8)))
    peer.call(3)
    assert (await peer.answer(3)).status == 0
    assert not server.server._calls


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", grpc.StatusCode.UNIMPLEMENTED),
        (message(b"a") + message(b"b"), grpc.StatusCode.UNIMPLEMENTED),
        (message(b"hello")[:-1], grpc.StatusCode.INTERNAL),
        (message(b"hello") + b"\0", grpc.StatusCode.INTERNAL),
        (b"\0" + number(1_001), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"\1" + number(1) + b"a", grpc.StatusCode.INTERNAL),
        (message(b"unreadable"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_call_is_refused_by_its_body(
    peer: Peer, server: EchoServer, body: bytes, code: grpc.StatusCode
) -> None:
    peer.send(peer.headers(1), frame(p.DATA, p.END_STREAM, 1, body))
    assert (await peer.answer(1)).status == code.value[0]
    peer.send(peer.headers(3, JOIN), frame(p.DATA, p.END_STREAM, 3, body))
    answer = await peer.answer(3)
    accepted = {b"", message(b"a") + message(b"b")}  # a stream takes any number of messages
    assert answer.status == (0 if body in accepted else code.value[0])
    assert not server.server._calls


async def test_a_call_without_a_body_is_refused(peer: Peer) -> None:
    peer.send(peer.headers(1, flags=p.END_STREAM))
    assert (await peer.answer(1)).status == grpc.StatusCode.UNIMPLEMENTED.value[0]


async def test_an_early_answer_stops_the_upload(peer: Peer) -> None:
    peer.send(peer.headers(1), frame(p.DATA, 0, 1, b"\0" + number(1_001)))
    assert (await peer.answer(1)).status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert (await peer.until(p.RESET, 1)).code == p.NO_ERROR


# The ends of streams


async def test_a_reset_cancels_the_method_also_after_the_end_of_the_request(
    peer: Peer, server: EchoServer, echo: Echo
) -> None:
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    peer.send(frame(p.RESET, 0, 1, number(p.CANCEL)))
    await eventually(lambda: echo.cancelled)
    echo.clean_up.set()
    await server.idle_calls()
    assert echo.cleaned == 1
    assert not [seen for seen in await peer.barrier() if seen.stream_id == 1]


async def test_a_method_is_cancelled_only_once(peer: Peer, server: EchoServer, echo: Echo) -> None:
    """What cleans up after its deadline is not disturbed when its caller goes, too."""
    peer.call(1, fields=request_fields("/test.Echo/Slow", grpc_timeout="1m"))
    assert (await peer.answer(1)).status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    await eventually(lambda: echo.cancelled)
    peer.send(frame(p.RESET, 0, 1, number(p.CANCEL)))
    await peer.barrier()
    await peer.close()
    await eventually(lambda: not server.server._connections)
    assert echo.running == 1
    echo.clean_up.set()
    await server.idle_calls()
    assert (echo.cancelled, echo.cleaned) == (1, 1)


async def test_a_call_may_be_reset_before_its_method_runs(
    peer: Peer, server: EchoServer, echo: Echo
) -> None:
    for stream_id in (1, 3, 5):
        peer.call(stream_id, fields=SLOW)
        peer.send(frame(p.RESET, 0, stream_id, number(p.CANCEL)))
    peer.send(peer.headers(7, SLOW), frame(p.RESET, 0, 7, number(p.CANCEL)))
    peer.send(peer.headers(9, JOIN), frame(p.RESET, 0, 9, number(p.CANCEL)))
    await peer.barrier()
    await server.idle_calls()
    assert echo.cancelled == 0


async def test_frames_of_a_stream_that_has_ended_are_ignored(peer: Peer) -> None:
    peer.call(1)
    await peer.answer(1)
    peer.send(
        frame(p.RESET, 0, 1, number(p.NO_ERROR)),
        frame(p.WINDOW, 0, 1, number(100)),
        frame(p.DATA, 0, 1, b"late"),
        peer.headers(1, [("x-late", "1")], p.END_STREAM),
        frame(p.PRIORITY, 0, 1, bytes(5)),
    )
    # Its header block was read nevertheless: the table is still the same on both sides.
    peer.call(3, fields=request_fields(x_late="1"))
    assert (await peer.answer(3)).status == 0


async def test_a_streaming_call_may_answer_before_the_request_ends(peer: Peer) -> None:
    peer.send(peer.headers(1, CHAT), frame(p.DATA, 0, 1, message(b"a")))
    assert (await peer.until(p.DATA, 1)).payload == message(b"A")
    peer.send(frame(p.DATA, p.END_STREAM, 1, message(b"b")))
    assert (await peer.answer(1)).body == message(b"B")


# What ends a connection

OPEN = object()
BROKEN: dict[str, tuple[Any, int]] = {
    "data of stream 0": (frame(p.DATA, 0, 0, b"a"), p.PROTOCOL_ERROR),
    "data of a stream not opened": (frame(p.DATA, 0, 5, b"a"), p.PROTOCOL_ERROR),
    "data of a stream of the server": (frame(p.DATA, 0, 2, b"a"), p.PROTOCOL_ERROR),
    "headers of stream 0": (frame(p.HEADERS, p.END_HEADERS, 0), p.PROTOCOL_ERROR),
    "headers of an even stream": (frame(p.HEADERS, p.END_HEADERS, 2), p.PROTOCOL_ERROR),
    "headers that cannot be read": (frame(p.HEADERS, p.END_HEADERS, 5, b"\x80"), 9),
    "a padding too long": (frame(p.DATA, p.PADDED, 1, b"\x09abc"), p.PROTOCOL_ERROR),
    "a padding of a header too long": (
        frame(p.HEADERS, p.PADDED | p.END_HEADERS, 5, b"\x09abc"),
        p.PROTOCOL_ERROR,
    ),
    "a frame too large": (frame(p.DATA, 0, 1, bytes(16_385)), p.FRAME_SIZE_ERROR),
    "a priority of stream 0": (frame(p.PRIORITY, 0, 0, bytes(5)), p.PROTOCOL_ERROR),
    "a priority of a wrong length": (frame(p.PRIORITY, 0, 1, bytes(4)), p.FRAME_SIZE_ERROR),
    "a reset of stream 0": (frame(p.RESET, 0, 0, number(8)), p.PROTOCOL_ERROR),
    "a reset of a stream not opened": (frame(p.RESET, 0, 5, number(8)), p.PROTOCOL_ERROR),
    "a reset of a wrong length": (frame(p.RESET, 0, 1, b"abc"), p.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(p.SETTINGS, 0, 1), p.PROTOCOL_ERROR),
    "settings of a wrong length": (frame(p.SETTINGS, payload=b"abc"), p.FRAME_SIZE_ERROR),
    "settings with an answer": (frame(p.SETTINGS, p.ACK, 0, bytes(6)), p.FRAME_SIZE_ERROR),
    "a window setting too large": (p.settings({p.WINDOW_SIZE: 2**31}), p.FLOW_CONTROL_ERROR),
    "a push": (frame(p.PUSH, p.END_HEADERS, 1, bytes(4)), p.PROTOCOL_ERROR),
    "a ping of a stream": (frame(p.PING, 0, 1, bytes(8)), p.PROTOCOL_ERROR),
    "a ping of a wrong length": (frame(p.PING, payload=bytes(7)), p.FRAME_SIZE_ERROR),
    "a goaway of a stream": (frame(p.GOAWAY, 0, 1, bytes(8)), p.PROTOCOL_ERROR),
    "a window update of nothing": (frame(p.WINDOW, 0, 0, number(0)), p.PROTOCOL_ERROR),
    "a window update of a stream of nothing": (frame(p.WINDOW, 0, 1, number(0)), 1),
    "a window update of a stream not opened": (frame(p.WINDOW, 0, 5, number(1)), 1),
    "a window update of a wrong length": (frame(p.WINDOW, payload=b"abc"), p.FRAME_SIZE_ERROR),
    "a window too large": (frame(p.WINDOW, 0, 0, number(2**31 - 1)), p.FLOW_CONTROL_ERROR),
    "a window of a stream too large": (frame(p.WINDOW, 0, 1, number(2**31 - 1)), 3),
    "a continuation of nothing": (frame(p.CONTINUATION, p.END_HEADERS, 1), p.PROTOCOL_ERROR),
    "a continuation of another stream": (
        frame(p.HEADERS, 0, 5) + frame(p.CONTINUATION, p.END_HEADERS, 7),
        p.PROTOCOL_ERROR,
    ),
    "a header block with a frame inside": (
        frame(p.HEADERS, 0, 5) + frame(p.PING, payload=bytes(8)),
        p.PROTOCOL_ERROR,
    ),
    "a header block inside a header block": (
        frame(p.HEADERS, 0, 5) + frame(p.HEADERS, p.END_HEADERS, 7),
        p.PROTOCOL_ERROR,
    ),
    "a header block inside a stream": (frame(p.HEADERS, p.END_HEADERS, 1), p.PROTOCOL_ERROR),
    "data after the end of a stream": (frame(p.DATA, 0, 3, b"a"), p.STREAM_CLOSED),
    "headers after the end of a stream": (
        frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 3),
        p.STREAM_CLOSED,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_rule_ends_the_connection_and_cancels_its_calls(
    peer: Peer, server: EchoServer, echo: Echo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_LIMIT_S", 1_000.0)  # at once, not when it is over
    broken, code = BROKEN[name]
    peer.send(peer.headers(1, SLOW))  # still open
    peer.call(3, fields=SLOW)  # half-closed
    await eventually(lambda: echo.running == 1)
    echo.clean_up.set()
    peer.send(broken)
    assert await peer.failure() == code
    await eventually(lambda: not server.server._calls)
    await peer.close()
    await eventually(server.is_idle)
    assert echo.cleaned == 1


async def test_the_end_says_which_streams_were_seen(peer: Peer) -> None:
    peer.call(7)
    await peer.answer(7)
    peer.send(frame(p.PUSH))
    assert (await peer.until(p.GOAWAY)).payload[:4] == number(7)


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        p.PREFACE + frame(p.PING, payload=bytes(8)),
        p.PREFACE + frame(p.SETTINGS, p.ACK),
    ],
)
async def test_a_wrong_greeting_ends_the_connection(server: EchoServer, greeting: bytes) -> None:
    peer = await Peer.connect(server.port)
    peer.send(greeting)
    assert await peer.failure() == p.PROTOCOL_ERROR
    await peer.close()
    await eventually(server.is_idle)


async def test_a_peer_that_ignores_the_end_is_cut_off_and_not_listened_to(
    peer: Peer, server: EchoServer, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_LIMIT_S", 0.2)
    peer.send(frame(p.PUSH))
    assert await peer.failure() == p.PROTOCOL_ERROR
    peer.call(1)
    await asyncio.sleep(0.05)
    peer.send(bytes(100_000))
    await eventually(server.is_idle)
    assert echo.metadata is None  # the call was not read


async def test_a_failure_on_our_side_ends_the_connection_and_is_logged(
    peer: Peer,
    server: EchoServer,
    echo: Echo,
    failures: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    echo.clean_up.set()

    def fail(_: bytes | None) -> float:
        raise LookupError

    monkeypatch.setattr(frames, "read_window_update", fail)
    peer.send(frame(p.WINDOW, 0, 0, number(1)))
    assert await peer.failure() == p.INTERNAL_ERROR
    await peer.close()
    await eventually(server.is_idle)
    assert [failures.pop()] == ["a connection failed"]


# Flow control


async def test_an_answer_waits_for_the_window_of_its_stream(connect: Start, echo: Echo) -> None:
    peer = await connect({p.WINDOW_SIZE: 3})
    peer.call(1, b"0123456789")  # 15 bytes with the prefix
    sizes = []
    for more in (1, 5, 1, 100):
        data = await peer.until(p.DATA, 1)
        sizes.append(len(data.payload))
        assert not [seen for seen in await peer.barrier() if seen.stream_id == 1]
        peer.send(frame(p.WINDOW, 0, 1, number(more)))
    answer = await peer.answer(1)
    assert sizes + answer.sizes == [3, 1, 5, 1, 5]
    assert answer.status == 0


async def test_an_answer_waits_for_the_window_of_the_connection(
    start: Start, connect: Start
) -> None:
    server = await start(message_limit_bytes=200_000)
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1}, server.port)
    server.echo.answer = bytes(range(256)) * 400
    peer.call(1, fields=FIXED)
    seen = await peer.barrier()
    seen += await peer.barrier()
    assert sum(len(s.payload) for s in seen if s.kind == p.DATA) == 65_535
    assert max(len(s.payload) for s in seen) <= 16_384
    peer.send(frame(p.WINDOW, 0, 0, number(7)))
    assert len((await peer.until(p.DATA, 1)).payload) == 7
    peer.send(frame(p.WINDOW, 0, 0, number(100_000)))
    rest = await peer.answer(1)
    body = b"".join(s.payload for s in seen if s.kind == p.DATA) + rest.body
    assert len(rest.body) + 65_535 + 7 == len(message(server.echo.answer))
    assert body.endswith(server.echo.answer[-30_000:])


async def test_answers_that_wait_for_the_connection_go_out_in_their_order(
    connect: Start, echo: Echo
) -> None:
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    echo.answer = bytes(60_000)
    for stream_id in (1, 3, 5):
        peer.call(stream_id, fields=FIXED)
        await peer.barrier()
    ended = []
    for _ in range(100):
        peer.send(frame(p.WINDOW, 0, 0, number(2_000)))
        ended += [s.stream_id for s in await peer.barrier() if s.flags & p.END_STREAM]
        if len(ended) == 2:
            break
    assert ended == [3, 5]  # stream 1 was answered from the first window


async def test_settings_change_the_windows_of_streams_that_are_open(connect: Start) -> None:
    peer = await connect({p.WINDOW_SIZE: 10})
    peer.call(1, b"0123456789")
    assert len((await peer.until(p.DATA, 1)).payload) == 10
    # Now 8 bytes have been sent too many: the window is negative.
    peer.send(p.settings({p.WINDOW_SIZE: 2}))
    peer.send(frame(p.WINDOW, 0, 1, number(8)))
    assert not [seen for seen in await peer.barrier() if seen.kind == p.DATA]
    peer.send(frame(p.WINDOW, 0, 1, number(1)))
    assert len((await peer.until(p.DATA, 1)).payload) == 1
    peer.send(p.settings({p.WINDOW_SIZE: 6}))
    answer = await peer.answer(1)
    assert answer.sizes == [4]
    assert answer.status == 0


async def test_settings_are_confirmed_before_they_are_used(connect: Start) -> None:
    """A client of gRPC's C core gives up a stream whose data comes before the confirmation."""
    peer = await connect({p.WINDOW_SIZE: 0})
    peer.call(1)
    await peer.barrier()
    peer.send(p.settings({p.WINDOW_SIZE: 100}))
    seen = await peer.until(p.SETTINGS, flags=p.ACK)
    assert seen.flags == p.ACK
    answer = await peer.answer(1)
    assert answer.body == message(b"hello")


async def test_settings_cannot_make_a_window_too_large(peer: Peer, echo: Echo) -> None:
    peer.call(1, fields=SLOW)
    await eventually(lambda: echo.running)
    echo.clean_up.set()
    peer.send(frame(p.WINDOW, 0, 1, number(2**30)))
    await peer.barrier()
    peer.send(p.settings({p.WINDOW_SIZE: 2**31 - 1}))
    assert await peer.failure() == p.FLOW_CONTROL_ERROR


async def test_many_answers_get_through_tiny_windows(start: Start, connect: Start) -> None:
    server = await start(calls_limit=1_000)
    peer = await connect({p.WINDOW_SIZE: 1}, server.port)
    ids = range(1, 61, 2)
    for stream_id in ids:
        peer.call(stream_id, b"%d" % stream_id)
    chance = random.Random(1)
    for _ in range(20):
        for stream_id in chance.sample(ids, len(ids)):
            peer.send(frame(p.WINDOW, 0, stream_id, number(chance.randint(1, 3))))
    answers = await peer.answers(*ids)
    assert {i: a.body for i, a in answers.items()} == {i: message(b"%d" % i) for i in ids}


async def test_a_call_that_waits_for_a_window_can_be_reset(
    connect: Start, server: EchoServer, echo: Echo
) -> None:
    peer = await connect({p.WINDOW_SIZE: 0})
    peer.call(1, b"hello")
    peer.call(3, b"xyz", request_fields("/test.Echo/Split"))
    await peer.until(p.HEADERS, 3)
    assert echo.running == 1
    peer.send(frame(p.RESET, 0, 1, number(8)), frame(p.RESET, 0, 3, number(8)))
    await server.idle_calls()
    assert echo.running == 0  # the generator has cleaned up, too
    peer.send(p.settings({p.WINDOW_SIZE: 100}), frame(p.WINDOW, 0, 0, number(9)))
    assert not [seen for seen in await peer.barrier() if seen.stream_id]


async def test_a_method_may_give_up_waiting_for_a_window(connect: Start) -> None:
    peer = await connect({p.WINDOW_SIZE: 0})
    peer.call(1, b"ab", request_fields("/test.Echo/Hasty"))
    await peer.until(p.HEADERS, 1)
    await asyncio.sleep(0.05)
    peer.send(frame(p.WINDOW, 0, 1, number(100)))
    assert (await peer.answer(1)).body == message(b"a") + message(b"b")


async def test_the_window_of_the_connection_is_refilled(start: Start, connect: Start) -> None:
    server = await start(message_limit_bytes=30_000)
    peer = await connect(port=server.port)
    window = 65_535
    for call in range(60):  # 1.2 MB
        body = message(bytes(20_000))
        while window < len(body):
            window += int.from_bytes((await peer.until(p.WINDOW, 0)).payload, "big")
        window -= len(body)
        stream_id = 2 * call + 1
        peer.send(peer.headers(stream_id, JOIN), frame(p.DATA, 0, stream_id, body[:12_000]))
        peer.send(frame(p.DATA, 0, stream_id, body[12_000:]))
        peer.send(frame(p.RESET, 0, stream_id, number(8)))
        for seen in await peer.barrier():
            if (seen.kind, seen.stream_id) == (p.WINDOW, 0):
                window += int.from_bytes(seen.payload, "big")


async def test_the_window_of_a_stream_is_refilled_when_messages_are_taken(
    connect: Start, echo: Echo
) -> None:
    peer = await connect({p.WINDOW_SIZE: 2**31 - 1})
    peer.send(frame(p.WINDOW, 0, 0, number(2**30)))
    peer.send(peer.headers(1, request_fields("/test.Echo/Deaf")))
    body = message(bytes(995))
    for _ in range(60):
        peer.send(frame(p.DATA, 0, 1, body))
    assert not [s for s in await peer.barrier() if (s.kind, s.stream_id) == (p.WINDOW, 1)]
    echo.proceed.set()
    credit = 0
    while credit < 60_000:
        credit += int.from_bytes((await peer.until(p.WINDOW, 1)).payload, "big")
    assert credit == 60_000
    for _ in range(60):
        peer.send(frame(p.DATA, 0, 1, body))
    peer.send(frame(p.DATA, p.END_STREAM, 1))
    assert len((await peer.answer(1)).body) == 5 + 995 * 120


async def test_padding_is_given_back_to_the_window_at_once(peer: Peer) -> None:
    peer.send(peer.headers(1, request_fields("/test.Echo/Deaf")))
    peer.send(frame(p.DATA, p.PADDED, 1, b"\xc8" + message(b"a") + bytes(200)))
    assert (await peer.until(p.WINDOW, 1)).payload == number(201)


async def test_more_data_than_the_window_allows_ends_the_connection(
    peer: Peer, server: EchoServer
) -> None:
    peer.send(peer.headers(1, request_fields("/test.Echo/Deaf")))
    for _ in range(6):
        peer.send(frame(p.DATA, 0, 1, bytes(10_922)))  # 65,532 bytes
    await peer.barrier()
    peer.send(frame(p.DATA, 0, 1, bytes(4)))
    assert await peer.failure() == p.FLOW_CONTROL_ERROR
    await peer.close()
    await eventually(server.is_idle)


async def test_a_smaller_table_is_confirmed_in_the_next_header_block(connect: Start) -> None:
    """Strict decoders refuse a block that does not begin with the new size (RFC 7541, 4.2)."""
    peer = await connect()
    peer.call(1)
    await peer.answer(1)
    peer.decoder.max_allowed_table_size = 100
    peer.send(p.settings({p.TABLE_SIZE: 100}))
    peer.call(3)
    assert (await peer.answer(3)).status == 0


async def test_long_trailers_are_continued(connect: Start, echo: Echo) -> None:
    peer = await connect()
    echo.status = Status(grpc.StatusCode.ABORTED, "why", (("x-long", "y" * 40_000),))
    peer.call(1, fields=request_fields("/test.Echo/Abort"))
    first = await peer.until(p.HEADERS, 1)
    assert first.flags & p.END_STREAM
    parts = [first, await peer.next(), await peer.next()]
    assert [part.kind for part in parts] == [p.HEADERS, p.CONTINUATION, p.CONTINUATION]
    fields: Any = peer.decoder.decode(b"".join(part.payload for part in parts))
    assert dict(fields)["x-long"] == "y" * 40_000
