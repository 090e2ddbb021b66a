"""The two connections of a SQLite journal, and how a whole batch crosses to a thread in one hop.

aiosqlite runs each call on its connection's thread and offers one call for each statement: a batch of 64 transactions
would cross between threads hundreds of times. Its public API takes a `factory`, though: what makes the connection on
that thread. Ours means by `commit()`: do everything that has gathered, and commit it. So one awaited
`commit()` is one hop for a whole batch, and the rules of sqlite3 about threads hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiosqlite

from gateway.journal.schema import PAGE_BYTES, in_words

BUSY_TIMEOUT_S: Final = 5.0
LOG_BYTES: Final = 16 * 1024 * 1024
CACHE_MIB: Final = 32
"""Page cache of each connection, unless told otherwise: memory stays bounded however long the journal grows (INV-9)."""
_STATEMENTS: Final = 128
"""Prepared statements that a connection keeps."""


class GatheringConnection(sqlite3.Connection):
    """A connection whose `commit()` does the work that has gathered for it, on the connection's own thread."""

    gathered: Callable[[], None] | None = None

    def commit(self) -> None:
        """Do what has gathered; raises what it raises."""
        work, self.gathered = self.gathered, None
        if work is not None:
            work()


class Threaded:
    """A connection on a thread of its own."""

    def __init__(self, proxy: aiosqlite.Connection, made: list[GatheringConnection]) -> None:
        self._proxy = proxy
        self.connection = made[0]
        """To be used on its thread only, which is to say within `run`."""

    async def run(self, work: Callable[[], None]) -> None:
        """Do `work` on the connection's thread, in one hop; one at a time.

        Cancellation: the work is done all the same.
        """
        self.connection.gathered = work
        await self._proxy.commit()

    async def close(self) -> None:
        """Close the connection and end its thread."""
        await self._proxy.close()


class Here:
    """A connection on the caller's own thread: `run` does its work at once, and the thread does nothing else meanwhile.

    For the process that does nothing but write: to hand a batch to a thread costs more than half of what the batch
    does, and there is nobody whom it would spare.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def run(self, work: Callable[[], None]) -> None:
        """Do `work`, now."""
        work()

    async def close(self) -> None:
        """Close the connection."""
        self.connection.close()


async def _connect(database: str, settings: tuple[str, ...]) -> Threaded:
    made: list[GatheringConnection] = []

    def factory(*args: Any, **kwargs: Any) -> GatheringConnection:
        made.append(GatheringConnection(*args, **kwargs))
        return made[0]

    proxy = await aiosqlite.connect(
        database, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S, cached_statements=_STATEMENTS, factory=factory
    )
    threaded = Threaded(proxy, made)

    def configure() -> None:
        with in_words():
            for pragma in settings:
                threaded.connection.execute(f"PRAGMA {pragma}").fetchall()

    try:
        await threaded.run(configure)
    except BaseException:
        await threaded.close()
        raise
    return threaded


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


async def connect_writer(path: Path, cache_mib: int = CACHE_MIB, *, here: bool = False) -> Threaded | Here:
    """The one connection that writes and checkpoints; `here` on the caller's thread, else on one of its own."""
    settings = (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",  # each commit is synced before it returns: INV-1
        "wal_autocheckpoint = 0",  # checkpoints are ours, after the batch has been answered
        f"journal_size_limit = {LOG_BYTES}",  # a log that was longer is cut off when it begins anew
        "secure_delete = ON",
        "cell_size_check = ON",
        "trusted_schema = OFF",
        "temp_store = MEMORY",
        "mmap_size = 0",
        f"cache_size = -{cache_mib * 1024}",
    )
    if not here:
        return await _connect(_uri(path, "rwc"), settings)
    connection = sqlite3.connect(
        _uri(path, "rwc"), uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S, cached_statements=_STATEMENTS,
        factory=GatheringConnection,
    )  # fmt: skip
    try:
        with in_words():
            for pragma in settings:
                connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return Here(connection)


async def connect_reader(path: Path, cache_mib: int = CACHE_MIB, *, alone: bool = False) -> Threaded:
    """A connection that can only read, and never checkpoints, at its end either.

    Args:
        alone: there is no log and nobody writes: SQLite makes no files beside the database then.
    """
    return await _connect(
        _uri(path, "ro&immutable=1" if alone else "ro"),
        (
            "query_only = ON",
            "cell_size_check = ON",
            "trusted_schema = OFF",
            "temp_store = MEMORY",
            "mmap_size = 0",
            f"cache_size = -{cache_mib * 1024}",
        ),
    )
