"""Once a kit no longer says that it is broken off, it is on its disk: the stick may be pulled out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.audit import kit_sync
from gateway.audit.kit import BROKEN_OFF
from gateway.audit.kit_reading import Kit
from gateway.journal.keyring import create_keyring
from tests.audit.kit_log import entries, write_log
from tests.audit.test_kit import export, files_of
from tests.crash.test_real_cuts import LoopDisk, disk

__all__ = ["disk"]  # a fixture

SIZE = 700


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return write_log(tmp_path / "journal", create_keyring(tmp_path / "keys"), entries(SIZE))


@pytest.mark.parametrize("at_once", [True, False], ids=["the file system at once", "each file"])
def test_a_power_cut_after_an_export_leaves_all_of_the_kit(
    journal: Path,
    disk: LoopDisk,
    monkeypatch: pytest.MonkeyPatch,
    at_once: bool,
) -> None:
    if not at_once:
        monkeypatch.setattr(kit_sync, "_synced_at_once", lambda _: False)
    folder = disk.folder / "of an auditor" / "kit"
    export(journal, folder)
    disk.cut()
    disk.unmount()
    assert disk.mount() == ""
    left = files_of(folder)
    left.pop(BROKEN_OFF, None)  # that it went need not be durable: then the kit is exported again
    export(journal, journal.parent / "another")
    assert left == files_of(journal.parent / "another")


def test_where_no_file_system_is_synced_at_once_each_file_and_folder_is_before_the_warning_goes(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls themselves are the real ones."""
    folder = tmp_path / "of an auditor" / "kit"
    synced: set[Path] = set()
    sync = os.fsync

    def seen(descriptor: int) -> None:
        sync(descriptor)
        assert (folder / BROKEN_OFF).exists()
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(kit_sync, "_synced_at_once", lambda _: False)
    monkeypatch.setattr(os, "fsync", seen)
    export(journal, folder)
    assert {folder, folder.parent, tmp_path, *folder.rglob("*")} <= synced
    assert Kit(folder).size == SIZE


@pytest.mark.parametrize("at_once", [True, False], ids=["the file system at once", "each file"])
def test_a_disk_that_fails_is_told_and_not_taken_for_synced(
    disk: LoopDisk, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(kit_sync, "_synced_at_once", lambda _: False)
    (disk.folder / "file").write_bytes(bytes(1 << 20))
    disk.cut()
    with pytest.raises(OSError, match=r"Input/output error|shutdown"):
        kit_sync.sync_below(disk.folder)
