"""The published folder is a log that anybody can verify from its files alone, wherever the writing of it ended."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notary import folder as folder_module
from gateway.notary.folder import FolderConflict, TileFolder
from gateway.notary.note_file import replace_file
from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed, Signing
from protocol.transparency.checkpoints import Checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tiles import TILE_WIDTH, Tile, TileHashes, split_bundle, tiles_of
from protocol.transparency.tree import frontier_at, leaf_hash
from tests.notary.scene import Scene

SEED = 40_321


@pytest.fixture
def signing(scene: Scene) -> Signing:
    return scene.signing()


@pytest.fixture
def published(scene: Scene) -> Path:
    return scene.folder.parent / f"{scene.folder.name}-published"


@pytest.fixture
def outlet(scene: Scene, published: Path) -> Iterator[TileFolder]:
    made = TileFolder(published, scene.log, scene.log_seeds)
    yield made
    made.close()


def grown(scene: Scene, signing: Signing, entries: int) -> Signed:
    signed = signing.sign(*scene.grow(entries))
    assert signed is not None
    return signed


def check(scene: Scene, folder: Path, hint: str = "") -> int:
    """The folder, read as a stranger does: the checkpoint is signed, and tiles and entries make its root."""
    checkpoint = scene.checkpoint((folder / "checkpoint").read_bytes())

    def read(tile: Tile) -> bytes:
        path = folder / tile.path
        if not path.exists():
            path = folder / Tile(tile.level, tile.index).path
        return path.read_bytes()

    hashes = TileHashes(checkpoint.size, read)
    assert frontier_at(checkpoint.size, hashes).root() == checkpoint.root, hint
    for tile in tiles_of(checkpoint.size):
        if tile.level is None:
            content = read(tile)
            width = TILE_WIDTH if not (folder / tile.path).exists() else tile.width
            for place, entry in enumerate(split_bundle(content, width)[: tile.width]):
                assert leaf_hash(entry) == hashes(0, tile.index * TILE_WIDTH + place), (hint, tile)
        else:
            assert len(read(tile)) >= tile.width * 32, (hint, tile)
    return checkpoint.size


def test_a_log_that_grows_in_steps_is_whole_after_each(
    scene: Scene, signing: Signing, outlet: TileFolder, published: Path
) -> None:
    chosen = random.Random(SEED)
    for _ in range(14):
        signed = grown(scene, signing, chosen.choice((1, 3, 90, 256, 300)))
        outlet.publish(signed)
        assert check(scene, published, f"seed {SEED}") == signed.size


def test_a_full_tile_is_never_written_again(
    scene: Scene, signing: Signing, outlet: TileFolder, published: Path
) -> None:
    outlet.publish(grown(scene, signing, 600))
    full = [published / Tile(level, index).path for level in (None, 0) for index in (0, 1)]
    before = [path.stat().st_ino for path in full]
    outlet.publish(grown(scene, signing, 600))
    assert [path.stat().st_ino for path in full] == before


def test_partial_tiles_do_not_pile_up(scene: Scene, signing: Signing, outlet: TileFolder, published: Path) -> None:
    for _ in range(20):
        outlet.publish(grown(scene, signing, 1))
    assert sorted(each.name for each in (published / "tile/0/000.p").iterdir()) == ["18", "19", "20"]
    for _ in range(3):
        outlet.publish(grown(scene, signing, 256))
    assert not (published / "tile/0/000.p").exists()
    check(scene, published)


def test_what_is_written_for_new_entries_does_not_grow_with_the_log(
    scene: Scene, signing: Signing, outlet: TileFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    real = replace_file

    def counted(path: Path, content: bytes, *, durable: bool = True) -> None:
        written.append(path)
        real(path, content, durable=durable)

    monkeypatch.setattr(folder_module, "replace_file", counted)
    outlet.publish(grown(scene, signing, 3_000))
    written.clear()
    outlet.publish(grown(scene, signing, 5))
    assert sorted(path.name for path in written) == ["189", "189", "checkpoint"]  # 3005 = 11 * 256 + 189


def test_a_process_that_ends_between_any_two_files_leaves_a_log_that_is_whole_and_goes_on(
    scene: Scene, signing: Signing, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TileFolder(published, scene.log, scene.log_seeds)
    first.publish(grown(scene, signing, 400))
    first.close()
    later = grown(scene, signing, 700)
    real = replace_file
    for allowed in range(20):
        trial = published.with_name(f"{published.name}-{allowed}")
        shutil.copytree(published, trial)
        left = iter(range(allowed))

        def dies(path: Path, content: bytes, *, durable: bool = True, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(path, content, durable=durable)

        monkeypatch.setattr(folder_module, "replace_file", dies)
        dying = TileFolder(trial, scene.log, scene.log_seeds)
        try:
            dying.publish(later)
        except KeyboardInterrupt:
            assert check(scene, trial, f"after {allowed} files") == 400
        else:
            assert allowed > 5
            break
        finally:
            dying.close()
            monkeypatch.undo()
        again = TileFolder(trial, scene.log, scene.log_seeds)
        again.publish(later)
        again.close()
        assert check(scene, trial, f"after {allowed} files") == 1100
    else:
        pytest.fail("it never came to its end")


def test_partial_tiles_that_a_power_cut_has_emptied_are_written_again(
    scene: Scene, signing: Signing, published: Path
) -> None:
    signed = grown(scene, signing, 70_000)
    first = TileFolder(published, scene.log, scene.log_seeds)
    first.publish(signed)
    first.close()
    emptied = [path for path in published.rglob("*") if path.is_file() and path.parent.suffix == ".p"]
    assert len(emptied) == 4  # entries and three levels
    for path in emptied:
        os.truncate(path, 0)
    again = TileFolder(published, scene.log, scene.log_seeds)
    again.publish(signed)
    again.close()
    assert check(scene, published) == 70_000


def test_a_folder_on_a_disk_that_is_full_or_absent_is_told_and_made_whole_when_it_is_back(
    scene: Scene, signing: Signing, outlet: TileFolder, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = TileFolder(published / "not" / "mounted", scene.log, scene.log_seeds)
    with pytest.raises(OutletFailed, match=r"mounted: No such file or directory"):
        absent.publish(grown(scene, signing, 10))
    absent.close()
    outlet.publish(grown(scene, signing, 300))

    def full(path: Path, content: bytes, *, durable: bool = True) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "replace_file", full)
    with pytest.raises(OutletFailed, match="No space left on device"):
        outlet.publish(grown(scene, signing, 300))
    monkeypatch.undo()
    assert check(scene, published) == 310
    outlet.publish(grown(scene, signing, 1))
    assert check(scene, published) == 611


def test_a_folder_with_another_history_or_another_log_is_left_as_it_is(
    scene: Scene, signing: Signing, published: Path
) -> None:
    scene.grow(40)
    backup = scene.backup("monday")
    signing = scene.signing()
    first = TileFolder(published, scene.log, scene.log_seeds)
    first.publish(grown(scene, signing, 10))
    first.close()
    before = (published / "checkpoint").read_bytes()
    scene.restore(backup, whole=True)
    forked = scene.unopened()

    told: list[FolderConflict] = []
    shorter = forked.accept(*scene.head()) if forked.open(*scene.head()) is None else None
    outlet = TileFolder(published, scene.log, scene.log_seeds, told.append)
    assert shorter is not None
    with pytest.raises(OutletFailed, match="is a head of 50 entries that this log has signed, and the journal has 40"):
        outlet.publish(shorter)
    longer = forked.sign(*scene.grow(30))
    assert longer is not None
    with pytest.raises(OutletFailed, match=r"has another history of this log.*keep this folder as evidence"):
        outlet.publish(longer)
    path = published / "checkpoint"
    assert told == [FolderConflict(path, 50, 40), FolderConflict(path, 50, 70)]
    scene.origin = "holdfast/another"
    named = scene.signing().sign(*scene.head())
    assert named is not None
    with pytest.raises(OutletFailed, match="is of another log"):
        outlet.publish(named)
    (published / "checkpoint").write_bytes(b"\xff")
    with pytest.raises(OutletFailed, match="is no checkpoint"):
        outlet.publish(longer)
    (published / "checkpoint").write_bytes(before)
    outlet.close()
    assert len(told) == 2, "what is not this log's own head says nothing about the journal"
    assert len(list((published / "tile/0/000.p").iterdir())) == 1


def test_a_later_head_that_another_key_has_signed_says_nothing_about_the_journal(
    scene: Scene, signing: Signing, published: Path
) -> None:
    told: list[FolderConflict] = []
    signed = grown(scene, signing, 10)
    forged = Checkpoint(scene.origin, 99, b"x" * 32)
    published.mkdir()
    (published / "checkpoint").write_bytes(sign_checkpoint(forged, [SignerKey(scene.origin, b"s" * 32)]))
    outlet = TileFolder(published, scene.log, scene.log_seeds, told.append)
    with pytest.raises(OutletFailed, match="not signed by it"):
        outlet.publish(signed)
    outlet.close()
    assert not told


def test_a_folder_that_is_ahead_of_an_old_head_of_a_whole_journal_is_left_until_the_next_head(
    scene: Scene, signing: Signing, outlet: TileFolder, published: Path
) -> None:
    old = grown(scene, signing, 10)
    outlet.publish(grown(scene, signing, 10))
    again = TileFolder(published, scene.log, scene.log_seeds)
    again.publish(old)
    assert check(scene, published) == 20
    again.publish(grown(scene, signing, 10))
    again.close()
    assert check(scene, published) == 30


def test_a_folder_that_somebody_changes_meanwhile_is_looked_at_again(
    scene: Scene, signing: Signing, outlet: TileFolder, published: Path
) -> None:
    outlet.publish(grown(scene, signing, 300))
    shutil.rmtree(published)
    outlet.publish(grown(scene, signing, 10))
    assert check(scene, published) == 310
    ahead = sign_checkpoint(Checkpoint(scene.origin, 999, b"x" * 32), scene.signers())
    (published / "checkpoint").write_bytes(ahead)
    with pytest.raises(OutletFailed, match="999 entries that this log has signed"):
        outlet.publish(grown(scene, signing, 10))
    assert (published / "checkpoint").read_bytes() == ahead
