"""A journal that a gateway would refuse: what status and listings say of it, and what a full disk is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.journal.keyring import create_keyring
from gateway.journal.port import JournalUnreadable
from tests.gateway.test_full_disk import SmallDisk, disk
from tests.journal.rig import Rig, sqlite_make
from tests.journal.test_log_repair import killed
from tests.test_cli import config_file, holdfast, python

__all__ = ["config_file", "disk"]  # fixtures

ROOT = Path(__file__).parents[2]


def test_status_and_listings_of_a_journal_that_went_back_say_so_and_fail(config_file: Path) -> None:
    code = f"from tests.test_cli import *; journal_with(Path({str(config_file)!r}), 4, killed=True)"
    assert python("-c", code, cwd=ROOT).returncode == 0
    commands = (("status",), ("status", "--json"), ("queue", "list"), ("queue", "show", 1))
    for command in commands:
        assert holdfast(*command, "-c", config_file).exit_code == 0, command
    journal = load_config(config_file, {}).journal.path
    log = journal.with_name(journal.name + "-wal")
    content = log.read_bytes()
    log.write_bytes(content[: len(content) // 2])
    for command in commands:
        result = holdfast(*command, "-c", config_file)
        assert result.exit_code == 1, command
        assert result.stdout, "what is there is shown all the same"
        assert "do not rely on this" in result.stderr
        assert "to 4 are missing" in result.stderr
    assert "writable      NO" in holdfast("status", "-c", config_file).stdout
    assert len(log.read_bytes()) == len(content) // 2


def test_a_full_disk_is_named_and_nothing_is_said_to_be_missing_for_it(tmp_path: Path, disk: SmallDisk) -> None:
    keyring = create_keyring(tmp_path / "keys")
    killed(disk.folder, keyring)
    journal = disk.folder / "journal.db"
    journal.with_name("journal.db.lock").touch()
    disk.fill(leave_bytes=0)
    with pytest.raises(JournalUnreadable) as refused:
        Rig(sqlite_make(journal, keyring)).open()
    assert "the disk is full" in str(refused.value)
    assert "missing, and" in str(refused.value)
    assert "-mark away" not in str(refused.value)
    disk.enlarge()
    rig = Rig(sqlite_make(journal, keyring)).open()
    assert rig.listed() == list(range(1, 13))
    rig.close()
