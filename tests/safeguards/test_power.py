"""Power cuts over a trace of a small journal: nothing that was told is lost. A short form of tests/crash."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.journal.keyring import create_keyring
from tests.crash.disk import Disk
from tests.crash.judge import image, learn, rubbish
from tests.crash.test_power_cuts import LIVES, Scene
from tests.crash.tracing import Tracer, compile_shim

BROKEN = ""
"""What the traced child takes away before it begins; a name of tests/crash/safeguards.py."""
SEEDS: Final = 12
CUTS_PER_SEED: Final = 20
KILLED_FROM_SYNC: Final = (48, 56, 64, 72)
SYNCS: Final = 8


@pytest.fixture(scope="module", params=KILLED_FROM_SYNC)
def scene(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Scene:
    """One trace of two lives; the first is killed when a sync of the log begins, where there are such."""
    for number in range(request.param, request.param + SYNCS):
        folder = tmp_path_factory.mktemp("power")
        (folder / "traced").mkdir()
        keyring = create_keyring(folder / "keys")
        tracer = Tracer(compile_shim(folder), folder / "traced", folder / "trace")
        killed_at = 0 if BROKEN == "sync of each commit" else number
        _live(tracer, folder, 0, killed_at)
        if not killed_at or _last_sync(tracer) == "journal.db-wal":
            break
    else:
        pytest.fail("the log is never synced")
    _live(tracer, folder, 1, 0)
    (folder / "learn").mkdir()
    return Scene(learn(str(tracer.under), tracer.events(), folder / "learn"), keyring, folder)


def _live(tracer: Tracer, folder: Path, life: int, killed_at: int) -> None:
    broken = ("--broken", BROKEN) if BROKEN else ()
    code = tracer.run(
        "tests.crash.writer", str(tracer.under), str(folder / "keys"), *LIVES[life], *broken, die_at_sync=killed_at
    )
    assert code == (-9 if killed_at else 0)


def _last_sync(tracer: Tracer) -> str:
    """Name of the file whose sync began last."""
    disk, name = Disk(str(tracer.under)), ""
    for event in tracer.events():
        disk.follow(event)
        if event.operation == "B":
            name = disk.name(event)
    return name


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for what is rebuilt."""
    with tempfile.TemporaryDirectory(prefix="holdfast-power-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_told_outlives_power_cuts(scene: Scene, scratch: Path, seed: int) -> None:
    """The power goes at the moment of telling, when the most can be lost."""
    known, disk, dice = scene.known, Disk(scene.known.folder), random.Random(f"told/{seed}")
    places = set(dice.sample(known.told_at, CUTS_PER_SEED))
    for place, event in enumerate(known.events, start=1):
        disk.follow(event)
        if place not in places:
            continue
        oldest, newest = known.bounds(place)
        try:
            shown = known.images.get(image(scratch, rubbish(disk.cut(dice), dice)))
        except sqlite3.Error:
            shown = None
        where = f"seed {seed}, cut after event {place}: commit {shown} is shown"
        assert shown is not None and oldest <= shown <= newest, f"{where}, told was {oldest}, written {newest}"  # noqa: PT018
