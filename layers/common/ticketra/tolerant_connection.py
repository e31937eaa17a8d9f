"""A connection to RabbitMQ that no message can break.

RabbitMQ takes headers from a publisher that pika cannot decode, such as a timestamp beyond the year
9999, or tables some hundred deep. pika gives the connection up over them; the broker then delivers
the message to the next connection, and so on for ever. Here such a message arrives without its
headers, and says so.
"""

import struct

from pika import BasicProperties, frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection

from ticketra.messages import UNREADABLE_HEADER

_FRAME_HEADER = struct.Struct(">BHL")  # type, channel, size
_CONTENT_HEADER = struct.Struct(">HHQ")  # class, weight, size of the body


class TolerantConnection(AsyncioConnection):  # type: ignore[misc] # pika has no types
    """Reads a message whose headers cannot be decoded as one with UNREADABLE_HEADER alone."""

    def _read_frame(self) -> tuple[int, frame.Frame | frame.ProtocolHeader | None]:
        try:
            read: tuple[int, frame.Frame | frame.ProtocolHeader | None] = super()._read_frame()
        except Exception as error:  # noqa: BLE001 - whatever a publisher's bytes may lead to
            return _without_headers(self._frame_buffer, error)
        return read


def _without_headers(data: bytes, error: Exception) -> tuple[int, frame.Header]:
    """Return the content header that `data` begins with, and its size in bytes.

    Raises:
        Exception: `error`, if `data` begins with another frame, which no publisher had a hand in.

    """
    kind, channel, size = _FRAME_HEADER.unpack_from(data)
    if kind != spec.FRAME_HEADER:
        raise error
    end = _FRAME_HEADER.size + size
    content = data[_FRAME_HEADER.size : end]
    _, _, body_size = _CONTENT_HEADER.unpack_from(content)
    properties = BasicProperties()
    properties.decode(_emptied(content[_CONTENT_HEADER.size :]))
    properties.headers = {UNREADABLE_HEADER: f"{type(error).__name__}: {error}"}
    return end + spec.FRAME_END_SIZE, frame.Header(channel, body_size, properties)


def _emptied(properties: bytes) -> bytes:
    """Return encoded properties with an empty table of headers instead of theirs."""
    (flags,) = struct.unpack_from(">H", properties)
    start = 2
    for flag in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & flag:
            start += 1 + properties[start]
    (size,) = struct.unpack_from(">L", properties, start)
    return properties[:start] + bytes(4) + properties[start + 4 + size :]
