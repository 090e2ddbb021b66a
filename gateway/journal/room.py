"""Room on the disk: when new transactions are refused, so that outcomes of old ones can still be written (INV-9).

Everything that a stranger can ask for is bounded. Reversals go on where sales are refused (D15), and of those the ones
whose original is here go on where the others are refused: nobody can use up their room by reversing what never was.

    refused                                    at a size of                        with less free than
    new transactions                           limit                               min_free + backlog
    reversals of what is not in the journal    limit + half of the reserve         half of min_free + backlog
    other reversals                            limit + the reserve                 a quarter of min_free + backlog
    outcomes                                   never: there are as many as was taken

The backlog's room is what the outcomes take of all that has none yet: it grows with what is stored, so that all of it
can be sent on the day on which the acquirer is back. A `min_free` of 0 keeps nothing back, for the backlog neither.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final

RESERVE_MIN_BYTES: Final = 64 * 1024 * 1024
"""The reserve above the limit is a quarter of it, and at least this."""

OUTCOME_BYTES: Final = 512
"""What is kept for the outcome of one transaction: 290 bytes were measured in a drain, with the entry of the send."""

_RESERVE_SHARE: Final = 4
_LOOKS_PER_S: Final = 4


class Need(IntEnum):
    """What a transaction may use of the room that is kept back; the later one may use more."""

    NEW = 0
    UNSEEN = 1
    REVERSAL = 2


def kept_free(min_free_bytes: int, owed: int, need: Need = Need.NEW) -> int:
    """Bytes that must be free for a transaction of this need while so many have no outcome; 0 for a minimum of 0."""
    return (min_free_bytes >> need) + owed * OUTCOME_BYTES if min_free_bytes else 0


def bytes_on_disk(path: Path) -> int:
    """Bytes of the journal's files: the database, its write-ahead log, that log's index, and the mark."""
    total = 0
    for ending in ("", "-wal", "-shm", "-mark"):
        try:
            total += path.with_name(path.name + ending).stat().st_size
        except FileNotFoundError:
            continue
    return total


def bytes_free(path: Path) -> int:
    """Bytes that the journal's file system still gives to us."""
    at = os.statvfs(path.parent)
    return at.f_bavail * at.f_frsize


def want_of_room(free: int, kept: int) -> str:
    """Why new transactions are refused, in words."""
    return f"{free} bytes free on disk, {kept} are kept for outcomes"


class Room:
    """Says why a transaction would be refused now. Looks at the disk a few times a second at most."""

    def __init__(self, path: Path, min_free_bytes: int, limit_bytes: int, owed: Callable[[], int]) -> None:
        """Of the journal at `path`; `owed` counts the transactions that have no outcome yet."""
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._owed = owed
        reserve = max(RESERVE_MIN_BYTES, limit_bytes // _RESERVE_SHARE)
        self._limits = tuple(limit_bytes + reserve * need // Need.REVERSAL for need in Need)
        self._look_again_s = 0.0
        self._refusals = ("",) * len(Need)

    def refusal(self, need: Need = Need.NEW) -> str:
        """Why there is no room for a transaction, in words; empty where there is."""
        now_s = time.monotonic()
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + 1 / _LOOKS_PER_S
            self._refusals = self._look()
        return self._refusals[need]

    def _look(self) -> tuple[str, ...]:
        free, used, owed = bytes_free(self._path), bytes_on_disk(self._path), self._owed()
        return tuple(
            want_of_room(free, kept)
            if free < (kept := kept_free(self._min_free_bytes, owed, need))
            else f"the journal takes {used} bytes, its limit is {limit}"
            if used >= limit
            else ""
            for need, limit in zip(Need, self._limits, strict=True)
        )
