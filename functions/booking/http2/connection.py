"""One HTTP/2 connection as a server sees it (RFC 9113): streams, flow control, limits."""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from typing_extensions import override

from booking.http2 import frames
from booking.http2.fields import TABLE_LIMIT_BYTES, Field, FieldReader
from booking.http2.frames import ErrorCode, Frame, FrameReader, ProtocolError
from booking.http2.stream import Receiver, Stream
from ticketra.log import logger

STREAMS_LIMIT = 4_096
HEADER_BLOCK_LIMIT_BYTES = 64 * 1024
RECEIVE_WINDOW = 1 << 20  # of a connection
HELD_LIMIT_BYTES = 16 << 20  # of bodies that are not whole, and of messages that nobody took yet
WRITES_LIMIT = 512  # that wait for the end of the loop's turn, where a method sends many messages
# Frames that cost the peer nothing: pings, resets, empty ones. SETTINGS change every stream.
CHEAP_FRAMES_LIMIT = 10_000
CHEAP_FRAMES_INTERVAL_S = 1.0
SETTINGS_COST = 100
DRAIN_PING = b"draining"
PREFACE_LIMIT_S = 10.0
DRAIN_PING_LIMIT_S = 1.0
LINGER_LIMIT_S = 1.0  # for the peer to close a connection that was drained, or has failed
CLOSE_LIMIT_S = 5.0  # for the peer to read what was sent before the connection was closed
STALL_LIMIT_S = 30.0  # for a peer to read some of its answers
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 6

_EMPTY_TABLE = b"\x20"  # HPACK's "I use no table" (RFC 7541, 6.3)


