"""Before a journal is opened for writing: is everything in it that its mark says was committed?

Asked under the lock, through connections that neither write nor checkpoint, before anything else touches the files:
to open a damaged log for writing would overwrite what lies behind the damage. Costs the same however long the journal.

    the mark                 the journal                            then
    none                     any                                    opened: an older one, or the mark was moved away
    no slot whole            any                                    refused
    says nothing yet         any                                    opened
    at entry N               of that name, at N or after, same N    opened
    at entry N               before N, or unreadable                the log is mended, and all is there: opened
                                                                    it cannot be mended: refused, files as they were
    at entry N               of another name, or with another N     refused: a forked journal, or another one

With or without a mark, the database and its log have to belong together. The head in the database alone and the one
that the log brings are counted in commits, and each head says up to which commit the database stood by itself when the
log was begun (schema.Head): a complete checkpoint has synced it by then, so no crash makes it older.

    the database alone       the log                                then
    head cannot be read      any                                    nothing can be told: a crash within a checkpoint
    before the log's base    newer                                  refused: an older copy of the database
    after the log's head     older, or damaged                      as what is unreadable
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from gateway.core.events import Lookup
from gateway.journal.connections import connect_reader
from gateway.journal.keyring import Keyring
from gateway.journal.log_pages import Flip
from gateway.journal.log_repair import (
    Repair,
    Stuck,
    examine,
    has_unreported,
    keep_unreported,
    log_path,
    repair_log,
    take_back_unreported,
)
from gateway.journal.mark import LEAF_UNKNOWN, Standing, mark_path, names_in_mark, newest, read_mark
from gateway.journal.port import JournalError, JournalUnreadable
from gateway.journal.reader import snapshot
from gateway.journal.reading import RecordDamaged, RecordReader, is_damage
from gateway.journal.room import bytes_free
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head, check_tables, newest_head, read_head, read_meta
from gateway.journal.sealing import Sealer
from protocol.transparency.tree import leaf_hash

_LOG: Final = logging.getLogger("gateway.journal")

_VERIFIED_MAX: Final = 10_000
"""Entries that are read one by one after a log was mended: bounds the time of that opening."""

CANDIDATES_MAX: Final = 32
"""So many mendings are tried where the flipped bit can be any of several: bounds the time of that opening."""

_FREE_MIN_BYTES: Final = 1024 * 1024
"""With less free than this, a failing file is for want of room: SQLite's index of a log alone takes 32 KiB."""


class _Behind(JournalUnreadable):
    """The journal is behind its mark, or cannot be read: mending the log may help.

    Attributes:
        what: the message without advice.
        sequence: of its newest entry, 0 where that cannot be read.
    """

    def __init__(self, path: Path, what: str, sequence: int, advice: str) -> None:
        super().__init__(f"{what}. {_kept(path)} {advice}")
        self.what = what
        self.sequence = sequence


class _Beyond(JournalUnreadable):
    """Mending the log would not help."""


def _behind(path: Path, said: Standing, sequence: int, how: str, advice: str) -> _Behind:
    missing = f"entries {sequence + 1} to {said.sequence} are" if sequence < said.sequence else "something is"
    what = f"{path} {how}, and entry {said.sequence} was committed: {missing} missing"
    return _Behind(path, what, sequence, advice)


