"""Flipped bits: whatever is read is the true record, or is reported as damaged; never something else."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from gateway.core.effects import Limit, Write
from gateway.core.events import Existing, Lookup
from gateway.core.lifecycle import IN_DOUBT_AFTER_CRASH, REPLAYABLE, State
from gateway.core.transaction import Answer, Stored
from gateway.journal.keyring import Keyring
from gateway.journal.mark import mark_path
from gateway.journal.port import JournalError, JournalUnreadable
from tests.journal.conformance import loaded
from tests.journal.rig import TRACK, Rig, evolved, sale, sqlite_make

FLIPS = 220
BATCHES = ["B000001|M|T1", "B000002|M|T1", "B000001|M|T2"]
LANES = [f"M/T{n}" for n in range(8)]
STATES = [State.STORED, State.STORED, State.APPROVED, State.ASKING, State.REVERSING, State.PARKED, State.DECLINED]


def fill(rig: Rig, count: int) -> dict[int, Stored]:
    """A journal with every kind of record in it, and what it holds."""
    limit = Limit("all", None, None, None, "")
    for n in range(count):
        rig.write(
            sale(
                f"{BATCHES[n % len(BATCHES)]}|2|{n:06}",
                lane=LANES[n % len(LANES)],
                state=STATES[n % len(STATES)],
                sensitive={35: TRACK} if n % 3 == 0 else {},
                reserve=(limit, Limit(f"card{n}", None, None, None, "")),
            )
        )
    for n in range(1, count, 11):
        stored = loaded(rig, n).transaction
        rig.write(evolved(stored, State.APPROVED, answer=Answer("0230", {39: "00"})))
    return {n: loaded(rig, n) for n in range(1, count + 1)}


def examine(rig: Rig, truth: dict[int, Stored], seed: int) -> int:
    """Read everything in every way; the number of reads that were reported as damaged."""
    told = 0
    for number, stored in truth.items():
        for found in (rig.load(number), *rig.find(stored.transaction.key)):
            assert found in (stored, Lookup.DAMAGED), f"seed {seed}: {number} read as {found}"
            told += found is Lookup.DAMAGED
    assert rig.load(10_000) is Lookup.ABSENT or rig.failure
    lanes = set(rig.run(rig.journal.owing_lanes()))
    heads = {lane: list(rig.heads(lane).stored) for lane in LANES}
    found_doubtful = rig.run(rig.journal.in_doubt(1000))
    rig.settle()
    for batch in BATCHES:
        told += not examine_batch(rig, truth, batch, seed)
    for lane, got in heads.items():
        true = [s for s in truth.values() if s.transaction.lane == lane and s.transaction.state in REPLAYABLE]
        assert got == [each for each in true if each in got], f"seed {seed}: lane {lane} shows what it does not owe"
        missing = len(true) - len(got)
        told += missing
        assert not missing or rig.damaged or rig.failure, f"seed {seed}: lane {lane} silently lacks {missing}"
        assert lane in lanes or not got or rig.damaged, f"seed {seed}: lane {lane} is silently not listed"
    doubtful = [s for s in truth.values() if s.transaction.state in IN_DOUBT_AFTER_CRASH]
    assert all(each in doubtful for each in found_doubtful)
    assert len(found_doubtful) == len(doubtful) or rig.damaged, f"seed {seed}: an in-doubt one is silently missing"
    for number in (1, len(truth)):
        again = rig.perform(Write(rig.next_token(), (sale(truth[number].transaction.key),)))
        if again:
            assert isinstance(again[0], Existing), f"seed {seed}: {number} would be charged twice"
            assert again[0].stored in (truth[number], None)
    return told


def examine_batch(rig: Rig, truth: dict[int, Stored], batch: str, seed: int) -> bool:
    """Whether a batch, and the listings of its terminal, are read whole."""
    true = [each for each in truth.values() if each.transaction.key.startswith(batch + "|")]
    if rig.failure is not None:
        return False
    read = rig.batch(batch)
    got = list(read.stored)
    assert got == [each for each in true if each in got], f"seed {seed}: batch {batch} shows what is not of it"
    assert got == true or not read.whole, f"seed {seed}: batch {batch} silently lacks {len(true) - len(got)}"
    terminal = batch.rpartition("|")[2]
    try:
        listed = rig.listed(terminal=terminal)
    except JournalUnreadable:  # a page of its lookup table: said to who asked, and nothing else stops
        return False
    assert all(truth[each].transaction.terminal == terminal for each in listed if each in truth)
    return read.whole


def test_after_any_flipped_bit_nothing_wrong_is_ever_served(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / "journal.db"
    rig = Rig(sqlite_make(path, keyring)).open()
    truth = fill(rig, 60)
    rig.close()
    whole, marked = path.read_bytes(), mark_path(path).read_bytes()
    refused = told = 0
    for seed in range(FLIPS):
        chance = random.Random(seed)
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        mark_path(path).write_bytes(marked)  # the last round has gone on from here
        rig = Rig(sqlite_make(path, keyring))
        try:
            rig.open()
        except JournalError:
            refused += 1
            continue
        try:
            told += examine(rig, truth, seed) > 0
        except JournalError:  # a page of what a start asks for: it is said to who asked, and the gateway does not start
            told += 1
        finally:
            rig.close()
    assert told + refused > FLIPS // 10, "the flips hit nothing that matters"
    assert refused < FLIPS // 2


def overwrite(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


DAMAGES = {
    "row": "UPDATE tx SET row = zeroblob(200) WHERE id = 2",
    "row under another id": "UPDATE tx SET row = (SELECT row FROM tx WHERE id = 3) WHERE id = 2",
    "row missing": "DELETE FROM tx WHERE id = 2",
    "entry": "UPDATE entry SET leaf = zeroblob(32) WHERE sequence = 2",
    "entry under another sequence": (
        "UPDATE entry SET (body, leaf) = (SELECT body, leaf FROM entry WHERE sequence = 3) WHERE sequence = 2"
    ),
    "account part": "UPDATE entry SET account = zeroblob(300) WHERE sequence = 2",
    "account part of another": (
        "UPDATE entry SET account = (SELECT account FROM entry WHERE sequence = 3) WHERE sequence = 2"
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_record_is_set_aside_once_and_its_lane_goes_on(tmp_path: Path, rig: Rig, what: str) -> None:
    for n in range(1, 4):
        rig.write(sale(f"k|{n:06}"))
    rig.close()
    overwrite(tmp_path / "journal.db", DAMAGES[what])
    rig.open()
    assert [each.transaction.id for each in rig.heads("M/T").stored] == [1, 3]
    assert rig.load(2) is Lookup.DAMAGED
    assert rig.find("k|000002") == (Lookup.DAMAGED,)
    assert (rig.load(2, "k|000002"), rig.load(2, "k|000003")) == (Lookup.DAMAGED, Lookup.ABSENT)
    assert rig.existing(sale("k|000002")) is None
    rig.reopen()
    assert [each.transaction.id for each in rig.heads("M/T").stored] == [1, 3]
    assert rig.load(2) is Lookup.DAMAGED
    rig.settle()
    of_tree = [0] if what.startswith("entry") else []  # the next root needs its leaf
    assert [each.sequence for each in rig.damaged] == [*of_tree, 2]
    health = rig.run(rig.journal.health())
    assert (health.quarantined, health.counts[State.STORED]) == (1 + len(of_tree), 2)


def test_an_update_of_a_damaged_record_writes_it_anew(tmp_path: Path, rig: Rig) -> None:
    rig.write(sale(state=State.ASKING, answer=None))
    asking = loaded(rig, 1).transaction
    rig.close()
    overwrite(tmp_path / "journal.db", "UPDATE tx SET row = zeroblob(200)")
    rig.open()
    rig.write(evolved(asking, State.APPROVED, answer=Answer("0210", {39: "00"})))
    assert loaded(rig, 1).transaction.state is State.APPROVED
    assert [each.sequence for each in rig.damaged] == [1]
    assert rig.run(rig.journal.in_doubt(9)) == []


def test_a_damaged_counter_refuses_what_it_can_no_longer_bound(tmp_path: Path, rig: Rig) -> None:
    limit = Limit("all", 10, None, None, "bound")
    rig.write(sale("k|000001", reserve=(limit,)))
    rig.close()
    overwrite(tmp_path / "journal.db", "UPDATE counter SET count = 0")
    rig.open()
    refused = rig.write(sale("k|000002", reserve=(limit,)))
    assert getattr(refused, "reason", None) == "bound"
    assert [each.what for each in rig.damaged] == ["counter all"]


def test_an_in_doubt_transaction_that_its_table_has_lost_is_still_found(tmp_path: Path, rig: Rig) -> None:
    for n in range(1, 4):
        rig.write(sale(f"k|{n:06}", state=State.ASKING, answer=None))
    rig.reopen()  # a start would put it back
    overwrite(tmp_path / "journal.db", "DELETE FROM unsettled WHERE id = 2")
    assert [each.transaction.id for each in rig.run(rig.journal.in_doubt(10))] == [1, 2, 3]


@pytest.mark.parametrize("lane", [b"M/\xc3", b"M/S", b"M/U", b""])
def test_an_entry_of_the_queue_with_a_wrong_lane_is_put_right(tmp_path: Path, rig: Rig, lane: bytes) -> None:
    rig.write(sale("k|000001"))
    rig.close()
    overwrite(tmp_path / "journal.db", "UPDATE owing SET lane = ?", lane)
    rig.open()
    assert rig.run(rig.journal.owing_lanes()) == ["M/T"]
    rig.settle()
    assert [each.transaction.id for each in rig.heads("M/T").stored] == [1]
    assert [each.sequence for each in rig.damaged] == [1]


@pytest.mark.parametrize("table", ["by_key", "by_key_again"])
def test_a_key_that_one_lookup_table_has_lost_is_still_no_new_transaction(tmp_path: Path, rig: Rig, table: str) -> None:
    rig.write(sale("k|000001"))
    stored = loaded(rig, 1)
    rig.reopen()  # a start would say so
    overwrite(tmp_path / "journal.db", f"DELETE FROM {table}")  # noqa: S608 - one of two names
    assert rig.existing(sale("k|000001")) == stored
    assert rig.find("k|000001") == (stored,)


def test_a_cut_tail_is_noticed_at_opening(tmp_path: Path, rig: Rig) -> None:
    rig.write(sale("k|000001"))
    rig.write(sale("k|000002"))
    rig.close()
    overwrite(tmp_path / "journal.db", "DELETE FROM entry WHERE sequence = 2")
    with pytest.raises(JournalError, match="newest entry"):
        rig.open()
