"""The tree that an audit grows beside the stored one: heads at every edge, levels of subtrees, and gaps."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

from gateway.audit.damage import Damage, Findings
from gateway.audit.tree_checks import Head, TreeChecks, folded
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogReader
from protocol.transparency.tree import Frontier, leaf_hash
from tests.audit.kit_log import execute, write_log

SIZE = 65_536 + 300
EDGES = (0, 1, 255, 256, 257, 511, 512, 65_280, 65_535, 65_536, 65_537, 65_792, SIZE - 1, SIZE)
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(SIZE)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    bodies = [b"entry %d" % number for number in range(SIZE)]
    return write_log(folder / "journal.sqlite3", create_keyring(folder / "keys"), bodies)


@pytest.fixture
def long(made: Path, tmp_path: Path) -> Path:
    """A journal of its own with a complete subtree of 65,536 entries."""
    shutil.copy(made, tmp_path / "journal.sqlite3")
    return tmp_path / "journal.sqlite3"


@cache
def root(size: int) -> bytes:
    return Frontier().append(LEAVES[:size])[0].root()


def checked(
    path: Path, heads: list[Head], *, start: int = 0, portion: int = 777, gap: range = range(0)
) -> tuple[Findings, bytes | None]:
    findings = Findings()
    with LogReader(path) as reader:
        tree = TreeChecks(reader, findings, heads, start)
        for first in range(start, SIZE, portion):
            places = range(first, min(first + portion, SIZE))
            tree.add([None if place in gap else LEAVES[place] for place in places], {})
        tree.finish()
        return findings, tree.root()


@pytest.mark.parametrize("start", [0, 1, 256, 300, 65_536, 65_700, SIZE])
def test_heads_at_every_edge_get_the_roots_of_their_sizes(long: Path, start: int) -> None:
    heads = [Head(str(size), size, root(size)) for size in EDGES if size >= start]
    findings, whole = checked(long, heads, start=start)
    assert not findings, findings.kept
    assert whole == root(SIZE)
    assert [head.real for head in heads] == [head.root for head in heads]
    assert [head.told for head in heads] == [head.root for head in heads]


def test_a_head_of_another_root_at_any_size_is_told(long: Path) -> None:
    for size in EDGES:
        findings, _ = checked(long, [Head("yours", size, bytes(32))], portion=4096)
        (found,) = findings.kept
        assert (found.kind, found.last) == (Damage.REWRITTEN_TAIL, size or 1)


@pytest.mark.parametrize(("level", "first", "last"), [(1, 257, 512), (2, 1, 65_536)])
@pytest.mark.parametrize("headed", [True, False])
def test_a_changed_subtree_of_any_level_is_told(long: Path, level: int, first: int, last: int, headed: bool) -> None:
    number = (first - 1) // 256**level
    execute(long, "UPDATE subtree SET hash = ? WHERE level = ? AND number = ?", bytes(32), level, number)
    findings, _ = checked(long, [Head("yours", SIZE, root(SIZE))] if headed else [], portion=4096)
    (found,) = findings.kept
    assert (found.sequence, found.last) == (first, last)
    assert found.kind is (Damage.SUBTREE if headed or level == 2 else Damage.REWRITTEN)


FOUR = 1 << 24
"""So many entries has the first complete subtree of level 3."""


@pytest.fixture
def very_long(tmp_path: Path) -> tuple[Path, list[bytes], bytes]:
    """A journal as it is where a subtree of level 3 is complete: what is stored at its end, and its last leaves."""
    tiles = [leaf_hash(b"tile %d" % number) for number in range(255)]
    hundreds = [leaf_hash(b"tile of tiles %d" % number) for number in range(255)]
    leaves = [leaf_hash(b"leaf %d" % number) for number in range(256)]
    tiles.append(folded(leaves))
    hundreds.append(folded(tiles))
    path = write_log(tmp_path / "journal.sqlite3", create_keyring(tmp_path / "keys"), [])
    execute(path, "INSERT INTO entry VALUES (?, x'00', ?, NULL)", FOUR, leaves[-1])
    for level, row, first in ((1, tiles, 65_280), (2, hundreds, 0), (3, [folded(hundreds)], 0)):
        for number, each in enumerate(row, first):
            execute(path, "INSERT INTO subtree VALUES (?, ?, ?)", level, number, each)
    return path, leaves, folded(hundreds)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_changed_subtree_is_told_at_every_level_that_there_is(
    very_long: tuple[Path, list[bytes], bytes], level: int
) -> None:
    path, leaves, whole = very_long

    def found() -> list[tuple[Damage, int, int]]:
        findings, head = Findings(), Head("yours", FOUR, whole)
        with LogReader(path) as reader:
            tree = TreeChecks(reader, findings, [head], FOUR - 256)
            tree.add(leaves, {})
            tree.finish()
            assert tree.root() == head.real == whole
        return [(each.kind, each.sequence, each.last) for each in findings.kept]

    assert found() == []
    number = (FOUR >> 8 * level) - 1
    execute(path, "UPDATE subtree SET hash = ? WHERE level = ? AND number = ?", bytes(32), level, number)
    assert found() == [(Damage.SUBTREE, FOUR - 256**level + 1, FOUR)]


def test_behind_a_gap_the_stored_subtree_carries_on_and_without_one_the_root_is_not_known(long: Path) -> None:
    head = Head("yours", SIZE, root(SIZE))
    findings, whole = checked(long, [head], gap=range(300, 400))
    assert not findings, "the gap itself is told by who reads the entries"
    assert whole == head.real == root(SIZE)
    head = Head("yours", SIZE, root(SIZE))
    findings, whole = checked(long, [head], gap=range(SIZE - 1, SIZE))
    assert (whole, head.real, bool(findings)) == (None, None, False)
    execute(long, "DELETE FROM subtree WHERE level = 1 AND number = 1")
    findings, whole = checked(long, [Head("yours", SIZE, root(SIZE))], gap=range(300, 400))
    assert whole is None