async def refuse_what_went_back(path: Path, keyring: Keyring, codec: RowCodec) -> None:
    """Compare the journal at `path` with its mark; mend its log where flipped bits there have taken commits back.

    Raises:
        JournalUnreadable: something that was committed is missing and cannot be brought back. The files are as they
            were; the message says what is missing and what to do.
        JournalKeysWrong: as check_tables.
    """
    slots = read_mark(path, codec)
    said = newest(slots) if slots is not None else None
    if slots is None or (said is not None and said.order == (0, 0, 0)):
        await _look_at_pair(path, codec)
        if has_unreported(path):
            _report_unverified(path)
        return
    try:
        take_back_unreported(path)
    except OSError as error:
        raise _unreachable(path, error) from error
    problem = await _problem(path, keyring, codec, said)
    if problem is None:
        return
    try:
        repair = await asyncio.to_thread(repair_log, path)
        stuck = await asyncio.to_thread(_stuck, path) if repair is None else None
        if stuck is not None and 1 < len(stuck.candidates) <= CANDIDATES_MAX:
            repair = await _try_each(path, keyring, codec, said, problem.sequence + 1, stuck.candidates)
    except OSError as error:
        raise JournalUnreadable(
            f"{problem.what}.\nFlipped bits in the log are the cause. They could be put right, but the log could not "
            f"be mended, for its copy could not be written: {_obstacle(path, error)}. Mend that and start again."
        ) from problem
    if repair is None:
        raise JournalUnreadable(f"{problem}\n{stuck}" if stuck is not None else str(problem)) from problem
    left: JournalUnreadable | None = problem
    try:
        left = await _problem(path, keyring, codec, said, mended_from=problem.sequence + 1)
    finally:
        if left is not None:
            repair.undo()
    if left is not None:
        raise JournalUnreadable(
            f"{problem}\nMending {len(repair.flips)} flipped bit(s) of the log was tried and undone: it did not bring "
            f"everything back."
        ) from left
    _report(repair, problem, said)


async def what_went_back(path: Path, keyring: Keyring, codec: RowCodec) -> str:
    """Why a gateway would refuse or mend this journal, or empty, for who only reads. Changes nothing.

    A gateway may write to the journal meanwhile.
    """
    try:
        slots = read_mark(path, codec)  # before the journal is looked at: it is never ahead of it
        said = newest(slots) if slots is not None else None
        if slots is None or (said is not None and said.order == (0, 0, 0)):
            await _look_at_pair(path, codec)
        else:
            await _look(path, keyring, codec, said)
    except _Behind as behind:
        return f"{behind.what}. A start tries to put its log right first, and changes nothing where it cannot."
    except JournalError as problem:
        return str(problem)
    return ""


def _stuck(path: Path) -> Stuck | None:
    try:
        return examine(path, log_path(path))[1]
    except FileNotFoundError:
        return None


async def _try_each(
    path: Path, keyring: Keyring, codec: RowCodec, said: Standing | None, start: int, candidates: Sequence[Flip]
) -> Repair | None:
    """Mend with each candidate, look whether all is there and whole then, and undo it; keep the only one that fits.

    The true one always fits. So where just one does, it is the true one; where several do, none is taken.
    """
    fitting: list[Flip] = []
    for candidate in candidates:
        repair = await asyncio.to_thread(repair_log, path, candidate)
        if repair is None:
            continue
        try:
            await _look(path, keyring, codec, said, mended_from=start)
            fitting.append(candidate)
        except JournalError:
            continue
        finally:
            repair.undo()
    return await asyncio.to_thread(repair_log, path, fitting[0]) if len(fitting) == 1 else None


def _report(repair: Repair, problem: _Behind, said: Standing | None) -> None:
    _LOG.error(
        "%s had %d flipped bit(s) at byte %s, which hid entries %d to %d: put right, nothing is lost. "
        "The damaged log is kept as %s. The disk or the memory of this machine is failing: look after it.",
        repair.log,
        len(repair.flips),
        ", ".join(str(each.offset) for each in repair.flips),
        problem.sequence + 1,
        said.sequence if said is not None else problem.sequence,
        repair.keep(),
    )
    repair.reported()


def _report_unverified(path: Path) -> None:
    """An opening that mended the log ended before it could say so, and the mark is gone since."""
    log = log_path(path)
    _LOG.error(
        "%s had flipped bits, which an earlier start has put right; it ended before it could say so. What they hid was "
        "not looked through, for there is no mark. The damaged log is kept as %s.",
        log,
        keep_unreported(log),
    )
    Repair((), log).reported()


async def _problem(
    path: Path, keyring: Keyring, codec: RowCodec, said: Standing | None, *, mended_from: int = 0
) -> _Behind | None:
    """Why the journal is behind its mark, None where it is not; as `_look`."""
    try:
        await _look(path, keyring, codec, said, mended_from=mended_from)
    except _Behind as behind:
        return behind
    return None


