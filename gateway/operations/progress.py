"""Progress of a long command: one line on a terminal that replaces itself, and nothing elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TextIO

QUIET_S: Final = 2.0
"""What is done within this time is done without a word."""

_EVERY_S: Final = 0.2


class Progress:
    """Writes what is being done to a stream, if that is a terminal; leaves the line empty at the end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next = clock() + QUIET_S
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def tell(self, what: str, part: float) -> None:
        """Say that `what` is done to this part, from 0 to 1."""
        now = self._clock()
        if now < self._next or not self._stream.isatty():
            return
        self._next = now + _EVERY_S
        text = f"{what} {part:4.0%}"
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = max(self._width, len(text))
