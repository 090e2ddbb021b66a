"""What was acknowledged before a kill is there after it (INV-1)."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.effects import Limit, Write
from gateway.core.events import Committed, OverLimit, WriteRefused
from gateway.core.lifecycle import State
from gateway.core.transaction import Stored
from gateway.journal.keyring import Keyring
from gateway.journal.port import Listing
from gateway.journal.reader import snapshot
from tests.journal.rig import Rig, sale, sqlite_make

KILLS = 12


def killed_after(folder: Path, run: str, acknowledged_min: int) -> dict[str, int]:
    """Run a writer, kill it once it has acknowledged so many, and give all that it did acknowledge."""
    told: dict[str, int] = {}
    with subprocess.Popen(  # noqa: S603 - our own child
        [sys.executable, "-m", "tests.journal.killed_child", str(folder), run],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.endswith("\n"):
                key, number = line.split()
                told[key] = int(number)
            if len(told) == acknowledged_min:
                child.kill()
    return told


def test_every_acknowledged_write_is_there_after_kill_nine_under_load(tmp_path: Path, keyring: Keyring) -> None:
    chance = random.Random(20)
    told: dict[str, int] = {}
    for run in range(KILLS):
        told |= killed_after(tmp_path, f"run{run}", chance.randrange(1, 1500))
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rows = rig.run(rig.journal.listing(Listing(states=frozenset(), limit=10**9)))
    by_id = {row.id: row.key for row in rows}
    assert {number: by_id.get(number) for number in told.values()} == {v: k for k, v in told.items()}
    assert sorted(by_id) == list(range(1, len(by_id) + 1)), "sequences are dense"
    doubtful = rig.run(rig.journal.in_doubt(10**6))
    assert {each.transaction.id for each in doubtful} == {row.id for row in rows if row.state is State.ASKING}
    owed = {each.transaction.id for n in range(7) for each in rig.heads(f"L{n}", 10**6).stored}
    assert owed == {row.id for row in rows if row.state is State.STORED}
    for number in chance.sample(sorted(told.values()), 50):
        assert isinstance(rig.load(number), Stored)
    assert rig.damaged == []
    rig.close()


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    return system("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)) == 0


def system(*command: str) -> int:
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode  # noqa: S603 - fixed commands


def test_a_full_disk_refuses_before_acknowledging_and_resumes_when_there_is_room(
    tmp_path: Path, keyring: Keyring
) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, "2m"):
        pytest.skip("cannot mount a small file system")
    try:
        rig = Rig(sqlite_make(disk / "journal.db", keyring)).open()
        committed = 0
        refused = False
        while not refused:
            writes = [Write(rig.next_token(), (sale(f"k|{rig.token:06}"),)) for _ in range(50)]
            events = rig.perform(*writes)
            committed += sum(isinstance(each, Committed) for each in events)
            refused = any(isinstance(each, WriteRefused) for each in events)
            assert rig.failure is None
        assert not rig.run(rig.journal.health()).writable
        assert len(rig.run(rig.journal.listing(Listing(states=frozenset(), limit=10**6)))) == committed
        assert system("mount", "-o", "remount,size=64m", str(disk)) == 0
        assert isinstance(rig.write(sale("after|000001")), Committed)
        assert rig.run(rig.journal.health()).writable
        rig.reopen()
        assert len(rig.run(rig.journal.listing(Listing(states=frozenset(), limit=10**6)))) == committed + 1
        rig.close()
    finally:
        assert system("umount", str(disk)) == 0


def as_after_a_kill(rig: Rig, folder: Path, keyring: Keyring) -> Rig:
    """A journal on copies of the files as they stand: nothing was put in its place, and the log is full."""
    folder.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(folder.parent / name, folder / name)
    rig.close()
    return Rig(sqlite_make(folder / "journal.db", keyring)).open()


def test_keys_and_counters_that_were_only_logged_still_bound_and_match_after_a_kill(
    tmp_path: Path, rig: Rig, keyring: Keyring
) -> None:
    limit = Limit("all", 2, None, None, "bound")
    for n in (1, 2):
        rig.write(sale(f"k|{n:06}", reserve=(limit,)))
    stored = rig.load(1)
    killed = as_after_a_kill(rig, tmp_path / "killed", keyring)
    assert killed.write(sale("k|000003", reserve=(limit,))) == OverLimit(killed.token, "bound")
    assert killed.find("k|000001") == (stored,)
    assert killed.existing(sale("k|000001")) == stored
    assert killed.damaged == []
    killed.close()


def test_all_reads_of_one_hop_see_one_state_whatever_is_committed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "any.db"
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE part (a); INSERT INTO part VALUES (1)")

        def parts() -> int:
            return len(reader.execute("SELECT a FROM part").fetchall())

        def removed_meanwhile() -> None:
            writer.execute("DELETE FROM part")
            writer.commit()

        assert snapshot(reader, [parts, removed_meanwhile, parts]) == [1, None, 1]
        assert snapshot(reader, [parts]) == [0]
