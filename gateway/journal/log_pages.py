"""Which of several bits was flipped in a frame of the log, by the versions of the same page before and after it.

From one version of a page to the next most bytes stay as they are. A flipped bit differs from its neighbours; a bit
that was not flipped agrees with one of them, unless it lies in what this very version has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from gateway.journal.schema import PAGE_BYTES

HEADER_BYTES: Final = 32
FRAME_HEAD_BYTES: Final = 24
FRAME_BYTES: Final = FRAME_HEAD_BYTES + PAGE_BYTES
FRAME: Final = Struct(">6I")
"""Page number, pages of the database at a commit or 0, two salts, two sums."""

_GROWTH_MAX: Final = 65_536
_SIZE_AT: Final = 4
_LIKENESS: Final = 2
"""Two versions of one page agree in more than one of so many bytes."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A flipped bit, by the byte of the file (or of the frame) and the bit's number in it."""

    offset: int
    bit: int

    def back(self, content: bytes) -> bytes:
        """`content` with the bit as it was."""
        mended = bytearray(content)
        mended[self.offset] ^= 1 << self.bit
        return bytes(mended)


class Vote(Enum):
    """What the neighbours say of one candidate."""

    SURELY = "before and after this version the bit is the other way"
    FLIPPED = "they have this bit the other way"
    SOUND = "they have this bit as it is"
    UNKNOWN = "there are none, or they differ here anyway"


class Neighbours:
    """The frames around one frame of a log, and the database below."""

    def __init__(self, path: Path, log: BinaryIO, number: int, salts: tuple[int, int]) -> None:
        """`number` counts from 0; frames of an older log, which have other salts, are left out."""
        self._path = path
        self._log = log
        self._number = number
        self._heads: list[tuple[int, int]] = []
        while True:
            log.seek(HEADER_BYTES + len(self._heads) * FRAME_BYTES)
            head = log.read(FRAME_HEAD_BYTES)
            if len(head) < FRAME_HEAD_BYTES:
                break
            page, size, salt0, salt1, _, _ = FRAME.unpack(head)
            if (salt0, salt1) != salts and len(self._heads) > number:
                break
            self._heads.append((page, size))

    def versions(self, page: int) -> tuple[list[bytes], list[bytes]]:
        """Of a page: what came before, nearest first, ending with the database's; and the next one in the log."""
        earlier = [n for n in range(self._number) if self._heads[n][0] == page][-1:]
        later = [n for n in range(self._number + 1, len(self._heads)) if self._heads[n][0] == page][:1]
        with self._path.open("rb") as database:
            database.seek((page - 1) * PAGE_BYTES)
            below = database.read(PAGE_BYTES)
        whole = [below] if len(below) == PAGE_BYTES else []
        return [*map(self._content, earlier), *whole], [*map(self._content, later)]

    def _content(self, number: int) -> bytes:
        self._log.seek(HEADER_BYTES + number * FRAME_BYTES + FRAME_HEAD_BYTES)
        return self._log.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")

    def is_size(self, pages: int) -> bool:
        """Whether the database can have had so many pages here: it never shrinks; 0 stands within a commit."""
        before = [size for _, size in self._heads[: self._number] if size]
        after = [size for _, size in self._heads[self._number + 1 :] if size]
        smallest = before[-1] if before else 1
        largest = after[0] if after else smallest + _GROWTH_MAX
        return pages == 0 or smallest <= pages <= largest


def likely(around: Neighbours, frame: bytes, candidates: Sequence[Flip]) -> Flip | None:
    """The one candidate that the neighbours speak for, or do not speak against; None where they leave several, or none.

    A false candidate gets SURELY only where a byte has changed in this one version by just that bit and back again.
    """
    page, *_ = FRAME.unpack_from(frame)
    earlier, later = around.versions(page)
    votes = [(_vote_on(around, frame, flip, earlier, later), flip) for flip in candidates]
    for enough in ({Vote.SURELY}, {Vote.SURELY, Vote.FLIPPED, Vote.UNKNOWN}):
        left = [flip for vote, flip in votes if vote in enough]
        if left:
            break
    return left[0] if len(left) == 1 else None


def _vote_on(around: Neighbours, frame: bytes, flip: Flip, earlier: list[bytes], later: list[bytes]) -> Vote:
    mended = flip.back(frame)
    if flip.offset >= FRAME_HEAD_BYTES:
        was, would_be, at = frame[flip.offset], mended[flip.offset], flip.offset - FRAME_HEAD_BYTES
        if earlier and later and earlier[0][at] == later[0][at] == would_be:
            return Vote.SURELY
        there = {each[at] for each in (*earlier, *later)} & {was, would_be}
        return _vote(was=was in there, would_be=would_be in there) if there else Vote.UNKNOWN
    if flip.offset >= 2 * _SIZE_AT:
        return Vote.UNKNOWN  # the stored sums: nothing else says what they should be
    _, size, *_ = FRAME.unpack_from(frame)
    true_page, true_size, *_ = FRAME.unpack_from(mended)
    if flip.offset >= _SIZE_AT:
        return _vote(was=around.is_size(size), would_be=around.is_size(true_size))
    content = frame[FRAME_HEAD_BYTES:]
    there_too = [each for versions in around.versions(true_page) for each in versions]
    return _vote(was=_alike(content, [*earlier, *later]), would_be=_alike(content, there_too))


def _vote(*, was: bool, would_be: bool) -> Vote:
    if was == would_be:
        return Vote.UNKNOWN if was else Vote.SOUND
    return Vote.FLIPPED if would_be else Vote.SOUND


def _alike(content: bytes, versions: Sequence[bytes]) -> bool:
    """Whether it can be a page of these versions: it is like one of them."""
    return any(_LIKENESS * sum(map(int.__eq__, content, each)) > PAGE_BYTES for each in versions)
