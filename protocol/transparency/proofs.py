"""Two proofs about the tree, and how anybody checks them: RFC 9162 sections 2.1.3 and 2.1.4 (the hashes of RFC 6962).

*Inclusion*: the entry with this leaf hash is the one at this index of the tree with this size and root.
*Consistency*: the tree with the second size and root begins with all the leaves of the first, unchanged and in order.

Both are lists of hashes out of the tree, at most 63 and 64 of them. Whoever checks one needs nothing else of the log.

A size and a root belong together and come from one signed checkpoint. The algorithms of the RFC rely on that: given a
true root with a false size they may accept, where both sizes put the leaf on the same path (leaf 0 of 3 and of 4).
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.transparency.tree import EMPTY_ROOT, HASH_BYTES, SIZE_MAX, HashReader, node_hash, range_hash


class ProofError(ValueError):
    """A proof that shows nothing, or one that no tree can give. The message tells what does not hold."""


def prove_inclusion(index: int, size: int, read: HashReader) -> list[bytes]:
    """PATH(index, D[0:size]) of section 2.1.3.1: from the leaf's sibling up to the root's child.

    Raises:
        ProofError: there is no such leaf.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError("the index is not below the size")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(middle, end, read))
            end = middle
        else:
            path.append(range_hash(start, middle, read))
            start = middle
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (its hash) is leaf `index` of the tree with `size` leaves and `root`: section 2.1.3.2.

    Raises:
        ProofError: it is not shown to be.
    """
    _all_hashes([leaf, root], path)
    # Step 1.
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError("the index is not below the size")
    # Steps 2 and 3: positions, at the level where `computed` stands, of it and of the last node there.
    position, last = index, size - 1
    computed = leaf
    # Step 4.
    for sibling in path:
        if last == 0:
            raise ProofError("the path goes on above the root")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            if not position & 1:
                position, last = _to_the_next_right_child(position, last)
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    # Step 5.
    if last != 0:
        raise ProofError("the path ends below the root")
    if computed != root:
        raise ProofError("the path leads to another root")


def prove_consistency(first: int, second: int, read: HashReader) -> list[bytes]:
    """PROOF(first, D[0:second]) of section 2.1.4.1; empty where the sizes are the same or the first is 0.

    Raises:
        ProofError: the first tree is larger than the second.
    """
    if not 0 <= first <= second <= SIZE_MAX:
        raise ProofError("the first tree is larger than the second")
    if first in (0, second):
        return []
    proof = []
    start, end = 0, second
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(range_hash(middle, end, read))
            end = middle
        else:
            proof.append(range_hash(start, middle, read))
            start = middle
    # SUBPROOF's b: with nothing to the left, what remains is the whole first tree, and its root is known to who checks.
    if start > 0:
        proof.append(range_hash(start, end, read))
    proof.reverse()
    return proof


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (`second`, `second_root`) continues the tree (`first`, `first_root`): section 2.1.4.2.

    RFC 9162 leaves out two cases. Trees of one size have one root, and every tree continues the empty one; both need an
    empty proof (c2sp.org/tlog-witness asks the same).

    Raises:
        ProofError: it is not shown to.
    """
    _all_hashes([first_root, second_root], proof)
    if not 0 <= first <= second <= SIZE_MAX:
        raise ProofError("the second tree is smaller than the first")
    if (first == 0 and first_root != EMPTY_ROOT) or (second == 0 and second_root != EMPTY_ROOT):
        raise ProofError("an empty tree has the root SHA-256 of nothing")
    if first in (0, second):
        if proof:
            raise ProofError("the proof has hashes where none are needed")
        if first == second and first_root != second_root:
            raise ProofError("two trees of one size have different roots")
        return
    # Step 1.
    if not proof:
        raise ProofError("the proof is empty")
    # Step 2: a first tree that is a complete subtree is its own beginning.
    hashes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    # Steps 3 and 4.
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    # Steps 5 and 6: one climb computes both roots.
    first_computed = second_computed = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofError("the proof goes on above the root")
        if position & 1 or position == last:
            first_computed = node_hash(sibling, first_computed)
            second_computed = node_hash(sibling, second_computed)
            if not position & 1:
                position, last = _to_the_next_right_child(position, last)
        else:
            second_computed = node_hash(second_computed, sibling)
        position >>= 1
        last >>= 1
    # Step 7.
    if last != 0:
        raise ProofError("the proof ends below the root")
    if first_computed != first_root:
        raise ProofError("the proof leads to another first root")
    if second_computed != second_root:
        raise ProofError("the proof leads to another second root")


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _to_the_next_right_child(position: int, last: int) -> tuple[int, int]:
    """Past the levels at which the last node has no sibling: step 4.b.ii of 2.1.3.2, step 6.b.ii of 2.1.4.2."""
    while position and not position & 1:
        position >>= 1
        last >>= 1
    return position, last


def _all_hashes(roots: Sequence[bytes], path: Sequence[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in (*roots, *path)):
        raise ProofError("a hash has 32 bytes")
