"""`audit verify` names each kind of damage and the entry, and finds nothing in a journal that nobody has touched."""

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
from gateway.audit.heads import HeadRefused, checkpoint_path, read_keys
from gateway.audit.verifying import Verdict
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import KeyPurpose, create_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.port import JournalError, JournalKeysWrong, JournalUnreadable
from gateway.journal.schema import PAGE_BYTES
from protocol.transparency.notes import SignerKey
from protocol.transparency.tiles import build_tile, tiles_of
from tests.audit.scene import SALES, SIGNER, Attack, Scene, kinds, root_of, signed
from tests.crash.amounts import TIMES
from tests.journal.rig import Rig, sale, sqlite_make

SIZE = 3 * SALES + 4
OWED = 3 * SALES + 1


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def only(verdict: Verdict, *expected: Damage) -> dict[Damage, list[tuple[int, int]]]:
    found = kinds(verdict)
    assert not verdict.whole
    assert set(found) == set(expected), [str(finding) for finding in verdict.findings]
    return found


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


@pytest.mark.parametrize("cut", [1, 3, 200, SIZE - 1])
def test_a_cut_tail_is_told(shop: Scene, cut: int) -> None:
    shop.changed(("DELETE FROM entry WHERE sequence > ?", (SIZE - cut,)))
    assert (SIZE - cut + 1, SIZE) in kinds(shop.verified())[Damage.CUT_TAIL]


def test_a_tail_cut_from_everything_is_told_by_the_checkpoint_that_the_auditor_kept_and_by_nothing_else(
    shop: Scene,
) -> None:
    cut = 3  # the sale that was reversed, in one piece
    with Attack(shop) as attack:
        attack.connection.execute("DELETE FROM entry WHERE sequence > ?", (SIZE - cut,))
        for table in ("tx", "by_key", "by_key_again", "by_batch", "by_batch_again", "by_terminal"):
            attack.connection.execute(f"DELETE FROM {table} WHERE id > ?", (SIZE - cut,))  # noqa: S608
        attack.sign(attack.make_fit())
    assert shop.verified(checkpoint=None).whole
    assert only(shop.verified(), Damage.CUT_TAIL)[Damage.CUT_TAIL] == [(SIZE - cut + 1, SIZE)]


def test_a_tail_rewritten_with_everything_recomputed_and_signed_is_told_by_the_kept_checkpoint_and_by_nothing_else(
    shop: Scene,
) -> None:
    with Attack(shop) as attack:
        for sequence in (OWED,):
            attack.edit(sequence, leaf=True, detail="another story")
        attack.sign(attack.make_fit())
    assert shop.verified(checkpoint=None).whole
    assert only(shop.verified(), Damage.REWRITTEN_TAIL)[Damage.REWRITTEN_TAIL] == [(1, SIZE)]
    shop.held.write_bytes(signed(OWED - 1, root_of(shop, OWED - 1)))
    assert shop.verified().whole, "what was rewritten is behind this checkpoint"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"state": State.STORED}, "state"),
        ({"attempts": 7}, "attempts"),
        ({"amount_minor": 1}, "amount"),
        ({"response": "05"}, "response"),
        ({"key": "B000001|X|Y|2|000001"}, "amount, currency, key"),
    ],
)
def test_a_row_that_says_something_else_than_its_newest_entry_is_told(
    shop: Scene, changes: dict[str, Any], named: str
) -> None:
    with Attack(shop) as attack:
        attack.edit_row(4, **changes)
    verdict = shop.verified()
    assert only(verdict, Damage.ROW)
    assert verdict.findings[0].transaction == 4
    assert named in verdict.findings[0].text


