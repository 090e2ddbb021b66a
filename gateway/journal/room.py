"""Room on the disk: when new transactions are refused, so that outcomes of old ones can still be written (INV-9)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_LOOKS_PER_S: Final = 4


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
    """Says why a new transaction would be refused now. Looks at the disk a few times a second at most."""

    def __init__(self, path: Path, min_free_bytes: int, limit_bytes: int) -> None:
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._limit_bytes = limit_bytes
        self._look_again_s = 0.0
        self._refusal = ""

    def refusal(self) -> str:
        """Why there is no room for a new transaction, in words; empty where there is."""
        now_s = time.monotonic()
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + 1 / _LOOKS_PER_S
            self._refusal = self._look()
        return self._refusal

    def _look(self) -> str:
        free = bytes_free(self._path)
        if free < self._min_free_bytes:
            return f"{free} bytes free on disk, {self._min_free_bytes} are kept for outcomes"
        used = bytes_on_disk(self._path)
        if used >= self._limit_bytes:
            return f"the journal takes {used} bytes, its limit is {self._limit_bytes}"
        return ""
