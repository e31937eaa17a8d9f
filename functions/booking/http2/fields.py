"""Reads header blocks (HPACK, RFC 7541). Huffman's code comes from the library hpack.

The library's own decoder makes an object of a class of its own for each field, which costs more
than all else that the server does for a call.
"""

from collections import deque

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from booking.http2.frames import ErrorCode, ProtocolError

Field = tuple[bytes, bytes]

TABLE_LIMIT_BYTES = 4_096  # what a peer may use without asking
FIELD_OVERHEAD_BYTES = 32  # what the standard adds to the size of each field
INTEGER_LIMIT = 1 << 24

_STATIC: tuple[Field, ...] = tuple((bytes(n), bytes(v)) for n, v in HeaderTable.STATIC_TABLE)
_INDEXED = 0x80
_REMEMBERED = 0x40
_RESIZED = 0x20
_HUFFMAN = 0x80


class FieldReader:
    """Reads the header blocks of one connection, in their order: each may refer to those before."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._table: deque[Field] = deque()
        self._table_size = 0
        self._table_limit = TABLE_LIMIT_BYTES
        self._block = b""
        self._position = 0

    def read(self, block: bytes) -> tuple[list[Field], int]:
        """Return the fields of a block and their size as the standard counts it.

        Raises:
            ProtocolError: the block cannot be read, or its fields are larger than the limit.

        """
        self._block, self._position = block, 0
        fields: list[Field] = []
        size = 0
        try:
            while self._position < len(block):
                field = self._next(block[self._position], is_first=not fields)
                if field is None:
                    continue
                fields.append(field)
                size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
                if size > self._limit:
                    raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header list is too large")
        except (IndexError, HPACKDecodingError):
            raise _unreadable() from None
        return fields, size

    def _next(self, first: int, *, is_first: bool) -> Field | None:
        if first & _INDEXED:
            return self._at(self._integer(0x7F))
        if first & _REMEMBERED:
            field = self._literal(0x3F)
            self._remember(field)
            return field
        if first & _RESIZED:
            if not is_first:
                raise _unreadable()
            self._resize(self._integer(0x1F))
            return None
        return self._literal(0x0F)

    def _literal(self, mask: int) -> Field:
        index = self._integer(mask)
        name = self._at(index)[0] if index else self._string()
        return name, self._string()

    def _at(self, index: int) -> Field:
        if index > len(_STATIC):
            return self._table[index - len(_STATIC) - 1]
        if index == 0:
            raise _unreadable()
        return _STATIC[index - 1]

    def _integer(self, mask: int) -> int:
        """Read an integer (section 5.1) whose first digit is what `mask` leaves of a byte."""
        value = self._block[self._position] & mask
        self._position += 1
        if value < mask:
            return value
        shift = 0
        while True:
            digit = self._block[self._position]
            self._position += 1
            value += (digit & 0x7F) << shift
            if value > INTEGER_LIMIT:
                raise _unreadable()
            if digit < 0x80:  # the last one
                return value
            shift += 7

    def _string(self) -> bytes:
        is_huffman = self._block[self._position] & _HUFFMAN
        length = self._integer(0x7F)
        start = self._position
        self._position = start + length
        if self._position > len(self._block):
            raise _unreadable()
        data = self._block[start : self._position]
        return decode_huffman(data) if is_huffman else data

    def _remember(self, field: Field) -> None:
        self._table_size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
        self._table.appendleft(field)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_LIMIT_BYTES:
            raise _unreadable()
        self._table_limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._table_size > self._table_limit:
            name, value = self._table.pop()
            self._table_size -= len(name) + len(value) + FIELD_OVERHEAD_BYTES


def _unreadable() -> ProtocolError:
    return ProtocolError(ErrorCode.COMPRESSION_ERROR, "a header block cannot be read")
