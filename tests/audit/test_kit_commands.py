"""`holdfast audit prove`, `export` and `receipt`: exit codes, clear words for what is wrong, JSON, no overwriting."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config import load_config
from gateway.config.audit import origin_of
from gateway.config.key_source import load_keys
from gateway.journal.keyring import create_keyring
from gateway.operations.installing import install
from protocol.receipt_field import ReceiptField
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tree import Frontier, leaf_hash
from tests.audit.kit_log import SIGNER, entries, entry, execute, reader_size, write_log
from tests.full_disk import fill_up_at

BODIES = entries(700)
DONE, FAILED, WRONG_USAGE = 0, 1, 2


def holdfast(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["audit", *(str(argument) for argument in arguments)], input=stdin)


def said(result: Result) -> Any:
    assert result.exit_code == DONE, result.output
    return json.loads(result.stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An installation whose journal has entries, and a checkpoint by another key than its own beside it."""
    made = install(tmp_path / "gateway").config
    loaded = load_config(made)
    write_log(loaded.journal.path, load_keys(loaded.journal), BODIES)
    return made


@pytest.fixture
def journal(config: Path) -> Path:
    return load_config(config).journal.path


@pytest.fixture
def named(journal: Path) -> tuple[object, ...]:
    """The journal and its key, named as an auditor does who has no configuration."""
    return "--journal", journal, "--verifier-key", SIGNER.verifier.text


def test_a_kit_is_exported_without_any_key_of_the_gateway(
    journal: Path, named: tuple[object, ...], tmp_path: Path
) -> None:
    for key in (journal.parent / "keys").iterdir():
        key.unlink()
    summary = said(holdfast("export", tmp_path / "kit", *named, "--json"))
    assert (summary["size"], summary["not_signed_yet"], summary["key_events"]) == (700, 0, 1)
    assert summary["verifier_keys"] == [SIGNER.verifier.text]
    page = (tmp_path / "kit" / "index.html").read_bytes()
    assert summary["page_sha256"] == sha256(page).hexdigest()
    told = holdfast("export", tmp_path / "another", *named)
    assert told.exit_code == DONE
    assert "700 entries of example.org/gateway-7" in told.stdout
    assert summary["page_sha256"] in told.stdout


