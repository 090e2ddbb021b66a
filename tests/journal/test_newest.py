"""What has left for the tables is let go of a little at a time, and only that."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from gateway.core.lifecycle import State
from gateway.journal import batch, newest
from gateway.journal.keyring import create_keyring
from gateway.journal.newest import Newest
from gateway.journal.rows import RowCodec, row_of
from tests.journal.rig import Rig, evolved, sale, sqlite_make
from tests.journal.test_rows import WHOLE

pytestmark = pytest.mark.interpreted

A_FEW: Final = 4


def test_a_generation_that_has_left_goes_bit_by_bit_and_the_next_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "_LET_GO_AT_ONCE", A_FEW)
    codec = RowCodec(b"k" * 32)
    gathered = Newest(codec)

    def gather(numbers: range) -> None:
        for number in numbers:
            one = replace(WHOLE, state=State.STORED, key=f"key{number}", alias="")
            gathered.add_row(row_of(one, number, number, 0, answered_at=0, retained=False))

    gather(range(1, 11))
    leaving = gathered.leave(10)
    gathered.let_go()
    assert [gathered.of_key(f"key{number}") for number in range(1, 11)] == list(range(1, 11)), "it is leaving still"
    list(leaving.slices(sqlite3.connect(":memory:")))
    gathered.left()
    gather(range(11, 31))
    for still in (10 - A_FEW, 10 - 2 * A_FEW, 0, 0):
        gathered.let_go()
        assert len(leaving.keys) == still
    assert [gathered.of_key(f"key{number}") for number in range(1, 31)] == [None] * 10 + list(range(11, 31))
    assert gathered.owing_of(WHOLE.lane, 100) == [(number, number) for number in range(11, 31)]
    assert sorted(gathered.unsettled({State.STORED})) == list(range(11, 31))


def test_of_the_rows_that_change_again_the_oldest_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "RECENT_MAX", 6)
    monkeypatch.setattr(batch, "_FORGOTTEN_AT_ONCE", 2)
    rig = Rig(sqlite_make(tmp_path / "journal.db", create_keyring(tmp_path / "keys"))).open()
    kept = []
    for number in range(1, 21):
        rig.write(sale(f"key{number}"))
        kept.append(list(rig.journal._batcher._open_rows))  # type: ignore[attr-defined]
    assert kept[6:10] == [[*range(1, 8)], [*range(1, 9)], [*range(3, 10)], [*range(3, 11)]]
    assert max(map(len, kept)) == 8
    for number in (1, 20):
        rig.write(evolved(rig.load(number).transaction, State.APPROVED))
        assert rig.load(number).transaction.state is State.APPROVED
    rig.close()
