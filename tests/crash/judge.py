"""Judges what a power cut has left of a journal, against what the same trace shows that was committed and told.

A journal moves from commit to commit. For each, the trace is replayed without a cut, SQLite opens the files, and the
database that comes of it is the *image* of that commit. After a cut, what SQLite makes of the files must be byte for
byte the image of one commit: not before the last one that was told, not after the last one that was written. An image
is a whole commit or nothing, so nothing can be half written, and nothing can be there that was never written. That
costs about two milliseconds. The real journal opens every image once, and some of the cut states themselves, and must
show there every transaction with its answer, by number and by both lookups of its key, and count what is exposed.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.core.effects import Find, Limit, Load, Write
from gateway.core.events import Committed, Existing, Found, OverLimit
from gateway.core.lifecycle import State
from gateway.core.transaction import Stored
from gateway.journal.keyring import Keyring
from tests.crash.disk import Disk, Files
from tests.crash.tracing import Event
from tests.crash.writer import COUNTER, LANES, Line, line_of, told_lines
from tests.journal.rig import Rig, sale, sqlite_make

_FRAME_BYTES: Final = 24
_NAMES: Final = ("journal.db", "journal.db-journal", "journal.db-wal", "journal.db-shm", "journal.db-mark")

Truth = dict[int, Line]
"""What was told last of each transaction, by id."""


@dataclass(slots=True)
class Known:
    """What a trace shows.

    Attributes:
        folder: that was traced.
        images: number of the commit that made an image, by the image's hash; 0 is no journal at all.
        truths: after each commit, by its number.
        committed_at: places in the trace after which a commit was written whole.
        told_at, told: places of what was told, and the number of the newest commit at each.
    """

    folder: str
    events: Sequence[Event]
    images: dict[int, int] = field(default_factory=dict)
    truths: list[Truth] = field(default_factory=lambda: [{}])
    committed_at: list[int] = field(default_factory=list)
    told_at: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)

    def bounds(self, place: int) -> tuple[int, int]:
        """The oldest commit that a cut after so many events may go back to, and the newest one that it may leave."""
        told = bisect_right(self.told_at, place)
        return (self.told[told - 1] if told else 0), bisect_right(self.committed_at, place)


def put(folder: Path, files: Files) -> Path:
    """Lay a journal's files into a folder; the path of its database."""
    for name in _NAMES:
        if name in files:
            (folder / name).write_bytes(files[name])
        else:
            (folder / name).unlink(missing_ok=True)
    return folder / "journal.db"


def image(folder: Path, files: Files) -> int:
    """Hash of the database that SQLite makes of the files; 0 where that is empty.

    Raises:
        sqlite3.Error: it makes nothing of them.
    """
    path = put(folder, files)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not tables:
            return 0
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
    return hash(path.read_bytes())


class Watch:
    """Tells from the events whether the one just taken was the last of a commit."""

    def __init__(self) -> None:
        self._awaits = -1

    def committed(self, event: Event, name: str) -> bool:
        """Whether the commit mark and the page that it covers are both written."""
        if event.operation != "W" or name != "journal.db-wal":
            return False
        if len(event.content) == _FRAME_BYTES:
            pages = int.from_bytes(event.content[4:8], "big")
            self._awaits = event.number + _FRAME_BYTES if pages else -1
            return False
        return event.number == self._awaits


def learn(folder: str, events: Sequence[Event], scratch: Path) -> Known:
    """Replay a trace without a cut."""
    known = Known(folder, events)
    disk, watch = Disk(folder), Watch()
    known.images[0] = 0
    truth: Truth = {}
    for place, event in enumerate(events, start=1):
        disk.follow(event)
        name = disk.name(event) if event.operation == "W" else ""
        if watch.committed(event, name):
            made = image(scratch, disk.live())
            if known.images.get(made, -1) == len(known.committed_at):
                continue  # it has changed nothing: what it has made cannot be told from what was there
            known.committed_at.append(place)
            known.images[made] = len(known.committed_at)
            known.truths.append(known.truths[-1])
        elif name == "told":
            # What a read shows once more may meet a commit of the journal's own, which tells nobody anything.
            news = {line.id: line for line in told_lines(event.content) if line.id and truth.get(line.id) != line}
            if news:
                truth = {**truth, **news}
                known.truths[-1] = truth
                known.told_at.append(place)
                known.told.append(len(known.committed_at))
    return known


