"""Flipped bits in SQLite's write-ahead log are found and put right. Used only where the mark proves a loss (mark.py).

The log is a header of 32 bytes and then frames: 24 bytes of header, one page. Each frame carries the sum over all words
since the beginning of the log: two 32-bit numbers, for each pair of words (x, y)

    s0 += x + s1        s1 += y + s0        modulo 2**32

A sum is linear: a word that is off by d moves the frame's two sums by d * c0 and d * c1, where c0 and c1 are Fibonacci
numbers that depend on the place of the word alone. So the difference between the stored sum and that of the bytes names
the bits that can have been flipped. For the lower bits of a word that is one. For the nine highest it can be several,
since Fibonacci numbers repeat modulo a small power of two: then the versions of the same page before and after this one
decide (log_pages.py). Where they do not, the caller may try each: only the true one brings back a journal without a
damaged record, unless the damage is where no record is. Then nothing is put right.

Steps of a repair, and what a crash leaves: the log is at no time anything but the damaged or the mended one, whole.

    draft written and synced     the damaged log; the next opening begins anew
    damaged log linked           the same, under a second name as well (-wal.unreported)
    draft renamed                the mended log; the next opening puts the damaged one back, and begins anew
    reported                     the mended log; the damaged one has the name that it keeps (-wal.damaged)
    second name taken away       the same

So whatever is mended is also looked through and reported by the opening that goes on with it.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from struct import Struct, unpack
from typing import BinaryIO, Final

from gateway.journal.keyring import sync_folder
from gateway.journal.log_pages import FRAME, FRAME_BYTES, FRAME_HEAD_BYTES, HEADER_BYTES, Flip, Neighbours, likely
from gateway.journal.schema import PAGE_BYTES

MENDED_MAX: Final = 8
"""More flipped bits than this in one log are no accident of single bits: the disk is failing, a person has to look."""

_PLACES_MAX: Final = 4
_COVERED: Final = 8
_MAGIC: Final = 0x377F0682  # its lowest bit says how words are read: 1 for big-endian
_VERSION: Final = 3_007_000
_HEADER: Final = Struct(">8I")
_MASK: Final = 0xFFFF_FFFF

Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done to a log.

    Attributes:
        flips: the bits that were put right.
        log: its path.
    """

    flips: tuple[Flip, ...]
    log: Path

    def undo(self) -> None:
        """Put the damaged log back in its place."""
        _unreported(self.log).rename(self.log)
        sync_folder(self.log.parent)

    def keep(self) -> Path:
        """Give the damaged log the name under which it is kept: only a person takes it away. Call `reported` then."""
        return keep_unreported(self.log)

    def reported(self) -> None:
        """It was said what was done."""
        _unreported(self.log).unlink()
        sync_folder(self.log.parent)


@dataclass(frozen=True, slots=True)
class Stuck:
    """Where a log cannot be followed further.

    Attributes:
        frame: its number, from 0.
        offset: where in the file it begins.
        frames: so many the file has.
        candidates: bits of the file of which one was flipped, for all that can be told; none where it was not one bit.
    """

    frame: int
    offset: int
    frames: int
    candidates: tuple[Flip, ...]

    def __str__(self) -> str:
        """What an operator is told."""
        if self.frames <= 0:
            return "Its log is empty."
        where = f"Its log can be followed up to frame {self.frame} of {self.frames}, at byte {self.offset}"
        if self.frame >= self.frames:
            return f"{where}: the file ends there."
        if self.candidates:
            places = ", ".join(str(each) for each in sorted({each.offset for each in self.candidates})[:_PLACES_MAX])
            return (
                f"{where}: one flipped bit has damaged it there. Mending was tried and not done: it can be any of "
                f"{len(self.candidates)} bits (bytes {places} and so on), and which one cannot be told for certain."
            )
        return f"{where}: the log ends there, or more than one bit is wrong. Mending was tried and not done."


@dataclass(frozen=True, slots=True)
class _Header:
    """The log's header: how words are read, the salts of its frames, and the sums that they begin with."""

    order: str
    salts: Sums
    sums: Sums


def repair_log(path: Path, chosen: Flip | None = None) -> Repair | None:
    """Put right what flipped bits have broken in the log of the journal at `path`.

    Nobody may have the journal open. The caller looks whether the journal is whole then, and else undoes it.

    Args:
        chosen: the one to take among the candidates at which `examine` is stuck.
    Returns:
        None where nothing is broken, or cannot be put right: then nothing was changed.
    Raises:
        OSError: a file cannot be read or written; the damaged log is in its place.
    """
    log = log_path(path)
    try:
        flips, _ = examine(path, log, chosen)
    except FileNotFoundError:
        return None
    if not flips:
        return None
    draft = log.with_name(log.name + ".mended")
    try:
        _write_mended(log, draft, flips)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    os.link(log, _unreported(log))
    sync_folder(path.parent)  # the damaged log has its second name for certain before it loses the first
    draft.rename(log)
    sync_folder(path.parent)
    return Repair(tuple(flips), log)


