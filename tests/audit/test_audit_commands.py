"""`holdfast audit` on the command line: what it prints, its exit codes, and what it says to bad input."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.audit.damage import Damage
from gateway.audit.heads import checkpoint_path
from gateway.cli import app
from gateway.config import ConfigError, load_config
from gateway.config.audit import origin_of
from gateway.core.lifecycle import EntryKind
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogReader
from gateway.operations.installing import install
from protocol.transparency.notes import SignerKey
from tests.audit.scene import SALES, SIGNER, Attack, Scene, key_of, root_of, signed
from tests.journal.rig import PAN, START_MS, Rig, sale, sqlite_make

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


def test_verify_says_how_far_a_signature_reaches(shop: Scene) -> None:
    checkpoint_path(shop.journal).write_bytes(signed(300, root_of(shop, 300)))
    told = audit("verify", shop.journal, "--verifier-key", SIGNER.verifier.text)
    assert told.exit_code == 0, "the newest entries of a running gateway are not signed yet"
    assert f"WHOLE; entries 1 to 300 are vouched for by a signature, 301 to {SIZE} by nothing\n" in told.output
    answer = json.loads(audit("verify", shop.journal, "--verifier-key", SIGNER.verifier.text, "--json").output)
    assert (answer["whole"], answer["vouched"], answer["vouched_size"]) == (True, True, 300)
    checkpoint_path(shop.journal).write_bytes(signed(0, root_of(shop, 0)))
    told = audit("verify", shop.journal, "--verifier-key", SIGNER.verifier.text)
    assert "WHOLE: nothing was found" not in told.output
    answer = json.loads(audit("verify", shop.journal, "--verifier-key", SIGNER.verifier.text, "--json").output)
    assert (answer["whole"], answer["vouched"], answer["vouched_size"]) == (True, False, 0)


def test_a_journal_that_is_named_by_a_link_is_read_with_its_log(tmp_path: Path) -> None:
    """What a gateway has written last is in the log beside the journal, and beside no link to it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    journal, link, over = tmp_path / "real" / "shop.sqlite3", tmp_path / "links" / "shop", tmp_path / "links" / "over"
    link.symlink_to(Path("../real/shop.sqlite3"))
    over.symlink_to(link)
    rig = Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open()
    try:
        for number in range(20):
            rig.write(sale(key_of(number)))
        with sqlite3.connect(f"{journal.as_uri()}?mode=ro&immutable=1", uri=True) as without_log:
            assert without_log.execute("SELECT count(*) FROM entry").fetchone() == (0,)
        without_log.close()
        root = json.loads(audit("verify", journal, "--json").output)["root"]
        with LogReader(journal) as reader:
            checkpoint_path(journal).write_bytes(signed(20, reader.root(20)))
        key = SIGNER.verifier.text
        for named in (link, over):
            answer = json.loads(audit("verify", named, "--verifier-key", key, "--json").output)
            assert (answer["size"], answer["root"], answer["vouched_size"]) == (20, root, 20)
            shown = audit("balance", named, "--json")
            assert json.loads(shown.output) == json.loads(audit("balance", journal, "--json").output)
            assert audit("log", named, "--limit", 0, "--json").output.count("\n") == 20
            assert json.loads(audit("show", 20, "--journal", named, "--json").output)["sequence"] == 20
            proof = tmp_path / f"{named.name}.json"
            told = audit("prove", 20, "--journal", named, "--verifier-key", key, "--out", proof)
            assert told.exit_code == 0, told.output
    finally:
        rig.close()
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    assert "does not exist" in audit("verify", link).output


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


def test_balance_names_edited_entries_and_fails(shop: Scene) -> None:
    with Attack(shop) as attack:
        for sequence in (1, 4, 7):
            attack.edit(sequence, leaf=False, amount_minor=1)
    told = audit("balance", shop.journal, "--limit", 2)
    assert told.exit_code == 1
    assert "entry 1 is DAMAGED" in told.output
    assert "entry 4 is DAMAGED" in told.output
    assert "and 1 more damaged" in told.output
    assert "DOES NOT ADD UP: 3 entries are damaged" in told.output
    assert "ADDS UP: told" not in told.output
    answer = json.loads(audit("balance", shop.journal, "--json").output)
    assert (answer["adds_up"], answer["damaged"], answer["damaged_entries"]) == (False, 3, [1, 4, 7])


def test_verify_takes_a_file_of_several_keys_of_one_log(shop: Scene, tmp_path: Path) -> None:
    file = tmp_path / "verifier-key.txt"
    other = SignerKey(SIGNER.name, bytes(32)).verifier.text
    for keys in ((other, SIGNER.verifier.text), (SIGNER.verifier.text, other)):
        file.write_text("# newest first\n" + "".join(f"{key}\n" for key in keys), encoding="utf-8")
        told = audit("verify", shop.journal, "--checkpoint", shop.held, "--verifier-key", file)
        assert told.exit_code == 0, told.output
        assert "signature not checked" not in told.output
    file.write_text(other + "\n", encoding="utf-8")
    assert audit("verify", shop.journal, "--verifier-key", file).exit_code == 1
    strange = SignerKey("example.org/other", bytes(32)).verifier.text
    file.write_text(f"{SIGNER.verifier.text}\n{strange}\n", encoding="utf-8")
    told = audit("verify", shop.journal, "--verifier-key", file)
    assert (told.exit_code, "of several logs" in told.output) == (1, True)
    file.write_text("# nothing\n", encoding="utf-8")
    told = audit("verify", shop.journal, "--verifier-key", file)
    assert (told.exit_code, "there is no verifier key" in told.output) == (1, True)


