"""How long the write-ahead log is: by the marks that SQLite itself leaves in it.

The file does not tell by its size: a log that begins anew is written over the one before it. But each log has two
numbers of its own, its salts, at its head and at the head of each of its frames. A frame that has them is of this log,
and all frames before it are.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from pathlib import Path
from typing import Final

from gateway.journal.log_pages import FRAME_BYTES, HEADER_BYTES

_SALTS_BYTES: Final = 8
_SALTS_AT: Final = 16
_FRAME_SALTS_AT: Final = HEADER_BYTES + 8


class LogLength:
    """Frames in the log that were not there at the last checkpoint. Used between commits.

    It reads the log's file only: SQLite has no locks on that one, which closing a descriptor of ours would end.
    """

    def __init__(self, path: Path) -> None:
        """Of the journal at `path`, which is open. Raises: OSError."""
        self._descriptor = os.open(path.with_name(path.name + "-wal"), os.O_RDONLY | os.O_CLOEXEC)
        self._moved = (b"", 0)
        """Salts of the log that the last checkpoint has found, and how many frames it had."""

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def reaches(self, frames: int) -> bool:
        """Whether so many were added, at least one. Where the log cannot be read: yes, for a checkpoint tells why."""
        try:
            salts = self._salts()
            return len(salts) == _SALTS_BYTES and self._is_of(salts, self._before(salts) + frames - 1)
        except OSError:
            return True

    def measured(self, frames: int) -> None:
        """A checkpoint has found so many frames in the log, those of before included: count from there.

        Where a reader keeps the log from beginning anew, it goes on after them.
        """
        with contextlib.suppress(OSError):
            self._moved = (self._salts(), frames)

    def begun_anew(self) -> bool:
        """Whether this is another log than the last checkpoint has found."""
        try:
            return len(salts := self._salts()) == _SALTS_BYTES and salts != self._moved[0]
        except OSError:
            return False

    def begin(self) -> None:
        """Count from here, though nothing was moved."""
        with contextlib.suppress(OSError):
            salts = self._salts()
            room = range(os.fstat(self._descriptor).st_size // FRAME_BYTES)
            self._moved = (salts, bisect_left(room, True, key=lambda number: not self._is_of(salts, number)))

    def _before(self, salts: bytes) -> int:
        of, frames = self._moved
        return frames if of == salts else 0

    def _salts(self) -> bytes:
        return os.pread(self._descriptor, _SALTS_BYTES, _SALTS_AT)

    def _is_of(self, salts: bytes, number: int) -> bool:
        """Whether the frame with this number, from 0, is of the log with these salts."""
        return os.pread(self._descriptor, _SALTS_BYTES, _FRAME_SALTS_AT + number * FRAME_BYTES) == salts
