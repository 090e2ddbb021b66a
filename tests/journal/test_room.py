"""Room on the disk: what is refused first, what later, and that nothing a stranger asks for goes on without end."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.effects import Create
from gateway.core.events import Committed, WriteRefused
from gateway.core.lifecycle import State
from gateway.core.transaction import Kind
from gateway.journal import room
from gateway.journal.keyring import Keyring
from gateway.journal.room import OUTCOME_BYTES, Need, Room
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, evolved, sale, sqlite_make


def of_kind(kind: Kind, key: str) -> Create:
    """A new transaction of another kind."""
    made = sale(key)
    return replace(made, transaction=replace(made.transaction, kind=kind))


def test_reversals_of_what_never_was_end_before_others_and_outcomes_never_do(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RESERVE_MIN_BYTES", 1024 * 1024)
    monkeypatch.setattr(room, "_LOOKS_PER_S", 1_000_000)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring, limit_bytes=1)).open()
    monkeypatch.setattr(room, "bytes_on_disk", lambda _: 0)
    assert isinstance(rig.write(sale("k|000001")), Committed)
    monkeypatch.undo()
    monkeypatch.setattr(room, "_LOOKS_PER_S", 1_000_000)
    assert isinstance(rig.write(sale("k|000002")), WriteRefused)
    taken: dict[Kind, int] = {}
    for kind in (Kind.UNSEEN, Kind.REVERSAL):
        for number in range(1, 2_000):
            if isinstance(rig.write(of_kind(kind, f"{kind.name}|{number:06}")), WriteRefused):
                break
            taken[kind] = number
        else:
            raise AssertionError(f"{kind.name} goes on without end")
    print(f"beyond the limit, of a reserve of 1 MiB: {taken}")
    assert taken[Kind.UNSEEN] > 5
    assert taken[Kind.REVERSAL] > 5, "reversing what never was has used up the room of the others"
    assert isinstance(rig.write(of_kind(Kind.UNSEEN, "UNSEEN|999999")), WriteRefused)
    assert isinstance(rig.write(evolved(loaded(rig, 1).transaction, State.APPROVED)), Committed)
    rig.close()


@pytest.mark.parametrize(
    ("free", "refused"), [(1_000, []), (999, [Need.NEW]), (499, [Need.NEW, Need.UNSEEN]), (249, list(Need))]
)
def test_each_need_has_its_own_share_of_the_free_space_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: list[Need]
) -> None:
    monkeypatch.setattr(room, "bytes_free", lambda _: free)
    kept = Room(tmp_path / "journal.db", 1_000, 1 << 50, lambda: 0)
    assert [need for need in Need if kept.refusal(need)] == refused


@pytest.mark.parametrize(
    ("more", "refused"), [(1_000, []), (999, [Need.NEW]), (499, [Need.NEW, Need.UNSEEN]), (249, list(Need))]
)
def test_what_the_outcomes_of_the_backlog_take_is_kept_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, refused: list[Need]
) -> None:
    monkeypatch.setattr(room, "bytes_free", lambda _: 100_000 * OUTCOME_BYTES + more)
    kept = Room(tmp_path / "journal.db", 1_000, 1 << 50, lambda: 100_000)
    assert [need for need in Need if kept.refusal(need)] == refused
    assert not Room(tmp_path / "journal.db", 0, 1 << 50, lambda: 1 << 40).refusal()


def test_what_has_no_outcome_yet_is_counted_as_backlog(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOKS_PER_S", 1_000_000)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring, min_free_bytes=1)).open()
    for number in range(3):
        rig.write(sale(f"k|{number:06}"))
    for owed in (3, 2):
        monkeypatch.setattr(room, "bytes_free", lambda _, owed=owed: owed * OUTCOME_BYTES)
        assert "are kept for outcomes" in rig.run(rig.journal.health()).reason
        monkeypatch.setattr(room, "bytes_free", lambda _, owed=owed: owed * OUTCOME_BYTES + 1)
        assert rig.run(rig.journal.health()).writable
        assert isinstance(rig.write(evolved(loaded(rig, owed).transaction, State.APPROVED)), Committed)
    rig.close()


@pytest.mark.parametrize(("limit_mib", "reserve_mib"), [(100, 64), (1_000, 250)])
def test_the_reserve_above_the_limit_is_a_quarter_of_it_and_at_least_64_mib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_mib: int, reserve_mib: int
) -> None:
    mib = 1024 * 1024
    for need, share in ((Need.NEW, 0.0), (Need.UNSEEN, 0.5), (Need.REVERSAL, 1.0)):
        bound = int((limit_mib + reserve_mib * share) * mib)
        for used, full in ((bound - 1, False), (bound, True)):
            monkeypatch.setattr(room, "bytes_on_disk", lambda _, used=used: used)
            assert bool(Room(tmp_path / "journal.db", 0, limit_mib * mib, lambda: 0).refusal(need)) is full