def test_a_row_that_was_touched_anywhere_is_told_with_the_keys(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.edit_row(4, merchant="ANOTHER")
    assert shop.verified().whole, "no entry tells of the merchant but its key"
    assert only(shop.verified(keyring=shop.keyring), Damage.ROW)


def test_a_row_with_a_flipped_bit_in_its_text_is_told_without_the_keys(shop: Scene) -> None:
    with Attack(shop) as attack:
        (stored,) = attack.connection.execute("SELECT row FROM tx WHERE id = 4").fetchone()
        bit = 8 * stored.index(b"TERMINA") + 7
        attack.connection.execute("UPDATE tx SET row = ? WHERE id = 4", (flipped(stored, bit),))
    assert [each.transaction for each in shop.verified().findings if each.kind is Damage.ROW] == [4]


def test_a_row_too_many_and_a_row_too_few_are_told(shop: Scene) -> None:
    shop.changed(
        ("DELETE FROM tx WHERE id = 4", ()),
        ("INSERT INTO tx SELECT 5, row FROM tx WHERE id = 7", ()),
        ("INSERT INTO tx SELECT 99999, row FROM tx WHERE id = 7", ()),
    )
    verdict = shop.verified()
    only(verdict, Damage.ROW_MISSING, Damage.ROW_UNKNOWN)
    assert sorted(finding.transaction for finding in verdict.findings) == [4, 5, 99999]


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


def test_from_a_checkpoint_on_only_what_is_behind_it_is_read(shop: Scene) -> None:
    start = 301
    with Attack(shop) as attack:
        attack.edit(3, leaf=False, detail="before it")
    verdict = shop.verified(start=start)
    assert verdict.whole
    assert (verdict.start, verdict.size, verdict.root) == (start, SIZE, shop.verified().root)
    with Attack(shop) as attack:
        attack.edit(400, leaf=False, detail="behind it")
    assert only(shop.verified(start=start), Damage.EDITED)[Damage.EDITED] == [(400, 400)]
    with pytest.raises(HeadRefused, match="the journal ends"):
        shop.verified(start=SIZE + 1)


def test_a_checkpoint_of_another_key_or_log_or_none_is_refused(shop: Scene, tmp_path: Path) -> None:
    root = root_of(shop, SIZE)
    stranger = SignerKey(SIGNER.name, bytes(32))
    shop.held.write_bytes(signed(SIZE, root, stranger))
    with pytest.raises(HeadRefused, match="signed"):
        shop.verified()
    shop.held.write_bytes(signed(SIZE, root, SignerKey("example.org/other", bytes(range(32)))))
    with pytest.raises(HeadRefused):
        shop.verified()
    shop.held.write_bytes(b"not a note")
    with pytest.raises(HeadRefused):
        shop.verified()
    with pytest.raises(HeadRefused, match="cannot be read"):
        shop.verified(checkpoint=tmp_path / "absent")


def test_a_checkpoint_beside_the_journal_that_its_key_did_not_sign_is_told(shop: Scene) -> None:
    stranger = SignerKey(SIGNER.name, bytes(32))
    checkpoint_path(shop.journal).write_bytes(signed(SIZE, root_of(shop, SIZE), stranger))
    only(shop.verified(), Damage.CHECKPOINT)


@pytest.mark.parametrize("sequence", [SIZE + 1, 1 << 60])
def test_entries_behind_the_journals_own_head_are_told(shop: Scene, sequence: int) -> None:
    shop.changed(("INSERT INTO entry SELECT ?, body, leaf, account FROM entry WHERE sequence = 1", (sequence,)))
    assert only(shop.verified(), Damage.ADDED)[Damage.ADDED] == [(SIZE + 1, sequence)]


LOOKUPS = ("by_key", "by_key_again", "by_batch", "by_batch_again", "by_terminal")


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("table", ["owing", "unsettled"])
def test_what_is_owed_and_was_removed_from_the_queue_is_told(shop: Scene, table: str, with_keys: bool) -> None:
    shop.changed((f"DELETE FROM {table}", ()))  # noqa: S608 - one of two names
    verdict = shop.verified(keyring=shop.keyring if with_keys else None)
    only(verdict, Damage.QUEUE)
    assert [(each.transaction, each.text) for each in verdict.findings] == [(OWED, f"table {table} lacks it")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE owing SET lane = x'41'",
        "UPDATE owing SET place = place + 1",
        "UPDATE owing SET id = 1",
        "INSERT INTO owing VALUES (x'41', 1, 1)",
        "INSERT INTO owing VALUES (x'41', 99999, 99999)",
        "UPDATE unsettled SET state = 10",
        "INSERT INTO unsettled VALUES (3, 4)",
        "INSERT INTO unsettled VALUES ('text', 'text')",
        "INSERT INTO quarantine VALUES (1, 'row', 0)",
    ],
)
def test_a_queue_that_says_something_else_than_the_rows_is_told(shop: Scene, statement: str) -> None:
    shop.changed((statement, ()))
    only(shop.verified(), Damage.QUEUE)


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("table", LOOKUPS)
def test_a_transaction_that_a_lookup_table_lacks_is_told(shop: Scene, table: str, with_keys: bool) -> None:
    keyring = shop.keyring if with_keys else None
    shop.changed((f"DELETE FROM {table} WHERE id = 7", ()))  # noqa: S608 - one of our names
    verdict = shop.verified(keyring=keyring)
    only(verdict, Damage.LOOKUP)
    assert [(each.transaction, each.text) for each in verdict.findings] == [(7, f"table {table} lacks it")]
    shop.changed((f"DELETE FROM {table}", ()))  # noqa: S608
    assert shop.verified(keyring=keyring).found == {Damage.LOOKUP: SALES + 3}


def test_keys_that_were_removed_from_both_lookup_tables_are_told(shop: Scene) -> None:
    shop.changed(("DELETE FROM by_key WHERE id < 100", ()), ("DELETE FROM by_key_again WHERE id < 100", ()))
    verdict = shop.verified()
    only(verdict, Damage.LOOKUP)
    assert {each.transaction for each in verdict.findings} == set(range(1, 100, 3))


