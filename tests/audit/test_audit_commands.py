"""`holdfast audit` on the command line: what it prints, its exit codes, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.audit.damage import Damage
from gateway.cli import app
from gateway.journal.keyring import create_keyring
from protocol.transparency.notes import SignerKey
from tests.audit.scene import SALES, SIGNER, Attack, Scene, key_of
from tests.journal.rig import PAN, Rig, sqlite_make

SIZE = 3 * SALES + 4


def audit(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def test_verify_says_whole_and_with_what_it_was_compared(whole_shop: Scene) -> None:
    key = SIGNER.verifier.text
    told = audit("verify", whole_shop.journal, "--checkpoint", whole_shop.held, "--verifier-key", key)
    assert told.exit_code == 0, told.output
    assert "WHOLE: nothing was found" in told.output
    assert f"{SIZE} entries, fits; signature verified" in told.output
    answer = json.loads(audit("verify", whole_shop.journal, "--json").output)
    assert (answer["whole"], answer["size"], answer["findings"]) == (True, SIZE, [])
    assert [head["signature_verified"] for head in answer["heads"]] == [False, None]


def test_verify_takes_its_key_from_a_file_too(whole_shop: Scene, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SIGNER.verifier.text + "\n", encoding="utf-8")
    told = audit("verify", whole_shop.journal, "--verifier-key", tmp_path / "key")
    assert (told.exit_code, "signature verified" in told.output) == (0, True)


def test_verify_fails_with_the_damage_and_the_entry(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.edit(40, leaf=False, detail="changed")
        attack.connection.execute("DELETE FROM entry WHERE sequence = 300")
    told = audit("verify", shop.journal)
    assert told.exit_code == 1
    assert "edited               entry 40:" in told.output
    assert "dropped              entry 300:" in told.output
    assert "NOT WHOLE" in told.output
    answer = json.loads(audit("verify", shop.journal, "--json").output)
    assert {(each["kind"], each["sequence"]) for each in answer["findings"]} >= {("edited", 40), ("dropped", 300)}


def test_log_lists_and_filters_and_gives_a_json_object_a_line(whole_shop: Scene) -> None:
    lines = audit("log", whole_shop.journal, "--terminal", "TERMINA1", "--state", "approved", "--limit", 2).output
    header, *rows = lines.splitlines()
    assert header.split("\t")[:4] == ["entry", "time", "kind", "txn"]
    assert [row.split("\t")[5] for row in rows] == ["TERMINA1"] * 2
    assert "424242******4242" in rows[0]
    shown = audit("log", whole_shop.journal, "--oldest", "--limit", 0, "--amount", "100-101", "--json").output
    entries = [json.loads(line) for line in shown.splitlines()]
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert audit("log", whole_shop.journal, "--since", "2023-11-15").output.count("\n") == 1
    day = audit("log", whole_shop.journal, "--since", "2023-11-14", "--until", "2023-11-14", "--limit", 0).output
    assert day.count("\n") == SIZE + 1


def test_show_and_trace_and_balance_print_for_people_and_programs(whole_shop: Scene) -> None:
    shown = audit("show", 1, "--journal", whole_shop.journal)
    assert (shown.exit_code, "account part  stored, as committed to" in shown.output) == (0, True)
    assert json.loads(audit("show", 1, "--journal", whole_shop.journal, "--json").output)["kind"] == "stood-in"
    told = audit("trace", key_of(1), "--journal", whole_shop.journal)
    assert "rule    D21: approved offline" in told.output
    assert json.loads(audit("trace", 4, "--journal", whole_shop.journal, "--json").output)["transaction"] == 4
    balance = audit("balance", whole_shop.journal, "--by", "day,terminal")
    assert (balance.exit_code, "ADDS UP" in balance.output) == (0, True)
    assert json.loads(audit("balance", whole_shop.journal, "--json").output)["adds_up"] is True
    assert PAN not in shown.output + told.output + balance.output


def test_balance_fails_where_it_does_not_add_up(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.edit(3, leaf=True, state=7)
    told = audit("balance", shop.journal)
    assert told.exit_code == 1
    assert (
        "transaction 1 (2023-11-14, terminal TERMINA0): 100 156: its terminal was told that it is approved"
        in told.output
    )
    assert "DOES NOT ADD UP" in told.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("verify", "absent"), 1, "absent does not exist"),
        (("verify", "text"), 1, "is not a journal"),
        (("verify", "journal.sqlite3", "-c", "holdfast.toml"), 2, "not both"),
        (("verify",), 2, "name the journal's file"),
        (("verify", "journal.sqlite3", "--open"), 2, "--open needs the keys"),
        (("verify", "journal.sqlite3", "--from", "99999"), 1, "the journal ends at entry"),
        (("verify", "journal.sqlite3", "--verifier-key", "nonsense"), 1, "neither a verifier key"),
        (("verify", "journal.sqlite3", "--checkpoint", "absent"), 1, "absent cannot be read"),
        (("verify", "journal.sqlite3", "--published", "."), 1, "has no leaf tiles"),
        (("log", "journal.sqlite3", "--state", "happy"), 2, "--state happy: it is one of asking"),
        (("log", "journal.sqlite3", "--kind", "happy"), 2, "--kind happy: it is one of accepted"),
        (("log", "journal.sqlite3", "--since", "yesterday"), 2, "a time is written as"),
        (("log", "journal.sqlite3", "--amount", "ten"), 2, "--amount is a number"),
        (("show", "99999", "--journal", "journal.sqlite3"), 1, "there is no entry 99999"),
        (("trace", "nonsense", "--journal", "journal.sqlite3"), 1, "no entry tells of a transaction"),
        (("balance", "journal.sqlite3", "--by", "card"), 2, "--by is day"),
    ],
)
def test_bad_input_gets_an_error_that_says_what_is_wrong(
    shop: Scene, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(shop.journal.parent)
    Path("text").write_text("this is no journal\n" * 20, encoding="utf-8")
    told = audit(*words)
    assert said in told.output
    assert told.exit_code == code


def test_a_key_of_another_log_is_refused_in_words(shop: Scene) -> None:
    other = SignerKey("example.org/other", bytes(32)).verifier.text
    told = audit("verify", shop.journal, "--checkpoint", shop.held, "--verifier-key", other)
    assert told.exit_code == 1
    assert "no known key has signed this note" in told.output


def test_an_empty_journal_is_whole_lists_nothing_and_adds_up(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open().close()
    assert "the journal is empty" in audit("verify", journal).output
    assert audit("log", journal).output.count("\n") == 1
    assert audit("balance", journal).exit_code == 0
    assert audit("trace", 1, "--journal", journal).exit_code == 1


def test_the_page_for_auditors_explains_every_kind_of_damage_and_names_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "auditors.md").read_text(encoding="utf-8")
    assert [kind.value for kind in Damage if f"`{kind.value}`" not in page] == []
    for command in ("verify", "log", "show", "trace", "balance"):
        assert f"holdfast audit {command}" in page
    assert all(len(line) <= 120 for line in page.splitlines())
