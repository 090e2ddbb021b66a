"""A head is signed only where it continues the head that was signed before, entry by entry."""

from __future__ import annotations

import itertools
import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.journal.sqlite import SqliteJournal
from gateway.notary import note_file
from gateway.notary import signing as signing_module
from gateway.notary.live_log import LogUnreadable
from gateway.notary.signing import LogBroken, Signing
from protocol.transparency.cosignatures import WitnessKey, cosign, verify_cosignatures
from protocol.transparency.notes import SignatureRefused, SignerKey, parse_note
from tests.notary.scene import ORIGIN, Scene

SEED = 6_617


def test_heads_grow_and_each_continues_the_one_before(scene: Scene) -> None:
    chosen = random.Random(SEED)
    signing = scene.signing()
    heads = []
    for _ in range(12):
        signed = signing.sign(*scene.grow(chosen.choice((1, 2, 100, 255, 256, 300))))
        assert signed is not None
        assert scene.checkpoint(scene.kept.read_bytes()) == signed.checkpoint, f"seed {SEED}"
        assert (signed.checkpoint.size, signed.checkpoint.root) == scene.head(), f"seed {SEED}"
        heads.append(signed)
    for first, second in itertools.pairwise(heads):
        scene.check_continues(first, second)


def test_what_is_signed_already_is_not_signed_again(scene: Scene) -> None:
    signing = scene.signing()
    assert signing.sign(*scene.grow(3)) is not None
    before = scene.kept.stat().st_ino
    assert signing.sign(*scene.head()) is None
    assert scene.kept.stat().st_ino == before


def test_a_restart_goes_on_from_the_head_that_was_kept(scene: Scene) -> None:
    first = scene.signing().sign(*scene.grow(700))
    scene.rig.reopen()
    again = scene.signing()
    assert first is not None
    assert again.newest is not None
    assert again.newest.note == first.note
    second = again.sign(*scene.grow(50))
    assert second is not None
    scene.check_continues(first, second)


def test_a_journal_that_went_back_to_a_backup_is_not_signed(scene: Scene) -> None:
    scene.grow(40)
    backup = scene.backup("monday")
    scene.signing().sign(*scene.grow(10))
    scene.restore(backup)
    assert scene.head()[0] == 40
    with pytest.raises(LogBroken, match="ends at entry 40, and a head of 50 entries was signed"):
        scene.signing()


def test_a_journal_that_grew_again_after_a_backup_is_not_signed(scene: Scene) -> None:
    scene.grow(40)
    backup = scene.backup("monday")
    scene.signing().sign(*scene.grow(10))
    kept = scene.kept.read_bytes()
    scene.restore(backup)
    scene.grow(30)
    with pytest.raises(LogBroken, match="the first 50 entries are not those whose head was signed"):
        scene.signing()
    assert scene.kept.read_bytes() == kept


def edited_body(scene: Scene) -> None:
    scene.edit(
        "UPDATE entry SET body = CAST(substr(body, 1, 30) || x'01' || substr(body, 32) AS BLOB) WHERE sequence = 25"
    )


def edited_leaf(scene: Scene) -> None:
    scene.edit("UPDATE entry SET leaf = randomblob(32) WHERE sequence = 25")


def dropped(scene: Scene) -> None:
    scene.edit("DELETE FROM entry WHERE sequence = 25")


def swapped(scene: Scene) -> None:
    scene.edit("UPDATE entry SET sequence = -25 WHERE sequence = 25")
    scene.edit("UPDATE entry SET sequence = 25 WHERE sequence = 26")
    scene.edit("UPDATE entry SET sequence = 26 WHERE sequence = -25")


@pytest.mark.parametrize("damage", [edited_body, edited_leaf, dropped, swapped])
def test_an_entry_since_the_last_head_that_is_not_the_committed_one_is_not_signed_over(
    damage: Callable[[Scene], None], scene: Scene
) -> None:
    signing = scene.signing()
    signing.sign(*scene.grow(20))
    kept = scene.kept.read_bytes()
    head = scene.grow(10)
    damage(scene)
    with pytest.raises(LogBroken, match=r"25|do not make the tree"):
        signing.sign(*head)
    assert scene.kept.read_bytes() == kept


@pytest.mark.parametrize("damage", [edited_leaf, dropped])
def test_an_edit_before_the_last_head_is_seen_by_the_root_that_was_signed(
    damage: Callable[[Scene], None], scene: Scene
) -> None:
    signing = scene.signing()
    signing.sign(*scene.grow(30))
    head = scene.grow(10)
    damage(scene)
    with pytest.raises(LogBroken, match=r"the first 30 entries are not|the leaf of entry 24 is missing"):
        signing.sign(*head)


