"""What is signed goes out; a folder or witness that knows better stops the signing, one that is away does not."""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from gateway.notary import notary as notary_module
from gateway.notary.outlet import Outlet, OutletFailed
from gateway.notary.signing import Signed
from gateway.notary.status import NotaryState
from gateway.notary.syslog_line import SyslogEnd
from protocol.transparency.cosignatures import verify_cosignatures
from protocol.transparency.notes import parse_note
from tests.notary.desk import DEADLINE_S, Desk, end_of, kept, restored_behind_its_witness, size_in, witness_of
from tests.notary.scene import Scene


def test_everything_goes_out_and_cosignatures_are_kept_with_the_head(scene: Scene) -> None:
    published = scene.folder / "published"
    with witness_of(scene) as host, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(5)
        end = SyslogEnd(stream=False, host="127.0.0.1", port=syslog.getsockname()[1])
        desk = Desk(scene, folder=published, syslog=end, witnesses=(end_of(host),)).start()
        scene.grow(300)

        def cosigned(path: Path, size: int) -> bool:
            note = path.read_bytes() if path.exists() else b""
            return (
                bool(note)
                and scene.checkpoint(note).size == size
                and len(verify_cosignatures(parse_note(note), [host.key])) == 1
            )

        desk.until("the published head is cosigned", lambda: cosigned(published / "checkpoint", 300))
        assert cosigned(scene.kept, 300)
        assert host.size == 300
        while b'size="300"' not in syslog.recv(65_536):
            pass  # heads on the way there
        everywhere = {("folder", 300, ""), ("syslog", 300, ""), ("witness witness.example/w1", 300, "")}
        desk.until(
            "status tells it of each outlet",
            lambda: {(each.name, each.size, each.failing) for each in desk.notary.status().outlets} == everywhere,
        )
        scene.grow(7)
        desk.stop()  # and what came last goes out before it ends
        assert host.size == 307
        assert cosigned(published / "checkpoint", 307)
        assert cosigned(scene.kept, 307)


def test_a_witness_that_knows_of_a_restored_backup_stops_the_first_signature_after_the_start(scene: Scene) -> None:
    with witness_of(scene) as host:
        desk = Desk(scene, witnesses=(end_of(host),)).start()
        scene.grow(40)
        desk.until("40 are cosigned", lambda: host.size == 40)
        desk.stop()
        backup = scene.backup("monday")
        desk = Desk(scene, witnesses=(end_of(host),)).start()
        scene.grow(10)
        desk.until("50 are cosigned", lambda: host.size == 50)
        desk.stop()
        scene.restore(backup, whole=True)
        before = scene.kept.read_bytes()
        scene.grow(3)
        desk = Desk(scene, witnesses=(end_of(host),)).start()
        desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
        assert "has seen 50 entries, the journal has fewer" in desk.notary.status().reason
        assert scene.kept.read_bytes() == before, "a second history was signed"

        head = desk.run(desk.notary.continue_over("Kim", "restored after a fire"))
        assert head.size == 44
        desk.stop()
        desk = Desk(scene, witnesses=(end_of(host),)).start()  # the decision outlives a restart
        scene.grow(1)
        desk.until_signed()
        failing = desk.notary.status().outlets[0].failing
        desk.until("the witness still refuses", lambda: bool(desk.notary.status().outlets[0].failing) or bool(failing))
        assert desk.state() is NotaryState.SIGNING
        desk.stop()


@pytest.mark.parametrize("asked_first", [True, False], ids=["without its checkpoint file", "with it"])
def test_a_witness_is_asked_before_anything_is_signed(asked_first: bool, scene: Scene) -> None:
    """Without a head of our own, it is asked with the head of no entries."""
    with witness_of(scene) as host:
        restored_behind_its_witness(scene, host)
        if not asked_first:
            scene.signing().sign(*scene.head())
        before = scene.kept.exists()
        scene.grow(5)
        host.answering.clear()
        desk = Desk(scene, witnesses=(end_of(host),)).start()
        desk.until_ticked(10)
        assert scene.kept.exists() == before
        host.answering.set()
        desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
        desk.stop()
        assert scene.kept.exists() == before
        if before:
            assert kept(scene) == 40
        assert 200 not in host.asked[-2:]


