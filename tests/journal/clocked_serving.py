"""The journal's process with the clock of a test: the time is what stands in the file that the first argument names."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.clock import SystemClock
from gateway.journal.serving import main


class FileClock(SystemClock):
    """UTC from a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def utc_ms(self) -> int:
        return int(self._path.read_text())


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    main(FileClock(path))
