"""Reads the log of the journal that this very process writes: entries, leaves, hashes of the tree.

A connection of SQLite's own only: to open and close the journal's file by hand would drop the locks that SQLite has on
it in this process. Each question is answered from a state of its own, for entries only come, and no question leaves a
snapshot open that would keep the writer from emptying its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from protocol.transparency.proofs import prove_consistency
from protocol.transparency.tiles import TILE_WIDTH, Tile, TileHashes
from protocol.transparency.tree import HASH_BYTES, Frontier, HashReader, frontier_at, leaf_hash

_BUSY_TIMEOUT_S: Final = 5.0
_CACHE_KIB: Final = 2048
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BODIES: Final = "SELECT sequence, body FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
_ENTRIES: Final = "SELECT body, leaf FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
_LEAVES: Final = "SELECT sequence - 1, leaf FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
_SUBTREES: Final = "SELECT number, hash FROM subtree WHERE level = ? AND number BETWEEN ? AND ? ORDER BY number"


class LogUnreadable(Exception):
    """The log cannot be read for now; the message says why."""


class LogDamaged(Exception):
    """A part of the log is missing, or is none; the message says which. Trying again does not help."""


class LiveLog:
    """One connection; to be used on the thread that made it. Indexes count from 0, sequences from 1."""

    def __init__(self, journal: Path) -> None:
        """Open the journal, which this process has open already.

        Raises:
            LogUnreadable: it cannot be opened.
        """
        try:
            self._connection = sqlite3.connect(
                f"{journal.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S
            )
            for pragma in ("query_only = ON", "trusted_schema = OFF", "mmap_size = 0", f"cache_size = -{_CACHE_KIB}"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
        except sqlite3.Error as error:
            raise LogUnreadable(f"the journal cannot be read: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def size(self) -> int:
        """Number of the newest entry.

        Raises:
            LogUnreadable: it cannot be read.
        """
        try:
            (newest,) = self._connection.execute("SELECT max(sequence) FROM entry").fetchone()
        except sqlite3.Error as error:
            raise LogUnreadable(f"the journal cannot be read: {error}") from error
        return newest or 0

    def bodies(self, start: int, end: int) -> list[bytes]:
        """The encoded entries of index `start` up to `end`, at most a few thousand at a time.

        Raises:
            LogDamaged: one is missing.
            LogUnreadable: as its name says.
        """
        return list(self._dense(_BODIES, (start + 1, end), start + 1, end + 1, "entry"))

    def made_leaves(self, start: int, end: int) -> list[bytes] | None:
        """The leaf hashes of index `start` up to `end`, made of the entries, if they are the stored ones.

        None where anything is not as it should be; `bodies` and `leaves` find out what. It is done for every entry
        while the gateway sells, and costs a third of asking those two.

        Raises:
            LogUnreadable: as its name says.
        """
        try:
            found = self._connection.execute(_ENTRIES, (start + 1, end)).fetchall()
            made = [leaf_hash(body) for body, _ in found]
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                return None
            raise LogUnreadable(f"entries cannot be read: {error}") from error
        except TypeError:  # a body that is no bytes
            return None
        # Sequences are distinct: as many as there should be between two numbers are all of them.
        return made if len(made) == end - start and made == [leaf for _, leaf in found] else None

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The stored leaf hashes of index `start` up to `end`.

        Raises:
            LogDamaged: one is missing.
            LogUnreadable: as its name says.
        """
        return list(self._dense(_LEAVES, (start + 1, end), start, end, "the leaf of entry"))

    def hashes(self, size: int) -> HashReader:
        """The hashes of the tree of the first `size` entries, as stored; raises as `tile`."""
        return TileHashes(size, self.tile)

    def tile(self, tile: Tile) -> bytes:
        """The content of a tile of hashes, out of what is stored.

        Raises:
            LogDamaged: a hash is missing, or is none.
            LogUnreadable: as its name says.
        """
        first = tile.index * TILE_WIDTH
        end = first + tile.width
        if tile.level == 0:
            content = self.leaves(first, end)
        else:
            content = list(self._dense(_SUBTREES, (tile.level, first, end - 1), first, end, f"subtree {tile.level}/"))
        if any(len(each) != HASH_BYTES for each in content):
            raise LogDamaged(f"{tile.path}: a stored hash has not 32 bytes")
        return b"".join(content)

    def frontier(self, size: int) -> Frontier:
        """The frontier of the tree of the first `size` entries, out of what is stored.

        Raises:
            LogDamaged: a hash that it needs is missing.
            LogUnreadable: as its name says.
        """
        return frontier_at(size, self.hashes(size))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` entries continues the tree of `old` (proofs.prove_consistency).

        Raises:
            LogDamaged: a hash that it needs is missing.
            LogUnreadable: as its name says.
        """
        return prove_consistency(old, new, self.hashes(new))

    def _dense(self, sql: str, values: tuple[Any, ...], first: int, end: int, what: str) -> Iterator[bytes]:
        """The second column of rows whose first column counts from `first` up to `end`."""
        expected = first
        try:
            for number, content in self._connection.execute(sql, values):
                if number != expected or not isinstance(content, bytes):
                    break
                expected += 1
                yield content
        except sqlite3.Error as error:
            fault = LogDamaged if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE else LogUnreadable
            raise fault(f"{what} {expected} cannot be read: {error}") from error
        if expected < end:
            raise LogDamaged(f"{what} {expected} is missing or damaged")
