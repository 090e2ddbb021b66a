"""Other people's tools judge the exported kit of a gateway that was killed in an outage: what is true and what is not.

They run where neither the gateway can be imported nor any network be reached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.journal.log_reader import LogReader
from protocol.journal_entry import decode_entry
from protocol.receipt_field import ReceiptField
from tests.acceptance.real_journal import (
    WITH_THE_KEY,
    WITHOUT_THE_KEY,
    Damage,
    RealJournal,
    edited,
    flipped_byte_in_a_hash,
    flipped_byte_in_an_entry,
    holdfast,
)
from tests.acceptance.verifiers import aics_tlog, compile_go
from tests.browser.chromium import Chromium
from tests.crash.amounts import missing

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("acceptance")]

_PATIENCE_S = 120


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> RealJournal:
    return RealJournal(tmp_path_factory.mktemp("outage"))


@pytest.fixture(scope="module")
def program(journal: RealJournal, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's own Go program, compiled by the auditor."""
    return compile_go(journal.kit / "verify.go", tmp_path_factory.mktemp("verify"))


@pytest.fixture
def kit(journal: RealJournal, tmp_path: Path) -> Path:
    """A copy of the kit that a test may spoil."""
    return Path(shutil.copytree(journal.kit, tmp_path / "stick" / "kit"))


@pytest.fixture
def held(journal: RealJournal, tmp_path: Path) -> Path:
    """The newest checkpoint, as the auditor took it home."""
    path = tmp_path / "held"
    shutil.copy(journal.kit / "checkpoint", path)
    return path


