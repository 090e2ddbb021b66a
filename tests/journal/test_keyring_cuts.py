"""Ended before any step on the disk, a change of the keyring has happened or has not, and no key is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal.key_changes import open_keyring, rotate
from gateway.journal.key_wrapping import KEK_FILE
from gateway.journal.keyring import KEYRING_FILE, KeyPurpose, Keyring, create_keyring, load_keyring
from tests.crash.tracing import ROOT
from tests.journal.key_cuts import CHANGES


def tries(tmp_path: Path, change: str) -> tuple[Keyring, list[Path]]:
    """The keyring of before, and the folders that each try has left; the last one came to its end."""
    keys = tmp_path / "keys"
    create_keyring(keys, created_ms=1)
    before = rotate(keys, None, KeyPurpose.SENSITIVE, "ann", "why", 2)
    (tmp_path / "tries").mkdir()
    ran = subprocess.run(  # noqa: S603 - our own child
        [sys.executable, "-m", "tests.journal.key_cuts", keys, tmp_path / "tries", change],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    steps = int(ran.stdout)
    assert steps > 8, "the change takes more steps than that"
    return before, [tmp_path / "tries" / str(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_change_that_is_cut_short_has_happened_or_has_not_and_no_other_key_is_lost(
    tmp_path: Path, change: str
) -> None:
    before, left = tries(tmp_path, change)
    happened = []
    for folder in left:
        looked_at = load_keyring(folder)  # a command that only reads, before the gateway starts again
        ring = open_keyring(folder)
        assert ring == looked_at
        assert sorted(path.name for path in folder.iterdir()) == [KEK_FILE, KEYRING_FILE]
        gone = set(before.keys) - set(ring.keys)
        assert gone == ({2} if change == "destroy" and ring.untold[-1].what == "destroyed" else set()), folder
        assert all(ring.keys[number] == key for number, key in before.keys.items() if number in ring.keys), folder
        same = ring == before if change != "rewrap" else ring.untold == before.untold
        happened.append(not same)
        rotate(folder, None, KeyPurpose.ACCOUNT, "ann", "the next change works", 9)
        assert sorted(path.name for path in folder.iterdir()) == [KEK_FILE, KEYRING_FILE], folder
    assert happened[-1]
    assert not happened[0]
    assert sorted(happened) == happened, "once it has happened, it stays so"


def test_a_destroyed_key_is_in_no_file_once_the_gateway_has_started_again(tmp_path: Path) -> None:
    _, left = tries(tmp_path, "destroy")
    listed = json.loads((tmp_path / "keys" / KEYRING_FILE).read_bytes())["keys"]
    wrapped = next(each["wrapped"] for each in listed if each["id"] == 2).encode()
    gone = 0
    for folder in left:
        ring = open_keyring(folder)
        if 2 not in ring.keys:
            gone += 1
            assert not [path for path in folder.iterdir() if wrapped in path.read_bytes()], folder
    assert gone > 3, "the cuts after the rename"
