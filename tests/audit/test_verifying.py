"""`audit verify` names each kind of damage to entries and their tree, and finds nothing where there is none."""

from __future__ import annotations

import random
import resource
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.audit.damage import Damage
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import KeyPurpose, create_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.port import JournalError, JournalKeysWrong, JournalUnreadable
from gateway.journal.schema import PAGE_BYTES
from protocol.transparency.tiles import build_tile, tiles_of
from tests.audit.scene import (
    OWED,
    SALES,
    SIZE,
    Attack,
    Scene,
    flipped,
    kinds,
    only,
    root_of,
)
from tests.crash.amounts import TIMES


def test_a_journal_that_nobody_has_touched_is_whole_and_its_root_is_that_of_its_entries(whole_shop: Scene) -> None:
    verdict = whole_shop.verified(keyring=whole_shop.keyring)
    assert verdict.whole, [str(finding) for finding in verdict.findings]
    assert verdict.size == SIZE
    assert verdict.root == root_of(whole_shop, SIZE).hex()
    assert verdict.transactions == verdict.rows == SALES + 3
    assert verdict.parts > 2 * SALES
    assert [(head.size, head.fits) for head in verdict.heads] == [(SIZE, True)] * 3
    assert [head.signature_verified for head in verdict.heads] == [True, True, None]


