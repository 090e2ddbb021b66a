"""A disk, as a trace of writes shows it: what is surely on it, what may be, and what a power cut can leave.

The rules are those that POSIX gives and no more:
- what was written to a file before a sync of that file began is on the disk once that sync has returned;
- of what was written since, any part may be there: none, all, any writes without those before them, and of each write
  any sectors. A write may tear at 512 bytes, or at 4096 where a disk has such sectors. Bytes that a write did not
  touch keep their value, and bytes that nothing has written are zero;
- a name that was made, removed or changed is so for certain once the folder was synced. Before that, the changes of
  names may have happened up to any one of them.

A shared-memory file is mapped, so what it holds is never synced and not in the trace: it is left out, stale or rubbish.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tests.crash.tracing import Event

Files = dict[str, bytes]
"""Contents by name."""


class Cut(Enum):
    """Which of the writes that no sync covers survive, file by file."""

    NONE = "none of them"
    ALL = "all of them"
    FIRST = "the first few, the last of which is torn"
    ANY = "any of them, whole"
    SECTORS_512 = "any sectors of 512 bytes of them"
    SECTORS_4096 = "any sectors of 4096 bytes of them"


_CUTS: Final = tuple(Cut)
_SHARES: Final = (0.1, 0.5, 0.9)


@dataclass(slots=True)
class Content:
    """A file, whatever its name: what is surely on the disk, and the writes (offset, bytes) and cuts since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    covered: int = 0

    def live(self) -> bytearray:
        """What the machine shows while it runs."""
        whole = bytearray(self.durable)
        for change in self.pending:
            _apply(whole, change)
        return whole

    def sync_begins(self) -> None:
        """What was written up to now is what the sync covers."""
        self.covered = len(self.pending)

    def sync_ends(self) -> None:
        """It is on the disk."""
        for change in self.pending[: self.covered]:
            _apply(self.durable, change)
        del self.pending[: self.covered]
        self.covered = 0

    def cut(self, dice: random.Random) -> bytearray:
        """What a power cut may leave."""
        left = bytearray(self.durable)
        how = dice.choice(_CUTS) if self.pending else Cut.NONE
        if how is Cut.NONE:
            return left
        share = dice.choice(_SHARES)
        first = dice.randrange(len(self.pending)) if how is Cut.FIRST else len(self.pending)
        for number, change in enumerate(self.pending):
            offset, written = change
            if how is Cut.ALL or number < first < len(self.pending):
                _apply(left, change)
            elif how is Cut.FIRST:
                if written is not None:
                    _apply(left, (offset, written[: dice.randrange(len(written) // 512 + 1) * 512]))
                break
            elif how is Cut.ANY or written is None:
                if dice.random() < share:
                    _apply(left, change)
            else:
                _tear(left, offset, written, 512 if how is Cut.SECTORS_512 else 4096, lambda: dice.random() < share)
        return left


def _apply(whole: bytearray, change: tuple[int, bytes | None]) -> None:
    """Write at an offset, or cut to a size (a change without bytes); a gap becomes zeros."""
    at, written = change
    if len(whole) < at:
        whole.extend(bytes(at - len(whole)))
    if written is None:
        del whole[at:]
    else:
        whole[at : at + len(written)] = written


def _tear(whole: bytearray, offset: int, written: bytes, sector_bytes: int, survives: Callable[[], bool]) -> None:
    start = 0
    while start < len(written):
        end = min(len(written), start + sector_bytes - (offset + start) % sector_bytes)
        if survives():
            _apply(whole, (offset + start, written[start:end]))
        start = end


class Disk:
    """Follows a trace, event by event."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._durable: dict[str, Content] = {}
        self._named: dict[str, Content] = {}
        self._renames: list[dict[str, Content]] = []
        self._covered = 0
        self._opened: dict[int, Content | None] = {}

    def content(self, event: Event) -> Content | None:
        """The file that an event is about; None where it is the folder."""
        return self._opened.get(event.descriptor)

    def name(self, event: Event) -> str:
        """Under which name that file is there now; empty where there is none."""
        content = self.content(event)
        return next((name for name, each in self._named.items() if each is content), "")

    def follow(self, event: Event) -> None:
        """Take the next event."""
        match event.operation:
            case "O":
                self._open(event)
            case "C":
                self._opened.pop(event.descriptor, None)
            case "U":
                self._rename({name: each for name, each in self._named.items() if name != self._name(event.path)})
            case "R":
                old, _, new = event.path.partition("\0")
                moved = {name: each for name, each in self._named.items() if name != self._name(old)}
                self._rename({**moved, self._name(new): self._named[self._name(old)]})
            case _:
                self._change(event)

    def _change(self, event: Event) -> None:
        content = self._opened[event.descriptor]
        match event.operation, content:
            case "W", Content():
                content.pending.append((event.number, event.content))
            case "T", Content():
                content.pending.append((event.number, None))
            case "B", None:
                self._covered = len(self._renames)
            case "F", None:
                if self._covered:
                    self._durable = self._renames[self._covered - 1]
                    del self._renames[: self._covered]
            case "B", Content():
                content.sync_begins()
            case "F", Content():
                content.sync_ends()
            case "E", _:
                pass
            case _:
                raise AssertionError(f"the trace has {event.operation}")

    def _name(self, path: str) -> str:
        return path.removeprefix(self._folder).lstrip("/")

    def _open(self, event: Event) -> None:
        name = self._name(event.path)
        if not name:
            self._opened[event.descriptor] = None
            return
        if name not in self._named:
            self._rename({**self._named, name: Content()})
        elif event.number == 2:
            self._named[name].pending.append((0, None))
        self._opened[event.descriptor] = self._named[name]

    def _rename(self, named: dict[str, Content]) -> None:
        self._named = named
        self._renames.append(named)

    def live(self) -> Files:
        """The files as the machine shows them."""
        return {name: bytes(each.live()) for name, each in self._named.items()}

    def cut(self, dice: random.Random) -> Files:
        """The files as a power cut may leave them."""
        kept = dice.choice([0, len(self._renames), dice.randrange(len(self._renames) + 1)])
        named = self._renames[kept - 1] if kept else self._durable
        return {name: bytes(each.cut(dice)) for name, each in named.items()}
