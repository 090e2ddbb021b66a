"""`audit verify` names what is wrong with rows, queue and lookup tables beside a log that is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.damage import Damage
from gateway.core.lifecycle import State
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.rows import RowCodec
from tests.audit.scene import (
    NAMED_TWICE,
    OWED,
    SALES,
    SECOND_KEY,
    SIZE,
    Attack,
    Scene,
    flipped,
    kinds,
    only,
)
from tests.journal.rig import Rig, sale, sqlite_make


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


def test_a_key_that_came_again_is_in_the_tables_both_times(tmp_path: Path) -> None:
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
    assert {each.transaction for each in verdict.findings if each.kind is Damage.LOOKUP} == {1, 2}


def hashes_of(shop: Scene, key: str) -> dict[str, int]:
    first, second = RowCodec(shop.keyring.row_key).key_hashes(key)
    return {"by_key": first, "by_key_again": second}


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("table", ["by_key", "by_key_again"])
def test_a_second_key_that_a_lookup_table_lacks_is_told(shop: Scene, table: str, with_keys: bool) -> None:
    hashed = hashes_of(shop, SECOND_KEY)[table]
    shop.changed((f"DELETE FROM {table} WHERE hash = ? AND id = ?", (hashed, NAMED_TWICE)))  # noqa: S608 - ours
    verdict = shop.verified(keyring=shop.keyring if with_keys else None)
    only(verdict, Damage.LOOKUP)
    assert [(each.transaction, each.text) for each in verdict.findings] == [(NAMED_TWICE, f"table {table} lacks it")]


@pytest.mark.parametrize("table", ["by_key", "by_key_again"])
def test_a_second_key_with_a_wrong_hash_is_told_with_the_keys(shop: Scene, table: str) -> None:
    hashed = hashes_of(shop, SECOND_KEY)[table]
    shop.changed((f"UPDATE {table} SET hash = hash + 1 WHERE hash = ?", (hashed,)))  # noqa: S608 - ours
    assert shop.verified().whole, "the hashes are keyed"
    verdict = shop.verified(keyring=shop.keyring)
    only(verdict, Damage.LOOKUP)
    assert {each.transaction for each in verdict.findings} == {NAMED_TWICE}


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_second_key_that_no_row_has_is_told(shop: Scene, with_keys: bool) -> None:
    shop.changed(("INSERT INTO by_key VALUES (12345, 7)", ()), ("INSERT INTO by_key VALUES (54321, ?)", (NAMED_TWICE,)))
    verdict = shop.verified(keyring=shop.keyring if with_keys else None)
    # Which row of a transaction is one too many cannot always be told: the hashes have no order.
    assert {each.transaction for each in verdict.findings if each.kind is Damage.LOOKUP_FOREIGN} == {7, NAMED_TWICE}
    assert {each.transaction for each in verdict.findings} == {7, NAMED_TWICE}


CHANGED_SECOND_KEYS = [
    {"alias": "", "alias_digest": b""},
    {"alias": f"{SECOND_KEY}0"},
    {"alias_digest": b"b" * 16},
]


@pytest.mark.parametrize("by", ["somebody", "who has the keys"])
@pytest.mark.parametrize("change", CHANGED_SECOND_KEYS, ids=["removed", "renamed", "asked otherwise"])
def test_a_second_key_that_was_changed_in_the_row_is_told(shop: Scene, change: dict[str, Any], by: str) -> None:
    with Attack(shop) as attack:
        attack.edit_row(NAMED_TWICE, tagged=by != "somebody", **change)
    for keyring in (None, shop.keyring):
        verdict = shop.verified(keyring=keyring)
        only(verdict, Damage.ROW)
        assert {each.transaction for each in verdict.findings} == {NAMED_TWICE}
    shop.changed(("DELETE FROM tx WHERE id = ?", (NAMED_TWICE,)))
    assert Damage.ROW_MISSING in kinds(shop.verified())


@pytest.mark.parametrize(
    "change", [b"f" * 16, b"f" * 16 + b"b" * 16 + SECOND_KEY.encode(), b"f" * 16 + b"a" * 16 + b"k"]
)
def test_a_second_key_that_entries_tell_otherwise_than_the_first_is_told(shop: Scene, change: bytes) -> None:
    with Attack(shop) as attack:
        attack.edit(NAMED_TWICE + 1, leaf=True, fingerprint=change)
        attack.sign(attack.make_fit())
    verdict = shop.verified(checkpoint=None)
    assert Damage.PAYMENT in kinds(verdict)
    assert (NAMED_TWICE + 1) in {each.sequence for each in verdict.findings if each.kind is Damage.PAYMENT}


def test_a_second_key_that_was_changed_in_every_entry_and_in_the_row_is_told_by_a_checkpoint(shop: Scene) -> None:
    said = b"f" * 16 + b"a" * 16 + b"idem|another"
    with Attack(shop) as attack:
        for sequence in range(NAMED_TWICE, NAMED_TWICE + 3):
            attack.edit(sequence, leaf=True, fingerprint=said)
        attack.edit_row(NAMED_TWICE, tagged=True, alias="idem|another")
        attack.sign(attack.make_fit())
    assert not shop.verified(keyring=shop.keyring).whole
    found = shop.verified(checkpoint=None, keyring=shop.keyring).found
    assert set(found) == {Damage.LOOKUP}, "its own head says nothing, the lookup tables still have the old one"


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


def test_a_table_that_can_be_read_but_not_searched_is_told_and_the_rest_is_verified(
    shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = LogReader.select

    def broken(reader: LogReader, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        if sql.startswith("SELECT 1 FROM by_key WHERE"):  # as with a flipped length of a row on its page
            raise LogDamaged("database disk image is malformed")
        yield from select(reader, sql, *values)

    for table in ("by_key", "by_batch"):
        shop.changed((f"UPDATE {table} SET hash = hash + 1 WHERE id = 7", ()))  # noqa: S608 - ours
    monkeypatch.setattr(LogReader, "select", broken)
    texts = {finding.text for finding in shop.verified(keyring=shop.keyring).findings}
    assert texts == {"table by_key cannot be searched", "table by_batch has it at a wrong place"}
