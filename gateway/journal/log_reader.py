"""The log part of a journal file, to be read only: entries, leaves, and the tree's hashes. Needs no key, takes no lock.

Works on a journal that a gateway is using, on one that none uses, and on a copy. All that one reader gives is of one
state of the journal, that of the moment of opening: a gateway may go on writing meanwhile, and SQLite keeps what it
writes in the log beside the database until this reader is closed.

An index counts from 0, as the tree does; a sequence counts from 1. Nothing that is read here is verified: a leaf may
not be the hash of its body, and a stored hash of a subtree not that of its leaves. `gateway.audit` verifies.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec

from gateway.journal.port import JournalError, JournalUnreadable
from gateway.journal.schema import APPLICATION_ID, FORMAT, PAGE_BYTES, Head, in_words, read_meta
from protocol.transparency.proofs import prove_consistency, prove_inclusion
from protocol.transparency.tree import EMPTY_ROOT, HASH_BYTES, frontier_at, node_hash

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
PORTION: Final = 4096
"""Entries that are read at once."""

_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\x00"
_CACHE_KIB: Final = 32 * 1024
_SETTINGS: Final = ("query_only = ON", "trusted_schema = OFF", "mmap_size = 0", f"cache_size = -{_CACHE_KIB}")
_ROWS_KEPT: Final = 64
_BUSY_TIMEOUT_S: Final = 5.0


class LogDamaged(JournalError):
    """Something of the log cannot be read, or is not there. `sequence` is the first entry that it concerns, or 0."""

    def __init__(self, text: str, sequence: int = 0) -> None:
        super().__init__(text)
        self.sequence = sequence


class LogEntry(NamedTuple):
    """An entry as stored.

    Attributes:
        sequence: from 1.
        body: the encoded entry (protocol/journal_entry.py).
        leaf: its leaf hash as stored.
        account: ciphertext of its account part, or None.
    """

    sequence: int
    body: bytes
    leaf: bytes
    account: bytes | None


class LogReader:
    """One state of a journal's log. Use it in a `with` statement, on one thread.

    Attributes:
        path: of the journal.
        size: number of the newest entry, which is the size of the tree.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at `path` and hold on to its present state.

        Raises:
            JournalUnreadable: no such file, not a journal, one of another format, or one that cannot be opened.
        """
        self.path = path
        check_header(path)
        self._alone = _Alone(path)
        self._rows: dict[tuple[int, int], list[bytes]] = {}
        self._connection = self._open()
        try:
            with in_words():
                self._connection.execute("BEGIN")
                newest = self._newest()
                tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_schema").fetchall()}
        except sqlite3.Error as error:
            self._connection.close()
            raise JournalUnreadable(_unreadable(path, error)) from error
        self.size = newest
        self._has_subtrees = b"subtree" in tables

    def _newest(self) -> int:
        """The newest entry's sequence; where that cannot be read, what a head says, so that the rest can be read."""
        try:
            (newest,) = self._connection.execute("SELECT max(sequence) FROM entry").fetchone()
        except sqlite3.DatabaseError:
            for sequence in self._told():
                return sequence
            raise
        return newest or 0

    def _told(self) -> Iterator[int]:
        for (packed,) in self._connection.execute("SELECT packed FROM head ORDER BY copy").fetchall():
            try:
                yield msgspec.msgpack.decode(packed, type=Head).sequence
            except (msgspec.MsgspecError, TypeError, UnicodeDecodeError):
                continue  # the other copy

    def told_sizes(self) -> list[int]:
        """How many entries there are by each copy of the journal's own head that can be read; their tags are not
        checked.

        Raises:
            LogDamaged: the heads cannot be read.
        """
        try:
            with in_words():
                return list(self._told())
        except sqlite3.Error as error:
            raise LogDamaged(_unreadable(self.path, error)) from error

    def _open(self) -> sqlite3.Connection:
        mode = "ro&immutable=1" if self._alone else "ro"
        try:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S
            )
        except sqlite3.Error as error:
            raise JournalUnreadable(_unreadable(self.path, error)) from error
        connection.text_factory = bytes  # a flipped bit makes text of what was none, and text need not be UTF-8
        try:
            with in_words():
                for setting in _SETTINGS:
                    connection.execute(f"PRAGMA {setting}").fetchall()
        except sqlite3.Error as error:
            connection.close()
            raise JournalUnreadable(_unreadable(self.path, error)) from error
        return connection

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._connection.close()

    def check_unchanged(self) -> None:
        """Make sure that what was read is of one state, where SQLite could not see to it. Call it at the end.

        Raises:
            JournalUnreadable: a gateway was started on this journal while it was read as one that nobody uses.
        """
        self._alone.check()

    def keyring_name(self) -> str:
        """Name of the keyring that the journal was written with.

        Raises:
            JournalUnreadable: both copies of what the journal says of itself are damaged.
        """
        try:
            with in_words():
                return read_meta(self._connection, self.path).keyring
        except sqlite3.Error as error:
            raise JournalUnreadable(_unreadable(self.path, error)) from error

    def select(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """What a query gives, row by row; text comes as bytes.

        Raises:
            LogDamaged: SQLite cannot read on.
        """
        try:
            with in_words():
                for row in self._connection.execute(sql, values):  # noqa: UP028 - so no cursor is closed after its file
                    yield row
        except sqlite3.Error as error:
            raise LogDamaged(f"{self.path}: {error}") from error

    def call_every(self, steps: int, call: Callable[[], int] | None) -> None:
        """Have `call` called each so many steps of a query; one that it returns 1 to ends as `LogDamaged`."""
        self._connection.set_progress_handler(call, steps)

    def entries(self, start: int, end: int) -> Iterator[LogEntry]:
        """The entries of index `start` up to `end`, in order; memory stays flat.

        Raises:
            LogDamaged: one is not there, or cannot be read.
        """
        for first in range(start, end, PORTION):
            expected = first + 1
            stop = min(first + PORTION, end)
            for row in self.select(
                "SELECT sequence, body, leaf, account FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence",
                expected,
                stop,
            ):
                if row[0] != expected or not isinstance(row[1], bytes) or not isinstance(row[2], bytes):
                    break
                expected += 1
                yield LogEntry(*row)
            if expected != stop + 1:
                raise LogDamaged(f"entry {expected} is missing or damaged", expected)

    def entry(self, index: int) -> LogEntry:
        """The entry of one index.

        Raises:
            LogDamaged: it is not there, or cannot be read.
        """
        return next(self.entries(index, index + 1))

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The stored leaf hashes of index `start` up to `end`.

        Raises:
            LogDamaged: one is not there, or is no hash.
        """
        sql = "SELECT sequence, leaf FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
        leaves: list[bytes] = []
        for sequence, leaf in self.select(sql, start + 1, end):
            if sequence != start + 1 + len(leaves) or not isinstance(leaf, bytes) or len(leaf) != HASH_BYTES:
                break
            leaves.append(leaf)
        if len(leaves) != max(end - start, 0):
            missing = start + 1 + len(leaves)
            raise LogDamaged(f"the leaf of entry {missing} is missing or damaged", missing)
        return leaves

    def sensitive(self, sequence: int) -> bytes | None:
        """The ciphertext of an entry's sensitive part; None where it is gone, as it must once its transaction is final.

        Raises:
            LogDamaged: it cannot be read.
        """
        row = next(self.select("SELECT ciphertext FROM sensitive WHERE sequence = ?", sequence), None)
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def subtrees(self, level: int, start: int, end: int) -> list[bytes] | None:
        """The stored roots of the complete subtrees of 256**level leaves, from number `start` up to `end`.

        None where any of them is not stored, or is no hash.
        """
        if not self._has_subtrees:
            return None
        rows = self.select(
            "SELECT number, hash FROM subtree WHERE level = ? AND number BETWEEN ? AND ? ORDER BY number",
            level,
            start,
            end - 1,
        )
        found = [each for number, each in rows if isinstance(each, bytes) and len(each) == HASH_BYTES]
        return found if len(found) == end - start else None

    def hashes(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree: a `HashReader` (protocol/transparency/tree.py).

        Out of the stored subtrees; where they are missing, out of the leaves, which costs more.

        Raises:
            LogDamaged: leaves that it needs are not there.
        """
        if (index + 1) << level > self.size:
            raise LogDamaged(f"the journal ends at entry {self.size}", self.size + 1)
        tile_level, within = divmod(level, TILE_HEIGHT)
        first = index << within
        number, offset = divmod(first, TILE_WIDTH)
        row = self._row(tile_level, number, offset + (1 << within))[offset : offset + (1 << within)]
        while len(row) > 1:
            pairs = iter(row)
            row = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=True)]
        return row[0]

    def _row(self, tile_level: int, number: int, count: int) -> list[bytes]:
        """At least the first `count` hashes of a tile: as many as the tree has."""
        kept = self._rows.pop((tile_level, number), None)
        if kept is None or len(kept) < count:
            first = number << TILE_HEIGHT
            end = min(first + TILE_WIDTH, self.size >> TILE_HEIGHT * tile_level)
            kept = self.leaves(first, end) if not tile_level else self.subtrees(tile_level, first, end)
            if kept is None:  # not stored: each from the row below it
                kept = [self._folded(tile_level, each) for each in range(first, end)]
        self._rows[(tile_level, number)] = kept
        while len(self._rows) > _ROWS_KEPT:
            del self._rows[next(iter(self._rows))]
        return kept

    def _folded(self, tile_level: int, index: int) -> bytes:
        row = self._row(tile_level - 1, index, TILE_WIDTH)
        while len(row) > 1:
            pairs = iter(row)
            row = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=True)]
        return row[0]

    def root(self, size: int) -> bytes:
        """The root of the tree of the first `size` entries.

        Raises:
            LogDamaged: there are not so many, or leaves are missing.
        """
        return frontier_at(size, self.hashes).root() if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry `index` is in the tree of `size` (proofs.prove_inclusion).

        Raises:
            ProofError: there is no such leaf. LogDamaged: as `hashes`.
        """
        return prove_inclusion(index, size, self.hashes)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` continues the tree of `old` (proofs.prove_consistency).

        Raises:
            ProofError: the first tree is larger. LogDamaged: as `hashes`.
        """
        return prove_consistency(old, new, self.hashes)


