"""Room on the disk: when new transactions are refused, so that outcomes of old ones can still be written (INV-9).

Everything that a stranger can ask for is bounded. Reversals go on where sales are refused (D15), and of those the ones
whose original is here go on where the others are refused: nobody can use up their room by reversing what never was.

    refused                                    at a size of                        with less free than
    new transactions                           limit                               min_free
    reversals of what is not in the journal    limit + half of the reserve         half of min_free
    other reversals                            limit + the reserve                 a quarter of min_free
    outcomes                                   never: there are as many as was taken
"""

from __future__ import annotations

import os
import time
from enum import IntEnum
from pathlib import Path
from typing import Final

RESERVE_MIN_BYTES: Final = 64 * 1024 * 1024
"""The reserve above the limit is a quarter of it, and at least this."""

_RESERVE_SHARE: Final = 4
_LOOKS_PER_S: Final = 4


class Need(IntEnum):
    """What a transaction may use of the room that is kept back; the later one may use more."""

    NEW = 0
    UNSEEN = 1
    REVERSAL = 2


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


class Room:
    """Says why a transaction would be refused now. Looks at the disk a few times a second at most."""

    def __init__(self, path: Path, min_free_bytes: int, limit_bytes: int) -> None:
        self._path = path
        reserve = max(RESERVE_MIN_BYTES, limit_bytes // _RESERVE_SHARE)
        self._bounds = tuple((min_free_bytes >> need, limit_bytes + reserve * need // Need.REVERSAL) for need in Need)
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
        free, used = bytes_free(self._path), bytes_on_disk(self._path)
        return tuple(
            f"{free} bytes free on disk, {min_free} are kept for outcomes"
            if free < min_free
            else f"the journal takes {used} bytes, its limit is {limit}"
            if used >= limit
            else ""
            for min_free, limit in self._bounds
        )
