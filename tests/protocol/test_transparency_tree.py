"""The tree is the one of RFC 6962 section 2.1, however it grew, and survives being stored."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transparency.tree import (
    EMPTY_ROOT,
    SIZE_MAX,
    Frontier,
    TreeError,
    frontier_at,
    leaf_hash,
    range_hash,
)
from tests.acceptance.logs import GrownLog

CT_ENTRIES = [
    bytes.fromhex(octets)
    for octets in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
    )
]  # fmt: skip
"""The eight leaves of Certificate Transparency's own tests (google/certificate-transparency, merkle_tree_test)."""

CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def root_by_definition(entries: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it, and nothing shared with what is tested."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    left, right = root_by_definition(entries[:split]), root_by_definition(entries[split:])
    return sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("size", range(9))
def test_the_roots_of_the_known_tree_come_out(size: int) -> None:
    log = GrownLog(CT_ENTRIES[:size])
    assert log.frontier.root().hex() == CT_ROOTS[size]
    assert root_by_definition(CT_ENTRIES[:size]).hex() == CT_ROOTS[size]


@given(st.lists(st.lists(st.binary(max_size=3), max_size=20), max_size=20))
def test_whatever_the_batches_the_root_is_the_one_of_the_definition(batches: list[list[bytes]]) -> None:
    frontier = Frontier()
    entries: list[bytes] = []
    for batch in batches:
        frontier, _ = frontier.append([leaf_hash(entry) for entry in batch])
        entries += batch
        assert frontier.size == len(entries)
        assert frontier.root() == root_by_definition(entries)


def test_every_size_and_range_is_read_back_out_of_the_stored_hashes() -> None:
    entries = [bytes([place]) for place in range(200)]
    log = GrownLog(entries, random.Random(6))
    for size in range(201):
        assert frontier_at(size, log.read).root() == root_by_definition(entries[:size]), size
    for start in (0, 64, 128):
        for end in range(start, start + 64):
            assert range_hash(start, end, log.read) == root_by_definition(entries[start:end]), (start, end)


def test_a_batch_tells_every_complete_subtree_once_and_all_of_them() -> None:
    entries = [bytes([place]) for place in range(77)]
    log = GrownLog(entries, random.Random(7))
    expected = {(level, index) for level in range(7) for index in range(77 >> level)}
    assert set(log.stored) == expected
    for level, index in expected:
        span = entries[index << level : (index + 1) << level]
        assert log.stored[level, index] == root_by_definition(span), (level, index)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_frontier_that_was_stored_goes_on_as_if_it_had_not_been(first: int, second: int) -> None:
    leaves = [leaf_hash(place.to_bytes(2)) for place in range(first + second)]
    whole, _ = Frontier().append(leaves)
    before, _ = Frontier().append(leaves[:first])
    encoded = before.encode()
    assert len(encoded) == 8 + 32 * first.bit_count()
    loaded = Frontier.decode(encoded)
    assert loaded == before
    after, _ = loaded.append(leaves[first:])
    assert (after, after.root()) == (whole, whole.root())
    assert before == Frontier.decode(encoded), "appending changes no frontier that is held"


def test_a_stored_frontier_that_was_cut_or_lengthened_is_refused() -> None:
    encoded = Frontier().append([leaf_hash(bytes([place])) for place in range(13)])[0].encode()
    for wrong in (*(encoded[:end] for end in range(len(encoded))), encoded + b"\x00", encoded + bytes(32)):
        with pytest.raises(TreeError):
            Frontier.decode(wrong)
    for bit in range(64):
        other_size = (int.from_bytes(encoded[:8]) ^ 1 << bit).to_bytes(8)
        with pytest.raises(TreeError):
            Frontier.decode(other_size + encoded[8:])


def test_the_largest_tree_has_63_hashes_and_takes_no_leaf_more() -> None:
    leaf = leaf_hash(b"")
    full = Frontier(SIZE_MAX, (leaf,) * 63)
    assert len(full.encode()) == 2_024
    assert Frontier.decode(full.encode()) == full
    with pytest.raises(TreeError):
        full.append([leaf])


@pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33)])
def test_what_is_no_hash_is_not_taken_for_one(leaf: bytes) -> None:
    with pytest.raises(TreeError):
        Frontier().append([leaf_hash(b""), leaf])
    with pytest.raises(TreeError):
        frontier_at(1, lambda _level, _index: leaf)
    with pytest.raises(TreeError):
        range_hash(0, 3, lambda _level, _index: leaf)


@pytest.mark.parametrize(("start", "end"), [(1, 3), (2, 5), (4, 3), (-1, 0), (0, SIZE_MAX + 1), (3, 8)])
def test_a_range_that_no_tree_is_split_into_has_no_hash(start: int, end: int) -> None:
    with pytest.raises(TreeError):
        range_hash(start, end, lambda _level, _index: EMPTY_ROOT)


@pytest.mark.parametrize("size", [-1, SIZE_MAX + 1])
def test_no_tree_is_smaller_than_nothing_or_larger_than_can_be_counted(size: int) -> None:
    with pytest.raises(TreeError):
        frontier_at(size, lambda _level, _index: EMPTY_ROOT)