class _Alone:
    """Whether nobody uses a journal: there is no log beside it. It is read without making one, then.

    SQLite would make files beside a database that it opens, on a medium that an auditor may not write to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._before = self._look()
        self._alone = not self._log.exists()

    def __bool__(self) -> bool:
        return self._alone

    def _look(self) -> tuple[int, int]:
        there = self._path.stat()
        return there.st_mtime_ns, there.st_size

    def check(self) -> None:
        if self._alone and (self._log.exists() or self._look() != self._before):
            raise JournalUnreadable(f"{self._path} came into use while it was read: run this again")


def check_header(path: Path) -> None:
    """Look at the 100 bytes that every SQLite file starts with, before SQLite acts on them.

    Raises:
        JournalUnreadable: there is no such file, it is not a journal, or it is of another format than this release's.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise JournalUnreadable(f"{path} does not exist") from None
    except OSError as error:
        raise JournalUnreadable(f"{path} cannot be read: {error.strerror}") from None
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise JournalUnreadable(f"{path} is not a journal")
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big") or header[16:18] != PAGE_BYTES.to_bytes(2, "big"):
        raise JournalUnreadable(f"{path} is a SQLite database, but not a journal, or its header is damaged")
    written = int.from_bytes(header[60:64], "big")
    if written > FORMAT:
        raise JournalUnreadable(f"{path} is of format {written}, of a newer release: use that release's `holdfast`")
    if written < FORMAT:
        raise JournalUnreadable(f"{path} is of format {written}, of an older release: use that release's `holdfast`")


def _unreadable(path: Path, error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return (
            f"{path} cannot be opened, because it has a log beside it: copy both to a folder that you may write to "
            f"({error})"
        )
    return f"{path} cannot be read: {error}"