def test_a_flipped_bit_of_an_entry_is_told_with_its_place_and_nothing_else_is(
    whole_shop: Scene, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    for turn in range(10 * TIMES):
        scene = whole_shop.copied(tmp_path / str(turn))
        sequence = dice.randint(1, SIZE)
        with Attack(scene) as attack:
            body = attack.body(sequence)
            bit = dice.randrange(len(body) * 8)
            attack.connection.execute("UPDATE entry SET body = ? WHERE sequence = ?", (flipped(body, bit), sequence))
        verdict = scene.verified()
        assert only(verdict, Damage.FLIPPED) == {Damage.FLIPPED: [(sequence, sequence)]}, f"seed {seed}, bit {bit}"
        assert f"bit {bit & 7} of byte {bit >> 3} " in verdict.findings[0].text


@pytest.mark.parametrize("sequence", [1, 256, 257, SIZE])
def test_a_flipped_bit_of_a_leaf_hash_is_told(shop: Scene, sequence: int) -> None:
    with Attack(shop) as attack:
        (leaf,) = attack.connection.execute("SELECT leaf FROM entry WHERE sequence = ?", (sequence,)).fetchone()
        attack.connection.execute("UPDATE entry SET leaf = ? WHERE sequence = ?", (flipped(leaf, 77), sequence))
    assert only(shop.verified(), Damage.FLIPPED)[Damage.FLIPPED] == [(sequence, sequence)]


def test_a_leaf_hash_that_is_quite_another_is_told_from_an_entry_that_is(shop: Scene) -> None:
    shop.changed(("UPDATE entry SET leaf = ? WHERE sequence = 100", (bytes(32),)))
    assert only(shop.verified(), Damage.LEAF)[Damage.LEAF] == [(100, 100)]


@pytest.mark.parametrize("sequence", [4, 256, SIZE - 3])
def test_a_changed_ciphertext_is_told(shop: Scene, sequence: int) -> None:
    sequence -= (sequence - 1) % 3  # the first entry of a sale has an account part
    with Attack(shop) as attack:
        sql = "SELECT account FROM entry WHERE sequence = ?"
        (account,) = attack.connection.execute(sql, (sequence,)).fetchone()
        attack.connection.execute("UPDATE entry SET account = ? WHERE sequence = ?", (flipped(account, 99), sequence))
    assert only(shop.verified(), Damage.CIPHERTEXT)[Damage.CIPHERTEXT] == [(sequence, sequence)]


def test_a_ciphertext_that_was_taken_away_or_put_where_none_was_is_told(shop: Scene) -> None:
    shop.changed(
        ("UPDATE entry SET account = NULL WHERE sequence = 1", ()),
        ("UPDATE entry SET account = x'00' WHERE sequence = 2", ()),
    )
    found = only(shop.verified(), Damage.CIPHERTEXT_MISSING, Damage.CIPHERTEXT)
    assert found == {Damage.CIPHERTEXT_MISSING: [(1, 1)], Damage.CIPHERTEXT: [(2, 2)]}


def test_a_changed_sensitive_part_is_told_and_one_that_outlived_its_transaction_too(shop: Scene) -> None:
    assert shop.verified().whole
    shop.changed(("UPDATE sensitive SET ciphertext = x'0102' WHERE sequence = ?", (OWED,)))
    assert only(shop.verified(), Damage.CIPHERTEXT)[Damage.CIPHERTEXT] == [(OWED, OWED)]
    shop.changed(("DELETE FROM sensitive", ()))
    assert shop.verified().whole
    with Attack(shop) as attack:
        attack.connection.execute("INSERT INTO sensitive VALUES (?, x'00')", (1,))
    assert set(only(shop.verified(), Damage.SENSITIVE, Damage.CIPHERTEXT)) >= {Damage.SENSITIVE}


def test_a_part_that_another_key_sealed_does_not_open(shop: Scene) -> None:
    """Ciphertext and commitment exchanged, everything made to fit and signed: only the key tells."""
    with Attack(shop) as attack:
        entry = attack.entry(1)
        parts = (entry.parts[0]._replace(digest=sha256(b"x" * 40).digest()),)
        attack.connection.execute("UPDATE entry SET account = ? WHERE sequence = 1", (b"x" * 40,))
        assert replace(entry, parts=parts) != entry
        attack.edit(1, leaf=True, parts=parts)
        attack.sign(attack.make_fit())
    assert shop.verified(checkpoint=None).whole
    opened = shop.verified(checkpoint=None, keyring=shop.keyring)
    assert only(opened, Damage.UNOPENED)[Damage.UNOPENED] == [(1, 1)]


def test_what_a_destroyed_key_sealed_is_no_damage_and_what_an_unknown_one_sealed_is(shop: Scene) -> None:
    ring = shop.keyring
    number = ring.current[KeyPurpose.SENSITIVE]
    keys = {each: key for each, key in ring.keys.items() if each != number}
    gone = {**ring.records, number: msgspec.structs.replace(ring.records[number], wrapped=None)}
    assert shop.verified(keyring=replace(ring, keys=keys, records=gone)).whole
    found = only(shop.verified(keyring=replace(ring, keys=keys)), Damage.UNOPENED)
    assert found[Damage.UNOPENED] == [(OWED, OWED)]


def test_the_keyring_of_another_journal_is_refused(shop: Scene, tmp_path: Path) -> None:
    with pytest.raises(JournalKeysWrong, match="this is keyring"):
        shop.verified(keyring=create_keyring(tmp_path / "others"))


@pytest.mark.parametrize(("first", "last"), [(5, 5), (256, 256), (100, 300), (1, 1)])
def test_dropped_entries_are_told(shop: Scene, first: int, last: int) -> None:
    shop.changed(("DELETE FROM entry WHERE sequence BETWEEN ? AND ?", (first, last)))
    assert (first, last) in kinds(shop.verified())[Damage.MISSING]


def test_an_entry_that_was_dropped_and_the_gap_closed_is_told(shop: Scene) -> None:
    shop.changed(
        ("DELETE FROM entry WHERE sequence = 50", ()),
        ("UPDATE entry SET sequence = -sequence WHERE sequence > 50", ()),
        ("UPDATE entry SET sequence = -sequence - 1 WHERE sequence < 0", ()),
    )
    verdict = shop.verified()
    assert kinds(verdict)[Damage.MISSING][0][0] == 50
    assert Damage.CUT_TAIL in kinds(verdict)


@pytest.mark.parametrize(("one", "other"), [(2, 5), (10, 300), (SIZE - 9, SIZE - 3)])
def test_swapped_entries_are_told(shop: Scene, one: int, other: int) -> None:
    shop.changed(
        ("UPDATE entry SET sequence = -1 WHERE sequence = ?", (one,)),
        ("UPDATE entry SET sequence = ? WHERE sequence = ?", (one, other)),
        ("UPDATE entry SET sequence = ? WHERE sequence = -1", (other,)),
    )
    verdict = shop.verified()
    assert kinds(verdict)[Damage.SWAPPED] == [(one, one)]
    assert f"entry {other} " in next(each.text for each in verdict.findings if each.kind is Damage.SWAPPED)


@pytest.mark.parametrize("sequence", [3, 300, SIZE - 1])
def test_an_edited_entry_is_told(shop: Scene, sequence: int) -> None:
    with Attack(shop) as attack:
        attack.edit(sequence, leaf=False, detail="nothing happened here")
    assert only(shop.verified(), Damage.EDITED)[Damage.EDITED] == [(sequence, sequence)]


@pytest.mark.parametrize(("sequence", "first", "last"), [(3, 1, 256), (300, 257, 512)])
def test_an_edited_entry_with_its_leaf_made_to_fit_is_told_by_the_stored_tree(
    shop: Scene, tmp_path: Path, sequence: int, first: int, last: int
) -> None:
    publish(shop, tmp_path / "published")
    with Attack(shop) as attack:
        attack.edit(sequence, leaf=True, detail="nothing happened here")
    assert only(shop.verified(), Damage.REWRITTEN)[Damage.REWRITTEN] == [(first, last)]
    found = only(shop.verified(published=tmp_path / "published"), Damage.REWRITTEN, Damage.EDITED)
    assert found[Damage.EDITED] == [(sequence, sequence)]


def test_an_entry_edited_with_its_whole_tree_made_to_fit_is_told_by_the_signed_checkpoint(
    shop: Scene, tmp_path: Path
) -> None:
    publish(shop, tmp_path / "published")
    with Attack(shop) as attack:
        attack.edit(40, leaf=True, detail="nothing happened here")
        attack.make_fit()
    assert kinds(shop.verified(checkpoint=None))[Damage.REWRITTEN_TAIL] == [(1, SIZE)]
    found = kinds(shop.verified(published=tmp_path / "published"))
    assert found[Damage.EDITED] == [(40, 40)]


def test_an_edited_entry_of_the_newest_part_with_its_leaf_made_to_fit_is_told(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.edit(SIZE, leaf=True, detail="nothing happened here")
    assert set(only(shop.verified(), Damage.REWRITTEN_TAIL)) == {Damage.REWRITTEN_TAIL}


@pytest.mark.parametrize("level", [1])
def test_a_flipped_bit_of_a_stored_subtree_is_told_from_rewritten_entries(shop: Scene, level: int) -> None:
    with Attack(shop) as attack:
        sql = "SELECT hash FROM subtree WHERE level = ? AND number = 1"
        (stored,) = attack.connection.execute(sql, (level,)).fetchone()
        attack.connection.execute(
            "UPDATE subtree SET hash = ? WHERE level = ? AND number = 1", (flipped(stored, 3), level)
        )
    assert only(shop.verified(), Damage.SUBTREE)[Damage.SUBTREE] == [(257, 512)]


@pytest.mark.parametrize(
    ("sequence", "changes", "damage"),
    [
        (2, {"kind": EntryKind.RECOVERED, "state": State.REVERSING}, Damage.TRANSITION),
        (2, {"kind": EntryKind.KEY}, Damage.TRANSITION),
        (2, {"transaction": 0}, Damage.TRANSITION),
        (2, {"transaction": 600}, Damage.TRANSITION),
        (2, {"transaction": 1 << 62}, Damage.TRANSITION),
        (3, {"state": State.REVERSED}, Damage.TRANSITION),
        (3, {"kind": EntryKind.RECOVERED, "state": State.REVERSING}, Damage.TRANSITION),
        (1, {"state": State.DECLINED}, Damage.TRANSITION),
        (2, {"attempts": 2}, Damage.TRANSITION),
        (3, {"amount_minor": 1}, Damage.PAYMENT),
        (3, {"currency": "840"}, Damage.PAYMENT),
        (3, {"fingerprint": b"g" * 16}, Damage.PAYMENT),
        (30, {"time_ms": 1}, Damage.TIME),
    ],
)
def test_an_entry_that_no_gateway_writes_is_told_even_where_everything_is_made_to_fit(
    shop: Scene, sequence: int, changes: dict[str, Any], damage: Damage
) -> None:
    with Attack(shop) as attack:
        attack.edit(sequence, leaf=True, **changes)
        attack.sign(attack.make_fit())
    assert (sequence, sequence) in kinds(shop.verified(checkpoint=None))[damage]


def test_a_step_back_is_told_once_however_many_entries_have_the_time_behind_it(shop: Scene) -> None:
    with Attack(shop) as attack:
        for sequence in (30, 31, 32):
            attack.edit(sequence, leaf=True, time_ms=1)
        attack.sign(attack.make_fit())
    assert kinds(shop.verified(checkpoint=None))[Damage.TIME] == [(30, 30)]


def test_bytes_that_are_no_entry_are_told(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.connection.execute("UPDATE entry SET body = x'02' WHERE sequence = 8")
        attack.connection.execute("UPDATE entry SET body = 'text' WHERE sequence = 9")
    assert kinds(shop.verified())[Damage.MALFORMED] == [(8, 9)]


@pytest.mark.parametrize("sequence", [300, SIZE])
def test_a_page_that_cannot_be_read_is_told_with_its_entries_and_the_rest_is_verified(
    shop: Scene, sequence: int
) -> None:
    with Attack(shop) as attack:
        body = attack.body(sequence)
    content = bytearray(shop.journal.read_bytes())
    page = content.index(body) // PAGE_BYTES * PAGE_BYTES
    content[page] = 0xFF  # no kind of page that there is
    shop.journal.write_bytes(content)
    verdict = shop.verified()
    (first, last), *others = kinds(verdict)[Damage.UNREADABLE]
    assert not others
    assert first <= sequence <= last < first + 50
    assert verdict.size == SIZE
    assert Damage.MISSING not in kinds(verdict)


def test_a_flipped_byte_anywhere_in_the_file_is_told_or_changes_nothing_that_is_proved(
    whole_shop: Scene, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    untouched = proved(whole_shop.journal)
    told = 0
    for turn in range(30 * TIMES):
        scene = whole_shop.copied(tmp_path / str(turn))
        content = scene.journal.read_bytes()
        bit = dice.randrange(len(content) * 8)
        scene.journal.write_bytes(flipped(content, bit))
        try:
            verdict = scene.verified(keyring=scene.keyring)
        except JournalUnreadable:
            told += 1
            continue
        if verdict.whole:
            assert proved(scene.journal) == untouched, f"seed {seed}, turn {turn}, bit {bit}"
        told += not verdict.whole
    assert told, f"seed {seed}: not one of these flips was told"


def proved(journal: Path) -> list[list[Any]]:
    """Everything that an audit reads."""
    connection = sqlite3.connect(f"{journal.as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = bytes
    try:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            for table in ("entry", "sensitive", "tx", "subtree")
        ]
    finally:
        connection.close()


@pytest.mark.parametrize("sequence", [0, -5])
def test_an_entry_before_the_first_is_told(shop: Scene, sequence: int) -> None:
    shop.changed(("INSERT INTO entry SELECT ?, body, leaf, account FROM entry WHERE sequence = 1", (sequence,)))
    verdict = shop.verified()
    only(verdict, Damage.ADDED)
    assert f"stands at {sequence}," in verdict.findings[0].text


@pytest.mark.parametrize(("level", "number"), [(1, 2), (2, 0), (0, 0), (-1, 0), (9, 0), (1, -1)])
def test_a_stored_hash_of_more_entries_than_there_are_is_told(shop: Scene, level: int, number: int) -> None:
    shop.changed(("INSERT INTO subtree VALUES (?, ?, ?)", (level, number, bytes(32))))
    only(shop.verified(), Damage.ADDED)


def test_where_there_is_no_room_for_temporary_files_it_is_said(shop: Scene) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(JournalError, match="TMPDIR"):
            shop.verified()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_findings_are_counted_all_and_kept_up_to_the_limit(shop: Scene) -> None:
    shop.changed(("UPDATE entry SET account = x'00' WHERE sequence % 2", ()))
    verdict = shop.verified(limit=5)
    assert verdict.found[Damage.CIPHERTEXT] > 300
    assert len(verdict.findings) == 5


def publish(scene: Scene, folder: Path) -> None:
    """The log's tiles, as it publishes them."""
    with LogReader(scene.journal) as reader:
        for tile in tiles_of(reader.size):
            if tile.level is not None:
                path = folder / tile.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(build_tile(tile, reader.hashes))
