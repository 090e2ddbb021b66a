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
it only vouches for less. The log says so once, and later commits try again. One that somebody takes away while the
gateway runs is made anew by one of the next commits, and that is said, too.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from gateway.journal.keyring import sync_folder
from gateway.journal.port import JournalUnreadable
from gateway.journal.rows import TAG_BYTES, RowCodec
from gateway.journal.schema import Head
from protocol.transparency.tree import leaf_hash

SLOT_BYTES: Final = 4_096
"""A page of the page cache, and the largest sector of usual disks."""

LEAF_UNKNOWN: Final = bytes(32)
"""In place of the leaf hash where the journal has no entry, or its newest entry is damaged."""

_MAGIC: Final = b"HOLDMARK"
_FORMAT: Final = 1
_SLOT: Final = Struct(">8sI16sQ32sQQ")
_RECORD_BYTES: Final = _SLOT.size + TAG_BYTES
_LOOK_EVERY_S: Final = 0.25
_TRY_EVERY_S: Final = 1.0
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
        JournalUnreadable: there is one, and it cannot be read; the message says what to do.
    """
    slots = _read_slots(path)
    return None if slots is None else [_unpacked(each, codec) for each in slots]


def names_in_mark(path: Path) -> set[str]:
    """Names of the journals that the mark's slots are of, whether or not the keys fit; raises as `read_mark`."""
    whole = [each for each in _read_slots(path) or [] if len(each) == _RECORD_BYTES]
    return {_SLOT.unpack_from(each)[2].hex() for each in whole if _SLOT.unpack_from(each)[:2] == (_MAGIC, _FORMAT)}


def _read_slots(path: Path) -> list[bytes] | None:
    name = mark_path(path)
    try:
        # Without O_NONBLOCK a named pipe would wait for whoever writes to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalUnreadable(f"{name} cannot be read: {error.strerror}. {_remedy(name, error)}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise JournalUnreadable(f"{name} cannot be read: it is no regular file. {_remedy(name)}")
        return [os.pread(descriptor, _RECORD_BYTES, slot * SLOT_BYTES) for slot in (0, 1)]
    except OSError as error:
        raise JournalUnreadable(f"{name} cannot be read: {error.strerror}. {_remedy(name, error)}") from error
    finally:
        os.close(descriptor)


def _remedy(name: Path, error: OSError | None = None) -> str:
    """What to do about a mark that is there and cannot be read."""
    if error is not None and error.errno == errno.EIO:
        return "The disk does not give it back: see to the disk first, and start again; nothing was changed"
    if name.is_symlink():
        return (
            "It is a symbolic link: put the file that it means in its place (mv), the mark must lie beside its journal"
        )
    if name.is_file():
        return f"It belongs to user id {name.stat().st_uid}: give it to the one that the gateway runs as (chown)"
    return "Something else has been put in its place: move that away, and put the mark back if it was moved"


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
        self._path = path
        self._name = mark_path(path)
        self._said = said
        self._written: Standing | None = None
        self._faulty = False
        self._slot = 0
        self._descriptor = -1
        self._told_gone = False
        self._look_after_s = 0.0
        if said.sequence and not os.path.lexists(self._name):
            _LOG.warning(
                "there was no mark beside %s: it begins anew at entry %d. Whether anything was missing before "
                "could not be told",
                path,
                said.sequence,
            )
        self._open()

    def _open(self) -> None:
        """Open the mark, or make one, and write into it where the journal stands. Never raises."""
        try:
            self._open_or_make()
        except (OSError, JournalUnreadable) as error:
            self._fault(error)
        else:
            self.note(self._said)
            self.sync()
        self._look_after_s = time.monotonic() + (_TRY_EVERY_S if self._descriptor < 0 else _LOOK_EVERY_S)

    def _open_or_make(self) -> None:
        slots = read_mark(self._path, self._codec)
        if slots is None:
            self._make()
            return
        # The slot that is damaged, or the older one, is written first: the other one stays true meanwhile.
        first, second = slots
        self._slot = 1 if first is not None and (second is None or first.order > second.order) else 0
        self._descriptor = os.open(self._name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def _make(self) -> None:
        draft = self._name.with_name(self._name.name + ".new")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for slot in (0, 1):
                _write_all(descriptor, _packed(self._said, self._codec).ljust(SLOT_BYTES, b"\0"), slot)
            os.fsync(descriptor)
            draft.rename(self._name)  # whole or not at all
            sync_folder(self._name.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _look_after(self) -> None:
        """Make it anew where it could not be made before, or where somebody has taken it away."""
        if self._descriptor >= 0:
            self._look_after_s = time.monotonic() + _LOOK_EVERY_S
            if self._in_place():
                return
            if not self._told_gone:
                self._told_gone = True
                _LOG.error("%s was taken away while the gateway runs; it is made anew", self._name)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        self._open()

    def _in_place(self) -> bool:
        try:
            there, ours = os.lstat(self._name), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def committed(self, head: Head, leaf: bytes) -> None:
        """A commit has returned: write where the journal stands now. Costs a few microseconds; never raises.

        Args:
            leaf: hash of the entry `head.sequence`.
        """
        said = self._said
        if (head.sequence, head.indexed, head.quarantined) != said.order or self._written is not said:
            self.note(Standing(said.journal, head.sequence, head.indexed, head.quarantined, leaf))
        if time.monotonic() >= self._look_after_s:
            self._look_after()

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

    def _fault(self, error: OSError | JournalUnreadable) -> None:
        if not self._faulty:
            self._faulty = True
            _LOG.error(
                "%s cannot be written (%s): nothing is lost, but what the disk loses from now on may go unnoticed",
                self._name,
                error.strerror if isinstance(error, OSError) else error,
            )


def _write_all(descriptor: int, content: bytes, slot: int) -> None:
    if os.pwrite(descriptor, content, slot * SLOT_BYTES) != len(content):
        raise OSError(0, "written in part")