def test_a_key_that_came_again_before_it_was_put_away_is_no_damage(tmp_path: Path) -> None:
    ring, day_ms = create_keyring(tmp_path / "keys"), 24 * 3600 * 1000
    rig = Rig(sqlite_make(tmp_path / "journal.sqlite3", ring)).open()
    try:
        for _ in range(2):
            again = sale(state=State.DECLINED, accepted_ms=rig.now_ms, horizon_ms=day_ms)
            again.transaction.reason = "answer.code-05"
            rig.write(again)
            rig.now_ms += 2 * day_ms
    finally:
        rig.close()
    scene = Scene(tmp_path / "journal.sqlite3", ring)
    for keyring in (None, ring):
        found = scene.verified(checkpoint=None, keyring=keyring).found
        assert Damage.LOOKUP not in found, [str(each) for each in scene.verified(checkpoint=None).findings]
    scene.changed(("DELETE FROM by_key", ()), ("DELETE FROM by_key_again", ()))
    verdict = scene.verified(checkpoint=None)
    assert {each.transaction for each in verdict.findings if each.kind is Damage.LOOKUP} == {2}


@pytest.mark.parametrize("table", LOOKUPS)
def test_a_row_of_a_lookup_table_that_belongs_to_nothing_is_told(shop: Scene, table: str) -> None:
    for number in (2, 4, SIZE + 9, -3):  # an entry that creates none, one that has its own, none, none
        shop.changed((f"INSERT INTO {table} VALUES (12345, ?)", (number,)))  # noqa: S608
    assert only(shop.verified(), Damage.LOOKUP_FOREIGN)
    assert shop.verified().found == {Damage.LOOKUP_FOREIGN: 4}


@pytest.mark.parametrize("table", LOOKUPS)
def test_a_lookup_table_with_wrong_hashes_is_told_with_the_keys(shop: Scene, table: str) -> None:
    shop.changed((f"UPDATE {table} SET hash = hash + 1 WHERE id = 7", ()))  # noqa: S608
    assert shop.verified().whole, "the hashes are keyed"
    verdict = shop.verified(keyring=shop.keyring)
    only(verdict, Damage.LOOKUP)
    assert {each.transaction for each in verdict.findings} == {7}


@pytest.mark.parametrize("where", ["", " WHERE copy = 2"])
def test_a_head_that_was_removed_is_told(shop: Scene, where: str) -> None:
    shop.changed((f"DELETE FROM head{where}", ()))  # noqa: S608
    only(shop.verified(), Damage.HEAD_MISSING)


def test_a_cut_tail_does_not_pass_for_whole_where_the_head_was_removed_and_no_checkpoint_is_there(shop: Scene) -> None:
    checkpoint_path(shop.journal).unlink()
    shop.changed(
        ("DELETE FROM head", ()),
        ("DELETE FROM entry WHERE sequence > 300", ()),
        ("DELETE FROM tx WHERE id > 300", ()),
        ("DELETE FROM unsettled", ()),
        ("DELETE FROM sensitive", ()),
    )
    assert Damage.HEAD_MISSING in kinds(shop.verified(checkpoint=None, keys=()))


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


def test_where_nothing_vouches_for_a_whole_journal_it_is_said(shop: Scene) -> None:
    assert shop.verified().summary == "WHOLE: nothing was found"
    assert shop.verified(checkpoint=None).vouched, "the signature of the one beside the journal was verified"
    verdict = shop.verified(checkpoint=None, keys=())
    assert verdict.whole
    assert verdict.summary == "WHOLE in itself; no signature and no kept checkpoint was checked"


def test_a_checkpoint_that_would_not_be_reached_is_refused(shop: Scene) -> None:
    shop.held.write_bytes(signed(10, root_of(shop, 10)))
    assert shop.verified(start=10).whole
    with pytest.raises(HeadRefused, match="behind your checkpoint"):
        shop.verified(start=11)


def test_where_there_is_no_room_for_temporary_files_it_is_said(shop: Scene) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(JournalError, match="TMPDIR"):
            shop.verified()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_after_a_rotation_of_the_logs_key_both_checkpoints_are_verified_with_both_keys(shop: Scene) -> None:
    newer = SignerKey(SIGNER.name, b"n" * 32)
    checkpoint_path(shop.journal).write_bytes(signed(SIZE, root_of(shop, SIZE), newer))
    only(shop.verified(), Damage.CHECKPOINT)
    verdict = shop.verified(keys=(SIGNER.verifier, newer.verifier))
    assert verdict.whole
    assert [head.signature_verified for head in verdict.heads] == [True, True, None]
    other = SignerKey("example.org/other", b"n" * 32).verifier.text
    with pytest.raises(HeadRefused, match="of several logs"):
        read_keys([SIGNER.verifier.text, other])


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