def log_path(path: Path) -> Path:
    """The log of a journal."""
    return path.with_name(path.name + "-wal")


def _unreported(log: Path) -> Path:
    return log.with_name(log.name + ".unreported")


def take_back_unreported(path: Path) -> None:
    """Put a damaged log back in its place, if an opening has mended it and ended before it could say so.

    Nothing has written to the journal meanwhile, for only a whole opening does: the same mending will be done again.

    Raises:
        OSError: it cannot be put back; the mended log is in its place.
    """
    log = log_path(path)
    second = _unreported(log)
    if not second.exists():
        return
    if log.exists() and second.samefile(log):
        second.unlink()  # a crash came between the link and the rename
    else:
        second.rename(log)
    sync_folder(path.parent)


def has_unreported(path: Path) -> bool:
    """Whether an opening has ended within a mending."""
    return _unreported(log_path(path)).exists()


def _write_mended(log: Path, draft: Path, flips: list[Flip]) -> None:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with log.open("rb") as whole, os.fdopen(descriptor, "wb") as file:
        while block := whole.read(1 << 20):
            file.write(block)
        for flip in flips:
            whole.seek(flip.offset)
            file.seek(flip.offset)
            file.write(bytes([whole.read(1)[0] ^ sum(1 << each.bit for each in flips if each.offset == flip.offset)]))
        file.flush()
        os.fsync(file.fileno())


def keep_unreported(log: Path) -> Path:
    """Give a damaged log that was replaced a name that nothing else has."""
    second = _unreported(log)
    for number in count():
        damaged = log.with_name(f"{log.name}.damaged{f'-{number}' if number else ''}")
        try:
            os.link(second, damaged)
        except FileExistsError:
            if damaged.samefile(second):
                return damaged  # a crash came after the report
            continue
        sync_folder(log.parent)
        return damaged
    raise AssertionError("there is a number that is free")


def find_flips(path: Path, log: Path) -> list[Flip]:
    """The bits that have to be flipped back so that the log goes on to a commit; none where that cannot be told.

    Raises: as `examine`.
    """
    return examine(path, log)[0]


