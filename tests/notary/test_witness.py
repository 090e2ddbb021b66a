"""A witness gets each head with its proof; what it says about our history is believed, and only what it has signed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from gateway.notary import witness
from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed, Signing
from gateway.notary.witness import Conflict, WitnessConflict, WitnessDestination, WitnessEnd
from protocol.transparency.cosignatures import cosign
from protocol.transparency.notes import Signature, SignerKey
from tests.notary.scene import Scene
from tests.notary.witness_host import NAME, SEED, WitnessHost


@dataclass
class Told:
    """What the destination has said."""

    cosigned: list[tuple[Signed, tuple[Signature, ...]]] = field(default_factory=list)
    conflicts: list[WitnessConflict] = field(default_factory=list)


@pytest.fixture
def host(scene: Scene) -> Iterator[WitnessHost]:
    with WitnessHost(SignerKey(scene.origin, scene.seeds[0]).verifier) as made:
        yield made


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def dial(scene: Scene, host: WitnessHost, told: Told) -> Iterator[Callable[[], WitnessDestination]]:
    made: list[WitnessDestination] = []

    def dialled() -> WitnessDestination:
        end = WitnessEnd(host.key, host.url, None)
        made.append(WitnessDestination(end, scene.log, lambda *each: told.cosigned.append(each), told.conflicts.append))
        return made[-1]

    yield dialled
    for each in made:
        each.close()


def grown(scene: Scene, signing: Signing, entries: int) -> Signed:
    signed = signing.sign(*scene.grow(entries))
    assert signed is not None
    return signed


def test_growing_heads_are_cosigned_over_one_connection(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    signing, destination = scene.signing(), dial()
    for entries in (1, 1, 5, 256, 300, 3):
        signed = grown(scene, signing, entries)
        destination.publish(signed)
        assert host.size == signed.size
    assert host.asked == [200] * 6
    assert host.connections == 1
    assert [(signed.size, len(lines), lines[0].name) for signed, lines in told.cosigned] == [
        (size, 1, NAME) for size in (1, 2, 7, 263, 563, 566)
    ]


def test_after_a_restart_it_learns_what_the_witness_has(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    signing = scene.signing()
    dial().publish(grown(scene, signing, 10))
    dial().publish(grown(scene, signing, 10))
    assert host.asked == [200, 409, 200]
    assert host.size == 20
    assert not told.conflicts


def test_an_answer_that_was_lost_is_made_up_for(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    signing, destination = scene.signing(), dial()
    host.drops = 1
    first = grown(scene, signing, 10)
    with pytest.raises(OutletFailed):
        destination.publish(first)
    assert host.size == 10
    destination.publish(first)
    destination.publish(grown(scene, signing, 1))
    assert host.asked == [200, 409, 200, 200]
    assert not told.conflicts


def test_a_connection_that_the_witness_has_closed_meanwhile_is_dialled_again(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination]
) -> None:
    signing, destination = scene.signing(), dial()
    destination.publish(grown(scene, signing, 10))
    host.__exit__(None, None, None)
    with pytest.raises(OutletFailed, match=r"refused|reset|closed"):
        destination.publish(grown(scene, signing, 10))
    host.__enter__()
    destination.publish(grown(scene, signing, 10))
    assert host.size == 30


def test_a_witness_that_has_seen_more_than_the_journal_has_tells_of_a_restored_backup(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    scene.grow(40)
    scene.signing().sign(*scene.head())
    backup = scene.backup("monday")
    signing = scene.signing()
    dial().publish(grown(scene, signing, 10))
    scene.restore(backup)  # with the checkpoint of 40 entries: nothing on this machine can tell
    again = scene.signing()
    assert again.newest is not None
    with pytest.raises(OutletFailed, match="has seen 50 entries, the journal has fewer"):
        dial().publish(again.newest)
    assert told.conflicts == [WitnessConflict(NAME, Conflict.ROLLED_BACK, 50)]


def test_a_witness_that_has_refused_is_not_content_because_the_journal_has_grown(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    scene.grow(40)
    scene.signing().sign(*scene.head())
    backup = scene.backup("monday")
    dial().publish(grown(scene, scene.signing(), 10))
    scene.restore(backup)
    kept = scene.signing().newest
    assert kept is not None
    destination = dial()
    for entries in (0, 30):  # as the outlet tries again, while payments go on
        scene.grow(entries)
        with pytest.raises(OutletFailed, match="has seen 50 entries"):
            destination.publish(kept)
    assert told.conflicts == [WitnessConflict(NAME, Conflict.ROLLED_BACK, 50)] * 2


def test_a_witness_that_is_asked_with_an_old_head_of_a_whole_journal_is_content(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    signing = scene.signing()
    old = grown(scene, signing, 10)
    dial().publish(grown(scene, signing, 10))
    destination = dial()
    destination.publish(old)
    assert host.asked == [200, 409]
    assert not told.conflicts
    destination.publish(grown(scene, signing, 10))
    assert host.size == 30


def test_a_witness_that_has_seen_something_else_tells_of_a_fork(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    scene.grow(40)
    backup = scene.backup("monday")
    dial().publish(grown(scene, scene.signing(), 10))
    scene.restore(backup, whole=True)
    forked = scene.unopened()
    assert forked.open(*scene.head()) is None
    with pytest.raises(OutletFailed, match="another history"):
        dial().publish(grown(scene, forked, 30))
    assert host.asked == [200, 409, 422]
    assert [each.conflict for each in told.conflicts] == [Conflict.FORKED]
    assert host.size == 50


def test_the_head_of_no_entries_asks_a_witness_for_its_size_and_contradicts_nothing(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    signing = scene.signing()
    dial().publish(signing.empty())
    dial().publish(grown(scene, signing, 10))
    dial().publish(signing.empty())
    assert host.size == 10
    assert not told.conflicts


OTHER = bytes(range(32, 64))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, b""), "no cosignature"),
        ((200, b"thank you\n"), "no cosignature"),
        ((200, b"\xff" * 100), "no cosignature"),
        ((200, cosign("another text\n", NAME, SEED, 1).line.encode()), "no cosignature"),
        ((200, cosign("x\n", "other.example", OTHER, 1).line.encode()), "another key"),
        ((200, cosign("x\n", NAME, OTHER, 1).line.encode()), "another key"),
        ((200, b"x" * 70_000), "far too long"),
        ((409, b"many\n"), "without the size"),
        ((409, b"-1\n"), "without the size"),
        ((404, b""), "does not know this log"),
        ((403, b""), "by another key"),
        ((400, b"no\n"), "answered 400"),
        ((503, b""), "answered 503"),
        ((302, b""), "answered 302"),
    ],
    ids=lambda each: each[:25] if isinstance(each, str) else str(each[0]),
)
def test_an_answer_that_is_no_cosignature_of_its_key_is_told_and_not_kept(
    answer: tuple[int, bytes],
    reason: str,
    scene: Scene,
    host: WitnessHost,
    dial: Callable[[], WitnessDestination],
    told: Told,
) -> None:
    host.answers = [answer]
    destination = dial()
    signed = grown(scene, scene.signing(), 10)
    with pytest.raises(OutletFailed, match=reason):
        destination.publish(signed)
    assert not told.cosigned
    assert not told.conflicts
    destination.publish(signed)
    assert len(told.cosigned) == 1


def test_a_cosignature_for_a_time_to_come_is_not_kept(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], told: Told
) -> None:
    host.time_s = lambda: int(time.time()) + 86_400
    with pytest.raises(OutletFailed, match="its clock or ours"):
        dial().publish(grown(scene, scene.signing(), 10))
    assert not told.cosigned


def test_a_witness_whose_size_changes_each_time_is_given_up_for_now(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination]
) -> None:
    host.answers = [(409, b"1\n"), (409, b"2\n"), (409, b"3\n")]
    with pytest.raises(OutletFailed, match="another size each time"):
        dial().publish(grown(scene, scene.signing(), 10))


def test_a_silent_witness_is_waited_for_no_longer_than_its_deadline(
    scene: Scene, host: WitnessHost, dial: Callable[[], WitnessDestination], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "_WITHIN_S", 0.3)
    signed = grown(scene, scene.signing(), 10)
    host.answering.clear()  # for five seconds
    began = time.monotonic()
    with pytest.raises(OutletFailed, match="timed out"):
        dial().publish(signed)
    assert time.monotonic() - began < 4
    host.answering.set()
