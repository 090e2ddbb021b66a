"""The simulated acquirer's ledger on disk: JSON lines, appended and synced before anything is answered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from bench.records import LedgerEvent, read_lines

_NEWLINE: Final = 0x0A
_TAIL_BYTES: Final = 1 << 20


class Ledger:
    """One open ledger file. `append` blocks until the lines are on the disk; call it from a thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._encoder = msgspec.json.Encoder()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._cut_torn_tail()

    def _cut_torn_tail(self) -> None:
        """Remove a last line that a kill left unfinished: it was never answered."""
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, size - start, start)
        if tail and tail[-1] != _NEWLINE:
            os.ftruncate(self._descriptor, start + tail.rfind(b"\n") + 1)

    def events(self) -> Iterator[LedgerEvent]:
        """Every line so far, in order."""
        return read_lines(self.path, LedgerEvent)

    def append(self, events: list[LedgerEvent]) -> None:
        """Write the lines and sync them.

        Raises:
            OSError: they may or may not have reached the disk; nothing may be answered.
        """
        view = memoryview(self._encoder.encode_lines(events))
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
