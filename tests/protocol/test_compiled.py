"""Compiled modules that are not of the sources beside them are refused, by name and with what to do."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from protocol.compiled import code_kind, compiled_modules, digests, manifest_file, refuse_stale, remove, write_manifest

SOURCES = ("gateway/core/lanes.py", "gateway/core/effects.py", "protocol/framing.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with sources, and with what a build of one of them leaves there."""
    for number, name in enumerate(SOURCES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"NUMBER = {number}\n")
    library(tmp_path).touch()
    (tmp_path / f"gateway/core/lanes{EXTENSION_SUFFIXES[0]}").touch()
    write_manifest(tmp_path, SOURCES[:1], digests(tmp_path, SOURCES))
    return tmp_path


def library(root: Path) -> Path:
    return root / f"protocol/compiled__mypyc{EXTENSION_SUFFIXES[0]}"


def test_a_build_of_these_very_sources_is_taken(root: Path) -> None:
    refuse_stale(root)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_was_changed_is_named_whether_it_is_compiled_or_only_imported(root: Path, name: str) -> None:
    with (root / name).open("a") as source:
        source.write("# a word\n")
    with pytest.raises(SystemExit) as refused:
        refuse_stale(root)
    said = str(refused.value.code)
    assert said.startswith(f"holdfast: changed since they were compiled: {name}: ")
    assert "make compiled" in said
    assert "make interpreted" in said


def test_a_source_that_is_gone_is_a_change(root: Path) -> None:
    (root / SOURCES[1]).unlink()
    with pytest.raises(SystemExit, match=SOURCES[1]):
        refuse_stale(root)


def test_many_changes_are_told_in_one_line(root: Path) -> None:
    names = [f"protocol/part{number}.py" for number in range(9)]
    for name in names:
        (root / name).write_text("")
    write_manifest(root, names, digests(root, names))
    for name in names:
        (root / name).write_text("changed = True\n")
    with pytest.raises(SystemExit, match=r"part0.py, protocol/part1.py, protocol/part2.py and 6 more: ") as refused:
        refuse_stale(root)
    assert len(str(refused.value.code).splitlines()) == 1


@pytest.mark.parametrize("text", [None, "", "{}", "[1", '{"modules": []}'])
def test_a_build_without_a_whole_manifest_is_refused(root: Path, text: str | None) -> None:
    manifest_file(root).unlink()
    if text is not None:
        manifest_file(root).write_text(text)
    with pytest.raises(SystemExit, match="was not finished"):
        refuse_stale(root)


def test_without_the_common_library_everything_is_interpreted_whatever_was_changed(root: Path) -> None:
    library(root).rename(library(root).with_name("compiled__mypyc.cpython-30-other.so"))
    (root / SOURCES[0]).write_text("changed = True\n")
    refuse_stale(root)


def test_a_build_of_another_interpreter_has_its_own_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = manifest_file(root)
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-30")
    assert manifest_file(root) != ours


def test_removing_leaves_the_sources_and_nothing_of_any_build(root: Path) -> None:
    (root / "gateway/core/lanes.cpython-30-other.so").touch()
    (root / "protocol/compiled.cpython-30.json").touch()
    remove(root)
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert left == set(SOURCES)


def test_what_this_installation_is_has_one_word_for_it() -> None:
    count = compiled_modules()
    assert code_kind() == (f"compiled, {count} modules" if count else "interpreted")
