"""Frames come out of a stream whole, however it was cut, and nothing makes a reader hold more than one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.framing import LENGTH_MAX, PREFIX_BYTES, FrameReader, Framing, FramingError, LengthPrefix

LIMIT = 300
PREFIXES = pytest.mark.parametrize("length", list(LengthPrefix))
FRAMES = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=8)


def fed(reader: FrameReader, data: bytes, cuts: list[int]) -> list[bytes]:
    frames = []
    start = 0
    for end in [*sorted(cuts), len(data)]:
        frames += reader.feed(data[start:end])
        assert reader.pending_bytes <= 4 + LIMIT
        start = end
    return frames


@PREFIXES
@settings(max_examples=100, deadline=None)
@given(frames=FRAMES, data=st.data())
def test_frames_come_back_however_the_stream_is_cut(
    length: LengthPrefix, frames: list[bytes], data: st.DataObject
) -> None:
    framing = Framing(length, LIMIT)
    stream = b"".join(map(framing.wrap, frames))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    reader = framing.reader()
    assert fed(reader, stream, cuts) == frames
    assert reader.pending_bytes == 0


@PREFIXES
def test_frames_come_back_byte_by_byte(length: LengthPrefix) -> None:
    framing = Framing(length, LIMIT)
    frames = [b"a", b"b" * LIMIT, b"\x00\x00", b"0000"]
    stream = b"".join(map(framing.wrap, frames))
    reader = framing.reader()
    assert [frame for byte in stream for frame in reader.feed(bytes([byte]))] == frames


@PREFIXES
def test_trailing_bytes_wait_for_the_rest_of_their_frame(length: LengthPrefix) -> None:
    framing = Framing(length, LIMIT)
    reader = framing.reader()
    second = framing.wrap(b"second")
    assert reader.feed(framing.wrap(b"first") + second[:-1]) == [b"first"]
    assert reader.pending_bytes == len(second) - 1
    assert reader.feed(second[-1:] + second[:1]) == [b"second"]
    assert reader.pending_bytes == 1


@PREFIXES
def test_keepalives_are_dropped_and_counted(length: LengthPrefix) -> None:
    framing = Framing(length, LIMIT)
    stream = framing.wrap(b"") + framing.wrap(b"x") + framing.wrap(b"") * 2
    whole, pieces = framing.reader(), framing.reader()
    assert whole.feed(stream) == [b"x"]
    assert [frame for byte in stream for frame in pieces.feed(bytes([byte]))] == [b"x"]
    assert whole.keepalives == pieces.keepalives == 3
    assert whole.pending_bytes == pieces.pending_bytes == 0


@PREFIXES
def test_the_limit_itself_passes_and_one_more_does_not(length: LengthPrefix) -> None:
    framing = Framing(length, LIMIT)
    longest = b"x" * LIMIT
    assert framing.reader().feed(framing.wrap(longest)) == [longest]
    with pytest.raises(FramingError, match="limit"):
        framing.wrap(longest + b"x")
    with pytest.raises(FramingError, match="limit"):
        framing.reader().feed(Framing(length, LIMIT + 1).wrap(longest + b"x"))


@PREFIXES
@pytest.mark.parametrize("step", [1, 1000])
def test_complete_frames_before_a_bad_prefix_are_delivered(length: LengthPrefix, step: int) -> None:
    framing = Framing(length, LIMIT)
    bad = Framing(length, 9999).wrap(b"x" * (LIMIT + 1))
    stream = framing.wrap(b"one") + framing.wrap(b"two") + bad
    reader = framing.reader()
    frames: list[bytes] = []
    with pytest.raises(FramingError) as caught:  # noqa: PT012 - the error comes at a place that depends on the step
        for start in range(0, len(stream), step):
            frames += reader.feed(stream[start : start + step])
    assert frames + caught.value.frames == [b"one", b"two"]
    assert reader.pending_bytes == 0
    with pytest.raises(FramingError):
        reader.feed(framing.wrap(b"three"))


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (LengthPrefix.ASCII_4, b"00a1"),
        (LengthPrefix.ASCII_4, b" 001"),
        (LengthPrefix.ASCII_4, b"+001"),
        (LengthPrefix.ASCII_4, b"00\xb22"),
        (LengthPrefix.ASCII_4, b"\x00\x01\x02\x03"),
        (LengthPrefix.BCD_2, b"\x00\x1a"),
        (LengthPrefix.BCD_2, b"\xf0\x01"),
    ],
)
def test_a_prefix_that_is_no_number_ends_the_stream(length: LengthPrefix, prefix: bytes) -> None:
    framing = Framing(length, LIMIT)
    with pytest.raises(FramingError):
        framing.reader().feed(prefix + b"x" * 20)
    held = framing.reader()
    held.feed(prefix[:1])
    with pytest.raises(FramingError):
        held.feed(prefix[1:])


@PREFIXES
@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(st.binary(max_size=900), max_size=6))
def test_hostile_bytes_raise_only_a_framing_error_and_are_not_hoarded(
    length: LengthPrefix, chunks: list[bytes]
) -> None:
    reader = Framing(length, LIMIT).reader()
    for chunk in chunks:
        try:
            reader.feed(chunk)
        except FramingError:
            break
        assert reader.pending_bytes <= PREFIX_BYTES[length] + LIMIT


@PREFIXES
@pytest.mark.parametrize("past", [0, 1])
def test_a_limit_that_the_prefix_cannot_say_is_refused(length: LengthPrefix, past: int) -> None:
    with pytest.raises(ValueError, match="limit_bytes"):
        Framing(length, (LENGTH_MAX[length] + 1) * past)


def cpu_seconds_for(chunks: list[bytes]) -> float:
    reader = Framing(LengthPrefix.BINARY_2, 65535).reader()
    start = time.thread_time()
    for chunk in chunks:
        reader.feed(chunk)
    return time.thread_time() - start


def test_a_frame_in_many_chunks_costs_no_more_than_its_length() -> None:
    # Copying what is held with each byte would take 16 times as long for 4 times the bytes. The best run counts.
    def one_byte_each(size: int) -> list[bytes]:
        return [bytes([byte]) for byte in Framing(LengthPrefix.BINARY_2, 65535).wrap(bytes(size))]

    short, long = one_byte_each(15_000), one_byte_each(60_000)
    assert min(cpu_seconds_for(long) for _ in range(5)) < 12 * min(cpu_seconds_for(short) for _ in range(5))


def test_many_frames_in_a_chunk_cost_no_more_than_their_number() -> None:
    # Cutting each frame off the front of the rest would be quadratic.
    one = Framing(LengthPrefix.BINARY_2, 65535).wrap(b"x" * 20)
    few, many = [one * 5_000], [one * 40_000]
    assert min(cpu_seconds_for(many) for _ in range(5)) < 40 * min(cpu_seconds_for(few) for _ in range(5))
