"""How long the write-ahead log is: only a checkpoint tells, and between two of them it is reckoned from the writes."""

from __future__ import annotations

from typing import Final

_PER_COMMIT: Final = 6
_LEAST: Final = 0.1
_MOST: Final = 4.0


class LogLength:
    """Frames that were added since the last checkpoint.

    A commit writes some pages whatever it holds, and about one for each write. What that really comes to is learned
    from each checkpoint: it tells the frames that the log had.
    """

    def __init__(self) -> None:
        self._reckoned = 0
        self._ratio = 1.0

    @property
    def frames(self) -> float:
        """So many, about."""
        return self._reckoned * self._ratio

    def add(self, writes: int) -> None:
        """A commit of so many writes."""
        self._reckoned += _PER_COMMIT + writes

    def measured(self, frames: int) -> None:
        """A checkpoint has found so many frames, and what comes next begins the log anew.

        Where a reader keeps it from beginning anew, the next checkpoint finds more, and the one after it comes sooner.
        """
        if self._reckoned:
            self._ratio = min(max(frames / self._reckoned, _LEAST), _MOST)
        self.begin()

    def begin(self) -> None:
        """Reckon from here."""
        self._reckoned = 0
