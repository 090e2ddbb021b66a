"""`holdfast audit shred-check` as people use it, and what SQLite leaves of what was deleted."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner, Result

from gateway.audit.canaries import canaries_of
from gateway.audit.shredding import Search, files_under
from gateway.cli import app
from gateway.operations.installing import install

PAN: Final = "6212345678900000003"
TRACK: Final = "4012888888881881=30122019876543210123"


def run(*arguments: str, typed: str | None = None) -> Result:
    """The command, with this on standard input."""
    return CliRunner().invoke(app, ["audit", "shred-check", *arguments], input=typed)


@pytest.fixture
def canary_file(tmp_path: Path) -> Path:
    path = tmp_path / "canaries.txt"
    path.write_text(f"# planted on Monday\n{PAN}\n\n{TRACK}\n")
    return path


def test_what_is_found_is_told_by_number_and_never_shown(tmp_path: Path, canary_file: Path) -> None:
    (tmp_path / "log").write_bytes(b"some words " + TRACK.encode("utf-16-le"))
    ran = run("--canary-file", str(canary_file), "--also", str(tmp_path / "log"))
    assert ran.exit_code == 1
    assert "FOUND canary 2 (37 characters) as UTF-16" in ran.stdout
    assert f"{tmp_path / 'log'} at byte 11" in ran.stdout
    assert "NOT CLEAN" in ran.stdout
    assert PAN not in ran.output
    assert TRACK not in ran.output


def test_a_clean_place_ends_with_0_and_says_how_much_was_searched(tmp_path: Path, canary_file: Path) -> None:
    (tmp_path / "log").write_bytes(b"nothing" * 1000)
    ran = run("--canary-file", str(canary_file), "--also", str(tmp_path / "log"))
    assert ran.exit_code == 0
    assert "1 files, 7,000 bytes, 2 canaries in " in ran.stdout
    assert "clean: no canary was found" in ran.stdout


def test_json_has_everything_but_the_canary(tmp_path: Path, canary_file: Path) -> None:
    (tmp_path / "log").write_text(f"x{PAN}")
    ran = run("--canary-file", str(canary_file), "--also", str(tmp_path / "log"), "--json")
    told = json.loads(ran.stdout)
    assert ran.exit_code == 1
    assert (told["clean"], told["files"], told["found_count"]) == (False, 1, 1)
    assert told["found"][0] == {
        "canary": 1, "characters": 19, "encoding": "text", "file": str(tmp_path / "log"), "member": "", "offset": 1,
    }  # fmt: skip
    assert [each["characters"] for each in told["canaries"]] == [19, 37]
    assert PAN not in ran.output


def test_canaries_come_from_standard_input_and_those_of_arguments_are_warned_about(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(PAN)
    also = ("--also", str(tmp_path / "log"))
    for ran in (run(*also, typed=f"{PAN}\n"), run("--canary-file", "-", *also, typed=f"{PAN}\n")):
        assert ran.exit_code == 1
        assert "seen by everybody" not in ran.output
    ran = run(PAN, *also)
    assert ran.exit_code == 1
    assert "seen by everybody in `ps`" in ran.stderr
    assert PAN not in ran.output


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "no canary is given"),
        ("1234567", "canary 1 has 7 characters"),
        (f"{PAN}\n{'9' * 16}\n", "canary 2 is one character all over"),
    ],
)
def test_a_canary_that_means_nothing_is_wrong_usage(tmp_path: Path, typed: str, said: str) -> None:
    ran = run("--canary-file", "-", "--also", str(tmp_path), typed=typed)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_what_is_not_there_is_not_taken_for_clean(tmp_path: Path, canary_file: Path) -> None:
    ran = run("--canary-file", str(canary_file), "--also", str(tmp_path / "no-such"))
    assert ran.exit_code == 2
    assert "cannot be searched" in ran.stderr
    made = install(tmp_path / "gateway")
    ran = run("--canary-file", str(canary_file), "-c", str(made.config))
    assert ran.exit_code == 2
    assert "nothing was searched" in ran.stderr
    ran = run("--canary-file", str(tmp_path / "no-such"), "--also", str(tmp_path))
    assert ran.exit_code == 2


def test_a_configuration_names_the_journal_and_all_that_lies_beside_it(tmp_path: Path, canary_file: Path) -> None:
    made = install(tmp_path / "gateway")
    journal = next(
        tmp_path / "gateway" / line.partition('"')[2].partition('"')[0]
        for line in made.config.read_text().splitlines()
        if line.startswith("path = ")
    )
    names = [journal.name + suffix for suffix in ("", "-wal", "-shm", ".mark", "-checkpoint", "-wal.damaged")]
    for name in names:
        (journal.parent / name).write_text(PAN)
    ran = run("--canary-file", str(canary_file), "-c", str(made.config), "--json")
    assert {Path(each["file"]).name for each in json.loads(ran.stdout)["found"]} == set(names)


@pytest.mark.parametrize(
    ("secure_delete", "truncated", "gone"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_a_deleted_row_is_found_in_free_pages_and_log_unless_it_is_overwritten_and_the_log_cut(
    tmp_path: Path, secure_delete: bool, truncated: bool, gone: bool
) -> None:
    """What the journal does at each closing, and why it needs both (AUDIT.md). The other three ways leave canaries."""
    database = tmp_path / "database"
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    connection.execute(f"PRAGMA secure_delete = {'ON' if secure_delete else 'OFF'}").fetchall()
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, content TEXT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"{n} {PAN} {'x' * 200}") for n in range(400)])
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute("DELETE FROM t")
    if truncated:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for name in ("database", "database-wal"):
        (tmp_path / f"copy of {name}").write_bytes((tmp_path / name).read_bytes())  # SQLite still has the other open
    connection.close()
    search = Search(canaries_of([PAN]))
    result = search.run([each for each in files_under([tmp_path]) if each[0].name.startswith("copy")])
    assert (result.found_count == 0) is gone
    assert gone or result.found_count >= 300
