"""The mark: where the journal stood after its newest commit, in a small file of its own beside the database.

SQLite ends its write-ahead log, without a word, at the first frame whose checksum does not fit. One flipped bit there
takes acknowledged commits back, and the journal's own head goes back with them. So does an old copy that somebody
restores. Only what is kept outside the journal can tell (INV-1, INV-7).

Written after each COMMIT has returned and before anything of it is delivered. What a crash then leaves:

    COMMIT has not returned      the mark is older than the journal may be
    COMMIT has returned          the commit is durable, the mark still says the one before
    marked                       the mark is in the page cache: it outlives the process; a power cut may take it back

So the mark is never ahead of what is durable, and a mark that is ahead of the journal proves that something is missing.
It has no sync of its own for each commit: one comes at each checkpoint and at closing.

Two slots are written in turn, each in a page of its own: what a power cut tears is one of them.

A mark that cannot be written stops nothing. The commit is durable without it, and an older mark is still a true one:
it only vouches for less. The log says so once, and each commit tries again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from gateway.journal.port import JournalUnreadable
from gateway.journal.rows import TAG_BYTES, RowCodec
from gateway.journal.schema import Head
from protocol.journal_entry import leaf_hash

SLOT_BYTES: Final = 4_096
"""A page of the page cache, and the largest sector of usual disks."""

LEAF_UNKNOWN: Final = bytes(32)
"""In place of the leaf hash where the journal has no entry, or its newest entry is damaged."""

_MAGIC: Final = b"HOLDMARK"
_FORMAT: Final = 1
_SLOT: Final = Struct(">8sI16sQ32sQQ")
_RECORD_BYTES: Final = _SLOT.size + TAG_BYTES
_LOG: Final = logging.getLogger("gateway.journal.mark")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a journal stands.

    Attributes:
        journal: its name (schema.Meta).
        sequence, indexed, quarantined: of its head; none of them ever gets smaller.
        leaf: hash of the entry with that sequence, or LEAF_UNKNOWN.
    """

    journal: str
    sequence: int
    indexed: int
    quarantined: int
    leaf: bytes

    @property
    def order(self) -> tuple[int, int, int]:
        """Grows with each commit that changes anything of it."""
        return (self.sequence, self.indexed, self.quarantined)


def mark_path(path: Path) -> Path:
    """The mark of a journal."""
    return path.with_name(path.name + "-mark")


def read_mark(path: Path, codec: RowCodec) -> list[Standing | None] | None:
    """What the two slots of a journal's mark say; None for one that is torn, damaged or of another key.

    Returns:
        None where there is no mark: an older journal, or somebody has moved it away.
    Raises:
        JournalUnreadable: there is one, and it cannot be read.
    """
    name = mark_path(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalUnreadable(f"{name} cannot be read: {error.strerror}") from error
    try:
        return [_unpacked(os.pread(descriptor, _RECORD_BYTES, slot * SLOT_BYTES), codec) for slot in (0, 1)]
    except OSError as error:
        raise JournalUnreadable(f"{name} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def newest(slots: list[Standing | None]) -> Standing | None:
    """The newest of the slots that are whole, or None."""
    return max((each for each in slots if each is not None), key=lambda each: each.order, default=None)


def standing(connection: sqlite3.Connection, journal: str, head: Head) -> Standing:
    """Where an open journal stands, with the leaf of its newest entry as the entry itself gives it."""
    leaf = LEAF_UNKNOWN
    with contextlib.suppress(sqlite3.DatabaseError):  # a damaged page: the record is put aside when it is read
        found = connection.execute("SELECT body, leaf FROM entry WHERE sequence = ?", (head.sequence,)).fetchall()
        if found and isinstance(found[0][0], bytes) and leaf_hash(found[0][0]) == found[0][1]:
            leaf = found[0][1]
    return Standing(journal, head.sequence, head.indexed, head.quarantined, leaf)


def _packed(said: Standing, codec: RowCodec) -> bytes:
    content = _SLOT.pack(
        _MAGIC, _FORMAT, bytes.fromhex(said.journal), said.sequence, said.leaf, said.indexed, said.quarantined
    )
    return content + codec.head_tag(content)


def _unpacked(content: bytes, codec: RowCodec) -> Standing | None:
    if len(content) != _RECORD_BYTES or codec.head_tag(content[: _SLOT.size]) != content[_SLOT.size :]:
        return None
    magic, form, journal, sequence, leaf, indexed, quarantined = _SLOT.unpack_from(content)
    if magic != _MAGIC or form != _FORMAT:
        return None
    return Standing(journal.hex(), sequence, indexed, quarantined, leaf)


class Mark:
    """The mark of an open journal. Made and used on the writer's thread; one per journal, under its lock."""

    def __init__(self, path: Path, codec: RowCodec, said: Standing) -> None:
        """Open the mark of the journal at `path`, or make one, and write `said` durably into it.

        Its name is durable once the caller has synced the folder. `said` must be durable already.
        """
        self._codec = codec
        self._name = mark_path(path)
        self._said = said
        self._written: Standing | None = None
        self._faulty = False
        self._slot = 0
        self._descriptor = -1
        try:
            self._open(path)
        except OSError as error:
            self._fault(error)
        else:
            self.note(said)
            self.sync()

    def _open(self, path: Path) -> None:
        slots = read_mark(path, self._codec)
        if slots is None:
            draft = self._name.with_name(self._name.name + ".new")
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                for slot in (0, 1):
                    _write_all(descriptor, _packed(self._said, self._codec).ljust(SLOT_BYTES, b"\0"), slot)
                os.fsync(descriptor)
                draft.rename(self._name)  # whole or not at all
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            return
        # The slot that is damaged, or the older one, is written first: the other one stays true meanwhile.
        first, second = slots
        self._slot = 1 if first is not None and (second is None or first.order > second.order) else 0
        self._descriptor = os.open(self._name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def committed(self, head: Head, leaf: bytes) -> None:
        """A commit has returned: write where the journal stands now. Costs a few microseconds; never raises.

        Args:
            leaf: hash of the entry `head.sequence`.
        """
        said = self._said
        if (head.sequence, head.indexed, head.quarantined) != said.order or self._written is not said:
            self.note(Standing(said.journal, head.sequence, head.indexed, head.quarantined, leaf))

    def note(self, said: Standing) -> None:
        """Write `said` into the slot whose turn it is. A slot that could not be written whole has its turn again."""
        self._said = said
        if self._descriptor < 0:
            return
        try:
            _write_all(self._descriptor, _packed(said, self._codec), self._slot)
        except OSError as error:
            self._fault(error)
            return
        self._written = said
        self._slot ^= 1
        self._faulty = False

    def sync(self) -> None:
        """Make durable what was written. Never raises."""
        if self._descriptor >= 0:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._fault(error)

    def close(self) -> None:
        """Sync it, and let it go."""
        self.sync()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _fault(self, error: OSError) -> None:
        if not self._faulty:
            self._faulty = True
            _LOG.error(
                "%s cannot be written (%s): nothing is lost, but what the disk loses from now on may go unnoticed",
                self._name,
                error.strerror,
            )


def _write_all(descriptor: int, content: bytes, slot: int) -> None:
    if os.pwrite(descriptor, content, slot * SLOT_BYTES) != len(content):
        raise OSError(0, "written in part")
