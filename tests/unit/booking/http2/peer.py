"""A client that says exactly the frames it is told to; it shares no code with the server."""

import asyncio
import struct
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11
TABLE_SIZE, PUSH_ENABLED, STREAMS, WINDOW_SIZE, FRAME_SIZE = 1, 2, 3, 4, 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
READ_LIMIT_S = 10.0

Fields = list[tuple[str, str]]


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
    )


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *item) for item in values.items()))


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def message(data: bytes) -> bytes:
    return b"\0" + number(len(data)) + data


def request_fields(path: str = "/test.Echo/Unary", **more: str) -> Fields:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    more = {name.replace("_", "-"): value for name, value in more.items()}
    return list((fields | more).items())


@dataclass
class Seen:
    """One frame of the server."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a RST_STREAM or GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


@dataclass
class Answer:
    """All that the server said on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    sizes: list[int] = field(default_factory=list)
    reset: int | None = None
    is_whole: bool = False

    def take(self, seen: Seen, fields: dict[str, str]) -> None:
        self.headers |= fields
        if seen.kind == DATA:
            self.body += seen.payload
            self.sizes.append(len(seen.payload))
        if seen.kind == RESET:
            self.reset = seen.code
        ends = seen.kind in {DATA, HEADERS} and seen.flags & END_STREAM
        self.is_whole = self.is_whole or bool(ends) or seen.kind == RESET

    @property
    def status(self) -> int:
        return int(self.headers["grpc-status"])


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.encoder = Encoder()
        self.decoder = Decoder()

    @classmethod
    async def connect(cls, port: int) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # the server was first

    def greet(self, values: dict[int, int]) -> None:
        self.send(PREFACE, settings(values))

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    def headers(self, stream_id: int, fields: Fields | None = None, flags: int = 0) -> bytes:
        block = self.encoder.encode(fields or request_fields())
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)

    def call(self, stream_id: int, data: bytes = b"hello", fields: Fields | None = None) -> None:
        """Send a whole unary call."""
        self.send(
            self.headers(stream_id, fields), frame(DATA, END_STREAM, stream_id, message(data))
        )

    async def next(self) -> Seen:
        """Return the next frame.

        Raises:
            IncompleteReadError, ConnectionError: the connection has ended.

        """
        async with asyncio.timeout(READ_LIMIT_S):
            start = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(start[:3], "big"))
        return Seen(start[3], start[4], int.from_bytes(start[5:], "big"), payload)

    async def until(self, kind: int, stream_id: int = 0, flags: int = 0) -> Seen:
        """Return the next frame of this kind on this stream; others are dropped."""
        while True:
            seen = await self.next()
            if (seen.kind, seen.stream_id) == (kind, stream_id) and seen.flags & flags == flags:
                return seen

    async def barrier(self) -> list[Seen]:
        """Return all that the server said before it had read what was sent until now."""
        mark = b"barrier!"
        self.send(frame(PING, payload=mark))
        frames = []
        while (seen := await self.next()).payload != mark:
            frames.append(seen)
        return frames

    async def answer(self, stream_id: int) -> Answer:
        """Read until the end of a stream; frames of other streams are dropped."""
        return (await self.answers(stream_id))[stream_id]

    async def answers(self, *stream_ids: int) -> dict[int, Answer]:
        """Read until the end of all these streams; their data may be interleaved."""
        answers = {stream_id: Answer() for stream_id in stream_ids}
        while not all(answer.is_whole for answer in answers.values()):
            seen = await self.next()
            assert seen.kind != GOAWAY or seen.code == NO_ERROR, seen
            # Read in any case: each block may change the table that the next one refers to.
            fields = self.decoder.decode(seen.payload) if seen.kind == HEADERS else []
            if seen.stream_id in answers:
                answers[seen.stream_id].take(seen, {str(k): str(v) for k, v in fields})
        return answers

    async def failure(self) -> int:
        """Return the code with which the server ends the connection."""
        while (seen := await self.next()).kind != GOAWAY:
            pass
        async with asyncio.timeout(READ_LIMIT_S):
            assert await self._reader.read() == b""
        return seen.code

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; whatever comes before it is dropped."""
        async with asyncio.timeout(READ_LIMIT_S):
            try:
                await self._reader.read()
            except ConnectionError:
                return True
        return True
