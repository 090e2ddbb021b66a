"""A second try lets pass what a stalled machine made fail, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.second_try import NO_EXCUSE, second_try

_TESTS = """
from pathlib import Path

def test_fails_once():
    seen = Path(__file__).with_name("seen")
    there = seen.exists()
    seen.touch()
    assert there

def test_fails_always():
    assert False
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(_TESTS)
    return tmp_path


def _failed(folder: Path, *names: str) -> Path:
    path = folder / "lastfailed"
    path.write_text(json.dumps(dict.fromkeys(names, True)))
    return path


def test_what_passes_alone_is_let_pass_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "seen").touch()
    assert second_try(_failed(folder, "test_it.py::test_fails_once")) == 0
    assert "UNSTEADY: test_it.py::test_fails_once" in capsys.readouterr().out


def test_what_fails_again_has_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert second_try(_failed(folder, "test_it.py::test_fails_once")) == 1
    assert second_try(_failed(folder, "test_it.py::test_fails_once", "test_it.py::test_fails_always")) == 1
    assert "UNSTEADY" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [
        (),
        tuple(f"test_it.py::test_fails_once[{number}]" for number in range(4)),
        (f"{NO_EXCUSE[0]}test_fees.py::test_it",),
        ("tests/gateway/test_broken_import.py",),
    ],
)
def test_too_many_those_without_an_excuse_and_files_that_do_not_load_are_not_tried(
    folder: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert second_try(_failed(folder, *names)) == 1
    assert "no second try" in capsys.readouterr().out


def test_where_nothing_says_what_failed_there_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert second_try(folder / "none") == 1
    (folder / "torn").write_text("{")
    assert second_try(folder / "torn") == 1
    assert capsys.readouterr().out.count("cannot be read") == 2