def test_a_stored_subtree_that_was_changed_is_seen_by_the_root_that_was_signed(scene: Scene) -> None:
    signing = scene.signing()
    signing.sign(*scene.grow(600))
    head = scene.grow(10)
    scene.edit("UPDATE subtree SET hash = randomblob(32) WHERE level = 1 AND number = 1")
    with pytest.raises(LogBroken, match="the first 600 entries are not"):
        signing.sign(*head)


def test_a_kept_head_that_was_changed_or_is_no_note_is_not_gone_on_from(scene: Scene) -> None:
    scene.signing().sign(*scene.grow(30))
    whole = scene.kept.read_bytes()
    for content in (whole.replace(b"\n30\n", b"\n31\n"), b"", whole[:-4], b"\x00" * len(whole)):
        scene.kept.write_bytes(content)
        with pytest.raises(LogBroken, match="is not a checkpoint that this gateway has signed"):
            scene.signing()


def test_a_head_that_another_key_has_signed_is_not_gone_on_from(scene: Scene) -> None:
    scene.signing().sign(*scene.grow(30))
    scene.seeds = [bytes(32)]
    with pytest.raises(LogBroken, match="no known key has signed"):
        scene.signing()


def test_after_a_rotation_the_head_of_the_old_key_is_gone_on_from_with_the_new_one(scene: Scene) -> None:
    old = scene.signing().sign(*scene.grow(30))
    scene.seeds = [bytes(range(32)), *scene.seeds]
    new = scene.signing().sign(*scene.grow(5))
    assert old is not None
    assert new is not None
    assert scene.checkpoint(new.note).size == 35


def test_a_new_origin_goes_on_with_the_same_history_and_only_with_it(scene: Scene) -> None:
    scene.signing().sign(*scene.grow(30))
    scene.origin = "holdfast/renamed"
    signed = scene.signing().sign(*scene.head())
    assert signed is not None
    assert scene.checkpoint(signed.note).origin == "holdfast/renamed"


def test_a_person_may_go_on_over_a_break_and_the_next_head_continues_that(scene: Scene) -> None:
    scene.grow(40)
    backup = scene.backup("monday")
    scene.signing().sign(*scene.grow(10))
    scene.restore(backup)
    signing = scene.unopened()
    with pytest.raises(LogBroken):
        signing.open(*scene.head())
    signing.refuse_other_tree(*scene.head())
    assert scene.note("continued by Kim: the disk failed") == 41
    accepted = signing.accept(*scene.head())
    assert accepted.size == 41
    following = scene.signing().sign(*scene.grow(10))
    assert following is not None
    scene.check_continues(accepted, following)


def test_what_the_file_has_lost_is_not_accepted_while_the_gateway_still_remembers_it(scene: Scene) -> None:
    signing = scene.signing()
    signing.sign(*scene.grow(20))
    edited_by = scene.grow(10)
    scene.edit("UPDATE entry SET leaf = randomblob(32) WHERE sequence = 25")
    with pytest.raises(LogBroken, match="restart the gateway"):
        signing.accept(*edited_by)


def test_a_head_that_cannot_be_kept_is_not_signed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    signing = scene.signing()
    before = signing.sign(*scene.grow(20))
    (scene.folder / ".journal.db-checkpoint.new").mkdir()  # as a disk that refuses the file
    with pytest.raises(OSError, match="directory"):
        signing.sign(*scene.grow(1))
    assert signing.newest == before
    (scene.folder / ".journal.db-checkpoint.new").rmdir()
    assert signing.sign(*scene.head()) is not None


def test_payments_go_on_undisturbed_for_several_times_as_long_as_each_portion_of_entries_has_taken(
    scene: Scene,
) -> None:
    rests: list[float] = []
    grown = scene.grow(3_500)
    signing = scene.signing(rests.append)
    began = time.monotonic()
    signing.sign(*grown)
    took = time.monotonic() - began
    assert len(rests) >= 30  # in portions so small that nobody waits long for the interpreter
    assert 0 < max(rests) <= 0.05
    assert sum(rests) > took  # so most of the time is theirs


def test_what_was_checked_is_not_checked_again_because_the_head_could_not_be_kept(scene: Scene) -> None:
    rests: list[float] = []
    signing = scene.signing(rests.append)
    obstacle = scene.folder / ".journal.db-checkpoint.new"
    obstacle.mkdir()  # as a disk that refuses the file
    head = scene.grow(1_000)
    with pytest.raises(OSError, match="directory"):
        signing.sign(*head)
    portions = len(rests)
    assert portions > 10
    with pytest.raises(OSError, match="directory"):
        signing.sign(*head)
    obstacle.rmdir()
    signed = signing.sign(*head)
    assert signed is not None
    assert signed.size == 1_000
    assert len(rests) == portions


