"""Reads captures: text files with one frame in hex on each line, as people cut them out of logs and of dumps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from protocol.framing import LENGTH_MAX, PREFIX_BYTES, LengthPrefix

LINE_BYTES_MAX: Final = 512 * 1024
"""The longest line: the longest frame in hex with a space between the digits."""

FRAMES_MAX: Final = 1_000_000
CAPTURE_BYTES_MAX: Final = 512 * 1024 * 1024

_MARKER: Final = re.compile(rb"(?:<-+|-+>|[<>]{1,2}|(?:tx|rx|in|out)(?=[\s:]))[\s:]*", re.IGNORECASE)
_GAPS: Final = bytes(range(33)) + b"\x7f"
_NO_HEX: Final = re.compile(rb"[^0-9A-Fa-f]")


class CaptureError(ValueError):
    """The file cannot be read, holds no frame, or is too large."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no frame; the reason holds nothing of the line."""

    line: int
    reason: str


@dataclass(slots=True)
class Capture:
    """What a file holds.

    Attributes:
        frames: line number and bytes of each frame, as they stand in the file.
        bad_lines: those that were skipped.
    """

    frames: list[tuple[int, bytes]] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)


def read_capture(path: Path, tell: Callable[[float], None] = lambda _: None) -> Capture:
    """Read a capture; blank lines and what follows a "#" are left out.

    Args:
        tell: is called now and then with the part that is read, from 0 to 1.
    Raises:
        CaptureError: the file cannot be read, holds no frame, or is over CAPTURE_BYTES_MAX or FRAMES_MAX.
    """
    capture = Capture()
    try:
        size = path.stat().st_size
        if size > CAPTURE_BYTES_MAX:
            raise CaptureError(f"{path} has {size} bytes; at most {CAPTURE_BYTES_MAX} are read, so take a part of it")
        with path.open("rb") as file:
            done = 0
            for number, line in enumerate(_lines(file), 1):
                done += len(line)
                if number % 4096 == 0:
                    tell(min(1.0, done / max(1, size)))
                _take(capture, number, line)
                if len(capture.frames) > FRAMES_MAX:
                    raise CaptureError(f"{path} holds more than {FRAMES_MAX} frames; take a part of it")
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}") from error
    if not capture.frames:
        bad = (
            f"; {len(capture.bad_lines)} lines are none, line {capture.bad_lines[0].line}: "
            if capture.bad_lines
            else ""
        )
        raise CaptureError(f"{path} holds no frame{bad}{capture.bad_lines[0].reason if bad else ''}")
    return capture


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, each cut off one byte behind LINE_BYTES_MAX."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        rest = line
        while len(rest) > LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = file.readline(LINE_BYTES_MAX + 1)
        yield line


def _take(capture: Capture, number: int, line: bytes) -> None:
    if len(line) > LINE_BYTES_MAX:
        capture.bad_lines.append(BadLine(number, f"is longer than {LINE_BYTES_MAX} bytes"))
        return
    text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    text = text.partition(b"#")[0].strip()
    if marker := _MARKER.match(text):
        text = text[marker.end() :]
    elif not text:
        return
    digits = text.translate(None, _GAPS)
    if not digits:
        capture.bad_lines.append(BadLine(number, "has a direction and no frame"))
    elif wrong := _NO_HEX.search(digits):
        place = wrong.start() + 1
        capture.bad_lines.append(
            BadLine(number, f"character {place} of the frame (spaces not counted) is no hex digit")
        )
    elif len(digits) % 2:
        capture.bad_lines.append(BadLine(number, f"{len(digits)} hex digits are no whole number of bytes"))
    else:
        capture.frames.append((number, bytes.fromhex(digits.decode("ascii"))))


def length_in_front(raw: bytes) -> LengthPrefix | None:
    """The form of length in which the bytes begin with their own length, if any."""
    for form in LengthPrefix:
        if prefixed(raw, form):
            return form
    return None


def prefixed(raw: bytes, form: LengthPrefix) -> bool:
    """Whether the bytes are one frame behind its own length in this form."""
    size = len(raw) - PREFIX_BYTES[form]
    if not 0 < size <= LENGTH_MAX[form]:
        return False
    if form is LengthPrefix.BINARY_2:
        return int.from_bytes(raw[:2], "big") == size
    if form is LengthPrefix.ASCII_4:
        return raw[:4] == b"%04d" % size
    return raw[:2].hex() == f"{size:04d}"
