"""Opening and closing the database of a SQLite journal: what is looked at, and what is made durable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.journal.completeness import refuse_what_went_back
from gateway.journal.keyring import Keyring
from gateway.journal.port import JournalInDoubt, JournalLocked, JournalUnreadable
from gateway.journal.rows import RowCodec
from gateway.journal.schema import (
    Head,
    Meta,
    adopt_new_keys,
    check_tables,
    create_tables,
    read_head,
    read_meta,
    refuse_foreign_file,
)
from gateway.private_file import make_private


async def refuse_unfit(path: Path, keyring: Keyring, codec: RowCodec) -> None:
    """Look at a journal's files before SQLite acts on them; a file that is missing is made, its owner's alone.

    Must be called under the journal's lock, and before this process opens the file.

    Raises:
        JournalUnreadable: it is no journal of ours, or it has gone back behind what its mark says.
    """
    refuse_foreign_file(path)
    await refuse_what_went_back(path, keyring, codec)
    try:
        make_private(path)
    except OSError as error:
        raise JournalUnreadable(f"{path} cannot be made or written: {error.strerror}; nothing was done") from error


def make_ready(connection: sqlite3.Connection, keyring: Keyring, codec: RowCodec, path: Path) -> tuple[Meta, Head]:
    """On the writer's thread: create or check the tables, and make durable what a crash has left in the log.

    After a kill the log may hold a commit that was never synced. It is visible now, so a retry would be answered
    from it: the checkpoint syncs log and database before anything is served (INV-1).

    Raises:
        JournalLocked, JournalUnreadable, JournalKeysWrong: the message names the file or the key.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        create_tables(connection, keyring, codec)
    meta = check_tables(connection, keyring, path)
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise JournalLocked(f"another process reads {path} and keeps its log from being synced")
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * page_bytes != path.stat().st_size:
        raise JournalUnreadable(f"{path}: its header gives another length than it has")
    adopt_new_keys(connection, keyring, meta)
    return meta, read_head(connection, codec, path)


def adopt_while_open(connection: sqlite3.Connection, keyring: Keyring, path: Path) -> bool:
    """On the writer's thread: note new keys, before anything is sealed with them. False where there is no room."""
    try:
        adopt_new_keys(connection, keyring, read_meta(connection, path))
    except sqlite3.Error as error:
        if not is_want_of_room(error):
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return False
    return True


def leave_in_order(connection: sqlite3.Connection, path: Path) -> None:
    """Leave everything in the database and nothing in the log; what there is no room for stays in the log.

    Raises:
        JournalInDoubt: the disk fails. What was acknowledged is in the log, and the next opening recovers it.
    """
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        if not is_want_of_room(error):
            raise JournalInDoubt(
                f"{path} could not be closed in order: {error}. Nothing is lost: it is in the log beside it, "
                f"which must stay with it; the next start goes on from there"
            ) from error


def is_want_of_room(error: sqlite3.Error) -> bool:
    """Whether SQLite reports that the disk is full, or that the database may grow no more."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
