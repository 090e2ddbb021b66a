"""A disk that fails while a journal is closed: it is said as a failure of the journal, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal.keyring import create_keyring, load_keyring
from tests.crash.amounts import missing
from tests.crash.tracing import ROOT
from tests.journal.rig import Rig, sqlite_make

SALES = 5
"""Few enough that nothing moves into the database before the journal is closed."""


def sell_and_close(folder: Path, call: str, error: str) -> subprocess.CompletedProcess[str]:
    """Sell, and close while the database's file gives an error to every such call."""
    strace = shutil.which("strace") or missing("strace is not installed: apt-get install strace")
    return subprocess.run(  # noqa: S603 - our own child
        [
            strace, "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-P", str(folder / "journal.db"),
            "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=1+",
            sys.executable, "-m", "tests.crash.io_child", str(folder), "run", str(SALES),
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("pwrite64", "EIO", "JournalInDoubt: "),
        ("fdatasync", "EIO", "JournalInDoubt: "),
        ("pwrite64", "ENOSPC", ""),
    ],
)
def test_a_disk_that_fails_in_closing_is_the_journals_own_failure_and_a_full_one_is_none(
    tmp_path: Path, call: str, error: str, said: str
) -> None:
    folder = tmp_path / "journal"
    Rig(sqlite_make(folder / "journal.db", create_keyring(folder / "keys"))).open().close()
    done = sell_and_close(folder, call, error)
    assert len(done.stdout.splitlines()) == SALES, done.stderr
    if said:
        assert done.returncode == 1
        assert done.stderr.startswith(said)
        assert "Nothing is lost" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")
    rig = Rig(sqlite_make(folder / "journal.db", load_keyring(folder / "keys"))).open()
    assert rig.listed() == list(range(1, SALES + 1))
