"""While entries come their head is signed; a break stops that and nothing else, until a person decides."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.core.lifecycle import EntryKind
from gateway.notary import note_file
from gateway.notary.notary import NotDone
from gateway.notary.status import NotaryState
from protocol.journal_entry import decode_entry
from tests.notary.desk import Desk, kept
from tests.notary.scene import Scene


def test_heads_are_signed_while_entries_come_and_nothing_is_written_while_none_do(scene: Scene) -> None:
    desk = Desk(scene).start()
    desk.until("it has looked at the empty log", lambda: desk.state() is NotaryState.SIGNING)
    for entries in (1, 40, 300):
        scene.grow(entries)
        desk.until_signed()
        assert kept(scene) == scene.head()[0]
        assert desk.notary.status().unsigned == 0
    before = scene.kept.stat().st_ino, scene.kept.stat().st_mtime_ns
    desk.notary._launch = lambda: pytest.fail("work where nothing has come")  # type: ignore[method-assign]
    desk.until_ticked(10)
    assert (scene.kept.stat().st_ino, scene.kept.stat().st_mtime_ns) == before
    assert desk.events() == []
    desk.stop()


def test_an_empty_journal_is_not_signed(scene: Scene) -> None:
    desk = Desk(scene).start()
    with pytest.raises(NotDone, match="no entries yet"):
        desk.run(desk.notary.checkpoint())
    desk.stop()
    assert not scene.kept.exists()


def test_a_clean_stop_signs_what_has_come_last(scene: Scene) -> None:
    desk = Desk(scene, checkpoint_every_ms=3_600_000).start()
    scene.grow(333)
    desk.stop()
    assert kept(scene) == 333


def test_a_stop_in_doubt_signs_nothing(scene: Scene) -> None:
    desk = Desk(scene, checkpoint_every_ms=3_600_000).start()
    scene.grow(333)
    desk.stop(sign=False)
    assert not scene.kept.exists()


def test_a_head_is_signed_on_demand(scene: Scene) -> None:
    desk = Desk(scene, checkpoint_every_ms=3_600_000).start()
    scene.grow(12)
    signed = desk.run(desk.notary.checkpoint())
    assert scene.checkpoint(signed.note).size == 12
    assert desk.run(desk.notary.checkpoint()).note == signed.note
    desk.stop()


def test_switched_off_it_does_nothing_and_says_so(scene: Scene) -> None:
    desk = Desk(scene, checkpoint_every_ms=0, folder=scene.folder / "published").start()
    scene.grow(12)
    with pytest.raises(NotDone, match="checkpoint_every_ms is 0"):
        desk.run(desk.notary.checkpoint())
    desk.stop()
    assert desk.state() is NotaryState.OFF
    assert not scene.kept.exists()
    assert not (scene.folder / "published").exists()


def test_it_can_be_stopped_before_it_was_started(scene: Scene) -> None:
    desk = Desk(scene)
    desk.stop()


def test_a_disk_that_refuses_the_head_is_told_once_and_tried_again(scene: Scene) -> None:
    desk = Desk(scene).start()
    desk.until("it has looked at the empty log", lambda: desk.state() is NotaryState.SIGNING)
    scene.grow(5)
    desk.until_signed()
    obstacle = scene.folder / ".journal.db-checkpoint.new"
    obstacle.mkdir()
    scene.grow(5)
    desk.until("it fails", lambda: desk.state() is NotaryState.FAILING)
    with pytest.raises(NotDone, match="directory"):
        desk.run(desk.notary.checkpoint())
    obstacle.rmdir()
    desk.until_signed()
    assert desk.state() is NotaryState.SIGNING
    assert desk.events() == ["audit.not-signed", "audit.signing-resumed"]
    desk.stop()


def test_an_edited_entry_stops_the_signing_and_an_act_of_a_person_goes_on_over_it(scene: Scene) -> None:
    desk = Desk(scene).start()
    scene.grow(20)
    desk.until_signed()
    signed = scene.kept.read_bytes()
    scene.rig.run(desk.notary._idle())
    scene.edit("UPDATE entry SET body = body || x'00' WHERE sequence = 20")
    scene.edit("UPDATE entry SET sequence = 1000 WHERE sequence = 20")  # it is gone from its place
    scene.grow(3)
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
    assert desk.events() == ["audit.log-broken"]
    assert "entry 20" in desk.told[0][2]["reason"] or "the leaf" in desk.told[0][2]["reason"]
    assert desk.notary.remarks()
    scene.edit("UPDATE entry SET sequence = 20 WHERE sequence = 1000")
    scene.grow(3)
    with pytest.raises(NotDone, match="was not signed"):
        desk.run(desk.notary.checkpoint())
    assert scene.kept.read_bytes() == signed
    head = desk.run(desk.notary.continue_over("Kim", "the file was tampered with"))
    assert head.size == scene.head()[0] == 27
    log = scene.log()
    entry = decode_entry(log.bodies(26, 27)[0])
    log.close()
    assert entry.kind == EntryKind.LOG_BROKEN
    for part in ("Kim", "the file was tampered with", "a head of 20 entries, root "):
        assert part in entry.detail
    with pytest.raises(NotDone, match="nothing is broken"):
        desk.run(desk.notary.continue_over("Kim", "again"))
    scene.grow(2)
    desk.until_signed()
    assert desk.notary.remarks() == ()
    desk.stop()


def put_back(scene: Scene) -> None:
    """Sign a head of 50 entries, then put a backup of 40 in the journal's place."""
    scene.grow(40)
    backup = scene.backup("monday")
    desk = Desk(scene).start()
    scene.grow(10)
    desk.until_signed()
    desk.stop()
    scene.restore(backup)


def test_a_decision_whose_head_cannot_be_kept_for_certain_is_said_to_be_in_the_log_already(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back(scene)
    desk = Desk(scene).start()
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)

    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(note_file, "sync_folder", refuse)  # the checkpoint has its name already
        with pytest.raises(NotDone, match=r"error; entry 41 tells of it already, and the next start may go by that"):
            desk.run(desk.notary.continue_over("Kim", "disk failed"))
    assert desk.state() is NotaryState.BROKEN
    desk.stop()
    desk = Desk(scene).start()
    desk.until("it goes on", lambda: desk.state() is NotaryState.SIGNING)
    assert kept(scene) == 41
    desk.stop()


def test_a_restored_backup_is_seen_at_the_start_and_again_until_a_person_decides(scene: Scene) -> None:
    put_back(scene)
    for _ in range(2):
        desk = Desk(scene).start()
        desk.until("it is broken", lambda desk=desk: desk.state() is NotaryState.BROKEN)  # type: ignore[misc]
        scene.grow(1)
        desk.stop()
        assert kept(scene) == 50
    desk = Desk(scene).start()
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
    assert desk.notary.status().size == 50
    assert desk.run(desk.notary.continue_over("Kim", "disk failed")).size == 43
    desk.stop()
    desk = Desk(scene).start()
    scene.grow(1)
    desk.until_signed()
    desk.stop()
