"""HTTP/2 frames (RFC 9113, sections 4 and 6): cut from bytes and built. No state of streams."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_LIMIT_BYTES = 16_384  # the size that every peer may send without asking
FRAME_LIMIT_BYTES_MAX = 2**24 - 1  # what a peer may allow at most
WINDOW_DEFAULT = 65_535
WINDOW_LIMIT = 2**31 - 1
STREAM_ID_LIMIT = 2**31 - 1

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

ACK = 0x1
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

SETTINGS_HEADER_TABLE_SIZE = 0x1
SETTINGS_ENABLE_PUSH = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS = 0x3
SETTINGS_INITIAL_WINDOW_SIZE = 0x4
SETTINGS_MAX_FRAME_SIZE = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE = 0x6

_HEADER = struct.Struct(">BHBBL")
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_GOAWAY = struct.Struct(">LL")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ProtocolError(Exception):
    """The peer broke the protocol, so the connection has to end."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    """One frame as it came."""

    type: int
    flags: int
    stream_id: int
    payload: bytes


_ANY = (0, 2**32 - 1, ErrorCode.PROTOCOL_ERROR)
_RANGES = {
    SETTINGS_ENABLE_PUSH: (0, 1, ErrorCode.PROTOCOL_ERROR),
    SETTINGS_INITIAL_WINDOW_SIZE: (0, WINDOW_LIMIT, ErrorCode.FLOW_CONTROL_ERROR),
    SETTINGS_MAX_FRAME_SIZE: (FRAME_LIMIT_BYTES, FRAME_LIMIT_BYTES_MAX, ErrorCode.PROTOCOL_ERROR),
}


class FrameReader:
    """Cuts what arrives into frames; keeps the beginning of one that is not yet whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            ProtocolError: no HTTP/2, or a frame above FRAME_LIMIT_BYTES.

        """
        buffer = self._rest + data if self._rest else data
        position = 0 if self._greeted else self._greet(buffer)
        end = len(buffer)
        while self._greeted and end - position >= _HEADER.size:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(buffer, position)
            length = high << 16 | low
            if length > FRAME_LIMIT_BYTES:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
            start = position + _HEADER.size
            if end - start < length:
                break
            position = start + length
            yield Frame(kind, flags, stream_id & STREAM_ID_LIMIT, buffer[start:position])
        self._rest = buffer[position:]

    def _greet(self, buffer: bytes) -> int:
        """Look for the preface, and return where the frames begin."""
        if not buffer.startswith(PREFACE[: len(buffer)]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2")
        self._greeted = len(buffer) >= len(PREFACE)
        return len(PREFACE) if self._greeted else 0


def unpadded(frame: Frame) -> bytes:
    """Return the payload of a DATA or HEADERS frame without padding and priority.

    Raises:
        ProtocolError: the padding is longer than the payload.

    """
    start, end = 0, len(frame.payload)
    if frame.flags & PADDED:
        if not frame.payload:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "the length of a padding is missing")
        start, end = 1, end - frame.payload[0]
    if frame.type == HEADERS and frame.flags & WITH_PRIORITY:
        start += 5
    if start > end:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a padding is longer than its frame")
    return frame.payload[start:end]


def build(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame; the payload has at most FRAME_LIMIT_BYTES."""
    length = len(payload)
    return _HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id) + payload


def build_headers(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    """Return a header block as one HEADERS frame and as many CONTINUATION frames as it needs."""
    if len(block) <= FRAME_LIMIT_BYTES:
        return build(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[i : i + FRAME_LIMIT_BYTES] for i in range(0, len(block), FRAME_LIMIT_BYTES)]
    return b"".join(
        [
            build(HEADERS, flags, stream_id, parts[0]),
            *(build(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]),
            build(CONTINUATION, END_HEADERS, stream_id, parts[-1]),
        ]
    )


def build_settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return build(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """Return the values of a SETTINGS frame; the last one counts where a setting comes twice.

    Raises:
        ProtocolError: its length fits no number of settings, or a value is out of its range.

    """
    if len(payload) % _SETTING.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame of a wrong length")
    for name, value in _SETTING.iter_unpack(payload):
        lowest, highest, code = _RANGES.get(name, _ANY)
        if not lowest <= value <= highest:
            raise ProtocolError(code, "a setting is out of its range")
    return dict(_SETTING.iter_unpack(payload))


def build_window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return build(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def read_window_update(payload: bytes) -> int:
    """Return the increment of a WINDOW_UPDATE frame.

    Raises:
        ProtocolError: its length is wrong.

    """
    if len(payload) != _NUMBER.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE of a wrong length")
    increment: int = _NUMBER.unpack(payload)[0]
    return increment & WINDOW_LIMIT


def build_reset(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return build(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def build_goaway(last_stream_id: int, code: ErrorCode, message: str = "") -> bytes:
    """Return a GOAWAY frame; streams after the last one were not looked at."""
    return build(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + message.encode())