def isolated(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with an empty environment and no way to the checkout; as root, without any network."""
    words = [str(each) for each in command]
    if os.geteuid() == 0:
        unshare = shutil.which("unshare") or missing("no unshare: apt-get install util-linux")
        words = [unshare, "--net", "--", *words]
    return subprocess.run(  # noqa: S603
        words,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )


def by_go(program: Path, journal: RealJournal, kit: Path, held: Path | None = None) -> str:
    """What Go's sumdb says of a kit: "accepted: ..." or "REFUSED: ..."."""
    kept = () if held is None else ("-held", held)
    done = isolated(program, "-key", journal.key, *kept, kit, folder=kit.parent)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith(("accepted: ", "REFUSED: ")[done.returncode]), done.stdout
    return done.stdout.strip()


def by_aics(journal: RealJournal, kit: Path, command: str, *arguments: str | Path) -> bool:
    """Whether aics-tlog accepts."""
    key = ("--vkey-file", journal.key, "--origin", journal.origin)
    done = isolated(aics_tlog(), command, "--tiles", kit, *key, *arguments, folder=kit.parent)
    assert done.stdout, done.stderr
    accepted = bool(json.loads(done.stdout)["ok"])
    assert (done.returncode == 0) == accepted
    return accepted


def accepted_by_aics(journal: RealJournal, kit: Path, held: Path | None = None) -> bool:
    """Whether aics-tlog accepts checkpoint, some entries and, where there is one, the head that was kept."""
    entry = kit.parent / "entry"
    if not by_aics(journal, kit, "verify-checkpoint"):
        return False
    size = int((kit / "checkpoint").read_text(encoding="utf-8").split("\n")[1])
    for index in (0, journal.middle, size - 1):
        if not by_aics(journal, kit, "verify-inclusion", "--index", str(index), "--entry-out", entry):
            return False
        assert entry.read_bytes() == journal.bodies[index], "it took another entry for the true one"
    return held is None or by_aics(journal, kit, "verify-consistency", "--old-checkpoint", held)


def test_the_tools_run_where_the_gateway_and_the_network_are_not(journal: RealJournal, kit: Path) -> None:
    python = Path(aics_tlog()).with_name("python")
    assert isolated(python, "-c", "import aics_tlog", folder=kit.parent).returncode == 0
    for room in ("gateway", "protocol"):
        done = isolated(python, "-c", f"import {room}", folder=kit.parent)
        assert "ModuleNotFoundError" in done.stderr
    if os.geteuid() == 0:
        trying = "import socket; socket.create_connection(('1.1.1.1', 53), 1)"
        done = isolated(python, "-c", trying, folder=kit.parent)
        assert "Network is unreachable" in done.stderr


def test_others_accept_the_kit_of_a_gateway_that_was_killed(
    journal: RealJournal, program: Path, kit: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    for size in (1, journal.size // 2, journal.size - 1):
        earlier.write_bytes(journal.head(size))
        assert by_go(program, journal, kit, earlier) == f"accepted: {journal.size} entries of {journal.origin}"
        assert accepted_by_aics(journal, kit, earlier)


@pytest.mark.parametrize("damage", WITHOUT_THE_KEY, ids=lambda damage: damage.__name__)
def test_others_refuse_a_kit_that_was_changed_without_the_key(
    damage: Damage, journal: RealJournal, program: Path, kit: Path
) -> None:
    assert by_go(program, journal, kit).startswith("accepted: ")
    bad = damage(journal, kit)
    assert by_go(program, journal, bad).startswith("REFUSED: ")
    assert not accepted_by_aics(journal, bad)


@pytest.mark.parametrize("damage", WITH_THE_KEY, ids=lambda damage: damage.__name__)
def test_others_refuse_a_kit_that_was_signed_anew_once_a_head_was_kept(
    damage: Damage, journal: RealJournal, program: Path, kit: Path, held: Path
) -> None:
    bad = damage(journal, kit)
    assert by_go(program, journal, bad).startswith("accepted: "), "by itself it is whole: that is why heads are kept"
    assert by_go(program, journal, bad, held).startswith("REFUSED: ")
    assert not by_aics(journal, bad, "verify-consistency", "--old-checkpoint", held)


def test_the_kit_tells_in_words_what_became_of_the_keys(journal: RealJournal, kit: Path) -> None:
    text = (kit / "key-events.txt").read_text(encoding="utf-8")
    assert " created by " in text
    assert "purpose log-signing" in text
    assert "{" not in text


def test_go_names_the_entry_that_was_changed(journal: RealJournal, program: Path, kit: Path) -> None:
    flipped_byte_in_an_entry(journal, kit)
    said = by_go(program, journal, kit)
    assert said == f"REFUSED: entry {journal.middle + 1} is not the one that was signed"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def by_page(browser: Chromium, journal: RealJournal, kit: Path, held: Path | None = None) -> str:
    """What the kit's page says: "Verified..." or "REFUSED..."."""
    browser.open(journal.kit / "index.html")
    browser.choose("#folder", kit)
    kept = json.dumps("" if held is None else held.read_text(encoding="utf-8"))
    key = json.dumps(journal.key.read_text(encoding="utf-8"))
    browser.evaluate(f"element('key').value = {key}; element('held').value = {kept}")
    browser.evaluate(
        "new Promise(done => { new MutationObserver(() => element('verify').disabled || done())"
        ".observe(element('verify'), { attributes: true }); element('verify').click(); })"
    )
    assert len(browser.requested) == 1
    said = str(browser.evaluate("element('verdict').textContent"))
    assert browser.evaluate("element('verdict').className") == ("good" if said.startswith("Verified") else "bad")
    return said


def test_the_page_is_green_on_the_kit_and_red_on_every_bad_one(
    journal: RealJournal, browser: Chromium, held: Path, tmp_path: Path
) -> None:
    assert by_page(browser, journal, journal.kit, held).startswith(f"Verified\n{journal.size} entries")
    for damage in WITHOUT_THE_KEY + WITH_THE_KEY:
        kit = Path(shutil.copytree(journal.kit, tmp_path / damage.__name__ / "kit"))
        bad = damage(journal, kit)
        said = by_page(browser, journal, bad, held if damage in WITH_THE_KEY else None)
        assert said.startswith("REFUSED\n• "), damage
        if damage in (flipped_byte_in_an_entry, flipped_byte_in_a_hash):
            assert f"entry {journal.middle + 1} is not the one that tile/0/000 has the hash of" in said


def test_receipts_are_held_against_journal_and_kit_by_the_command(
    journal: RealJournal, kit: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof.json"
    done = holdfast(
        "audit",
        "prove",
        str(decode_entry(journal.bodies[journal.middle]).transaction),
        "-c",
        str(journal.config),
        "--out",
        str(proof),
    )
    assert done.returncode == 0, done.stderr
    receipt = tmp_path / "receipt.tlog-proof"
    receipt.write_text(json.loads(proof.read_text(encoding="utf-8"))["entries"][0]["tlog_proof"], encoding="utf-8")
    paper = tmp_path / "receipt.txt"
    with LogReader(journal.path) as reader:
        size = reader.size - 3
        paper.write_text(ReceiptField.of(journal.middle, size, reader.root(size)).text)
    cut = journal.kit_of([*journal.bodies[:-20], edited(journal.bodies[-20])], tmp_path / "cut")
    for each in (receipt, paper):
        for source in (("-c", str(journal.config)), ("--kit", str(kit))):
            done = holdfast("audit", "receipt", str(each), *source)
            assert (done.returncode, done.stdout[:9]) == (0, "accepted:"), done.stderr
        done = holdfast("audit", "receipt", str(each), "--kit", str(cut))
        assert done.returncode == 1
        assert "its tail is cut" in done.stdout
