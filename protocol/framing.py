"""Length-prefixed frames on a byte stream: bounded, and indifferent to how the stream was cut into chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class LengthPrefix(StrEnum):
    """How the length in front of each frame is written; it never counts itself."""

    BINARY_2 = "binary-2"
    ASCII_4 = "ascii-4"
    BCD_2 = "bcd-2"


_BINARY_2: Final = LengthPrefix.BINARY_2  # every frame asks, and a member of an enumeration is dear to come by
_ASCII_4: Final = LengthPrefix.ASCII_4
PREFIX_BYTES: Final = {LengthPrefix.BINARY_2: 2, LengthPrefix.ASCII_4: 4, LengthPrefix.BCD_2: 2}
LENGTH_MAX: Final = {LengthPrefix.BINARY_2: 0xFFFF, LengthPrefix.ASCII_4: 9999, LengthPrefix.BCD_2: 9999}


class FramingError(ValueError):
    """The stream cannot be cut into frames any more; close the connection.

    Attributes:
        frames: complete frames that stood before the bad prefix; they are good and must still be served.
    """

    def __init__(self, reason: str, frames: list[bytes] | None = None) -> None:
        super().__init__(reason)
        self.frames: list[bytes] = frames if frames is not None else []


class KeepAliveFloodError(FramingError):
    """More keep-alives in one piece of the stream than its reader was ready to pass over."""


def _binary_length(data: bytes | bytearray, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _ascii_length(data: bytes | bytearray, at: int) -> int:
    digits = data[at : at + 4]
    if not digits.isdigit():  # of bytes: exactly 0-9
        raise FramingError("length prefix is not four ASCII digits")
    return int(digits)


def _bcd_length(data: bytes | bytearray, at: int) -> int:
    digits = data[at : at + 2].hex()
    if not digits.isdecimal():
        raise FramingError("length prefix is not BCD")
    return int(digits)


_READ_LENGTH: Final[dict[LengthPrefix, Callable[[bytes | bytearray, int], int]]] = {
    LengthPrefix.BINARY_2: _binary_length,
    LengthPrefix.ASCII_4: _ascii_length,
    LengthPrefix.BCD_2: _bcd_length,
}


@dataclass(frozen=True, slots=True)
class Framing:
    """How frames are delimited on a connection.

    Attributes:
        length: the form of the prefix.
        limit_bytes: the longest frame, without its prefix, that is accepted or sent (INV-9).
    Raises:
        ValueError: the limit is not within 1 and what the prefix can express.
    """

    length: LengthPrefix
    limit_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.limit_bytes <= LENGTH_MAX[self.length]:
            raise ValueError(f"limit_bytes must lie within 1 and {LENGTH_MAX[self.length]} for {self.length}")

    def wrap(self, frame: bytes) -> bytes:
        """Put the length in front of `frame`; an empty frame becomes a keep-alive.

        Raises:
            FramingError: the frame is longer than the limit.
        """
        size = len(frame)
        if size > self.limit_bytes:
            raise FramingError(f"frame of {size} bytes exceeds the limit of {self.limit_bytes}")
        if self.length is _BINARY_2:
            return size.to_bytes(2, "big") + frame
        if self.length is _ASCII_4:
            return b"%04d" % size + frame
        return bytes.fromhex(f"{size:04d}") + frame

    def reader(self) -> FrameReader:
        """A reader for one connection."""
        return FrameReader(self)


class FrameReader:
    """Cuts a stream into frames; holds at most one incomplete frame with its prefix.

    A zero-length frame is a keep-alive: dropped, and counted in `keepalives`. After a FramingError the place in the
    stream is lost, so every later `feed` raises it again.
    """

    __slots__ = ("_broken", "_held", "_keepalives_left", "_limit", "_need", "_prefix", "_read_length", "keepalives")

    def __init__(self, framing: Framing) -> None:
        self._prefix = PREFIX_BYTES[framing.length]
        self._limit = framing.limit_bytes
        self._read_length = _READ_LENGTH[framing.length]
        self._held = bytearray()  # the incomplete frame, prefix included
        self._need = self._prefix  # bytes of `_held` at which something can be decided
        self._keepalives_left: int | None = None
        self._broken: str | None = None
        self.keepalives = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes held of a frame that is not complete yet, its prefix included."""
        return len(self._held)

    def feed(self, data: bytes, keepalives_max: int | None = None) -> list[bytes]:
        """Take the next chunk of the stream and return the frames that it completes, without their prefixes.

        Args:
            keepalives_max: so many keep-alives are passed over in this chunk; at the next one reading stops. A chunk
                may hold one for every two bytes, which nobody else is served for.
        Raises:
            FramingError: a prefix is not a length or is over the limit; its `frames` are those completed before.
            KeepAliveFloodError: more than `keepalives_max`; `frames` likewise.
        """
        if self._broken is not None:
            raise FramingError(self._broken)
        self._keepalives_left = keepalives_max
        frames: list[bytes] = []
        prefix = self._prefix
        try:
            if not self._held and len(data) > prefix:
                length = self._read_length(data, 0)
                if length == len(data) - prefix and length <= self._limit:  # one frame and no more, as mostly
                    return [data[prefix:]]
            position = self._complete_held(data, frames) if self._held else 0
            self._cut(data, position, frames)
        except FramingError as error:
            self._broken = str(error)
            self._held.clear()
            raise type(error)(self._broken, frames) from None
        return frames

    def _keepalive(self) -> None:
        self.keepalives += 1
        if self._keepalives_left is not None:
            self._keepalives_left -= 1
            if self._keepalives_left < 0:
                raise KeepAliveFloodError("too many keep-alives")

    def _length(self, data: bytes | bytearray, at: int) -> int:
        length = self._read_length(data, at)
        if length > self._limit:
            raise FramingError(f"frame of {length} bytes announced, the limit is {self._limit}")
        return length

    def _complete_held(self, data: bytes, frames: list[bytes]) -> int:
        """Move bytes to the held frame, no more than it needs, and return how many of `data` were used."""
        held = self._held
        prefix = self._prefix
        position = 0
        while True:
            take = self._need - len(held)
            held += data[position : position + take]
            if len(held) < self._need:
                return len(data)
            position += take
            if self._need > prefix:
                frames.append(bytes(held[prefix:]))
                break
            length = self._length(held, 0)
            if length == 0:
                self._keepalive()
                break
            self._need = prefix + length
        held.clear()
        self._need = prefix
        return position

    def _cut(self, data: bytes, position: int, frames: list[bytes]) -> None:
        """Cut frames straight out of `data` from `position` and hold what is left."""
        prefix = self._prefix
        size = len(data)
        while size - position >= prefix:
            length = self._length(data, position)
            end = position + prefix + length
            if end > size:
                self._need = prefix + length
                break
            if length:
                frames.append(bytes(data[position + prefix : end]))
            else:
                self._keepalive()
            position = end
        if position < size:
            self._held += data[position:]
