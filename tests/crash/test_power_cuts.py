"""Power cuts at any place of a trace of writes: nothing that was told is lost, and nothing else is there (INV-1).

The writer lives three times: killed at the beginning of a sync, closed, and left open. So the trace also has what a
recovery after a kill does, and power is cut there too. 20,000 states are judged by the image that SQLite makes of them
(judge.py says why that shows everything), one in forty of them also by the real journal with its recovery.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from gateway.journal.keyring import Keyring, create_keyring, load_keyring
from gateway.journal.mark import newest, read_mark
from gateway.journal.port import JournalError
from gateway.journal.rows import RowCodec
from tests.crash.amounts import LIMIT_S, TIMES
from tests.crash.disk import Disk
from tests.crash.judge import Known, examine, image, learn, put, rubbish
from tests.crash.tracing import Tracer, compile_shim

CHUNKS: Final = 8 * TIMES
STATES_PER_CHUNK: Final = 2_500
OPENED_EVERY: Final = 40
STATES_BROKEN: Final = 1_500
CUTS_WHILE_MADE: Final = 2
KILLED_AT_SYNC: Final = 72
LIVES: Final = (("1", "80"), ("2", "50", "--close"), ("3", "30"))
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - each test has a private folder in it

pytestmark = pytest.mark.timeout(LIMIT_S)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of files are written and none has to last."""
    where = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="holdfast-crash-", dir=where) as folder:
        yield Path(folder)


def traced(folder: Path, broken: str = "", killed_at_sync: int = KILLED_AT_SYNC) -> tuple[Tracer, Keyring]:
    """Let the writer live, all lives in one trace."""
    (folder / "traced").mkdir(parents=True)
    create_keyring(folder / "keys")
    tracer = Tracer(compile_shim(folder), folder / "traced", folder / "trace")
    more = ("--broken", broken) if broken else ()
    for number, life in enumerate(LIVES):
        killed = killed_at_sync if number == 0 else 0
        code = tracer.run(
            "tests.crash.writer", str(tracer.under), str(folder / "keys"), *life, *more, die_at_sync=killed
        )
        assert code == (-9 if killed else 0)
    return tracer, load_keyring(folder / "keys")


@dataclass(frozen=True, slots=True)
class Scene:
    """A trace, what it shows, and the keys to open what is rebuilt."""

    known: Known
    keyring: Keyring
    folder: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """One trace for the tests of a worker."""
    folder = tmp_path_factory.mktemp("power")
    tracer, keyring = traced(folder)
    (folder / "learn").mkdir()
    return Scene(learn(str(tracer.under), tracer.events(), folder / "learn"), keyring, folder)


@dataclass(slots=True)
class Found:
    """What a run of cuts has shown.

    Attributes:
        wrong: in words, with the seed and the place.
        lost: states in which something that was told is not there.
        distinct: hashes of the states.
        opened: states that the real journal has opened.
        back: states by the number of commits that they go back from the newest one written.
    """

    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    distinct: set[int] = field(default_factory=set)
    opened: int = 0
    back: Counter[int] = field(default_factory=Counter)


def cut(scene: Scene, scratch: Path, seed: int, states: int, opened_every: int = OPENED_EVERY) -> Found:
    """Cut the power at seeded places, several times at each."""
    known, found = scene.known, Found()
    dice = random.Random(f"cut/{seed}")
    disk = Disk(known.folder)
    places = sorted(dice.randrange(1, len(known.events) + 1) for _ in range(states))
    taken = 0
    for number, place in enumerate(places):
        while taken < place:
            disk.follow(known.events[taken])
            taken += 1
        files = rubbish(disk.cut(dice), dice)
        found.distinct.add(hash((known.bounds(place), *sorted(files.items()))))
        oldest, newest = known.bounds(place)
        where = f"seed {seed}, cut {number} after event {place}"
        try:
            commit = known.images.get(image(scratch, files))
        except sqlite3.Error as error:
            found.wrong.append(f"{where}: SQLite makes nothing of it: {error}")
            found.lost += oldest > 0
            continue
        if commit is None or not oldest <= commit <= newest:
            found.wrong.append(f"{where}: shows commit {commit}, told was {oldest}, written {newest}")
            found.lost += commit is None or commit < oldest
            continue
        found.back[newest - commit] += 1
        if number % opened_every == 0 and oldest:
            found.opened += 1
            put(scratch, files)
            try:
                found.wrong += [
                    f"{where}: {each}" for each in examine(scratch, scene.keyring, known.truths[commit], dice)
                ]
            except JournalError as error:
                found.wrong.append(f"{where}: it does not open: {error}")
            (scratch / "journal.db.lock").unlink(missing_ok=True)
    return found


def test_the_trace_is_all_that_happens_to_the_files(scene: Scene) -> None:
    disk = Disk(scene.known.folder)
    for event in scene.known.events:
        disk.follow(event)
    there = {each.name: each.read_bytes() for each in Path(scene.known.folder).iterdir()}
    live = disk.live()
    assert there.keys() == live.keys()
    assert all(live[name] == there[name] for name in there if not name.endswith("-shm"))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_power_cut_loses_what_was_told_or_leaves_what_was_not_written(
    scene: Scene, scratch: Path, chunk: int
) -> None:
    found = cut(scene, scratch, chunk, STATES_PER_CHUNK)
    print(f"{len(found.distinct)} distinct states, {found.opened} opened, commits back: {sorted(found.back.items())}")
    assert not found.wrong, found.wrong[:5]
    assert len(found.distinct) > STATES_PER_CHUNK // 2
    assert found.opened > STATES_PER_CHUNK // OPENED_EVERY // 2
    assert found.back[1] > STATES_PER_CHUNK // 20, "the cuts hit nothing that was under way"