def test_a_fork_stops_the_signing(scene: Scene) -> None:
    with witness_of(scene) as host:
        restored_behind_its_witness(scene, host)
        scene.grow(30)
        desk = Desk(scene, witnesses=(end_of(host),)).start()
        desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
        assert "a fork" in desk.notary.status().reason
        assert host.size == 50
        desk.stop()


@pytest.mark.parametrize("with_head", [False, True], ids=["without its checkpoint file", "with it"])
@pytest.mark.parametrize("more", [3, 30], ids=["shorter", "another history"])
def test_a_published_head_of_its_own_that_the_journal_does_not_continue_stops_the_first_signature(
    with_head: bool, more: int, scene: Scene
) -> None:
    published = scene.folder.parent / f"{scene.folder.name}-published"
    scene.grow(40)
    if with_head:
        scene.signing().sign(*scene.head())
    backup = scene.backup("monday")
    desk = Desk(scene, folder=published).start()
    scene.grow(10)
    desk.until("50 are published", lambda: size_in(scene, published) == 50)
    desk.stop()
    scene.restore(backup, whole=True)
    there = (published / "checkpoint").read_bytes()
    before = scene.kept.read_bytes() if with_head else None
    scene.grow(more)
    for _ in range(2):
        desk = Desk(scene, folder=published).start()
        desk.until("it is broken", lambda desk=desk: desk.state() is NotaryState.BROKEN)  # type: ignore[misc]
        assert "a head of 50 entries that this log has signed" in desk.notary.remarks()[0]
        assert "keep this folder as evidence" in desk.notary.status().reason
        assert [level for level, name, _ in desk.told if name == "audit.log-broken"] == ["error"]
        desk.stop()
        assert (scene.kept.read_bytes() if scene.kept.exists() else None) == before, "a second history was signed"
    desk = Desk(scene, folder=published).start()
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
    head = desk.run(desk.notary.continue_over("Kim", "restored after a fire"))
    assert head.size == 41 + more
    scene.grow(1)
    desk.until_signed()
    desk.stop()
    desk = Desk(scene, folder=published).start()  # the decision outlives a restart
    scene.grow(1)
    desk.until_signed()
    desk.until("the folder is refused", lambda: bool(desk.notary.status().outlets[0].failing))
    desk.stop()
    assert (published / "checkpoint").read_bytes() == there
    assert desk.state() is NotaryState.SIGNING

    evidence = published.rename(published.with_name(f"{published.name}-evidence"))
    desk = Desk(scene, folder=published).start()
    desk.until("a new folder is published", lambda: size_in(scene, published) == 43 + more)
    desk.stop()
    shutil.rmtree(published)
    shutil.copytree(evidence, published)
    desk = Desk(scene, folder=published).start()  # and what it finds later on counts again
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
    desk.stop()


def test_a_break_that_a_person_has_gone_on_over_is_not_told_again_for_the_published_folder(scene: Scene) -> None:
    published = scene.folder.parent / f"{scene.folder.name}-published"
    scene.grow(40)
    backup = scene.backup("monday")
    desk = Desk(scene, folder=published).start()
    scene.grow(10)
    desk.until("50 are published", lambda: size_in(scene, published) == 50)
    desk.stop()
    scene.restore(backup)  # the checkpoint file stays: the journal's own mark tells of the break
    desk = Desk(scene, folder=published).start()
    desk.until("it is broken", lambda: desk.state() is NotaryState.BROKEN)
    assert desk.run(desk.notary.continue_over("Kim", "disk failed")).size == 41
    desk.until("the folder is refused", lambda: bool(desk.notary.status().outlets[0].failing))
    desk.stop()
    for _ in range(2):
        desk = Desk(scene, folder=published).start()
        scene.grow(1)
        desk.until_signed()
        desk.stop()
        assert desk.state() is NotaryState.SIGNING


