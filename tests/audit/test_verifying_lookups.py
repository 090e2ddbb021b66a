"""`audit verify` names a table whose look-ups miss a row that a reading of the whole table shows."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.audit.damage import Damage
from gateway.audit.table_checks import check_tables
from gateway.audit.verifying import Wanted, verify
from gateway.core.effects import Limit
from gateway.core.standin import counters
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.schema import TABLES
from tests.audit.scene import Page, Scene, only
from tests.audit.test_audit_commands import audit
from tests.journal.rig import Rig, sale, sqlite_make

INNER_SEPARATORS = ("tx", "entry")
LOOKUPS = ("by_key", "by_key_again", "by_batch", "by_batch_again")


def read_all_but_not_found(journal: Path, table: str, columns: Sequence[str]) -> tuple[int, int]:
    """How many rows a table has when it is read from its first to its last, and how many of them a look-up misses."""
    connection = sqlite3.connect(f"{journal.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        every = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608 - our own
        where = " AND ".join(f"{column} = ?" for column in columns)
        sql = f"SELECT 1 FROM {table} WHERE {where}"  # noqa: S608 - our own
        return len(every), sum(connection.execute(sql, row).fetchone() is None for row in every)
    finally:
        connection.close()


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize(("table", "column"), [("tx", "id"), ("entry", "sequence")])
def test_a_flipped_bit_in_an_inner_page_that_hides_one_row_from_look_ups_is_told(
    shop: Scene, table: str, column: str, with_keys: bool
) -> None:
    page = Page.root(shop, table)
    before, missed = read_all_but_not_found(shop.journal, table, (column,))
    assert (page.inner, missed) == (True, 0)
    # A cell of such a page is the number of a page, and then the highest id below that page.
    odd = next(cell + 4 for cell in page.cells if page.content[cell + 4] < 0x80 and page.content[cell + 4] & 1)
    page.content[odd] ^= 1
    shop.journal.write_bytes(page.content)
    assert read_all_but_not_found(shop.journal, table, (column,)) == (before, 1), "all are there, and one is not found"
    verdict = shop.verified(keyring=shop.keyring if with_keys else None)
    only(verdict, Damage.TABLE)
    (finding,) = verdict.findings
    assert finding.text.startswith(f"table {table}: ")
    told = audit("verify", shop.journal)
    assert (told.exit_code, f"table {table}: " in told.output) == (1, True), told.output


@pytest.mark.parametrize("with_keys", [False, True])
def test_keys_that_were_moved_within_the_pages_of_both_lookup_tables_are_told(shop: Scene, with_keys: bool) -> None:
    for table in ("by_key", "by_key_again"):
        page = Page.root(shop, table)
        assert not page.inner
        page.swap(20, 80)
        shop.journal.write_bytes(page.content)
        _, missed = read_all_but_not_found(shop.journal, table, ("hash",))
        assert missed, "a retry of it would be charged again"
    verdict = shop.verified(keyring=shop.keyring if with_keys else None)
    only(verdict, Damage.TABLE)
    assert [finding.text.partition(":")[0] for finding in verdict.findings] == ["table by_key", "table by_key_again"]
    told = audit("verify", shop.journal)
    assert (told.exit_code, told.output.count("table-damaged        table by_key")) == (1, 2), told.output


@pytest.mark.parametrize("table", LOOKUPS)
def test_two_neighbours_in_the_wrong_order_are_told_in_any_lookup_table(shop: Scene, table: str) -> None:
    page = Page.root(shop, table)
    page.swap(100, 101)
    shop.journal.write_bytes(page.content)
    verdict = shop.verified()
    only(verdict, Damage.TABLE)
    assert [finding.text.partition(":")[0] for finding in verdict.findings] == [f"table {table}"]


def test_a_table_that_is_not_there_is_told_by_its_name(shop: Scene) -> None:
    shop.changed(("DROP TABLE quarantine", ()))
    assert "table quarantine" in [
        finding.text.partition(":")[0] for finding in shop.verified().findings if finding.kind is Damage.TABLE
    ]


def test_every_table_is_checked_and_named_while_it_is(whole_shop: Scene) -> None:
    told: list[tuple[str, float]] = []
    verdict = verify(Wanted(journal=whole_shop.journal), lambda what, part: told.append((what, part)))
    assert verdict.whole
    named = [what for what, _ in told if what.startswith("order of table ")]
    assert list(dict.fromkeys(named)) == [f"order of table {table}" for table in TABLES]
    assert all(0 <= part <= 1 for _, part in told)


def test_who_stops_the_check_of_a_table_is_obeyed_and_nothing_is_called_damaged(whole_shop: Scene) -> None:
    from gateway.audit.damage import Findings  # noqa: PLC0415

    findings = Findings()
    calls: list[str] = []

    def stop_within_a_query(what: str, _part: float) -> None:
        calls.append(what)
        if calls.count(what) > 1:  # the first is told before the query
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    try:
        with LogReader(whole_shop.journal) as reader, pytest.raises(KeyboardInterrupt):
            check_tables(reader, findings, stop_within_a_query, every=100)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not findings


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER more AFTER INSERT ON owing BEGIN DELETE FROM owing; END", "'trigger' 'more'"),
        ("CREATE INDEX more ON unsettled (id)", "'index' 'more'"),
        ("CREATE VIEW more AS SELECT * FROM tx", "'view' 'more'"),
        ('CREATE TABLE "a\nWHOLE" (kept)', "'table' 'a\\nWHOLE'"),
        ("DELETE FROM meta WHERE copy = 1", "copy 1 of what the journal says of itself"),
        ("UPDATE meta SET content = x'00' WHERE copy = 2", "copy 2 of what the journal says of itself"),
    ],
)
def test_what_is_none_of_a_journals_tables_is_told(shop: Scene, statement: str, named: str) -> None:
    shop.changed((statement, ()))
    verdict = shop.verified()
    assert only(verdict, Damage.TABLE)
    assert named in verdict.findings[0].text


@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET tag = x'00'"])
def test_exposure_counters_that_were_removed_or_touched_are_told_with_the_keys(tmp_path: Path, statement: str) -> None:
    journal, keyring = tmp_path / "journal.db", create_keyring(tmp_path / "keys")
    rig = Rig(sqlite_make(journal, keyring)).open()
    made = sale("B000001|M|T|2|000001").transaction
    names = counters(made.lane, made.card, made.currency)
    rig.write(sale("B000001|M|T|2|000001", reserve=tuple(Limit(name, None, None, None, "") for name in names)))
    rig.close()
    wanted = Wanted(journal=journal, keyring=keyring)
    assert verify(wanted, lambda _, __: None).whole
    with contextlib.closing(sqlite3.connect(journal)) as connection, connection:
        for table in ("counter", "counter_log"):
            connection.execute(statement.format(table))
    told = verify(wanted, lambda _, __: None)
    assert set(told.found) == {"table-damaged"}
    assert all("exposure counters" in finding.text for finding in told.findings)