def test_a_power_cut_while_a_journal_is_made_leaves_one_that_opens(scene: Scene, scratch: Path) -> None:
    known, disk, dice = scene.known, Disk(scene.known.folder), random.Random(2)
    refused = []
    for place, event in enumerate(known.events[: known.told_at[0] - 1], start=1):
        disk.follow(event)
        for _ in range(CUTS_WHILE_MADE):
            put(scratch, disk.cut(dice))
            try:
                examine(scratch, scene.keyring, {}, dice)  # the first commit may be there, though nobody was told
            except JournalError as error:
                refused.append(f"cut after event {place}: {error}")
            (scratch / "journal.db.lock").unlink(missing_ok=True)
    assert not refused, (len(refused), refused[:3])


def test_the_real_journal_shows_at_every_commit_what_was_told_up_to_it(scene: Scene, scratch: Path) -> None:
    disk, known = Disk(scene.known.folder), scene.known
    dice = random.Random(1)
    places = {place for place in known.committed_at if place > known.told_at[0]}
    commit = known.told[0]
    for place, event in enumerate(known.events, start=1):
        disk.follow(event)
        if place in places:
            commit += 1
            put(scratch, disk.live())
            wrong = examine(scratch, scene.keyring, known.truths[commit], dice)
            assert not wrong, (commit, wrong[:3])
            (scratch / "journal.db.lock").unlink()
    assert commit > 100


@pytest.mark.parametrize("broken", ["sync of each commit", "sync at opening"])
def test_without_a_safeguard_power_cuts_lose_what_was_told(tmp_path: Path, scratch: Path, broken: str) -> None:
    tracer, keyring = traced(tmp_path, broken, killed_at_sync=0 if broken == "sync of each commit" else KILLED_AT_SYNC)
    learning = tmp_path / "learn"
    learning.mkdir()
    scene = Scene(learn(str(tracer.under), tracer.events(), learning), keyring, tmp_path)
    found = cut(scene, scratch, 1, STATES_BROKEN, opened_every=10**9)
    print(f"{found.lost} of {STATES_BROKEN} states have lost something that was told")
    assert found.lost > (STATES_BROKEN // 4 if broken == "sync of each commit" else 0)


def test_every_acknowledgement_follows_the_sync_that_covers_it(scene: Scene, scratch: Path) -> None:
    """What is surely on the disk at the moment of telling already holds it: for every one, not for a sample."""
    known, disk = scene.known, Disk(scene.known.folder)
    told_at = dict(zip(known.told_at, known.told, strict=True))
    synced = 0
    nothing_more = NothingSurvives()
    for place, event in enumerate(known.events, start=1):
        disk.follow(event)
        if place in told_at:
            with contextlib.suppress(sqlite3.Error):
                synced += known.images.get(image(scratch, disk.cut(nothing_more)), -1) >= told_at[place]
    print(f"{synced} of {len(told_at)} acknowledgements were covered by a sync")
    assert synced == len(told_at) > 100


def test_the_mark_is_never_ahead_of_what_is_surely_on_the_disk(scene: Scene, scratch: Path) -> None:
    """At each of its writes: the mark as it is in memory, and of the journal only what a sync has covered."""
    known, disk = scene.known, Disk(scene.known.folder)
    codec, nothing_more = RowCodec(scene.keyring.row_key), NothingSurvives()
    ahead, marked = [], 0
    for place, event in enumerate(known.events, start=1):
        disk.follow(event)
        if event.operation == "W" and disk.name(event) == "journal.db-mark":
            path = put(scratch, {**disk.cut(nothing_more), "journal.db-mark": disk.live()["journal.db-mark"]})
            said = newest(read_mark(path, codec) or [])
            assert said is not None
            with contextlib.closing(sqlite3.connect(path)) as connection:
                (sequence,) = connection.execute("SELECT ifnull(max(sequence), 0) FROM entry").fetchone()
            marked += 1
            if said.sequence > sequence:
                ahead.append(f"event {place}: the mark says {said.sequence}, {sequence} is durable")
    print(f"the mark was written {marked} times")
    assert not ahead, ahead[:3]
    assert marked > 100  # what is only told again needs no new mark
    assert len(known.told) > 100


def test_every_acknowledgement_follows_the_mark_that_tells_of_it(scene: Scene, scratch: Path) -> None:
    """A kill at the moment of telling leaves a mark that vouches for what was told."""
    known, disk = scene.known, Disk(scene.known.folder)
    codec = RowCodec(scene.keyring.row_key)
    told_at = dict(zip(known.told_at, known.told, strict=True))
    behind = []
    for place, event in enumerate(known.events, start=1):
        disk.follow(event)
        if place in told_at:
            path = put(scratch, disk.live())
            said = newest(read_mark(path, codec) or [])
            with contextlib.closing(sqlite3.connect(path)) as connection:
                (sequence,) = connection.execute("SELECT max(sequence) FROM entry").fetchone()
            if said is None or said.sequence < sequence:
                behind.append(f"event {place}: {sequence} is told, the mark says {said}")
    assert not behind, behind[:3]
    assert len(told_at) > 100


class NothingSurvives(random.Random):
    """Dice that always fall on the first side: of what is not synced, nothing survives."""

    def randrange(self, *_: object, **__: object) -> int:
        """Always the lowest."""
        return 0

    def choice(self, sequence: object) -> object:  # type: ignore[override]
        """Always the first."""
        return sequence[0]  # type: ignore[index]
