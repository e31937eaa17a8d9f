"""What the fields and bodies of a call mean, without a connection."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import grpc
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.http2 import protocol
from booking.http2.protocol import MessageReader, Refused
from tests.unit.booking.http2 import peer
from tests.unit.booking.http2.properties import repeatable

LIMIT = 1_000


def decoded(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(k), bytes(v)) for k, v in hpack.Decoder().decode(block, raw=True)]


@repeatable
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_literal_is_read_by_hpack(name: bytes, value: bytes) -> None:
    block = protocol.literal(name, value)
    assert decoded(block) == [(name, value)]


@pytest.mark.parametrize("size", [126, 127, 128, 254, 255, 16_510, 16_511, 70_000])
def test_long_literals_are_read_by_hpack(size: int) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    (field,) = decoder.decode(protocol.literal(b"n", b"v" * size), raw=True)
    assert len(field[1]) == size


def test_the_fixed_blocks_say_what_they_should() -> None:
    headers = dict(decoded(protocol.ANSWER_HEADERS))
    assert headers[b":status"] == b"200"
    assert headers[b"content-type"] == b"application/grpc"
    assert headers[b"grpc-accept-encoding"] == b"identity, deflate, gzip"
    assert decoded(protocol.TRAILERS_OK) == [(b"grpc-status", b"0")]
    assert decoded(protocol.NOT_GRPC) == [(b":status", b"415")]
    assert decoded(protocol.NOT_POST) == [(b":status", b"405")]


@repeatable
@given(st.text())
def test_a_message_is_percent_encoded_and_printable(details: str) -> None:
    block = Refused(grpc.StatusCode.ABORTED, details).block
    fields = dict(decoded(block))
    assert fields[b"grpc-status"] == b"10"
    message = fields.get(b"grpc-message", b"")
    assert all(0x20 <= byte <= 0x7E for byte in message)
    assert unquote(message.decode()) == details


def test_only_what_must_be_is_percent_encoded() -> None:
    printable = "".join(map(chr, range(0x20, 0x7F)))
    fields = dict(decoded(Refused(grpc.StatusCode.ABORTED, printable).block))
    assert fields[b"grpc-message"] == printable.replace("%", "%25").encode()


def test_a_message_may_hold_half_a_surrogate_pair() -> None:
    fields = dict(decoded(Refused(grpc.StatusCode.ABORTED, "a\ud800b").block))
    assert fields[b"grpc-message"] == b"a?b"


def test_a_status_carries_metadata() -> None:
    metadata: Any = [("x-a", "1"), ("x-b-bin", b"\xff\xfe\xfd\xfc"), ("x-a", "2")]
    fields = decoded(Refused(grpc.StatusCode.NOT_FOUND, "", metadata).block)
    assert fields == [
        (b"grpc-status", b"5"),
        (b"x-a", b"1"),
        (b"x-b-bin", b"//79/A"),
        (b"x-a", b"2"),
    ]


@pytest.mark.parametrize("metadata", [[["a", []]], [("a", 1)], [("a",)]])
def test_metadata_that_cannot_be_sent_fails_where_it_is_given(metadata: Any) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        Refused(grpc.StatusCode.NOT_FOUND, "", metadata)


def test_metadata_is_what_the_caller_put_there() -> None:
    fields = [
        (b":path", b"/a"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"a client"),
        (b"grpc-timeout", b"1S"),
        (b"x-a", b"one"),
        (b"x-a", b"two, three"),
        (b"x-latin", b"\xe4"),
    ]
    assert protocol.metadata_of(fields) == (
        ("x-a", "one"),
        ("x-a", "two, three"),
        ("x-latin", "ä"),
    )


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"", [b""]),
        (b"YQ", [b"a"]),
        (b"YQ==", [b"a"]),
        (b"YWI", [b"ab"]),
        (b"YQ,YWI=", [b"a", b"ab"]),
        (b"YQ, YWI", [b"a", b"ab"]),
        (b"+/+/", [b"\xfb\xff\xbf"]),
    ],
)
def test_binary_metadata_may_be_padded_and_joined(value: bytes, read: list[bytes]) -> None:
    assert protocol.metadata_of([(b"x-bin", value)]) == tuple(("x-bin", part) for part in read)


@pytest.mark.parametrize("value", [b"Y", b"YQ=", b"Y-_Q", b"YQ==YQ", b"Y\nQ", b"\xff"])
def test_binary_metadata_that_is_not_base64_is_refused(value: bytes) -> None:
    if value == b"YQ=":  # one sign of padding is as good as two
        assert protocol.metadata_of([(b"x-bin", value)]) == (("x-bin", b"a"),)
        return
    with pytest.raises(Refused) as refusal:
        protocol.metadata_of([(b"x-bin", value)])
    assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"0n", 0),
        (b"5S", 5),
        (b"2M", 120),
        (b"1H", 3_600),
        (b"250m", 0.25),
        (b"250u", 0.00025),
        (b"250n", 2.5e-7),
        (b"99999999H", 99_999_999 * 3_600),
    ],
)
def test_a_timeout_is_read(value: bytes | None, seconds: float | None) -> None:
    assert protocol.timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"5", b"5s", b"-5S", b"1.5S", b"100000000S", b" 5S", b"5S\n", b"\xb2S"]
)
def test_a_timeout_that_cannot_be_read_is_refused(value: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        protocol.timeout_s(value)
    assert refusal.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
        (b"application/grp", False),
        (b"", False),
    ],
)
def test_the_content_type_tells_grpc(content_type: bytes, expected: bool) -> None:
    assert protocol.is_grpc(content_type) is expected


def read_in_pieces(body: bytes, cuts: list[int], encoding: bytes = b"identity") -> list[bytes]:
    reader = MessageReader(LIMIT, encoding)
    edges = [0, *sorted(cuts), len(body)]
    seen = [message for a, b in pairwise(edges) for message in reader.feed(body[a:b])]
    reader.end()
    return seen


@repeatable
@given(st.lists(st.binary(max_size=60), max_size=6), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(map(peer.message, sent))
    assert body == b"".join(map(protocol.build_message, sent))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    assert read_in_pieces(body, cuts) == sent
    assert read_in_pieces(body, list(range(len(body)))) == sent


def refused(body: bytes, encoding: bytes = b"identity") -> grpc.StatusCode:
    with pytest.raises(Refused) as refusal:
        read_in_pieces(body, [], encoding)
    return refusal.value.code


def test_a_message_that_is_not_whole_at_the_end_is_refused() -> None:
    whole = peer.message(b"hello")
    for size in range(1, len(whole)):
        assert refused(whole[:size]) is grpc.StatusCode.INTERNAL
        assert refused(whole + whole[:size]) is grpc.StatusCode.INTERNAL


def test_a_message_may_be_as_large_as_the_limit() -> None:
    assert read_in_pieces(peer.message(bytes(LIMIT)), []) == [bytes(LIMIT)]
    # Refused as soon as its length is known.
    assert refused(b"\0" + peer.number(LIMIT + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED


def compressed(data: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + peer.number(len(data)) + data


PACK: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}


@pytest.mark.parametrize("encoding", PACK)
def test_compressed_and_plain_messages_may_be_mixed(encoding: bytes) -> None:
    body = compressed(PACK[encoding](b"one")) + peer.message(b"two")
    assert read_in_pieces(body, list(range(len(body))), encoding) == [b"one", b"two"]
    assert read_in_pieces(compressed(PACK[encoding](b"")), [], encoding) == [b""]
    largest = compressed(PACK[encoding](bytes(LIMIT)))
    assert read_in_pieces(largest, [], encoding) == [bytes(LIMIT)]


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_refused_without_unpacking_it(encoding: bytes) -> None:
    bomb = compressed(PACK[encoding](bytes(50_000_000)))
    reader = MessageReader(100_000, encoding)
    tracemalloc.start()
    with pytest.raises(Refused) as refusal:
        list(reader.feed(bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak < 2_000_000
    above = PACK[encoding](bytes(LIMIT + 1))
    assert refused(compressed(above), encoding) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("encoding", PACK)
def test_damaged_compression_is_refused(encoding: bytes) -> None:
    packed = PACK[encoding](b"hello, hello")
    for damaged in (packed[:-1], packed[:5], b"", b"junk", packed + b"more", packed + packed):
        assert refused(compressed(damaged), encoding) is grpc.StatusCode.INTERNAL


def test_a_flag_without_its_encoding_is_refused() -> None:
    data = gzip.compress(b"hello")
    assert refused(compressed(data)) is grpc.StatusCode.INTERNAL
    assert refused(compressed(data, flag=2), b"gzip") is grpc.StatusCode.INTERNAL
    assert refused(compressed(data), b"snappy") is grpc.StatusCode.UNIMPLEMENTED


@repeatable
@given(st.binary(max_size=80), st.sampled_from([b"identity", b"gzip", b"deflate", b"snappy"]))
def test_no_bytes_raise_anything_else(body: bytes, encoding: bytes) -> None:
    reader = MessageReader(LIMIT, encoding)
    try:
        list(reader.feed(body))
        reader.end()
    except Refused:
        return
