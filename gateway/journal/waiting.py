"""What waits for the journal's writer, and whoever awaits what becomes of it. Used on the event loop's thread only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from gateway.journal.port import JournalError
from gateway.journal.reading import Damage

_NOTED_MAX: Final = 1_024
_PROBE_EVERY_S: Final = 0.25

_T = TypeVar("_T")


class Waiting(Generic[_T]):
    """Oldest first. Each leaves when it is written or refused; its number is the sequence that it got, if it has one.

    Whoever awaits one may be cancelled: it is written all the same, and nobody is told.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[_T, asyncio.Future[int]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, what: _T) -> asyncio.Future[int]:
        """Let one wait behind the others."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((what, future))
        return future

    def oldest(self, limit: int) -> list[_T]:
        """So many of them; they go on waiting."""
        return [what for what, _ in self._waiting[:limit]]

    def written(self, numbers: Sequence[int]) -> None:
        """As many of the oldest are durable, and have these numbers."""
        for number, future in zip(numbers, self._leave(len(numbers)), strict=True):
            if not future.done():
                future.set_result(number)

    def refuse(self, count: int, error: JournalError) -> None:
        """So many of the oldest were not written."""
        for future in self._leave(count):
            if not future.done():
                future.set_exception(error)

    def refuse_all(self, error: JournalError) -> None:
        """The journal has stopped."""
        self.refuse(len(self), error)

    def _leave(self, count: int) -> list[asyncio.Future[int]]:
        leaving = [future for _, future in self._waiting[:count]]
        del self._waiting[:count]
        return leaving


class WaitingDamages:
    """What was met damaged and waits for the quarantine, each once."""

    def __init__(self) -> None:
        self._waiting: list[Damage] = []
        self._noted: set[Damage] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, damages: Sequence[Damage]) -> bool:
        """Whether one of them is new."""
        new = [each for each in dict.fromkeys(damages) if each not in self._noted]
        if new:
            if len(self._noted) >= _NOTED_MAX:
                self._noted.clear()  # quarantine itself keeps a second report from being made
            self._noted.update(new)
            self._waiting += new
        return bool(new)

    def take(self) -> list[Damage]:
        """All of them; they wait no more."""
        taken, self._waiting = self._waiting, []
        return taken

    def put_back(self, damages: Sequence[Damage]) -> None:
        """Those that were taken could not be written."""
        self._waiting[:0] = damages


class Fullness:
    """Whether the disk was full when something was to be written last, and whether a commit shall try it again.

    Attributes:
        reason: why nothing is taken, in words; empty while there is room.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._probe = False
        self._probe_after_s = 0.0

    def met(self) -> None:
        """There was no room."""
        self.reason = "the disk is full"

    def over(self) -> None:
        """Something was written."""
        self.reason = ""

    @property
    def to_probe(self) -> bool:
        """Whether the next commit shall write something in any case."""
        return self._probe

    def probe_soon(self) -> bool:
        """Have it tried again; False where there is room, or where it was tried a moment ago."""
        now_s = time.monotonic()
        if not self.reason or now_s < self._probe_after_s:
            return False
        self._probe_after_s = now_s + _PROBE_EVERY_S
        self._probe = True
        return True

    def take_probe(self) -> bool:
        """As `to_probe`, once."""
        probe, self._probe = self._probe, False
        return probe
