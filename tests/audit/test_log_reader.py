"""The log part of a journal is read as it is: of one state, without keys, in use or not, and refused in words."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gateway.audit.verifying import Wanted, verify
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.port import JournalUnreadable
from gateway.journal.schema import FORMAT
from protocol.transparency.proofs import verify_consistency, verify_inclusion
from protocol.transparency.tree import EMPTY_ROOT, Frontier, leaf_hash
from tests.audit.scene import SALES, Attack, Scene, key_of
from tests.journal.rig import Rig, evolved, sale, sqlite_make

SIZE = 3 * SALES + 4


@pytest.mark.parametrize("subtrees", ["stored", "missing"])
def test_roots_and_proofs_are_those_of_the_leaves_whether_subtrees_are_stored_or_not(
    shop: Scene, subtrees: str
) -> None:
    if subtrees == "missing":
        shop.changed(("DELETE FROM subtree", ()))
    with Attack(shop) as attack:
        leaves = [leaf_hash(attack.body(sequence)) for sequence in range(1, SIZE + 1)]
    dice = random.Random(5)
    with LogReader(shop.journal) as reader:
        assert reader.size == SIZE
        assert reader.leaves(0, SIZE) == leaves
        assert reader.root(0) == EMPTY_ROOT
        for size in (1, 2, 255, 256, 257, 511, 512, 513, SIZE, dice.randint(1, SIZE)):
            root = Frontier().append(leaves[:size])[0].root()
            assert reader.root(size) == root
            index = dice.randrange(size)
            verify_inclusion(leaves[index], index, size, reader.inclusion(index, size), root)
            verify_consistency(size, SIZE, root, reader.root(SIZE), reader.consistency(size, SIZE))


def test_entries_come_in_order_with_their_parts(shop: Scene) -> None:
    with LogReader(shop.journal) as reader:
        entries = list(reader.entries(250, 260))
        assert [entry.sequence for entry in entries] == list(range(251, 261))
        assert all(leaf_hash(entry.body) == entry.leaf for entry in entries)
        assert reader.entry(0).account is not None
        assert reader.sensitive(3 * SALES + 1) is not None
        assert reader.sensitive(1) is None
        assert list(reader.entries(SIZE, SIZE)) == []


def test_a_gap_is_told_with_the_entry_that_is_missing(shop: Scene) -> None:
    shop.changed(("DELETE FROM entry WHERE sequence = 300", ()))
    with LogReader(shop.journal) as reader:
        with pytest.raises(LogDamaged) as damaged:
            list(reader.entries(0, SIZE))
        assert damaged.value.sequence == 300
        with pytest.raises(LogDamaged) as damaged:
            reader.leaves(256, 512)
        assert damaged.value.sequence == 300
        with pytest.raises(LogDamaged):
            reader.hashes(0, SIZE)


def test_a_journal_in_use_is_read_as_it_was_and_the_gateway_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    rig = Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open()
    try:
        for number in range(20):
            rig.write(sale(key_of(number)))
        with LogReader(journal) as reader:
            root = reader.root(20)
            row = list(reader.select("SELECT row FROM tx WHERE id = 1"))
            rig.write(evolved(rig.load(1).transaction, State.STORED, kind=EntryKind.SENDING, attempts=1))
            assert list(reader.select("SELECT row FROM tx WHERE id = 1")) == row, "of one state, rows too"
            for number in range(20, 600):
                rig.write(sale(key_of(number)))
            assert reader.size == 20
            assert reader.root(20) == root
            assert len(list(reader.entries(0, 20))) == 20
            reader.check_unchanged()
        verdict = verify(Wanted(journal=journal), lambda _what, _part: None)
        assert verdict.whole, verdict.findings
        assert verdict.size == 601
        assert rig.run(rig.journal.health()).entries == 601
    finally:
        rig.close()


def test_a_copy_is_read_without_anything_made_beside_it(shop: Scene) -> None:
    before = sorted(path.name for path in shop.journal.parent.iterdir())
    shop.journal.parent.chmod(0o500)
    try:
        with LogReader(shop.journal) as reader:
            assert reader.root(SIZE) == root_from(reader)
    finally:
        shop.journal.parent.chmod(0o700)
    assert sorted(path.name for path in shop.journal.parent.iterdir()) == before


def root_from(reader: LogReader) -> bytes:
    return Frontier().append([leaf_hash(entry.body) for entry in reader.entries(0, reader.size)])[0].root()


def test_a_journal_that_comes_into_use_while_it_is_read_as_unused_is_told(shop: Scene) -> None:
    with LogReader(shop.journal) as reader:
        reader.check_unchanged()
        rig = Rig(sqlite_make(shop.journal, shop.keyring)).open()
        try:
            with pytest.raises(JournalUnreadable, match="run this again"):
                reader.check_unchanged()
        finally:
            rig.close()


def test_verifying_a_journal_that_comes_into_use_meanwhile_fails_rather_than_mixing_two_states(shop: Scene) -> None:
    opened: list[Rig] = []

    def open_once(_what: str, _part: float) -> None:
        if not opened:
            opened.append(Rig(sqlite_make(shop.journal, shop.keyring)).open())

    try:
        with pytest.raises(JournalUnreadable, match="run this again"):
            verify(Wanted(journal=shop.journal), open_once)
    finally:
        opened[0].close()


def test_an_empty_journal_is_whole_and_has_the_root_of_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open().close()
    with LogReader(journal) as reader:
        assert reader.size == 0
        assert reader.root(0) == EMPTY_ROOT
    verdict = verify(Wanted(journal=journal), lambda _what, _part: None)
    assert verdict.whole
    assert verdict.root == EMPTY_ROOT.hex()


def test_what_is_no_journal_of_this_format_is_refused_in_words(shop: Scene, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(JournalUnreadable) as refused:
            LogReader(path)
        return str(refused.value)

    assert refusal(tmp_path / "absent").endswith("does not exist")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "text").write_text("entry", encoding="utf-8")
    assert refusal(tmp_path / "text").endswith("is not a journal")
    for format_, words in ((FORMAT - 1, "an older release"), (FORMAT + 1, "a newer release")):
        other = tmp_path / f"format{format_}"
        shutil.copy(shop.journal, other)
        content = bytearray(other.read_bytes())
        content[60:64] = format_.to_bytes(4)
        other.write_bytes(content)
        assert words in refusal(other)
    foreign = bytearray(shop.journal.read_bytes())
    foreign[68:72] = bytes(4)
    (tmp_path / "foreign").write_bytes(foreign)
    assert "a SQLite database, but not a journal" in refusal(tmp_path / "foreign")