def rubbish(known_files: Files, dice: random.Random) -> Files:
    """The same files with a shared-memory file as a cut might leave it."""
    how = dice.randrange(4)
    if how == 0 or "journal.db-shm" not in known_files:
        return {name: content for name, content in known_files.items() if name != "journal.db-shm"}
    return {**known_files, "journal.db-shm": dice.randbytes(32_768) if how == 1 else known_files["journal.db-shm"]}


def examine(folder: Path, keyring: Keyring, truth: Truth, dice: random.Random) -> list[str]:
    """Open the files in `folder` with the real journal; what is not as it was told."""
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    try:
        wrong = _wrong(rig, truth, dice)
    finally:
        rig.close()
    return [*wrong, *both_lookups(folder / "journal.db")]


def _wrong(rig: Rig, truth: Truth, dice: random.Random) -> list[str]:
    wrong: list[str] = []
    loads = rig.perform(*(Load(rig.next_token(), number) for number in truth))
    finds = rig.perform(*(Find(rig.next_token(), (line.key,)) for line in truth.values()))
    for (number, line), *found in zip(truth.items(), loads, finds, strict=True):
        for each in found:
            assert isinstance(each, Found)
            shown = each.results[0]
            if not isinstance(shown, Stored) or line_of(shown) != line:
                wrong.append(f"{number} was told as {line} and is shown as {shown}")
    if sorted(rig.listed()) != sorted(truth):
        wrong.append(f"the rows are {sorted(set(rig.listed()) ^ set(truth))} more or less than what was told")
    stored = {number for number, line in truth.items() if line.state == State.STORED}
    owed = {each.transaction.id for lane in range(LANES) for each in rig.heads(f"L{lane}", 10_000).stored}
    if owed != stored:
        wrong.append(f"owed are {sorted(owed ^ stored)} more or less than what stands as stored")
    asking = {number for number, line in truth.items() if line.state == State.ASKING}
    if {each.transaction.id for each in rig.run(rig.journal.in_doubt(10_000))} != asking:
        wrong.append("others are in doubt than were told so")
    counted = Limit(COUNTER, len(stored), None, None, "bound")
    if not isinstance(rig.write(sale("new|1", reserve=(counted,))), OverLimit):
        wrong.append(f"fewer than {len(stored)} are counted as exposed")
    counted = Limit(COUNTER, len(stored) + 1, None, None, "bound")
    if not isinstance(rig.write(sale("new|2", reserve=(counted,))), Committed):
        wrong.append(f"more than {len(stored)} are counted as exposed")
    again = dice.sample(sorted(truth), min(8, len(truth)))
    retried = rig.perform(*(Write(rig.next_token(), (sale(truth[number].key),)) for number in again))
    for number, event in zip(again, retried, strict=True):
        if not isinstance(event, Existing) or event.stored is None or event.stored.transaction.id != number:
            wrong.append(f"{number} is taken as new when it is retried")
    if rig.damaged or rig.failure:
        wrong.append(f"damage is reported: {rig.damaged} {rig.failure}")
    return wrong


def both_lookups(path: Path) -> list[str]:
    """Of a closed journal, what is wrong with its lookup tables: every transaction is to be in each once."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [
            f"{table} does not have every transaction once"
            for table in ("by_key", "by_key_again")
            if connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()  # noqa: S608 - one of two names
            != connection.execute("SELECT id FROM tx ORDER BY id").fetchall()
        ]
