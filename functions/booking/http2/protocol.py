"""gRPC on top of HTTP/2: what the fields and bodies of a call mean. Pure.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from urllib.parse import quote

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]

IDENTITY = b"identity"
PREFIX_BYTES = 5  # of each message: a flag and the length
_COMPRESSED = 1
_STATUSES_KEPT = 256
_UNESCAPED = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"  # in a status message, beside letters and digits
_CONTENT_TYPE = b"application/grpc"
_CONTENT_TYPES = (_CONTENT_TYPE + b"+", _CONTENT_TYPE + b";")
_NOT_METADATA = frozenset({b"te", b"content-type", b"user-agent"})
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        # Built here, so that what cannot be sent fails where it was asked for.
        self.block = trailers(code, details, tuple(metadata))
        """the header block that ends the call"""


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field as HPACK writes it without remembering it (RFC 7541, 6.2.2)."""
    return b"".join((b"\x00", _length(len(name)), name, _length(len(value)), value))


def _length(value: int) -> bytes:
    """Return an HPACK integer with a 7-bit prefix (RFC 7541, 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    digits = bytearray((0x7F,))
    value -= 0x7F
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


_STATUS_200 = b"\x88"  # the static table's ":status: 200"
ANSWER_HEADERS = (
    _STATUS_200
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", b"identity, deflate, gzip")
)
NOT_POST = literal(b":status", b"405")
NOT_GRPC = literal(b":status", b"415")
TRAILERS_OK = literal(b"grpc-status", b"0")


@lru_cache(_STATUSES_KEPT)
def trailers(code: grpc.StatusCode, details: str, metadata: Metadata) -> bytes:
    """Return the header block that ends a call."""
    fields = [literal(b"grpc-status", b"%d" % code.value[0])]
    if details:
        message = quote(details, safe=_UNESCAPED, errors="replace")
        fields.append(literal(b"grpc-message", message.encode()))
    for key, value in metadata:
        fields.append(literal(key.encode(), _metadata_value(value)))
    return b"".join(fields)


def _metadata_value(value: str | bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode()


def is_grpc(content_type: bytes) -> bool:
    """Say whether a request's content type is gRPC's; gRPC-Web's, for one, is not."""
    return content_type == _CONTENT_TYPE or content_type.startswith(_CONTENT_TYPES)


def metadata_of(fields: Sequence[tuple[bytes, bytes]]) -> Metadata:
    """Return what the caller itself put into the header of its call; a key may come repeatedly.

    Raises:
        Refused: a binary value cannot be read.

    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name.startswith((b":", b"grpc-")) or name in _NOT_METADATA:
            continue
        key = name.decode("latin-1")
        if name.endswith(b"-bin"):
            metadata += [(key, _binary(part)) for part in value.split(b",")]
        else:
            metadata.append((key, value.decode("latin-1")))
    return tuple(metadata)


def _binary(value: bytes) -> bytes:
    value = value.strip(b" ")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "A binary header is not base64.") from None


def timeout_s(value: bytes | None) -> float | None:
    """Return the time that the caller gives the call, in seconds; None where it waits for ever.

    Raises:
        Refused: it cannot be read.

    """
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise Refused(grpc.StatusCode.INTERNAL, "The header grpc-timeout cannot be read.")
    return int(found[1]) * _SECONDS[found[2]]


def build_message(data: bytes) -> bytes:
    """Return a message with its prefix."""
    return b"\0" + len(data).to_bytes(4) + data


class MessageReader:
    """Cuts the body of a call into messages."""

    def __init__(self, limit_bytes: int, encoding: bytes) -> None:
        self._limit = limit_bytes
        self._encoding = encoding
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes.

        Raises:
            Refused: a message is too large, or compressed in a way that is not known here.

        """
        buffer = self._rest + data if self._rest else data
        position = 0
        while len(buffer) - position >= PREFIX_BYTES:
            start = position + PREFIX_BYTES
            end = start + int.from_bytes(buffer[position + 1 : start])
            if end - start > self._limit:
                raise self._too_large()
            if end > len(buffer):
                break
            flag, position = buffer[position], end
            yield self._decompressed(flag, buffer[start:end]) if flag else buffer[start:end]
        self._rest = buffer[position:]

    def end(self) -> None:
        """Say that no more comes.

        Raises:
            Refused: the last message is not whole.

        """
        if self._rest:
            raise Refused(grpc.StatusCode.INTERNAL, "The last message is not whole.")

    def _decompressed(self, flag: int, data: bytes) -> bytes:
        if flag != _COMPRESSED or self._encoding == IDENTITY:
            raise Refused(grpc.StatusCode.INTERNAL, "The flag of a message cannot be right.")
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise Refused(
                grpc.StatusCode.UNIMPLEMENTED, "Messages may be compressed with gzip or deflate."
            )
        reader = zlib.decompressobj(bits)
        try:
            message = reader.decompress(data, self._limit + 1)
        except zlib.error:
            raise _undecompressable() from None
        if len(message) > self._limit:
            raise self._too_large()
        if not reader.eof or reader.unused_data:
            raise _undecompressable()
        return message

    def _too_large(self) -> Refused:
        return Refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"A message may have at most {self._limit} bytes."
        )


def _undecompressable() -> Refused:
    return Refused(grpc.StatusCode.INTERNAL, "A message cannot be decompressed.")
