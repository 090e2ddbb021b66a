"""What the parts of a stored transaction cost by themselves on this machine: the disk, the ciphers, SQLite.

Each part runs for a given time and tells a rate or times; none of them has a socket, and none waits for another.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.load.peers_gateway import RecordSizes
from gateway.journal.connections import CACHE_MIB
from gateway.journal.keyring import create_keyring
from gateway.journal.schema import PAGE_BYTES, TABLES
from gateway.journal.sealing import ACCOUNT_PART, Sealer
from protocol.transparency.tree import leaf_hash

_SYNC_BYTES: Final = 4096
_OVERWRITTEN_BLOCKS: Final = 256
_SYNCS_MIN: Final = 20
_SEALED_MORE_BYTES: Final = 28  # nonce and tag
_AT_ONCE: Final = 64
_LEAF_BYTES: Final = 32
_HEAD_BYTES: Final = 150
_LOG_BYTES_PER_RECORD: Final = 40
_CHECKPOINT_PAGES: Final = 4_000  # as the gateway's journal has it
_BATCHES_MADE: Final = 8

_INSERTS: Final = {
    "entry": "INSERT INTO entry (sequence, body, leaf, account) VALUES (?, ?, ?, ?)",
    "tx": "INSERT INTO tx (id, row) VALUES (?, ?)",
}
_HEAD: Final = "INSERT OR REPLACE INTO head (copy, packed, tag) VALUES (?, ?, ?)"
_COUNTERS: Final = "INSERT INTO counter_log (sequence, packed, tag) VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True)
class SyncTimes:
    """Times of fdatasync, in microseconds."""

    median_us: float
    p99_us: float


def sync_times(folder: Path, seconds: float, *, grow: bool) -> SyncTimes:
    """fdatasync after each write of 4 KiB.

    Args:
        grow: append, so that the file's size is synced as well; else go round in blocks that are there already, as a
            write-ahead log does once it has wrapped.
    Raises:
        OSError: the folder cannot be written in.
    """
    synced = getattr(os, "fdatasync", os.fsync)
    block = os.urandom(_SYNC_BYTES)
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()
        if not grow:
            os.write(number, block * _OVERWRITTEN_BLOCKS)
            os.fsync(number)
        ends = time.perf_counter() + seconds
        for turn in itertools.count():
            os.pwrite(number, block, (turn if grow else turn % _OVERWRITTEN_BLOCKS) * _SYNC_BYTES)
            began = time.perf_counter()
            synced(number)
            took.append(time.perf_counter() - began)
            if time.perf_counter() > ends and len(took) >= _SYNCS_MIN:
                break
    took.sort()
    return SyncTimes(statistics.median(took) * 1e6, took[min(len(took) - 1, len(took) * 99 // 100)] * 1e6)


def seal_rate(folder: Path, sizes: RecordSizes, seconds: float) -> float:
    """Account parts a second that the journal's own sealer derives a key for, encrypts and commits to, on one core."""
    with tempfile.TemporaryDirectory(dir=folder) as keys:
        sealer = Sealer(create_keyring(Path(keys) / "keys"))
    plaintext = os.urandom(max(1, sizes.account - _SEALED_MORE_BYTES))
    sequences = itertools.count(1)
    seal = sealer.seal

    def some() -> None:
        for _ in range(_AT_ONCE):
            seal(next(sequences), ACCOUNT_PART, plaintext)

    return _rate(some, seconds)


def leaf_rate(sizes: RecordSizes, seconds: float) -> float:
    """Entries a second that are hashed to leaves, on one core."""
    body = os.urandom(sizes.body)

    def some() -> None:
        for _ in range(_AT_ONCE):
            leaf_hash(body)

    return _rate(some, seconds)


def _rate(some: Callable[[], None], seconds: float) -> float:
    """How often a second, where `some` does it 64 times. The garbage collector is off meanwhile."""
    some()
    with _no_collection():
        done = 0
        began = now = time.perf_counter()
        while now - began < seconds:
            some()
            done += _AT_ONCE
            now = time.perf_counter()
    return done / (now - began)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def sqlite_rate(folder: Path, sizes: RecordSizes, batch: int, seconds: float) -> float:
    """Records a second that SQLite takes in synced commits of `batch`, with the journal's tables, pages and settings.

    The rows are made beforehand, of random bytes and of the sizes that the gateway's have, so that neither ciphers nor
    encoding are in the figure; checkpoints are, as often as the journal makes them.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = sqlite3.connect(Path(place) / "journal.sqlite3", isolation_level=None, cached_statements=64)
        with contextlib.closing(connection), _no_collection():
            for setting in (
                f"page_size = {PAGE_BYTES}",
                "journal_mode = WAL",
                "synchronous = FULL",
                f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                "secure_delete = ON",
                "cell_size_check = ON",
                "temp_store = MEMORY",
                "mmap_size = 0",
                f"cache_size = -{CACHE_MIB * 1024}",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
            for table in TABLES.values():
                connection.execute(table)
            rows = _Rows(sizes)
            done = 0
            spent = 0.0
            while spent < seconds:
                batches = [rows.batch(batch) for _ in range(_BATCHES_MADE)]
                began = time.perf_counter()
                for one in batches:
                    _commit(connection, one)
                spent += time.perf_counter() - began
                done += batch * len(batches)
            return done / spent


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of one commit, by table."""

    tables: dict[str, list[tuple[object, ...]]]
    head: bytes
    counters: bytes
    last: int


class _Rows:
    """Makes batches of rows that look like the journal's."""

    def __init__(self, sizes: RecordSizes) -> None:
        self._sizes = sizes
        self._sequence = 0

    def batch(self, count: int) -> _Batch:
        """The next so many transactions."""
        first = self._sequence + 1
        self._sequence += count
        numbers = range(first, first + count)
        sizes = self._sizes
        return _Batch(
            {
                "entry": [
                    (n, os.urandom(sizes.body), os.urandom(_LEAF_BYTES), os.urandom(sizes.account)) for n in numbers
                ],
                "tx": [(n, os.urandom(sizes.row)) for n in numbers],
            },
            os.urandom(_HEAD_BYTES),
            os.urandom(_LOG_BYTES_PER_RECORD * count),
            self._sequence,
        )


def _commit(connection: sqlite3.Connection, batch: _Batch) -> None:
    """Write a batch as the journal does, without looking anything up."""
    connection.execute("BEGIN IMMEDIATE")
    for table, rows in batch.tables.items():
        connection.executemany(_INSERTS[table], rows)
    connection.execute(_COUNTERS, (batch.last, batch.counters, b"tag of 16 bytes."))
    connection.executemany(_HEAD, ((1, batch.head, b"tag of 16 bytes."), (2, batch.head, b"tag of 16 bytes.")))
    connection.execute("COMMIT")