def examine(path: Path, log: Path, chosen: Flip | None = None) -> tuple[list[Flip], Stuck]:
    """As `find_flips`, and where the log cannot be followed further, its true end or not.

    Reads the log once, about 20,000 pages a second.

    Raises:
        OSError: a file cannot be read.
    """
    with log.open("rb") as file:
        first = file.read(HEADER_BYTES)
        header = _header(first)
        if header is not None:
            return _walk(path, file, header, [], chosen)
        for flip in _single_bits(first):
            mended = _header(flip.back(first))
            if mended is not None and _begins(file, mended):
                return _walk(path, file, mended, [flip], chosen)
        return [], Stuck(0, 0, (os.fstat(file.fileno()).st_size - HEADER_BYTES) // FRAME_BYTES, ())


def _header(content: bytes) -> _Header | None:
    """The header, if SQLite would take it."""
    if len(content) != HEADER_BYTES:
        return None
    magic, version, page_bytes, _, salt0, salt1, sum0, sum1 = _HEADER.unpack(content)
    if magic & ~1 != _MAGIC or version != _VERSION or page_bytes != PAGE_BYTES:
        return None
    order = ">" if magic & 1 else "<"
    if checksum(order, content[:24], (0, 0)) != (sum0, sum1):
        return None
    return _Header(order, (salt0, salt1), (sum0, sum1))


def _begins(file: BinaryIO, header: _Header) -> bool:
    """Whether the first frame is one of this header's log."""
    file.seek(HEADER_BYTES)
    frame = file.read(FRAME_BYTES)
    return len(frame) == FRAME_BYTES and _fits(header, frame, header.sums)


def _walk(
    path: Path, file: BinaryIO, header: _Header, flips: list[Flip], chosen: Flip | None
) -> tuple[list[Flip], Stuck]:
    """Follow the frames, mend each that does not fit, and go on; only what leads to a commit counts.

    The log's true end is a frame of an older log, a torn one, or the end of the file: no single bit mends these.
    """
    sums, certain = header.sums, 0
    candidates: list[Flip] = []
    for number in count():
        offset = HEADER_BYTES + number * FRAME_BYTES
        file.seek(offset)
        frame = file.read(FRAME_BYTES)
        if len(frame) < FRAME_BYTES:
            break
        if not _fits(header, frame, sums):
            candidates = _candidates(header, frame, sums) if len(flips) < MENDED_MAX else []
            flip = candidates[0] if len(candidates) == 1 else None
            if len(candidates) > 1:
                taken = [each for each in candidates if Flip(offset + each.offset, each.bit) == chosen]
                flip = taken[0] if taken else likely(Neighbours(path, file, number, header.salts), frame, candidates)
            if flip is None:
                break
            flips.append(Flip(offset + flip.offset, flip.bit))
            frame = flip.back(frame)
        _, database_pages, _, _, *stored = FRAME.unpack_from(frame)
        sums = (stored[0], stored[1])
        if database_pages:
            certain = len(flips)
    frames = (os.fstat(file.fileno()).st_size - HEADER_BYTES) // FRAME_BYTES
    left = tuple(Flip(offset + each.offset, each.bit) for each in candidates) if number < frames else ()
    return flips[:certain], Stuck(number, offset, frames, left)


def _fits(header: _Header, frame: bytes, sums: Sums) -> bool:
    """Whether SQLite would take a frame after one that ended with `sums`."""
    page, _, salt0, salt1, sum0, sum1 = FRAME.unpack_from(frame)
    return page != 0 and (salt0, salt1) == header.salts and _frame_sums(header.order, frame, sums) == (sum0, sum1)


def _frame_sums(order: str, frame: bytes, sums: Sums) -> Sums:
    return checksum(order, frame[:_COVERED] + frame[FRAME_HEAD_BYTES:], sums)


def checksum(order: str, content: bytes, sums: Sums) -> Sums:
    """SQLite's sum over words of 32 bits, carried on from `sums`; `order` is < or > as words are read."""
    s0, s1 = sums
    words = iter(_words(order, content))
    for x, y in zip(words, words, strict=True):
        s0 = (s0 + x + s1) & _MASK
        s1 = (s1 + y + s0) & _MASK
    return s0, s1


def _words(order: str, content: bytes) -> tuple[int, ...]:
    return unpack(f"{order}{len(content) // 4}I", content)


def _candidates(header: _Header, frame: bytes, sums: Sums) -> list[Flip]:
    """The bits of which each alone makes a frame fit."""
    _, _, *stored = FRAME.unpack_from(frame)
    computed = _frame_sums(header.order, frame, sums)
    salts_off = _bits_off((stored[0], stored[1]), header.salts)
    sums_off = _bits_off((stored[2], stored[3]), computed)
    if salts_off == 1 and not sums_off:
        return [each for each in _single_bits(frame[:16], 8) if _fits(header, each.back(frame), sums)]
    if salts_off:
        return []
    difference = ((stored[2] - computed[0]) & _MASK, (stored[3] - computed[1]) & _MASK)
    found = [
        each if each.offset < _COVERED else Flip(each.offset + FRAME_HEAD_BYTES - _COVERED, each.bit)
        for each in flips_that_move(header.order, frame[:_COVERED] + frame[FRAME_HEAD_BYTES:], difference)
    ]
    if sums_off == 1:
        found += [each for each in _single_bits(frame[:24], 16) if _fits(header, each.back(frame), sums)]
    return [each for each in found if _fits(header, each.back(frame), sums)]


def flips_that_move(order: str, content: bytes, difference: Sums) -> list[Flip]:
    """Every single bit of `content` whose flip moves its two sums by `difference`."""
    words = _words(order, content)
    found = []
    for place, (word, c0, c1) in enumerate(zip(words, *_coefficients(len(words)), strict=True)):
        for bit in range(32):
            d = -(1 << bit) if word >> bit & 1 else 1 << bit
            if c0 * d & _MASK == difference[0] and c1 * d & _MASK == difference[1]:
                at = bit // 8 if order == "<" else 3 - bit // 8
                found.append(Flip(4 * place + at, bit % 8))
    return found


def _coefficients(words: int) -> tuple[array[int], array[int]]:
    """By how much each sum moves when a word grows by one, for each word of so many."""
    firsts, seconds = array("Q"), array("Q")
    x, y = (1, 1), (0, 1)
    for _ in range(words // 2):
        firsts.extend((y[0], x[0]))
        seconds.extend((y[1], x[1]))
        x, y = _one_pair_on(x), _one_pair_on(y)
    firsts.reverse()
    seconds.reverse()
    return firsts, seconds


def _one_pair_on(moved: Sums) -> Sums:
    return (moved[0] + moved[1]) & _MASK, (moved[0] + 2 * moved[1]) & _MASK


def _bits_off(one: Sums, other: Sums) -> int:
    return (one[0] ^ other[0]).bit_count() + (one[1] ^ other[1]).bit_count()


def _single_bits(content: bytes, first: int = 0) -> list[Flip]:
    return [Flip(offset, bit) for offset in range(first, len(content)) for bit in range(8)]
