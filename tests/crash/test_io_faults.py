"""Input and output that fails, is slow, or is cut off, at the Nth call: nothing that was acknowledged is lost (INV-1).

strace injects the fault into one system call of one file. Each kind has its own right end: a sync that fails leaves
the commit unknown, so the journal must stop (JournalInDoubt) and tell nobody anything more; want of room is certain,
so writes are refused and the journal goes on; slowness changes nothing. A start afterwards recovers.

A short write is made by the shim and not by strace: strace answers "100 bytes" and writes none of them, which is
storage that lies (not promised). So are kills: strace counts calls by thread, and not every Nth is hit.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from gateway.journal.keyring import create_keyring, load_keyring
from gateway.journal.port import Listing
from tests.crash.amounts import LIMIT_S, TIMES, tool
from tests.crash.tracing import ROOT, Tracer, compile_shim
from tests.journal.rig import Rig, sqlite_make

WRITES: Final = 120
EVERY: Final = max(1, 5 // TIMES)
"""Every so-manieth call is hit; a nightly run hits each."""

PARTS: Final = 4
"""Writes are many: so many tests, each with a journal of its own, kill at them in turn."""

CALLS_MAX: Final = 2_000
ENDED_WELL: Final = 0
ENDED_IN_DOUBT: Final = 1
KILLED: Final = -9

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


@dataclass(slots=True)
class Ran:
    """How a run ended.

    Attributes:
        acknowledged: keys by id.
        refused: keys that were refused for want of room.
        said: the last line of standard error that is the child's own.
    """

    code: int
    said: str
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Scene:
    """A journal, and all that was ever acknowledged of it."""

    folder: Path
    told: dict[int, str] = field(default_factory=dict)
    runs: int = 0

    def run(self, before: list[str], environment: dict[str, str] | None = None) -> Ran:
        """Let a child write, started with `before` in front of its command."""
        self.runs += 1
        done = subprocess.run(  # noqa: S603 - our own child
            [*before, sys.executable, "-m", "tests.crash.io_child", str(self.folder), f"run{self.runs}", str(WRITES)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment,
        )
        ran = Ran(
            done.returncode,
            next((each for each in reversed(done.stderr.splitlines()) if "rror" in each or "Journal" in each), ""),
        )
        for line in done.stdout.splitlines():
            key, what = line.split()
            if what == "refused":
                ran.refused.add(key)
            else:
                ran.acknowledged[int(what)] = key
        return ran

    def recovers(self, ran: Ran) -> None:
        """Open the journal again: all is there that was ever acknowledged, and nothing that was refused."""
        rig = Rig(sqlite_make(self.folder / "journal.db", load_keyring(self.folder / "keys"))).open()
        rows = {row.id: row.key for row in rig.run(rig.journal.listing(Listing(states=frozenset(), limit=10**9)))}
        rig.close()
        self.told |= ran.acknowledged
        assert {number: rows.get(number) for number in self.told} == self.told, "something acknowledged is lost"
        assert not ran.refused & set(rows.values()), "something refused is there"
        assert sorted(rows) == list(range(1, len(rows) + 1)), "sequences are dense"
        assert rig.damaged == []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """An empty journal."""
    folder = tmp_path / "journal"
    Rig(sqlite_make(folder / "journal.db", create_keyring(folder / "keys"))).open().close()
    return Scene(folder)


def injecting(scene: Scene, file: str, call: str, fault: str) -> list[str]:
    """strace's command line."""
    strace = tool("strace", "strace")
    path = str(scene.folder / file)
    return [
        strace,
        "-f",
        "--seccomp-bpf",
        "-qqq",
        "-o",
        "/dev/null",
        "-P",
        path,
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{fault}",
    ]


@pytest.mark.parametrize(
    ("file", "every"), [("journal.db-wal", EVERY), ("journal.db", 1)], ids=["of the log", "of the database"]
)
def test_a_failed_sync_stops_the_journal_in_doubt_and_loses_nothing(scene: Scene, file: str, every: int) -> None:
    hit = 0
    for number in range(1, CALLS_MAX, every):
        ran = scene.run(injecting(scene, file, "fdatasync", f"error=EIO:when={number}"))
        scene.recovers(ran)
        if ran.code == ENDED_WELL:
            assert len(ran.acknowledged) == WRITES, "the fault came after the end"
            break
        hit += 1
        assert ran.code == ENDED_IN_DOUBT
        if len(ran.acknowledged) < WRITES:  # later, it is the closing that has failed, which owes nobody an answer
            assert ran.said.startswith(("JournalInDoubt: ", "JournalUnreadable: ")), ran.said
    print(f"{hit} syncs failed, {len(scene.told)} acknowledged in all")
    assert hit >= (3 if every == 1 else 5)


@pytest.mark.parametrize("file", ["journal.db-wal", "journal.db"], ids=["of the log", "of the database"])
def test_want_of_room_in_any_write_refuses_or_stops_and_loses_nothing(scene: Scene, file: str) -> None:
    hit = refused = 0
    for number in range(1, CALLS_MAX, EVERY):
        ran = scene.run(injecting(scene, file, "pwrite64", f"error=ENOSPC:when={number}"))
        scene.recovers(ran)
        if len(ran.acknowledged) == WRITES and ran.code == ENDED_WELL and not ran.refused and hit > 3:
            break
        hit += 1
        refused += bool(ran.refused)
        if ran.code != ENDED_WELL and len(ran.acknowledged) + len(ran.refused) < WRITES:  # not in closing
            assert ran.said.startswith("Journal"), ran.said
    print(f"{hit} writes failed, {refused} runs refused, {len(scene.told)} acknowledged in all")
    assert hit > 3


@pytest.mark.parametrize(
    ("variable", "first", "every"),
    [("CRASH_DIE_AT_SYNC", 1, EVERY)]
    + [("CRASH_DIE_AT_WRITE", 1 + part * EVERY, PARTS * EVERY) for part in range(PARTS)],
    ids=["sync"] + [f"write-{part}" for part in range(PARTS)],
)
def test_a_kill_at_any_sync_or_write_loses_nothing(
    scene: Scene, tmp_path: Path, variable: str, first: int, every: int
) -> None:
    tracer = Tracer(compile_shim(tmp_path), scene.folder, tmp_path / "trace")
    killed = 0
    for number in range(first, CALLS_MAX, every):
        ran = scene.run([], {**tracer.environment(), variable: str(number)})
        scene.recovers(ran)
        if ran.code == ENDED_WELL:
            break
        assert ran.code == KILLED, ran
        killed += 1
    print(f"{killed} kills, {len(scene.told)} acknowledged in all")
    assert killed >= 5


def test_a_slow_disk_delays_and_changes_nothing(scene: Scene) -> None:
    ran = scene.run(injecting(scene, "journal.db-wal", "fdatasync", "delay_enter=30000"))
    scene.recovers(ran)
    assert (ran.code, len(ran.acknowledged), ran.refused) == (ENDED_WELL, WRITES, set())


def test_short_writes_are_completed(scene: Scene, tmp_path: Path) -> None:
    tracer = Tracer(compile_shim(tmp_path), scene.folder, tmp_path / "trace")
    ran = scene.run([], {**tracer.environment(), "CRASH_SHORT_EVERY": "7"})
    scene.recovers(ran)
    assert (ran.code, len(ran.acknowledged), ran.refused) == (ENDED_WELL, WRITES, set())
    assert sum(event.operation == "W" and len(event.content) == 100 for event in tracer.events()) > 20
