"""Header blocks, with the library hpack as the oracle."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.http2.fields import FieldReader
from booking.http2.frames import ErrorCode, ProtocolError
from tests.unit.booking.http2.properties import repeatable

LIMIT = 1 << 20
STATIC = [(bytes(name), bytes(value)) for name, value in hpack.table.HeaderTable.STATIC_TABLE]
NAMES = st.sampled_from([name for name, _ in STATIC] + [b"x-a", b"x-b"]) | st.binary(max_size=40)
VALUES = st.sampled_from([b"", b"gateway", b"v" * 4_100]) | st.binary(max_size=60)
FIELDS = st.sampled_from(STATIC) | st.tuples(NAMES, VALUES)
BLOCKS = st.lists(
    st.tuples(
        st.lists(st.tuples(FIELDS, st.booleans()), max_size=12),
        st.booleans(),  # Huffman's code
        st.lists(st.integers(0, 4_096), max_size=3),  # sizes of the table
    ),
    max_size=8,
)
# A block that adds to the table, refers to it, resizes it, and holds each kind of literal.
SEED = hpack.Encoder().encode([(b":method", b"POST"), (b"x-a", b"b"), (b"x-a", b"b")])


@repeatable
@given(BLOCKS)
def test_what_an_encoder_writes_is_read(
    blocks: list[tuple[list[tuple[tuple[bytes, bytes], bool]], bool, list[int]]],
) -> None:
    encoder, reader = hpack.Encoder(), FieldReader(LIMIT)
    for marked, huffman, sizes in blocks:
        for size in sizes:
            if size != encoder.header_table_size:  # else hpack forgets to announce the last change
                encoder.header_table_size = size
        fields = [field for field, _ in marked]
        secret = [(name, value, is_secret) for (name, value), is_secret in marked]
        read, size = reader.read(encoder.encode(secret, huffman=huffman))
        assert read == fields
        assert size == sum(len(name) + len(value) + 32 for name, value in fields)
        table = encoder.header_table
        assert list(reader._table) == [tuple(entry) for entry in table.dynamic_entries]
        assert reader._table_size == sum(len(n) + len(v) + 32 for n, v in table.dynamic_entries)


def outcome(blocks: list[bytes]) -> list[object]:
    """Return what hpack makes of the blocks, up to the first that it refuses."""
    decoder, seen = hpack.Decoder(max_header_list_size=LIMIT), []
    decoder.max_allowed_table_size = 4_096
    for block in blocks:
        try:
            seen.append([tuple(field) for field in decoder.decode(block, raw=True)])
        except hpack.HPACKError:
            return [*seen, None]
    return [*seen]


@repeatable
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_raise_anything_else_and_hpack_agrees(blocks: list[bytes]) -> None:
    assert read_all(blocks) == outcome(blocks)


@repeatable
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=3))
def test_a_damaged_block_is_read_as_hpack_reads_it(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(SEED)
    for position, value in changes:
        damaged[position] = value
    assert read_all([bytes(damaged), SEED]) == outcome([bytes(damaged), SEED])


def read_all(blocks: list[bytes]) -> list[object]:
    reader = FieldReader(LIMIT)
    seen: list[object] = []
    for block in blocks:
        try:
            seen.append(reader.read(block)[0])
        except ProtocolError:
            return [*seen, None]
    return seen


# From RFC 7541, appendix C.4: three requests with Huffman's code on one connection.
EXAMPLES = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]


def test_the_examples_of_the_standard_are_read() -> None:
    reader = FieldReader(LIMIT)
    first, second, third = [reader.read(bytes.fromhex(block))[0] for block in EXAMPLES]
    common = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    authority = (b":authority", b"www.example.com")
    assert first == [*common, authority]
    assert second == [*common, authority, (b"cache-control", b"no-cache")]
    assert third == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        authority,
        (b"custom-key", b"custom-value"),
    ]


@pytest.mark.parametrize(
    "block",
    {
        "index 0": b"\x80",
        "an index beyond the tables": b"\xbe",
        "a name beyond the tables": b"\x7f\x00\x00",
        "an integer that does not end": b"\xff\xff",
        "an integer without end": b"\xff" + b"\x80" * 100,
        "a huge integer": b"\xff" + b"\xff" * 9 + b"\x7f",
        "a string that is not whole": b"\x00\x05abc",
        "a value that is missing": b"\x00\x01a",
        "the end of Huffman's code": b"\x00\x84\xff\xff\xff\xff\x00",
        "a padding that is not ones": b"\x00\x81\x00\x00",
        "a padding of a whole byte": b"\x00\x82\x1f\xff\x00",
        "a table above the limit": b"\x3f\xe2\x1f",
        "a resize after a field": b"\x82\x20",
    }.values(),
)
def test_a_block_that_cannot_be_read_is_refused(block: bytes) -> None:
    with pytest.raises(ProtocolError) as failure:
        FieldReader(LIMIT).read(block)
    assert failure.value.code is ErrorCode.COMPRESSION_ERROR


def test_a_huge_integer_is_not_worked_out() -> None:
    reader = FieldReader(LIMIT)
    with pytest.raises(ProtocolError):
        reader.read(b"\xff" * 60_000)
    assert reader._position < 10


def test_references_cannot_make_a_list_larger_than_the_limit() -> None:
    """Each byte of the bomb stands for 4,000 bytes of a field that the table holds."""
    reader = FieldReader(64 * 1024)
    encoder = hpack.Encoder()
    reader.read(encoder.encode([(b"x", b"y" * 4_000)], huffman=False))
    with pytest.raises(ProtocolError) as failure:
        reader.read(b"\xbe" * 1_000)
    assert failure.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_list_may_be_as_large_as_the_limit() -> None:
    fields = [(b"x", b"y" * 67)] * 10  # 100 bytes each
    assert FieldReader(1_000).read(hpack.Encoder().encode(fields)) == (fields, 1_000)
    with pytest.raises(ProtocolError):
        FieldReader(999).read(hpack.Encoder().encode(fields))


def test_a_field_that_is_larger_than_the_table_empties_it() -> None:
    reader, encoder = FieldReader(LIMIT), hpack.Encoder()
    reader.read(encoder.encode([(b"x", b"y")]))
    assert reader._table
    reader.read(encoder.encode([(b"x", b"y" * 4_096)]))
    assert not reader._table
    assert reader._table_size == 0