def test_a_folder_in_use_is_refused_with_what_to_do(named: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    refused = holdfast("export", tmp_path, *named)
    assert refused.exit_code == FAILED
    assert "name a new or an empty folder" in refused.stderr


def test_an_export_that_cannot_write_says_why(named: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = holdfast("export", tmp_path / "file" / "kit", *named)
    assert refused.exit_code == FAILED
    assert "Not a directory" in refused.stderr


def test_a_checkpoint_is_signed_offline_with_the_keys_where_asked(config: Path, journal: Path, tmp_path: Path) -> None:
    (journal.parent / (journal.name + "-checkpoint")).unlink()
    without = holdfast("export", tmp_path / "kit", "-c", config)
    assert without.exit_code == FAILED
    assert "no checkpoint of this journal has been signed yet" in without.stderr
    summary = said(holdfast("export", tmp_path / "kit", "-c", config, "--sign", "--json"))
    loaded = load_config(config)
    origin = origin_of(loaded.audit, loaded.gateway.name)
    key = SignerKey(origin, load_keys(loaded.journal).log_key).verifier
    head = open_checkpoint((tmp_path / "kit" / "checkpoint").read_bytes(), origin, [key])
    assert (head.size, summary["origin"], summary["verifier_keys"]) == (reader_size(journal), origin, [key.text])


def test_nothing_is_signed_over_what_does_not_continue_the_last_checkpoint(
    config: Path, journal: Path, tmp_path: Path
) -> None:
    loaded = load_config(config)
    signer = SignerKey(origin_of(loaded.audit, loaded.gateway.name), load_keys(loaded.journal).log_key)
    frontier, _ = Frontier().append([leaf_hash(body) for body in BODIES])
    note = sign_checkpoint(Checkpoint(signer.name, 700, frontier.root()), [signer])
    journal.with_name(journal.name + "-checkpoint").write_bytes(note)
    assert holdfast("export", tmp_path / "kit", "-c", config, "--sign").exit_code == DONE
    execute(journal, "DELETE FROM entry WHERE sequence > 690")
    refused = holdfast("export", tmp_path / "other", "-c", config, "--sign")
    assert refused.exit_code == FAILED
    assert "its tail is cut" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_key_has_to_be_named_and_to_be_the_one_that_signed(config: Path, journal: Path, tmp_path: Path) -> None:
    nameless = holdfast("export", tmp_path / "kit", "--journal", journal)
    assert nameless.exit_code == WRONG_USAGE
    assert "--verifier-key" in nameless.stderr
    strange = holdfast("export", tmp_path / "kit", "-c", config)  # the checkpoint is of another key than its own
    assert strange.exit_code == FAILED
    assert "no known key" in strange.stderr
    unsigned = holdfast(
        "export", tmp_path / "kit", "--journal", journal, "--sign", "--verifier-key", SIGNER.verifier.text
    )
    assert unsigned.exit_code == WRONG_USAGE
    assert not (tmp_path / "kit").exists()


def test_a_transaction_is_proved_in_words_as_json_and_into_a_new_file(
    named: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "proof.json"
    words = holdfast("prove", 41, *named, "--out", out)
    assert words.exit_code == DONE
    assert "2 entries under 700 signed" in words.stdout
    assert json.loads(out.read_text(encoding="utf-8")) == said(holdfast("prove", 41, *named, "--json"))
    before = out.read_bytes()
    again = holdfast("prove", 43, *named, "--out", out)
    assert (again.exit_code, out.read_bytes()) == (WRONG_USAGE, before)
    with monkeypatch.context() as full:
        fill_up_at(full, "second.json")
        half = holdfast("prove", 41, *named, "--out", tmp_path / "second.json")
    assert (half.exit_code, (tmp_path / "second.json").exists()) == (FAILED, False)
    assert "No space left on device" in half.stderr
    missing = holdfast("prove", 42, *named)
    assert missing.exit_code == FAILED
    assert "there is no transaction 42" in missing.stderr
    assert holdfast("prove", 0, *named).exit_code == WRONG_USAGE


def test_a_receipt_is_accepted_or_refused_with_the_reason_and_the_exit_code(
    journal: Path, named: tuple[object, ...], tmp_path: Path
) -> None:
    assert holdfast("export", tmp_path / "kit", *named).exit_code == DONE
    proof = said(holdfast("prove", 41, *named, "--json"))["entries"][1]
    file = tmp_path / "receipt"
    file.write_text(proof["tlog_proof"], encoding="utf-8")
    for source in (
        named,
        ("--kit", tmp_path / "kit"),
        ("--kit", tmp_path / "kit", "--verifier-key", SIGNER.verifier.text),
    ):
        verdict = said(holdfast("receipt", file, *source, "--json"))
        assert (verdict["accepted"], verdict["index"], verdict["entry"]["sequence"]) == (True, 41, 42)
    frontier, _ = Frontier().append([leaf_hash(body) for body in BODIES[:600]])
    field = ReceiptField.of(41, 600, frontier.root()).text
    for source in (named, ("--kit", tmp_path / "kit"), ("--journal", journal)):
        assert holdfast("receipt", "-", *source, stdin=field).exit_code == DONE
    wrong = holdfast("receipt", "-", "--kit", tmp_path / "kit", stdin=field[:-1] + "x")
    assert (wrong.exit_code, "neither a tlog-proof nor a receipt" in wrong.stderr) == (FAILED, True)
    other = ReceiptField.of(41, 600, bytes(32)).text
    refused = holdfast("receipt", "-", *named, stdin=other)
    assert refused.exit_code == FAILED
    assert "REFUSED: the first 600 entries are not those" in refused.stdout
    execute(journal, "UPDATE entry SET body = ? WHERE sequence = 42", entry(42, amount_minor=1))
    refused = holdfast("receipt", file, *named, "--json")
    assert refused.exit_code == FAILED
    assert "is not the one that the receipt brings" in json.loads(refused.stdout)["reason"]


def test_what_prove_wrote_is_a_receipt_of_each_of_its_entries(named: tuple[object, ...], tmp_path: Path) -> None:
    kit, file = tmp_path / "kit", tmp_path / "proof.json"
    assert holdfast("export", kit, *named).exit_code == DONE
    assert holdfast("prove", 41, *named, "--out", file).exit_code == DONE
    for source in (named, ("--kit", kit, "--verifier-key", SIGNER.verifier.text)):
        told = holdfast("receipt", file, *source)
        assert told.exit_code == DONE, told.output
        assert [number for number in (41, 42) if f"accepted: entry {number} is in the log" in told.stdout] == [41, 42]
        verdicts = said(holdfast("receipt", file, *source, "--json"))
        assert [(each["accepted"], each["entry"]["sequence"]) for each in verdicts] == [(True, 41), (True, 42)]


def test_what_prove_wrote_is_refused_where_anything_in_it_was_changed(
    named: tuple[object, ...], tmp_path: Path
) -> None:
    file = tmp_path / "proof.json"
    document = said(holdfast("prove", 41, *named, "--json"))
    other = said(holdfast("prove", 43, *named, "--json"))["entries"][1]
    first, second = document["entries"]
    for changed, told in (
        ({"entries": [first, second | {"shown": second["shown"] | {"amount_minor": 1}}]}, "shows another entry"),
        ({"entries": [first, second | {"entry": first["entry"]}]}, "shows another entry"),
        ({"entries": [first, second | {"tlog_proof": first["tlog_proof"]}]}, "shows another entry"),
        ({"entries": [first, other]}, "is not of transaction 41"),
        ({"transaction": 40}, "is not of transaction 40"),
        ({"size": 699}, "names another log, size or root"),
        ({"root": document["root"][::-1]}, "names another log, size or root"),
        ({"origin": "example.org/other"}, "names another log, size or root"),
    ):
        file.write_text(json.dumps(document | changed), encoding="utf-8")
        refused = holdfast("receipt", file, *named)
        assert (refused.exit_code, f"REFUSED: the document {told}" in refused.stdout or told in refused.stdout) == (
            FAILED,
            True,
        ), (changed, refused.output)
    spoilt = second | {"tlog_proof": second["tlog_proof"].replace("index 41", "index 40")}
    for changed, told in (
        ({"entries": []}, "without any entry"),
        ({"entries": 5}, "cannot be read"),
        ({"form": "holdfast-proof@v9"}, "another form"),
        ({"entries": [first | {"tlog_proof": "nothing"}]}, "cannot be read"),
    ):
        file.write_text(json.dumps(document | changed), encoding="utf-8")
        refused = holdfast("receipt", file, *named)
        assert (refused.exit_code, told in refused.stderr) == (FAILED, True), (changed, refused.output)
    file.write_text(json.dumps(document | {"entries": [first, spoilt]}), encoding="utf-8")
    verdicts = json.loads(holdfast("receipt", file, *named, "--json").stdout)
    assert [each["accepted"] for each in verdicts] == [True, False]


def test_what_prove_wrote_is_refused_where_an_entry_of_the_transaction_is_left_out(
    named: tuple[object, ...], tmp_path: Path
) -> None:
    """A sale is shown that way without the reversal that followed it."""
    kit, file = tmp_path / "kit", tmp_path / "proof.json"
    assert holdfast("export", kit, *named).exit_code == DONE
    document = said(holdfast("prove", 41, *named, "--json"))
    first, second = document["entries"]
    for source in (named, ("--kit", kit, "--verifier-key", SIGNER.verifier.text)):
        for kept, left_out in ((first, 42), (second, 41)):
            file.write_text(json.dumps(document | {"entries": [kept]}), encoding="utf-8")
            refused = holdfast("receipt", file, *source)
            assert refused.exit_code == FAILED
            assert f"REFUSED: the document leaves out entry {left_out} of transaction 41" in refused.stdout
            verdicts = json.loads(holdfast("receipt", file, *source, "--json").stdout)
            assert [each["accepted"] for each in verdicts] == [True, False]
            assert verdicts[1]["entry"]["sequence"] == left_out
        for entries_shown in ([second, first], [first, first, second]):
            file.write_text(json.dumps(document | {"entries": entries_shown}), encoding="utf-8")
            assert "once and in order" in holdfast("receipt", file, *source).stdout


def test_entries_that_are_newer_than_a_proof_are_told(tmp_path: Path) -> None:
    """What was proved before its reversal is still true, and no longer all of it."""
    late = bytearray(BODIES[-1])
    late[19:27] = (41).to_bytes(8)
    bodies, key = [*BODIES[:-1], bytes(late)], ("--verifier-key", SIGNER.verifier.text)
    journal = write_log(tmp_path / "journal", create_keyring(tmp_path / "keys"), bodies)
    newest = (tmp_path / "journal-checkpoint").read_bytes()
    frontier, _ = Frontier().append([leaf_hash(body) for body in bodies[:600]])
    old = sign_checkpoint(Checkpoint(SIGNER.name, 600, frontier.root()), [SIGNER])
    (tmp_path / "journal-checkpoint").write_bytes(old)
    file = tmp_path / "proof.json"
    assert holdfast("prove", 41, "--journal", journal, *key, "--out", file).exit_code == DONE
    (tmp_path / "journal-checkpoint").write_bytes(newest)
    assert holdfast("export", tmp_path / "kit", "--journal", journal, *key).exit_code == DONE
    for source in (("--journal", journal), ("--kit", tmp_path / "kit")):
        told = holdfast("receipt", file, *source, *key)
        assert told.exit_code == DONE, told.output
        assert "The log has entries of transaction 41 that are newer than this proof: 700." in told.stdout


def test_that_the_key_came_with_the_kit_is_told_of_every_receipt_that_it_accepts(
    named: tuple[object, ...], tmp_path: Path
) -> None:
    """A forger's kit is whole by the forger's key: nothing but a key from elsewhere shows that."""
    kit, proof, written = tmp_path / "kit", tmp_path / "proof.json", tmp_path / "field"
    assert holdfast("export", kit, *named).exit_code == DONE
    assert holdfast("prove", 41, *named, "--out", proof).exit_code == DONE
    frontier, _ = Frontier().append([leaf_hash(body) for body in BODIES[:600]])
    written.write_text(ReceiptField.of(41, 600, frontier.root()).text, encoding="utf-8")
    tlog = tmp_path / "tlog"
    tlog.write_text(json.loads(proof.read_text(encoding="utf-8"))["entries"][0]["tlog_proof"], encoding="utf-8")
    forger = SignerKey(SIGNER.name, bytes(32))
    head, _ = Frontier().append([leaf_hash(body) for body in BODIES])
    caveat = "The verifier key is the one that came with the kit"
    for file in (written, tlog, proof):
        believed = holdfast("receipt", file, "--kit", kit)
        assert (believed.exit_code, caveat in believed.stdout) == (DONE, True), believed.output
        with_key = holdfast("receipt", file, "--kit", kit, "--verifier-key", SIGNER.verifier.text)
        assert (with_key.exit_code, caveat in with_key.stdout) == (DONE, False), with_key.output
    (kit / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(SIGNER.name, 700, head.root()), [forger]))
    (kit / "verifier-key.txt").write_text(forger.verifier.text, encoding="utf-8")
    verdict = said(holdfast("receipt", written, "--kit", kit, "--json"))
    assert (verdict["accepted"], verdict["caveat"].startswith(caveat)) == (True, True)
    assert caveat not in holdfast("receipt", tlog, "--kit", kit).stdout, "what is refused needs no caveat"
    refused = holdfast("receipt", written, "--kit", kit, "--verifier-key", SIGNER.verifier.text)
    assert refused.exit_code == FAILED


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_the_checkpoint_beside_a_journal_is_told_and_not_waited_for(
    journal: Path, named: tuple[object, ...]
) -> None:
    beside = journal.with_name(journal.name + "-checkpoint")
    beside.unlink()
    os.mkfifo(beside)
    for words in (("prove", 41, *named), ("verify", journal)):
        told = holdfast(*words)
        assert told.exit_code == FAILED
        assert "no regular file" in told.output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/000", "tile/0/000", "verifier-key.txt"])
def test_a_pipe_in_a_kit_is_told_and_not_waited_for(named: tuple[object, ...], tmp_path: Path, path: str) -> None:
    kit = tmp_path / "kit"
    assert holdfast("export", kit, *named).exit_code == DONE
    frontier, _ = Frontier().append([leaf_hash(body) for body in BODIES[:600]])
    field = ReceiptField.of(41, 600, frontier.root()).text
    assert holdfast("receipt", "-", "--kit", kit, stdin=field).exit_code == DONE
    (kit / path).unlink()
    os.mkfifo(kit / path)
    told = holdfast("receipt", "-", "--kit", kit, stdin=field)
    assert (told.exit_code, "is not a regular file" in told.output) == (FAILED, True), told.output


def test_wrong_usage_of_receipt_is_told(journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "receipt"
    file.write_text("HF1:1:2:0011223344556677")
    assert holdfast("receipt", file, "--kit", tmp_path, "--journal", journal).exit_code == WRONG_USAGE
    assert holdfast("receipt", file).exit_code == WRONG_USAGE
    assert holdfast("receipt", tmp_path / "none", "--journal", journal).exit_code == WRONG_USAGE
    nothing = holdfast("receipt", file, "--kit", tmp_path)
    assert (nothing.exit_code, "checkpoint is missing" in nothing.stderr) == (FAILED, True)
