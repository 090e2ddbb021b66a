"""Inclusion and consistency: every true proof verifies, and no changed one does."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transparency.proofs import (
    ProofError,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)
from protocol.transparency.tree import EMPTY_ROOT, SIZE_MAX, frontier_at, leaf_hash, node_hash
from tests.acceptance.logs import GrownLog
from tests.protocol.test_transparency_tree import CT_ENTRIES, CT_ROOTS

LOG = GrownLog([place.to_bytes(2) for place in range(201)], random.Random(61))
ROOTS = [frontier_at(size, LOG.read).root() for size in range(202)]
OTHER = leaf_hash(b"another entry")

CT = GrownLog(CT_ENTRIES)
A, B, C, D, E, F = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
)


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [A, B, C]),
        (5, 8, [D, E, CT_ROOTS[4]]),
        (2, 3, [CT_ROOTS[2]]),
        (1, 5, [CT_ROOTS[1], B, D]),
    ],
)
def test_the_inclusion_proofs_of_the_known_tree_come_out(index: int, size: int, path: list[str]) -> None:
    assert [each.hex() for each in prove_inclusion(index, size, CT.read)] == path
    verify_inclusion(CT.leaf(index), index, size, list(map(bytes.fromhex, path)), bytes.fromhex(CT_ROOTS[size]))


@pytest.mark.parametrize(
    ("first", "second", "proof"),
    [(1, 1, []), (1, 8, [A, B, C]), (6, 8, [F, E, CT_ROOTS[4]]), (2, 5, [B, D])],
)
def test_the_consistency_proofs_of_the_known_tree_come_out(first: int, second: int, proof: list[str]) -> None:
    assert [each.hex() for each in prove_consistency(first, second, CT.read)] == proof
    roots = bytes.fromhex(CT_ROOTS[first]), bytes.fromhex(CT_ROOTS[second])
    verify_consistency(first, second, *roots, list(map(bytes.fromhex, proof)))


def test_every_leaf_of_every_tree_up_to_200_is_shown_to_be_in_it_and_nowhere_else() -> None:
    for size in range(1, 201):
        for index in range(size):
            path = prove_inclusion(index, size, LOG.read)
            verify_inclusion(LOG.leaf(index), index, size, path, ROOTS[size])
            for wrong in {index - 1, index + 1, index ^ 1, (index * 7 + 3) % size} - {index}:
                with pytest.raises(ProofError):
                    verify_inclusion(LOG.leaf(index), wrong, size, path, ROOTS[size])


def test_every_tree_up_to_60_is_shown_to_continue_every_smaller_one() -> None:
    for second in range(61):
        for first in range(second + 1):
            proof = prove_consistency(first, second, LOG.read)
            verify_consistency(first, second, ROOTS[first], ROOTS[second], proof)


def changed(path: list[bytes]) -> Iterator[list[bytes]]:
    """Every path with one hash changed by a bit, dropped, doubled or cut, or two of them swapped; or one hash more."""
    for place, each in enumerate(path):
        flipped = bytes([each[0] ^ 1]) + each[1:]
        yield [*path[:place], flipped, *path[place + 1 :]]
        yield [*path[:place], *path[place + 1 :]]
        yield [*path[:place], each, *path[place:]]
        yield [*path[:place], each[:31], *path[place + 1 :]]
        for later in range(place + 1, len(path)):
            swapped = list(path)
            swapped[place], swapped[later] = path[later], each
            yield swapped
    yield [*path, OTHER]
    yield [OTHER, *path]


def directions(index: int, size: int) -> str:
    """The way from the root down to a leaf, by the definition of PATH."""
    way = ""
    while size > 1:
        split = 1
        while split * 2 < size:
            split *= 2
        if index < split:
            way, size = way + "l", split
        else:
            way, index, size = way + "r", index - split, size - split
    return way


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_no_changed_inclusion_proof_verifies(size_and_index: tuple[int, int]) -> None:
    size, index = size_and_index
    path = prove_inclusion(index, size, LOG.read)
    for wrong in changed(path):
        with pytest.raises(ProofError):
            verify_inclusion(LOG.leaf(index), index, size, wrong, ROOTS[size])
    with pytest.raises(ProofError):
        verify_inclusion(OTHER, index, size, path, ROOTS[size])
    with pytest.raises(ProofError):
        verify_inclusion(LOG.leaf(index), index, size, path, OTHER)
    for other in set(range(size)) - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(LOG.leaf(index), other, size, path, ROOTS[size])
        with pytest.raises(ProofError):
            verify_inclusion(LOG.leaf(other), index, size, path, ROOTS[size])
    for other in set(range(1, 202)) - {size}:
        with pytest.raises(ProofError):
            verify_inclusion(LOG.leaf(index), index, other, path, ROOTS[other])
        # A root with a size that is not its own: no signed checkpoint has them so. The path binds what it passes.
        if index >= other or directions(index, other) != directions(index, size):
            with pytest.raises(ProofError):
                verify_inclusion(LOG.leaf(index), index, other, path, ROOTS[size])


@given(st.integers(1, 201).flatmap(lambda second: st.tuples(st.integers(1, second), st.just(second))))
def test_no_changed_consistency_proof_verifies(sizes: tuple[int, int]) -> None:
    first, second = sizes
    proof = prove_consistency(first, second, LOG.read)
    for wrong in changed(proof):
        with pytest.raises(ProofError):
            verify_consistency(first, second, ROOTS[first], ROOTS[second], wrong)
    for roots in ((OTHER, ROOTS[second]), (ROOTS[first], OTHER), (ROOTS[second], ROOTS[first])):
        if roots != (ROOTS[first], ROOTS[second]):
            with pytest.raises(ProofError):
                verify_consistency(first, second, *roots, proof)
    for other in range(1, 202):
        if other != first:
            with pytest.raises(ProofError):
                verify_consistency(other, second, ROOTS[first], ROOTS[second], proof)
        if other not in (first, second):
            with pytest.raises(ProofError):
                verify_consistency(other, second, ROOTS[other], ROOTS[second], proof)
            with pytest.raises(ProofError):
                verify_consistency(first, other, ROOTS[first], ROOTS[other], proof)


def test_a_proof_that_is_too_long_or_too_short_is_refused_for_that() -> None:
    path = prove_inclusion(5, 200, LOG.read)
    with pytest.raises(ProofError, match="goes on above the root"):
        verify_inclusion(LOG.leaf(5), 5, 200, [*path, OTHER], ROOTS[200])
    with pytest.raises(ProofError, match="ends below the root"):
        verify_inclusion(LOG.leaf(5), 5, 200, path[:-1], ROOTS[200])
    proof = prove_consistency(77, 200, LOG.read)
    with pytest.raises(ProofError, match="goes on above the root"):
        verify_consistency(77, 200, ROOTS[77], ROOTS[200], [*proof, OTHER])
    with pytest.raises(ProofError, match="ends below the root"):
        verify_consistency(77, 200, ROOTS[77], ROOTS[200], proof[:-1])


def test_octets_are_not_moved_from_one_hash_into_its_neighbour() -> None:
    """Their concatenation is the same, so only the length of each tells that these are no hashes."""
    leaf, path = LOG.leaf(4), prove_inclusion(4, 200, LOG.read)
    with pytest.raises(ProofError, match="32 bytes"):
        verify_inclusion(leaf[:31], 4, 200, [leaf[31:] + path[0], *path[1:]], ROOTS[200])


def test_a_size_is_bound_to_its_root_by_the_checkpoint_and_not_by_the_path() -> None:
    """The algorithm of RFC 9162 section 2.1.3.2 itself: whoever checks takes both out of one signed checkpoint."""
    verify_inclusion(LOG.leaf(0), 0, 4, prove_inclusion(0, 3, LOG.read), ROOTS[3])


@given(st.integers(2, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))), st.data())
def test_a_rewritten_entry_makes_a_tree_that_continues_nothing(sizes: tuple[int, int], drawn: st.DataObject) -> None:
    second, first = sizes
    place = drawn.draw(st.integers(0, first - 1))
    entries = list(LOG.entries[:second])
    entries[place] += b"!"
    fork = GrownLog(entries)
    with pytest.raises(ProofError):
        verify_consistency(
            first, second, ROOTS[first], fork.frontier.root(), prove_consistency(first, second, fork.read)
        )


def test_every_tree_continues_the_empty_one_and_only_the_true_empty_one() -> None:
    verify_consistency(0, 5, EMPTY_ROOT, ROOTS[5], [])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for first, second, roots, proof in (
        (0, 5, (OTHER, ROOTS[5]), []),
        (0, 5, (EMPTY_ROOT, ROOTS[5]), [OTHER]),
        (0, 0, (OTHER, OTHER), []),
        (5, 5, (ROOTS[5], OTHER), []),
        (5, 5, (ROOTS[5], ROOTS[5]), [OTHER]),
        (6, 5, (ROOTS[6], ROOTS[5]), []),
        (-1, 5, (EMPTY_ROOT, ROOTS[5]), []),
        (3, SIZE_MAX + 1, (ROOTS[3], ROOTS[5]), [OTHER]),
    ):
        with pytest.raises(ProofError):
            verify_consistency(first, second, *roots, proof)


@pytest.mark.parametrize(("index", "size"), [(5, 5), (-1, 5), (0, 0), (0, SIZE_MAX + 1)])
def test_a_leaf_outside_the_tree_has_no_proof_and_none_verifies(index: int, size: int) -> None:
    with pytest.raises(ProofError):
        prove_inclusion(index, size, LOG.read)
    with pytest.raises(ProofError):
        verify_inclusion(OTHER, index, size, [], OTHER)


def test_a_larger_tree_does_not_go_before_a_smaller_one() -> None:
    with pytest.raises(ProofError):
        prove_consistency(6, 5, LOG.read)


def test_the_largest_tree_has_proofs_that_end() -> None:
    """All leaves are alike there, so that one hash a level is the whole tree."""
    levels = [leaf_hash(b"")]
    for _ in range(63):
        levels.append(node_hash(levels[-1], levels[-1]))

    def read(level: int, _index: int) -> bytes:
        return levels[level]

    root = frontier_at(SIZE_MAX, read).root()
    for index in (0, 1, SIZE_MAX // 3, SIZE_MAX - 1):
        path = prove_inclusion(index, SIZE_MAX, read)
        assert len(path) <= 63
        verify_inclusion(levels[0], index, SIZE_MAX, path, root)
    for first in (1, 2, SIZE_MAX // 3, SIZE_MAX - 1):
        proof = prove_consistency(first, SIZE_MAX, read)
        assert len(proof) <= 64
        verify_consistency(first, SIZE_MAX, frontier_at(first, read).root(), root, proof)
