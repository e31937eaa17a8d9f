"""One HTTP/2 connection as a server sees it (RFC 9113): streams, flow control, limits."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from typing_extensions import override

from booking.http2 import frames
from booking.http2.fields import Field, FieldReader
from booking.http2.frames import ErrorCode, Frame, FrameReader, ProtocolError

STREAMS_LIMIT = 4_096
HEADER_BLOCK_LIMIT_BYTES = 64 * 1024
RECEIVE_WINDOW = 1 << 20  # of a connection
STREAM_WINDOW = 128 * 1024
PREFACE_LIMIT_S = 10.0
# Frames that cost the peer nothing: pings, settings, resets, empty ones.
CHEAP_FRAMES_LIMIT = 10_000
CHEAP_FRAMES_INTERVAL_S = 1.0
DRAIN_PING = b"draining"
DRAIN_PING_LIMIT_S = 1.0


class Receiver(Protocol):
    """Takes what arrives on one stream."""

    def receive(self, data: bytes, *, end: bool) -> None: ...  # noqa: D102
    def cancel(self) -> None: ...  # noqa: D102


class Stream:
    """One stream: the way back to the peer."""

    __slots__ = ("_connection", "blocked", "ended_there", "id", "receiver", "send_window", "waiter")

    def __init__(self, connection: "Connection", stream_id: int, send_window: int) -> None:
        self._connection = connection
        self.id = stream_id
        self.send_window = send_window
        self.ended_there = False
        self.receiver: Receiver | None = None
        self.blocked = b""
        """data that the peer's flow control does not let out yet"""
        self.waiter: asyncio.Future[None] | None = None

    def send_headers(self, block: bytes) -> None:
        """Begin the answer."""
        self._connection.write(frames.build_headers(self.id, block))

    async def send_data(self, data: bytes) -> None:
        """Send a part of the body, and return once the peer's flow control has let it out."""
        self._connection.send_data(self, data)
        if self.blocked:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    def end(self, block: bytes) -> None:
        """End the answer with a header block; what the peer still sends is ignored."""
        self._connection.end(self, block)

    def consumed(self, count: int) -> None:
        """Let the peer send `count` bytes more."""
        if not self.ended_there:
            self._connection.write(frames.build_window_update(self.id, count))


