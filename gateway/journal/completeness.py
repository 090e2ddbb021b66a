"""Before a journal is opened for writing: is everything in it that its mark says was committed?

Asked under the lock, through a connection that neither writes nor checkpoints, before anything else touches the files:
to open a damaged log for writing would overwrite what lies behind the damage. Costs the same however long the journal.

    the mark                 the journal                            then
    none                     any                                    opened: an older one, or the mark was moved away
    no slot whole            any                                    refused
    says nothing yet         any                                    opened
    at entry N               of that name, at N or after, same N    opened
    at entry N               before N, or unreadable                the log is mended, and all is there: opened
                                                                    it cannot be mended: refused, files as they were
    at entry N               of another name, or with another N     refused: a forked journal, or another one
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from gateway.core.events import Lookup
from gateway.journal.connections import connect_reader
from gateway.journal.keyring import Keyring
from gateway.journal.log_repair import Repair, repair_log
from gateway.journal.mark import LEAF_UNKNOWN, Standing, mark_path, newest, read_mark
from gateway.journal.port import JournalUnreadable
from gateway.journal.reader import snapshot
from gateway.journal.reading import RecordDamaged, RecordReader, is_damage
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head, check_tables, read_head
from gateway.journal.sealing import Sealer
from protocol.journal_entry import leaf_hash

_LOG: Final = logging.getLogger("gateway.journal")


_VERIFIED_MAX: Final = 10_000
"""Entries that are read one by one after a log was mended: bounds the time of that opening."""


class _Behind(JournalUnreadable):
    """The journal is behind its mark, or cannot be read: mending the log may help.

    Attributes:
        sequence: of its newest entry, 0 where that cannot be read.
    """

    def __init__(self, path: Path, said: Standing, sequence: int, how: str) -> None:
        missing = f"entries {sequence + 1} to {said.sequence} are" if sequence < said.sequence else "something is"
        super().__init__(f"{path} {how}, and entry {said.sequence} was committed: {missing} missing. {_advice(path)}")
        self.sequence = sequence


class _Beyond(JournalUnreadable):
    """Mending the log would not help."""


async def refuse_what_went_back(path: Path, keyring: Keyring, codec: RowCodec) -> None:
    """Compare the journal at `path` with its mark; mend its log where flipped bits there have taken commits back.

    Raises:
        JournalUnreadable: something that was committed is missing and cannot be brought back. The files are as they
            were; the message says what is missing and what to do.
        JournalKeysWrong: as check_tables.
    """
    slots = read_mark(path, codec)
    if slots is None:
        return
    said = newest(slots)
    if said is not None and said.order == (0, 0, 0):
        return
    problem = await _problem(path, keyring, codec, said)
    if problem is None:
        return
    assert said is not None
    try:
        repair = await asyncio.to_thread(repair_log, path)
    except OSError as error:
        raise JournalUnreadable(
            f"{problem}\nThe log could not be mended, for its copy could not be written: {error}"
        ) from problem
    if repair is None:
        raise problem
    left: JournalUnreadable | None = problem
    try:
        left = await _problem(path, keyring, codec, said, mended_from=problem.sequence + 1)
    finally:
        if left is not None:
            repair.undo()
    if left is not None:
        raise problem from left
    _report(repair, problem.sequence, said)


def _report(repair: Repair, was: int, said: Standing) -> None:
    _LOG.error(
        "%s had %d flipped bit(s) at byte %s, which hid entries %d to %d: put right, nothing is lost. "
        "The damaged log is kept as %s. The disk or the memory of this machine is failing: look after it.",
        repair.log,
        len(repair.flips),
        ", ".join(str(each.offset) for each in repair.flips),
        was + 1,
        said.sequence,
        repair.damaged,
    )


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
        _Behind: mending the log may help. _Beyond, JournalKeysWrong: it would not.
    """
    if said is not None and _is_empty(path):
        raise _Behind(path, said, 0, "is missing or empty")

    def compare() -> None:
        meta = check_tables(connection, keyring, path)  # first: with other keys no mark can be read
        if said is None:
            raise _Beyond(f"{mark_path(path)} is damaged in both its halves. {_advice(path)}")
        if meta.journal != said.journal:
            raise _Beyond(f"{path} is another journal than its mark is of. {_advice(path)}")
        _compare(connection, path, read_head(connection, codec, path), said)
        if mended_from:
            _verify(RecordReader(connection, codec, Sealer(keyring)), path, said, mended_from)

    try:
        # Without a log SQLite has nothing to put together: it need not make one, nor its index.
        reader = await connect_reader(path, alone=_is_empty(path.with_name(path.name + "-wal")))
        connection = reader.connection
        try:
            await reader.run(partial(_once, connection, compare))
        finally:
            await reader.close()
    except (_Behind, _Beyond):
        raise
    except (JournalUnreadable, sqlite3.Error) as error:
        if said is None:
            raise JournalUnreadable(f"{path} cannot be read ({error}), and {mark_path(path)} neither") from error
        raise _Behind(path, said, 0, f"cannot be read ({error})") from error


def _once(connection: sqlite3.Connection, look: Callable[[], None]) -> None:
    snapshot(connection, [look])


def _compare(connection: sqlite3.Connection, path: Path, head: Head, said: Standing) -> None:
    if head.sequence < said.sequence:
        raise _Behind(path, said, head.sequence, f"ends with entry {head.sequence}")
    if head.indexed < said.indexed or head.quarantined < said.quarantined:
        raise _Behind(path, said, head.sequence, "lacks what was written after its newest entry")
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
        raise _Beyond(f"{path}: its entry {said.sequence} is another than the one that was committed. {_advice(path)}")


def _verify(records: RecordReader, path: Path, said: Standing, start: int) -> None:
    """Read what a mended log has brought back, so that no wrong bit of it stays."""
    whole = True
    sequence = start
    try:
        for sequence in range(max(start, said.sequence - _VERIFIED_MAX, 1), said.sequence + 1):
            entry, _ = records.entry(sequence)
            whole = records.by_id(entry.transaction) is not Lookup.DAMAGED
            if not whole:
                break
    except RecordDamaged:
        whole = False
    if not whole:
        raise _Behind(path, said, start - 1, f"has a damaged record beside entry {sequence} in its log")


def _is_empty(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size


def _advice(path: Path) -> str:
    """What an operator does about it."""
    return (
        f"The files were left as they are; keep a copy of {path}, {path.name}-wal and {path.name}-mark before anything "
        f"else. If an older copy was put here knowingly, move {mark_path(path)} away and start again: what was taken "
        f"since that copy is missing here then, and has to be compared with the acquirer's statement."
    )
