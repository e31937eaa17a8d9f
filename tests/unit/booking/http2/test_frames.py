"""Frames: what is built can be read by an independent reader, and what is cut is what was sent."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.http2 import frames
from booking.http2.frames import ErrorCode, Frame, FrameReader, ProtocolError
from tests.unit.booking.http2 import peer
from tests.unit.booking.http2.properties import repeatable

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    flags=st.integers(0, 255),
    stream_id=st.integers(0, 2**31 - 1),
    payload=st.binary(max_size=40),
)


def wire(frame: Frame) -> bytes:
    return peer.frame(frame.type, frame.flags, frame.stream_id, frame.payload)


@repeatable
@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = peer.PREFACE + b"".join(map(wire, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == sent


def test_frames_come_out_when_their_bytes_come_one_by_one() -> None:
    sent = Frame(peer.DATA, 1, 5, bytes(300))
    reader = FrameReader()
    seen = [frame for byte in peer.PREFACE + wire(sent) for frame in reader.feed(bytes((byte,)))]
    assert seen == [sent]


def test_the_reserved_bit_of_a_stream_id_is_ignored() -> None:
    (seen,) = FrameReader().feed(peer.PREFACE + peer.frame(peer.DATA, 0, 2**31 + 3))
    assert seen.stream_id == 3


@pytest.mark.parametrize(
    "greeting", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSX", b"\0"]
)
def test_another_protocol_is_refused_at_its_first_wrong_byte(greeting: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(greeting))


def test_the_largest_frame_is_read_and_a_larger_one_refused_before_it_is_there() -> None:
    reader = FrameReader()
    largest = wire(Frame(peer.DATA, 0, 1, bytes(16_384)))
    assert len(list(reader.feed(peer.PREFACE + largest))) == 1
    with pytest.raises(ProtocolError) as failure:
        list(reader.feed(struct.pack(">I", 16_385)[1:] + bytes(6)))
    assert failure.value.code is ErrorCode.FRAME_SIZE_ERROR


@repeatable
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for greeting in (b"", peer.PREFACE):
        try:
            list(FrameReader().feed(greeting + data))
        except ProtocolError:
            continue


@repeatable
@given(st.integers(0, 255), st.binary(max_size=50), st.booleans(), st.booleans())
def test_padding_and_priority_are_taken_off(
    padding: int, data: bytes, is_padded: bool, has_priority: bool
) -> None:
    payload = bytes(5) + data if has_priority else data
    flags = peer.WITH_PRIORITY if has_priority else 0
    if is_padded:
        payload, flags = bytes((padding,)) + payload + bytes(padding), flags | peer.PADDED
    assert frames.unpadded(Frame(peer.HEADERS, flags, 1, payload)) == data


def test_data_has_no_priority() -> None:
    assert frames.unpadded(Frame(peer.DATA, peer.WITH_PRIORITY, 1, b"abcdef")) == b"abcdef"


@pytest.mark.parametrize(
    ("flags", "payload"),
    [
        (peer.PADDED, b""),
        (peer.PADDED, b"\x01"),
        (peer.PADDED, b"\x03ab"),
        (peer.WITH_PRIORITY, b"abcd"),
        (peer.PADDED | peer.WITH_PRIORITY, b"\x01abcde"),
    ],
)
def test_a_padding_that_does_not_fit_is_refused(flags: int, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.unpadded(Frame(peer.HEADERS, flags, 1, payload))


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 32_768, 50_000])
def test_a_large_header_block_is_continued(size: int) -> None:
    block = bytes(i % 251 for i in range(size))
    built = frames.build_headers(3, block, frames.END_STREAM)
    first, *others = FrameReader().feed(peer.PREFACE + built)
    assert first.payload + b"".join(frame.payload for frame in others) == block
    assert first.type == peer.HEADERS
    assert first.flags & peer.END_STREAM
    assert all(frame.type == peer.CONTINUATION for frame in others)
    assert {frame.stream_id for frame in (first, *others)} == {3}
    ends = [frame.flags & peer.END_HEADERS for frame in (first, *others)]
    assert ends == [0] * len(others) + [peer.END_HEADERS]


@repeatable
@given(st.integers(0, 2**24 - 1).filter(lambda size: size <= 16_384), FRAMES)
def test_a_built_frame_is_what_an_independent_builder_makes(size: int, frame: Frame) -> None:
    payload = bytes(size)
    assert frames.build(frame.type, frame.flags, frame.stream_id, payload) == peer.frame(
        frame.type, frame.flags, frame.stream_id, payload
    )


def test_settings_are_read_and_the_last_of_two_counts() -> None:
    payload = struct.pack(">HIHIHI", 4, 1_000, 99, 2**32 - 1, 4, 2_000)
    assert frames.read_settings(payload) == {4: 2_000, 99: 2**32 - 1}
    values = {peer.STREAMS: 5, peer.WINDOW_SIZE: 2**31 - 1}
    assert frames.build_settings(values) == peer.settings(values)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\0" * 5, ErrorCode.FRAME_SIZE_ERROR),
        (struct.pack(">HI", peer.PUSH_ENABLED, 2), ErrorCode.PROTOCOL_ERROR),
        (struct.pack(">HI", peer.WINDOW_SIZE, 2**31), ErrorCode.FLOW_CONTROL_ERROR),
        (struct.pack(">HI", peer.FRAME_SIZE, 16_383), ErrorCode.PROTOCOL_ERROR),
        (struct.pack(">HI", peer.FRAME_SIZE, 2**24), ErrorCode.PROTOCOL_ERROR),
        (struct.pack(">HIHI", peer.FRAME_SIZE, 1, peer.FRAME_SIZE, 20_000), 1),
    ],
)
def test_wrong_settings_are_refused(payload: bytes, code: int) -> None:
    with pytest.raises(ProtocolError) as failure:
        frames.read_settings(payload)
    assert failure.value.code == code


def test_a_window_update_is_read_without_its_reserved_bit() -> None:
    assert frames.read_window_update(peer.number(2**31 + 7)) == 7
    for payload in (b"", bytes(3), bytes(5)):
        with pytest.raises(ProtocolError):
            frames.read_window_update(payload)
    assert frames.build_window_update(3, 9) == peer.frame(peer.WINDOW, 0, 3, peer.number(9))


def test_the_ends_of_streams_and_connections_are_built() -> None:
    assert frames.build_reset(5, ErrorCode.CANCEL) == peer.frame(
        peer.RESET, 0, 5, peer.number(peer.CANCEL)
    )
    assert frames.build_goaway(7, ErrorCode.ENHANCE_YOUR_CALM, "calm") == peer.frame(
        peer.GOAWAY, payload=peer.number(7) + peer.number(peer.ENHANCE_YOUR_CALM) + b"calm"
    )