def test_verify_checks_signatures_with_the_keys_of_the_configuration(whole_shop: Scene, tmp_path: Path) -> None:
    config = install(tmp_path / "gateway").config
    loaded = load_config(config)
    shutil.rmtree(loaded.journal.keys)
    shutil.copytree(whole_shop.journal.parent / "keys", loaded.journal.keys)
    shutil.copy(whole_shop.journal, loaded.journal.path)
    signer = SignerKey(origin_of(loaded.audit, loaded.gateway.name), whole_shop.keyring.log_key)
    beside = checkpoint_path(loaded.journal.path)
    beside.write_bytes(signed(SIZE, root_of(whole_shop, SIZE), signer))
    told = audit("verify", "-c", config)
    assert (told.exit_code, f"{SIZE} entries, fits; signature verified" in told.output) == (0, True), told.output
    assert "signature not checked" in audit("verify", loaded.journal.path).output
    other = audit("verify", "-c", config, "--verifier-key", SIGNER.verifier.text)
    assert (other.exit_code, "no known key has signed this note" in other.output) == (1, True), other.output
    for key in loaded.journal.keys.iterdir():
        key.unlink()
    told = audit("verify", "-c", config)
    assert (told.exit_code, "fits; signature not checked" in told.output) == (0, True), told.output
    shutil.copytree(whole_shop.journal.parent / "keys", loaded.journal.keys, dirs_exist_ok=True)
    beside.write_bytes(signed(SIZE, root_of(whole_shop, SIZE), SignerKey(signer.name, bytes(32))))
    told = audit("verify", "-c", config)
    assert (told.exit_code, "no known key has signed this note" in told.output) == (1, True), told.output


def test_certificates_that_are_no_good_any_more_keep_nobody_from_looking_at_the_journal(
    whole_shop: Scene, tmp_path: Path
) -> None:
    config = install(tmp_path / "gateway").config
    loaded = load_config(config)
    shutil.rmtree(loaded.journal.keys)
    shutil.copytree(whole_shop.journal.parent / "keys", loaded.journal.keys)
    shutil.copy(whole_shop.journal, loaded.journal.path)
    config.write_text(config.read_text() + '[acquirer.tls]\nca_file = "gone.pem"\n')
    with pytest.raises(ConfigError, match=r"acquirer\.tls\.ca_file: cannot be read"):
        load_config(config)
    for command in (["verify", "-c", config], ["log", "-c", config], ["balance", "-c", config]):
        told = audit(*command)
        assert told.exit_code == 0, told.output


@pytest.mark.parametrize(
    "command",
    [
        ("verify",), ("log",), ("balance",), ("show", "1", "--journal"), ("trace", "1", "--journal"),
        ("prove", "1", "--verifier-key", SIGNER.verifier.text, "--journal"),
        ("export", "kit", "--verifier-key", SIGNER.verifier.text, "--journal"), ("receipt", "text", "--journal"),
    ],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_a_folder_or_a_pipe_in_the_place_of_the_journal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("HF1:1:2:0011223344556677", encoding="utf-8")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for path, said in ((".", ". is a folder: name the journal's file"), ("folder", "folder is a folder"),
                       ("pipe", "pipe is not a regular file")):  # fmt: skip
        told = audit(*command, path)
        assert isinstance(told.exception, SystemExit), told.exception
        assert (told.exit_code, f"holdfast: {said}" in told.output) == (1, True), told.output


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
        (("log", "journal.sqlite3", "--since", "0001-01-01T00:00:00+14:00"), 2, "a time is written as"),
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


def test_a_day_alone_includes_all_of_it_however_it_is_written(shop: Scene) -> None:
    day = datetime.fromtimestamp(START_MS / 1000, UTC).date()
    for written in (f"{day:%Y-%m-%d}", f"{day:%Y%m%d}", "9999-12-31"):
        told = audit("log", shop.journal, "--until", written, "--limit", 0, "--json")
        assert told.exit_code == 0, told.output
        assert len(told.output.splitlines()) == SIZE


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


def test_text_of_an_edited_entry_makes_no_line_of_its_own_and_steers_no_terminal(shop: Scene) -> None:
    forged = "cancel by Kim: x\n99\tforged\x1b[8m"
    with Attack(shop) as attack:
        number = attack.entry(1).transaction
        attack.edit(1, leaf=True, detail=forged, reason="so\nWHOLE: nothing was found", kind=EntryKind.OPERATOR)
    for words in (
        ("log", shop.journal, "--oldest", "--limit", 3), ("show", 1, "--journal", shop.journal),
        ("trace", number, "--journal", shop.journal), ("verify", shop.journal),
    ):  # fmt: skip
        told = audit(*words)
        assert "\x1b" not in told.stdout
        assert not [line for line in told.stdout.splitlines() if line.startswith(("99", "WHOLE"))], told.stdout
    assert "x\\n99\\tforged\\x1b[8m" in audit("show", 1, "--journal", shop.journal).stdout
    lines = audit("log", shop.journal, "--oldest", "--limit", 3, "--json").stdout.splitlines()
    assert json.loads(lines[0])["detail"] == forged