async def _look(path: Path, keyring: Keyring, codec: RowCodec, said: Standing | None, *, mended_from: int = 0) -> None:
    """Return if the journal has what the mark says.

    Args:
        mended_from: if given, the records from this entry on come out of a mended log: each is read.
    Raises:
        _Behind: mending the log may help. JournalUnreadable, JournalKeysWrong: it would not.
    """
    if said is not None and _is_empty(path):
        raise _behind(path, said, 0, "is missing or empty", _knowingly(path))
    try:
        await _look_at_pair(path, codec, conclusive_only=True)

        # Without a log SQLite has nothing to put together: it need not make one, nor its index.
        reader = await connect_reader(path, alone=_is_empty(log_path(path)))
        connection = reader.connection
        try:
            await reader.run(partial(_once, connection, partial(_compare, connection, path, keyring, codec, said)))
            if mended_from and said is not None:
                records = RecordReader(connection, codec, Sealer(keyring))
                await reader.run(partial(_once, connection, partial(_verify, records, path, said, mended_from)))
        finally:
            await reader.close()
        await _look_at_pair(path, codec)
    except (_Behind, _Beyond):
        raise
    except (JournalUnreadable, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and _is_outside(error):
            raise _unreachable(path, error) from error
        if said is None:
            raise JournalUnreadable(f"{path} cannot be read ({error}), and {mark_path(path)} neither") from error
        raise _behind(path, said, 0, f"cannot be read ({error})", _SEEK) from error


def _once(connection: sqlite3.Connection, look: Callable[[], None]) -> None:
    snapshot(connection, [look])


async def _look_at_pair(path: Path, codec: RowCodec, *, conclusive_only: bool = False) -> None:
    """Return unless the database and the log beside it do not belong together; what cannot be read tells nothing.

    Args:
        conclusive_only: a log that seems older may also be a damaged one, of which nothing is said then.
    Raises:
        _Beyond: mending the log would not help. _Behind: the log is older than the database, or damaged.
    """
    if _is_empty(path) or _is_empty(log_path(path)):
        return
    before = await _head_of(path, codec, alone=True)
    together = await _head_of(path, codec, alone=False)
    if before is None or together is None:
        return
    after: tuple[str, Head] | None = before
    if together[1].based > before[1].commits:
        # A gateway may be at work: its checkpoint may have come between the two.
        after = await _head_of(path, codec, alone=True)
    if after is not None and (together[1].based > after[1].commits or together[0] != after[0]):
        raise _Beyond(
            f"the database {path} is older than its log, or of another journal: by itself it ends with entry "
            f"{after[1].sequence}, and the log beside it goes on from a later one. {_kept(path)} Put the database "
            f"back that belongs to this log. {_restoring(path)}"
        )
    if together[1].commits < before[1].commits and not conclusive_only:
        raise _Behind(
            path,
            f"the log of {path} is older than the database, or damaged: the database by itself ends with entry "
            f"{before[1].sequence}, and with the log with entry {together[1].sequence}",
            together[1].sequence,
            f"Put the log back that belongs to this database. {_restoring(path)}",
        )


async def _head_of(path: Path, codec: RowCodec, *, alone: bool) -> tuple[str, Head] | None:
    """The journal's name and head; of the database file by itself, as a checkpoint has left it, or with its log."""
    found: list[tuple[str, Head | None]] = []
    try:
        reader = await connect_reader(path, alone=alone)
        connection = reader.connection

        def read() -> None:
            found.append((read_meta(connection, path).journal, newest_head(connection, codec)))

        try:
            await reader.run(partial(_once, connection, read))
        finally:
            await reader.close()
    except (sqlite3.Error, JournalUnreadable):
        return None
    name, head = found[0]
    return None if head is None else (name, head)


def _compare(
    connection: sqlite3.Connection, path: Path, keyring: Keyring, codec: RowCodec, said: Standing | None
) -> None:
    meta = check_tables(connection, keyring, path)  # first: with other keys no mark can be read
    if said is None:
        raise _Beyond(_unknown_mark(path, meta.journal))
    if meta.journal != said.journal:
        raise _Beyond(f"{path} is another journal than its mark is of. {_kept(path)} {_knowingly(path)}")
    head = read_head(connection, codec, path)
    if head.sequence < said.sequence:
        raise _behind(path, said, head.sequence, f"ends with entry {head.sequence}", _knowingly(path))
    if head.indexed < said.indexed or head.quarantined < said.quarantined:
        how = "lacks what was written after its newest entry"
        raise _behind(path, said, head.sequence, how, _knowingly(path))
    if said.leaf == LEAF_UNKNOWN:
        return
    try:
        found = connection.execute("SELECT body, leaf FROM entry WHERE sequence = ?", (said.sequence,)).fetchall()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return  # a damaged page in the database is told when the record is read: the journal has not gone back
    body, leaf = found[0] if found else (None, None)
    if isinstance(body, bytes) and leaf_hash(body) == leaf and leaf != said.leaf:
        raise _Beyond(
            f"{path}: its entry {said.sequence} is another than the one that was committed. "
            f"{_kept(path)} {_knowingly(path)}"
        )


def _verify(records: RecordReader, path: Path, said: Standing, start: int) -> None:
    """Read what a mended log has brought back, so that no wrong bit of it stays."""
    whole = True
    sequence = start
    try:
        for sequence in range(max(start, said.sequence - _VERIFIED_MAX, 1), said.sequence + 1):
            entry, _ = records.entry(sequence)
            whole = not entry.transaction or records.by_id(entry.transaction) is not Lookup.DAMAGED
            if not whole:
                break
    except RecordDamaged:
        whole = False
    if not whole:
        raise _behind(path, said, start - 1, f"has a damaged record beside entry {sequence} in its log", _SEEK)


def _is_empty(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size


_SEEK: Final = "Look for the log, or for a newer copy of the database."


def _kept(path: Path) -> str:
    return (
        f"The files were left as they are; keep a copy of {path}, {path.name}-wal and {path.name}-mark before anything "
        f"else."
    )


def _knowingly(path: Path) -> str:
    """What an operator does about a journal that is whole, and is not the newest."""
    return (
        f"If an older copy was put here knowingly, what was taken since that copy is missing here, and what was sent "
        f"since may be sent again: move {mark_path(path)} away, compare `holdfast queue list` with the acquirer's "
        f"books, and start then."
    )


def _restoring(path: Path) -> str:
    return (
        f"If a copy was put here knowingly, remove {path.name}-wal and {path.name}-shm, unless they are of that copy, "
        f"move {path.name}-mark away, compare `holdfast queue list` with the acquirer's books, and start then: what "
        f"was taken since is missing here, and what was sent since may be sent again."
    )


def _unknown_mark(path: Path, journal: str) -> str:
    """Of a mark of which no slot fits the keys, while the journal does."""
    names = names_in_mark(path)
    if names and journal not in names:
        return f"{mark_path(path)} is the mark of another journal. {_kept(path)} Put the mark of this one back."
    what = "made with other keys, or damaged in both its halves" if names else "damaged in both its halves"
    return (
        f"{mark_path(path)} is {what}, so whether {path} is all there cannot be told. {_kept(path)} Put the right mark "
        f"back if there is one. Where the journal is known to be the newest, move the mark away, compare `holdfast "
        f"queue list` with the acquirer's books, and start then."
    )


def _is_outside(error: sqlite3.Error) -> bool:
    """Whether SQLite could not get at the files, which says nothing of what is in them."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF == sqlite3.SQLITE_IOERR or not is_damage(error))


def _unreachable(path: Path, error: Exception) -> JournalUnreadable:
    return JournalUnreadable(
        f"{path} cannot be looked through: {_obstacle(path, error)}. Nothing is known to be missing, and the files "
        f"were left as they are. Leave {path.name}-wal and {path.name}-mark where they are, mend that, and start again."
    )


def _obstacle(path: Path, error: Exception) -> str:
    """Why a file cannot be read or made: what an operator can put right, before what the system calls it."""
    free = bytes_free(path)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"there is not enough room on the disk ({error})"
    if free < _FREE_MIN_BYTES:
        return f"the disk is full, {free} bytes are free ({error})"
    if not _may(path.parent, os.W_OK | os.X_OK):
        return f"the folder {path.parent} cannot be written by this user ({error})"
    for file in (path, log_path(path)):
        if file.exists() and not _may(file, os.R_OK | os.W_OK):
            return f"{file} cannot be read and written by this user ({error})"
    return str(error)


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