class Connection(asyncio.Protocol):
    """Reads frames, and writes what the streams send.

    Each new stream is given to `accept` with its header fields and their size.
    """

    def __init__(
        self,
        accept: Callable[[Stream, list[Field], int], Receiver | None],
        *,
        stream_window: int,
        on_made: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        """Make a connection; a stream may send `stream_window` bytes before they are consumed."""
        self._accept = accept
        # Peers may send as much as the standard's window before they hear of another one.
        self._stream_window = max(stream_window, frames.WINDOW_DEFAULT)
        self._on_made = on_made
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._fields = FieldReader(HEADER_BLOCK_LIMIT_BYTES)
        self._streams: dict[int, Stream] = {}
        self._starved: OrderedDict[int, Stream] = OrderedDict()
        """streams that wait for the connection's window or the transport, the longest first"""
        self._last_stream_id = 0
        self._block: list[Frame] = []
        """a header block that is not yet whole"""
        self._block_size = 0
        self._table_note = b""
        """what the next header block has to begin with"""
        self._send_window = frames.WINDOW_DEFAULT
        self._initial_window = frames.WINDOW_DEFAULT
        self._received = 0
        self._held = 0
        self._out: list[bytes] = []
        self._is_paused = False
        self._has_failed = False
        self._cheap_left = CHEAP_FRAMES_LIMIT
        self._cheap_since = self._loop.time()
        self._transport: asyncio.Transport
        self._settled = False
        self._preface_timer: asyncio.TimerHandle
        self._end_timer: asyncio.TimerHandle | None = None
        """of the step of the connection's end that goes on"""
        self._stall_timer: asyncio.TimerHandle | None = None
        self._refuses_streams = False
        self._take = {
            frames.DATA: self._take_data,
            frames.HEADERS: self._take_headers,
            frames.PRIORITY: self._take_priority,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._take_push_promise,
            frames.PING: self._take_ping,
            frames.GOAWAY: self._take_goaway,
            frames.WINDOW_UPDATE: self._take_window_update,
            frames.CONTINUATION: self._take_continuation,
        }

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._preface_timer = self._loop.call_later(PREFACE_LIMIT_S, self._transport.abort)
        _keep_alive(transport.get_extra_info("socket"))
        self.write(
            frames.build_settings(
                {
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_LIMIT,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: self._stream_window,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: HEADER_BLOCK_LIMIT_BYTES,
                }
            )
        )
        self.write(frames.build_window_update(0, RECEIVE_WINDOW - frames.WINDOW_DEFAULT))
        self._on_made(self)

    @override
    def data_received(self, data: bytes) -> None:
        if self._has_failed:
            return
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except ProtocolError as error:
            self._fail(error.code, str(error))
        except Exception:  # noqa: BLE001 - the entry point: the loop would leave the peer without a word
            logger.exception("a connection failed")
            self._fail(ErrorCode.INTERNAL_ERROR, "something went wrong on our side")

    @override
    def eof_received(self) -> None:
        self.close()

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_streams()
        for timer in (self._preface_timer, self._end_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._on_lost(self)

    @override
    def pause_writing(self) -> None:
        # A peer that does not read its answers may not ask for more, and not stay for ever.
        self._is_paused = True
        self._transport.pause_reading()
        self._stall_timer = self._loop.call_later(STALL_LIMIT_S, self._transport.abort)

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._transport.resume_reading()
        self._send_starved()

    def write(self, data: bytes) -> None:
        """Send bytes together with all that is written in the same turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def send_headers(self, stream: Stream, block: bytes, flags: int = 0) -> None:
        """Send a header block."""
        if self._table_note:
            block, self._table_note = self._table_note + block, b""
        self.write(frames.build_headers(stream.id, block, flags))

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send what the peer takes, and keep the rest."""
        if stream.blocked:
            data = bytes(stream.blocked) + data
        stream.blocked = memoryview(data) if len(data) > frames.FRAME_LIMIT_BYTES else data
        self._send_blocked(stream)
        if len(self._out) > WRITES_LIMIT:
            self._flush()  # finds out that the peer does not read

    def end(self, stream: Stream, block: bytes) -> None:
        """Send the last header block of a stream, and forget the stream."""
        self.send_headers(stream, block, frames.END_STREAM)
        if not stream.ended_there:
            self.write(frames.build_reset(stream.id, ErrorCode.NO_ERROR))
        self._remove(stream)

    def credit(self, stream: Stream, count: int) -> None:
        """Let the peer send `count` bytes more on a stream."""
        stream.receive_window += count
        stream.held -= count
        self._held -= count
        self.write(frames.build_window_update(stream.id, count))

    def drain(self) -> None:
        """Ask the peer to open no streams; those that it opened before it knows are served.

        The connection ends after the last of them.
        """
        if self._has_failed or self._transport.is_closing():
            return
        self.write(frames.build_goaway(frames.STREAM_ID_LIMIT, ErrorCode.NO_ERROR))
        self.write(frames.build(frames.PING, 0, 0, DRAIN_PING))
        self._end_in(DRAIN_PING_LIMIT_S, self._refuse_streams)

    def close(self) -> None:
        """Cancel what runs, send what is left, and end the connection."""
        self._cancel_streams()
        self._flush()
        self._transport.close()
        self._end_in(CLOSE_LIMIT_S, self._transport.abort)

    def _end_in(self, delay_s: float, step: Callable[[], None]) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = self._loop.call_later(delay_s, step)

    def _flush(self) -> None:
        if self._out and not (self._has_failed or self._transport.is_closing()):
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _fail(self, code: ErrorCode, message: str) -> None:
        """Say why, and end the connection; what the peer sends until it ends too is not read.

        Closed at once, with something of the peer's on the way, the system would reset the
        connection, and the peer might not learn why.
        """
        self.write(frames.build_goaway(self._last_stream_id, code, message))
        self._cancel_streams()
        self._flush()
        self._has_failed = True
        self._transport.write_eof()
        self._end_in(LINGER_LIMIT_S, self._transport.abort)

    def _refuse_streams(self) -> None:
        """End the drain's first half: the peer has heard that this connection ends."""
        if self._refuses_streams:
            return
        self._refuses_streams = True
        self.write(frames.build_goaway(self._last_stream_id, ErrorCode.NO_ERROR))
        self._linger_if_drained()

    def _linger_if_drained(self) -> None:
        # The peer closes first where it can, for the same reason as in `_fail`.
        if self._refuses_streams and not self._streams:
            self._end_in(LINGER_LIMIT_S, self.close)

    def _take_frame(self, frame: Frame) -> None:
        if self._block and frame.type != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._settled:
            self._settle(frame)
        take = self._take.get(frame.type)
        if take is None:
            self._spend()  # frames of unknown types are ignored
        else:
            take(frame)

    def _settle(self, frame: Frame) -> None:
        if frame.type != frames.SETTINGS or frame.flags & frames.ACK:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._settled = True
        self._preface_timer.cancel()

    def _spend(self, cost: int = 1) -> None:
        self._cheap_left -= cost
        if self._cheap_left > 0:
            return
        now = self._loop.time()
        if now - self._cheap_since < CHEAP_FRAMES_INTERVAL_S:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
        self._cheap_left, self._cheap_since = CHEAP_FRAMES_LIMIT, now

    def _take_headers(self, frame: Frame) -> None:
        if frame.stream_id % 2 == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream id that is not the peer's")
        if frame.flags & frames.END_HEADERS:
            self._open(frame, frames.unpadded(frame))
        else:
            self._block = [frame]
            self._block_size = len(frame.payload)

    def _take_continuation(self, frame: Frame) -> None:
        if not self._block or frame.stream_id != self._block[0].stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        self._spend()
        self._block.append(frame)
        self._block_size += len(frame.payload)
        if self._block_size > HEADER_BLOCK_LIMIT_BYTES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if frame.flags & frames.END_HEADERS:
            first, *others = self._block
            self._block = []
            self._open(first, frames.unpadded(first) + b"".join(part.payload for part in others))

    def _open(self, frame: Frame, block: bytes) -> None:
        # Read in any case: each block changes the table that the next one refers to.
        fields, size = self._fields.read(block)
        stream_id, end = frame.stream_id, bool(frame.flags & frames.END_STREAM)
        if stream_id <= self._last_stream_id:
            self._take_trailers(stream_id, end=end)
            return
        if self._refuses_streams or len(self._streams) >= STREAMS_LIMIT:
            self._spend()
            self.write(frames.build_reset(stream_id, ErrorCode.REFUSED_STREAM))
            if not self._refuses_streams:
                self._last_stream_id = stream_id
            return
        self._last_stream_id = stream_id
        stream = Stream(self, stream_id, self._initial_window, self._stream_window)
        stream.ended_there = end
        self._streams[stream_id] = stream
        stream.receiver = self._accept(stream, fields, size)
        if end and stream.receiver is not None:
            stream.receiver.receive(b"", end=True)

    def _take_trailers(self, stream_id: int, *, end: bool) -> None:
        """Take a second header block of a stream: only its end matters to gRPC."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._spend()
            return
        if stream.ended_there:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "a header block after a stream's end")
        if not end:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block inside a stream")
        stream.ended_there = True
        if stream.receiver is not None:
            stream.receiver.receive(b"", end=True)

    def _take_data(self, frame: Frame) -> None:
        size = len(frame.payload)
        end = bool(frame.flags & frames.END_STREAM)
        self._received += size
        if self._received > RECEIVE_WINDOW // 2:
            # Given back at once: the streams' own windows bound what is kept.
            self.write(frames.build_window_update(0, self._received))
            self._received = 0
        data = frames.unpadded(frame)
        if not data and not end:
            self._spend()
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._expect_closed(frame.stream_id)
            return
        if stream.ended_there:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "data after the end of a stream")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window allows")
        stream.ended_there = end
        if not end and not self._hold(stream, size, padding=size - len(data)):
            return
        if stream.receiver is not None:
            stream.receiver.receive(data, end=end)

    def _hold(self, stream: Stream, size: int, *, padding: int) -> bool:
        """Count a part of a body that goes on; where all of them are too much, end the stream."""
        stream.held += size
        self._held += size
        if padding:
            stream.consumed(padding)
        if self._held <= HELD_LIMIT_BYTES:
            return True
        self.write(frames.build_reset(stream.id, ErrorCode.ENHANCE_YOUR_CALM))
        self._forget(stream)
        return False

    def _take_reset(self, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a RST_STREAM of a wrong length")
        self._spend()
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._expect_closed(frame.stream_id)
        else:
            self._forget(stream)

    def _take_settings(self, frame: Frame) -> None:
        _expect_connection(frame)
        self._spend(SETTINGS_COST)
        if frame.flags & frames.ACK:
            if frame.payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with ACK and values")
            return
        values = frames.read_settings(frame.payload)
        if values.get(frames.SETTINGS_HEADER_TABLE_SIZE, TABLE_LIMIT_BYTES) < TABLE_LIMIT_BYTES:
            # No table is used here, but the standard wants a smaller one to be confirmed.
            self._table_note = _EMPTY_TABLE
        # First, as the peer counts with larger windows only from there on.
        self.write(frames.build(frames.SETTINGS, frames.ACK, 0))
        window = values.get(frames.SETTINGS_INITIAL_WINDOW_SIZE)
        if window is not None:
            self._resize_windows(window)

    def _resize_windows(self, window: int) -> None:
        change = window - self._initial_window
        self._initial_window = window
        for stream in list(self._streams.values()):
            self._grow(stream, change)

    def _grow(self, stream: Stream, change: int) -> None:
        stream.send_window += change
        _expect_window(stream.send_window)
        if stream.blocked:
            self._send_blocked(stream)

    def _take_ping(self, frame: Frame) -> None:
        _expect_connection(frame)
        if len(frame.payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a PING of a wrong length")
        self._spend()
        if not frame.flags & frames.ACK:
            self.write(frames.build(frames.PING, frames.ACK, 0, frame.payload))
        elif frame.payload == DRAIN_PING and self._end_timer is not None:
            self._refuse_streams()

    def _take_goaway(self, frame: Frame) -> None:
        _expect_connection(frame)
        self._spend()  # the peer opens no more streams, and closes when it has its answers

    def _take_window_update(self, frame: Frame) -> None:
        increment = frames.read_window_update(frame.payload)
        if increment == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
        if frame.stream_id == 0:
            self._send_window += increment
            _expect_window(self._send_window)
            self._send_starved()
            return
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._expect_closed(frame.stream_id)
        else:
            self._grow(stream, increment)

    def _take_priority(self, frame: Frame) -> None:
        if frame.stream_id == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a PRIORITY of no stream")
        if len(frame.payload) != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY of a wrong length")
        self._spend()  # advice that no server has to follow

    def _take_push_promise(self, _: Frame) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _expect_closed(self, stream_id: int) -> None:
        """Frames of a stream that was ended or refused here may still be on their way."""
        is_known = stream_id <= self._last_stream_id or self._refuses_streams
        if stream_id % 2 == 0 or not is_known:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that was not opened")

    def _send_blocked(self, stream: Stream) -> None:
        while stream.blocked:
            if stream.send_window <= 0:
                return
            if self._send_window <= 0 or self._is_paused:
                self._starved[stream.id] = stream
                return
            size = min(self._send_window, stream.send_window, frames.FRAME_LIMIT_BYTES)
            part, stream.blocked = stream.blocked[:size], stream.blocked[size:]
            self._send_window -= len(part)
            stream.send_window -= len(part)
            self.write(frames.build(frames.DATA, 0, stream.id, bytes(part)))
        if stream.waiter is not None and not stream.waiter.done():
            stream.waiter.set_result(None)

    def _send_starved(self) -> None:
        while self._starved and self._send_window > 0 and not self._is_paused:
            _, stream = self._starved.popitem(last=False)
            self._send_blocked(stream)

    def _forget(self, stream: Stream) -> None:
        """Forget a stream that was given up, and cancel its call."""
        receiver = stream.receiver
        self._remove(stream)
        if receiver is not None:
            receiver.cancel()

    def _cancel_streams(self) -> None:
        for stream in list(self._streams.values()):
            self._forget(stream)

    def _remove(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        stream.ended_there = True
        stream.receiver = None  # the two refer to each other, which only the collector would undo
        self._held -= stream.held
        stream.held = 0
        if stream.blocked:
            stream.blocked = b""
            self._starved.pop(stream.id, None)
        if self._refuses_streams:
            self._linger_if_drained()


def _keep_alive(connection: socket.socket) -> None:
    """Let the system find out that a peer is gone which did not say so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _expect_connection(frame: Frame) -> None:
    if frame.stream_id:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of the connection, on a stream")


def _expect_window(window: int) -> None:
    if window > frames.WINDOW_LIMIT:
        raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