@pytest.mark.parametrize("content", [b"\xff", b"holdfast/other\n9\nAAAA\n"], ids=["no text", "no checkpoint"])
def test_a_folder_that_is_not_this_log_is_a_warning_and_the_signing_goes_on(content: bytes, scene: Scene) -> None:
    published = scene.folder.parent / f"{scene.folder.name}-published"
    published.mkdir()
    (published / "checkpoint").write_bytes(content)
    scene.grow(5)
    desk = Desk(scene, folder=published).start()
    desk.until_signed()
    desk.until("it is told", lambda: "audit.publishing-failed" in desk.events())
    desk.stop()
    assert desk.state() is NotaryState.SIGNING
    assert "audit.log-broken" not in desk.events()
    assert (published / "checkpoint").read_bytes() == content


def test_a_witness_that_is_away_holds_up_nothing_but_itself(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    published = scene.folder / "published"
    with witness_of(scene) as host:
        desk = Desk(scene, folder=published, witnesses=(end_of(host),)).start()
        scene.grow(5)
        desk.until("5 are cosigned", lambda: host.size == 5)
    scene.grow(5)
    desk.until("it is noticed", lambda: bool(desk.notary.status().outlets[-1].failing))
    desk.until("the folder goes on", lambda: size_in(scene, published) == 10)
    assert desk.state() is NotaryState.SIGNING
    host.__enter__()
    desk.until("it is back", lambda: host.size == 10)
    desk.until("it is told", lambda: len(desk.events()) == 2)
    assert desk.events() == ["audit.publishing-failed", "audit.publishing-resumed"]
    host.__exit__(None, None, None)
    desk.stop()


def test_a_destination_that_hangs_keeps_neither_the_signing_nor_the_stop_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notary_module, "_LAST_TRY_S", 0.2)
    let_go = threading.Event()

    class Hanging:
        name = "folder"

        def __init__(self, *_: object) -> None: ...

        def publish(self, signed: Signed) -> None:
            let_go.wait()

        def close(self) -> None: ...

    monkeypatch.setattr(notary_module, "TileFolder", Hanging)
    desk = Desk(scene, folder=scene.folder / "published").start()
    for _ in range(3):
        scene.grow(5)
        desk.until_signed()
    scene.grow(5)
    began = time.monotonic()
    desk.stop()
    assert time.monotonic() - began < 4  # and not 5, as by default
    assert kept(scene) == 20
    let_go.set()


def test_an_outlet_tries_again_with_the_newest_after_growing_pauses_and_outlives_a_defect(scene: Scene) -> None:
    signing = scene.signing()
    heads = [signing.sign(*scene.grow(1)) for _ in range(4)]
    tried: list[tuple[int, float]] = []
    told: list[str] = []
    done = threading.Event()

    class Weak:
        name = "weak"

        def publish(self, signed: Signed) -> None:
            tried.append((signed.size, time.monotonic()))
            if len(tried) == 2:
                raise ZeroDivisionError("a defect")
            if len(tried) < 4:
                raise OutletFailed("away")
            done.set()

        def close(self) -> None:
            told.append("closed")

    outlet = Outlet(Weak, "weak", lambda _level, name, _facts: told.append(name), pause_min_s=0.05, pause_max_s=0.1)
    outlet.start()
    for head in heads:
        assert head is not None
        outlet.offer(head)
    assert done.wait(DEADLINE_S)
    outlet.end()
    assert outlet.join(DEADLINE_S)
    pauses = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(tried)]
    assert [round(pause, 2) >= least for pause, least in zip(pauses, (0.05, 0.1, 0.1), strict=True)] == [True] * 3
    assert tried[-1][0] == 4
    assert told == ["audit.publishing-failed", "closed", "audit.publishing-resumed", "closed"]
    assert (outlet.status.size, outlet.status.failing) == (4, "")