class Connection(asyncio.Protocol):
    """Reads frames, and writes what the streams send.

    Each new stream is given to `accept` with its header fields and their size.
    """

    def __init__(
        self,
        accept: Callable[[Stream, list[Field], int], Receiver | None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._accept = accept
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._fields = FieldReader(HEADER_BLOCK_LIMIT_BYTES)
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[Stream, None] = {}
        """streams that wait for the peer's window, the longest first"""
        self._last_stream_id = 0
        self._block: list[Frame] = []
        """a header block that is not yet whole"""
        self._send_window = frames.WINDOW_DEFAULT
        self._initial_window = frames.WINDOW_DEFAULT
        self._received = 0
        self._out: list[bytes] = []
        self._cheap_left = CHEAP_FRAMES_LIMIT
        self._cheap_since = self._loop.time()
        self._transport: asyncio.Transport
        self._preface_timer = self._loop.call_later(PREFACE_LIMIT_S, self._miss_preface)
        self._settled = False
        self._drain_timer: asyncio.TimerHandle | None = None
        self._refuses_streams = False
        self._take = {
            frames.DATA: self._take_data,
            frames.HEADERS: self._take_headers,
            frames.PRIORITY: self._take_priority,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._take_push_promise,
            frames.PING: self._take_ping,
            frames.WINDOW_UPDATE: self._take_window_update,
            frames.CONTINUATION: self._take_continuation,
        }

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Finds out that a peer is gone which did not say so.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.write(
            frames.build_settings(
                {
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_LIMIT,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: HEADER_BLOCK_LIMIT_BYTES,
                }
            )
        )
        self.write(frames.build_window_update(0, RECEIVE_WINDOW - frames.WINDOW_DEFAULT))

    @override
    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except ProtocolError as error:
            self._fail(error.code, str(error))

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self._preface_timer.cancel()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._on_lost(self)

    @override
    def pause_writing(self) -> None:
        # A peer that does not read its answers may not ask for more.
        self._transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send bytes together with all that is written in the same turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send what flow control lets out, and keep the rest."""
        stream.blocked += data
        self._send_blocked(stream)

    def end(self, stream: Stream, block: bytes) -> None:
        """Send the last header block of a stream, and forget the stream."""
        self.write(frames.build_headers(stream.id, block, frames.END_STREAM))
        if not stream.ended_there:
            self.write(frames.build_reset(stream.id, ErrorCode.NO_ERROR))
        self._remove(stream)

    def drain(self) -> None:
        """Ask the peer to open no streams; those that it opened before it knows are served."""
        self.write(frames.build_goaway(frames.STREAM_ID_LIMIT, ErrorCode.NO_ERROR))
        self.write(frames.build(frames.PING, 0, 0, DRAIN_PING))
        self._drain_timer = self._loop.call_later(DRAIN_PING_LIMIT_S, self._refuse_streams)

    def close(self) -> None:
        """Send what is left, and end the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _fail(self, code: ErrorCode, message: str) -> None:
        self.write(frames.build_goaway(self._last_stream_id, code, message))
        self.close()

    def _miss_preface(self) -> None:
        if not self._settled:
            self._transport.abort()

    def _refuse_streams(self) -> None:
        """End the drain's first half: the peer has heard that this connection ends."""
        if not self._refuses_streams:
            self._refuses_streams = True
            self.write(frames.build_goaway(self._last_stream_id, ErrorCode.NO_ERROR))

    def _take_frame(self, frame: Frame) -> None:
        if self._block and frame.type != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._settled and frame.type != frames.SETTINGS:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        take = self._take.get(frame.type)
        if take is None:
            self._spend()  # frames of unknown types are ignored
        else:
            take(frame)

    def _spend(self) -> None:
        self._cheap_left -= 1
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

    def _take_continuation(self, frame: Frame) -> None:
        if not self._block or frame.stream_id != self._block[0].stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        self._spend()
        self._block.append(frame)
        if sum(len(part.payload) for part in self._block) > HEADER_BLOCK_LIMIT_BYTES:
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
        stream = Stream(self, stream_id, self._initial_window)
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
        if not end or stream.ended_there:
            raise ProtocolError(
                ErrorCode.PROTOCOL_ERROR, "a header block in the middle of a stream"
            )
        stream.ended_there = True
        if stream.receiver is not None:
            stream.receiver.receive(b"", end=True)

    def _take_data(self, frame: Frame) -> None:
        size = len(frame.payload)
        end = bool(frame.flags & frames.END_STREAM)
        if not size and not end:
            self._spend()
        self._received += size
        if self._received > RECEIVE_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window allows")
        if self._received > RECEIVE_WINDOW // 2:
            self.write(frames.build_window_update(0, self._received))
            self._received = 0
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._expect_closed(frame.stream_id)
            return
        if stream.ended_there:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "data after the end of a stream")
        stream.ended_there = end
        if stream.receiver is not None:
            stream.receiver.receive(frames.unpadded(frame), end=end)

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
        self._settled = True
        self._preface_timer.cancel()
        self._spend()
        if frame.stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if frame.flags & frames.ACK:
            return
        window = frames.read_settings(frame.payload).get(frames.SETTINGS_INITIAL_WINDOW_SIZE)
        if window is not None:
            self._resize_windows(window)
        self.write(frames.build(frames.SETTINGS, frames.ACK, 0))

    def _resize_windows(self, window: int) -> None:
        if window > frames.WINDOW_LIMIT:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        change = window - self._initial_window
        self._initial_window = window
        for stream in list(self._streams.values()):
            stream.send_window += change
            self._send_blocked(stream)

    def _take_ping(self, frame: Frame) -> None:
        if len(frame.payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a PING of a wrong length")
        self._spend()
        if not frame.flags & frames.ACK:
            self.write(frames.build(frames.PING, frames.ACK, 0, frame.payload))
        elif frame.payload == DRAIN_PING and self._drain_timer is not None:
            self._refuse_streams()

    def _take_window_update(self, frame: Frame) -> None:
        increment = frames.read_window_update(frame.payload)
        if increment == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
        if frame.stream_id == 0:
            self._send_window += increment
            window = self._send_window
            for stream in list(self._blocked):
                self._send_blocked(stream)
        else:
            stream_or_none = self._streams.get(frame.stream_id)
            if stream_or_none is None:
                self._expect_closed(frame.stream_id)
                return
            stream_or_none.send_window += increment
            window = stream_or_none.send_window
            self._send_blocked(stream_or_none)
        if window > frames.WINDOW_LIMIT:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")

    def _take_priority(self, _: Frame) -> None:
        self._spend()  # advice that no server has to follow

    def _take_push_promise(self, _: Frame) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _expect_closed(self, stream_id: int) -> None:
        """Frames of a stream that was ended here may still be on their way."""
        if stream_id > self._last_stream_id and not self._refuses_streams:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that was not opened")

    def _send_blocked(self, stream: Stream) -> None:
        while stream.blocked:
            size = min(self._send_window, stream.send_window, frames.FRAME_LIMIT_BYTES)
            if size <= 0:
                self._blocked[stream] = None
                return
            part, stream.blocked = stream.blocked[:size], stream.blocked[size:]
            self._send_window -= len(part)
            stream.send_window -= len(part)
            self.write(frames.build(frames.DATA, 0, stream.id, part))
        self._blocked.pop(stream, None)
        if stream.waiter is not None and not stream.waiter.done():
            stream.waiter.set_result(None)

    def _forget(self, stream: Stream) -> None:
        """Forget a stream that the peer gave up."""
        self._remove(stream)
        if stream.receiver is not None:
            stream.receiver.cancel()

    def _remove(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        self._blocked.pop(stream, None)