def test_a_stop_does_not_wait_for_a_long_check(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_module, "_BEHIND", 200)
    signing = scene.signing()
    before = signing.sign(*scene.grow(20))
    signing.hasten()
    head = scene.grow(500)
    with pytest.raises(LogUnreadable, match="the gateway stops, and 500 entries are not checked yet"):
        signing.sign(*head)
    assert signing.newest == before
    monkeypatch.setattr(signing_module, "_BEHIND", 500)
    assert signing.sign(*head) is not None  # as many as this are


def test_a_portion_that_took_minutes_asks_for_no_rest_of_minutes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    signing = scene.signing(rests.append)
    head = scene.grow(300)
    clock = itertools.count(0, 60.0)
    monkeypatch.setattr("gateway.notary.signing.time.monotonic", lambda: next(clock))
    assert signing.sign(*head) is not None
    assert 0 < max(rests) < 0.1


def test_a_cosignature_is_kept_with_the_head_and_one_that_comes_late_beside_it(scene: Scene) -> None:
    seed = bytes(range(32))
    key = WitnessKey("witness.example/w1", SignerKey("witness.example/w1", seed).verifier.public)
    signing = scene.signing()
    first = signing.sign(*scene.grow(5))
    assert first is not None
    line = cosign(first.checkpoint.text, key.name, seed, 1_700_000_001)
    kept = signing.cosigned(first, [line])
    assert scene.kept.read_bytes() == kept.note
    note = parse_note(kept.note)
    assert verify_cosignatures(note, [key]) == (("witness.example/w1", 1_700_000_001),)
    assert scene.checkpoint(kept.note) == first.checkpoint
    again = signing.cosigned(first, [cosign(first.checkpoint.text, key.name, seed, 1_700_000_002)])
    assert [each.time_s for each in verify_cosignatures(parse_note(again.note), [key])] == [1_700_000_002]

    second = signing.sign(*scene.grow(5))
    assert second is not None
    late = signing.cosigned(first, [line])
    assert scene.kept.read_bytes() == second.note
    assert (scene.folder / "journal.db-checkpoint-witnessed").read_bytes() == late.note


def test_a_cosignature_holds_for_its_text_its_time_and_its_key_only() -> None:
    seed = bytes(range(32))
    name = "witness.example/w1"
    key = WitnessKey(name, SignerKey(name, seed).verifier.public)
    text = f"{ORIGIN}\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    signed = cosign(text, name, seed, 1_700_000_000).signature
    assert key.verify(text, signed) == (name, 1_700_000_000)
    spoilt = [signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :] for place in range(len(signed))]
    for wrong in (*spoilt, signed[:-1], signed[:8], b"", signed + b"\x00"):
        with pytest.raises(SignatureRefused):
            key.verify(text, wrong)
    with pytest.raises(SignatureRefused):
        key.verify(text.replace("5", "6", 1), signed)
    assert WitnessKey.parse(key.text) == key


@pytest.mark.parametrize("place", range(4))
def test_a_file_is_replaced_as_a_whole_wherever_it_fails(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    note_file.replace_file(path, b"old")
    calls = iter(range(10))

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(calls) == place:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for owner, name in ((os, "open"), (os, "fsync"), (Path, "replace")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    with pytest.raises(OSError, match="No space"):
        note_file.replace_file(path, b"new content")
    monkeypatch.undo()
    assert path.read_bytes() in (b"old", b"new content")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


def test_a_link_that_somebody_has_put_where_the_draft_comes_is_not_followed(tmp_path: Path) -> None:
    path, keys = tmp_path / "checkpoint", tmp_path / "keyring.json"
    keys.write_bytes(b"keys")
    (tmp_path / ".checkpoint.new").symlink_to(keys)
    note_file.replace_file(path, b"a head")
    assert (path.read_bytes(), keys.read_bytes()) == (b"a head", b"keys")
    assert not path.is_symlink()


def test_whoever_reads_a_file_while_it_is_replaced_reads_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    note_file.replace_file(path, b"old")
    with path.open("rb") as reading:
        note_file.replace_file(path, b"new content")
        assert reading.read() == b"old"
    assert path.read_bytes() == b"new content"


def test_a_file_is_on_the_disk_before_its_name_is_and_the_name_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(draft: Path, path: Path) -> Path:
        done.append("name")
        return replace(draft, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    note_file.replace_file(tmp_path / "file", b"content")
    assert done == ["file", "name", "folder"]


def test_signing_holds_no_snapshot_that_would_keep_the_journal_from_emptying_its_log(scene: Scene) -> None:
    signing: Signing = scene.signing()
    signing.sign(*scene.grow(300))
    journal = scene.rig.journal
    assert isinstance(journal, SqliteJournal)
    busy: list[int] = []

    def emptied() -> None:
        busy.append(journal._writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    scene.rig.run(journal._writer.run(emptied))
    assert busy == [0]
