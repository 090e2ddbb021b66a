"""The syncs that a journal counts are those that the kernel is asked for, neither more nor fewer."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.core.effects import Write
from gateway.journal import upkeep
from gateway.journal.keyring import create_keyring
from tests.crash.amounts import missing
from tests.crash.tracing import ROOT
from tests.journal.rig import Rig, sale, sqlite_make

BEGUN: Final = "counted-from-here"
COMMITS: Final = 60
_SYNCED: Final = re.compile(r"(?:fsync|fdatasync|msync|sync_file_range)\(\d+<([^>]*)>")


@pytest.mark.parametrize("held", [False, True])
def test_the_syncs_that_are_counted_are_those_that_are_asked_for(tmp_path: Path, held: bool) -> None:
    strace = shutil.which("strace") or missing("strace is not installed: apt-get install strace")
    trace = tmp_path / "trace"
    done = subprocess.run(  # noqa: S603 - our own child
        [
            strace, "-f", "-y", "-qqq", "-o", str(trace), "-e", "trace=fsync,fdatasync,msync,sync_file_range",
            sys.executable, "-m", "tests.journal.test_syncs", str(tmp_path), "held" if held else "free",
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted = [int(word) for word in done.stdout.split()]
    synced = [Path(path).name for path in _SYNCED.findall(trace.read_text())]
    asked = [synced.index(BEGUN), len(synced) - 1 - synced[::-1].index(BEGUN)]
    between = synced[asked[0] + 1 : asked[1]]
    assert counted[1] - counted[0] == len(between)
    assert between.count("journal.db-wal") > COMMITS
    assert ("journal.db" in between) is not held, "what a reader keeps is not moved to its end"


def sell(folder: Path, *, held: bool) -> None:
    """In a process of its own: many commits, checkpoints among them; tells what is counted before and after."""
    upkeep._CHECKPOINT_FRAMES = 40  # type: ignore[misc]
    upkeep._LULL_FRAMES = 40  # type: ignore[misc]
    rig = Rig(sqlite_make(folder / "journal.db", create_keyring(folder / "keys"))).open()
    mark = os.open(folder / BEGUN, os.O_WRONLY | os.O_CREAT, 0o600)
    if held:
        rig.write(sale("first"))
        reader = sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tx").fetchall()
    print(rig.run(rig.journal.health()).syncs, flush=True)
    os.fsync(mark)
    for number in range(COMMITS):
        rig.perform(Write(rig.next_token(), (sale(f"key{number}"),)))
    rig.settle()
    print(rig.run(rig.journal.health()).syncs, flush=True)
    os.fsync(mark)
    os._exit(0)


if __name__ == "__main__":
    sell(Path(sys.argv[1]), held=sys.argv[2] == "held")
