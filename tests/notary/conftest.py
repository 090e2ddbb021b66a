"""Fixtures of the notary's tests: a real journal, and threads and loops that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journal.rig import Rig
from tests.notary.scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()
    for left in list(Rig.all_open):
        left.close()
