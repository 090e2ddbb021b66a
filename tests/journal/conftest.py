"""Fixtures of the journal's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.journal.keyring import Keyring, create_keyring
from tests.journal.rig import Rig, sqlite_make


@pytest.fixture(autouse=True)
def _close_what_a_test_leaves_open() -> Iterator[None]:
    yield
    for left in list(Rig.all_open):
        left.close()


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return create_keyring(tmp_path / "keys")


@pytest.fixture
def rig(tmp_path: Path, keyring: Keyring) -> Iterator[Rig]:
    opened = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    yield opened
    opened.close()
