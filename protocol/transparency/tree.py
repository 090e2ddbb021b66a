"""The Merkle tree over the journal's entries, RFC 6962 section 2.1, and how it grows one batch at a time.

    MTH({})      = SHA-256("")
    MTH({d0})    = SHA-256(00 | d0)                       a leaf
    MTH(D[0:n])  = SHA-256(01 | MTH(D[0:k]) | MTH(D[k:n]))   a node; k is the largest power of two below n

The two prefixes keep a leaf from being passed off as a node.

A subtree is *complete* when it has 2**level leaves and begins at a multiple of that number. It is named by its level
and its index on that level, counted from 0 on the left: (0, i) is leaf i, and (level, i) spans the leaves from
i * 2**level up to (i + 1) * 2**level. The hash of a complete subtree never changes again, so it may be stored. Every
tree is a row of complete subtrees, one for each bit that is set in its size, largest first:

    size 13 = 8 + 4 + 1        (3, 0)  (2, 2)  (0, 12)

That row is all that is needed to append to a tree and to know its root. Here it is called the frontier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from protocol.transparency.text import NUMBER_MAX

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
SIZE_MAX: Final = NUMBER_MAX

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_SIZE_BYTES: Final = 8

HashReader: TypeAlias = Callable[[int, int], bytes]
"""Gives the hash of the complete subtree (level, index); raises whatever it likes where it has none."""


class TreeError(ValueError):
    """Sizes, indexes or bytes that belong to no tree; the message tells which rule."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(00 | entry), RFC 6962 section 2.1."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(01 | left | right), RFC 6962 section 2.1."""
    return sha256(_NODE + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a tree needs to grow: at most 63 hashes. A value; appending gives another one and changes nothing.

    So a commit that fails keeps the frontier it had.

    Attributes:
        size: number of leaves.
        hashes: of the complete subtrees that the tree is a row of, largest first; one for each bit set in `size`.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= SIZE_MAX:
            raise TreeError("a tree has from 0 to 2**63 - 1 leaves")
        if len(self.hashes) != self.size.bit_count() or not _all_hashes(self.hashes):
            raise TreeError("a frontier has one hash of 32 bytes for each bit that is set in its size")

    def append(self, leaves: Sequence[bytes]) -> tuple[Frontier, list[list[bytes]]]:
        """The tree with `leaves` after what it has; one SHA-256 for each leaf, and at most 63 more for the whole batch.

        Args:
            leaves: leaf hashes, in order.
        Returns:
            The frontier afterwards, and the complete subtrees that are new, by level: the first of level L has the
            index `size >> L` of the size before. Level 0 are the leaves themselves.
        Raises:
            TreeError: a leaf hash has not 32 bytes, or the tree would be too large.
        """
        if not _all_hashes(leaves):
            raise TreeError("a leaf hash has 32 bytes")
        waiting = list(self.hashes)
        left_over: list[bytes] = []
        levels: list[list[bytes]] = []
        row = list(leaves)
        level = 0
        while row:
            levels.append(row)
            if self.size >> level & 1:
                row = [waiting.pop(), *row]
            if len(row) & 1:
                left_over.append(row[-1])
            pairs = iter(row)
            row = [sha256(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
            level += 1
        left_over.reverse()
        return Frontier(self.size + len(leaves), (*waiting, *left_over)), levels

    def root(self) -> bytes:
        """The root of the tree, MTH(D[0:size])."""
        return _fold(self.hashes)

    def encode(self) -> bytes:
        """The size in 8 bytes, big-endian, and the hashes: at most 2,024 bytes."""
        return self.size.to_bytes(_SIZE_BYTES) + b"".join(self.hashes)

    @classmethod
    def decode(cls, encoded: bytes) -> Frontier:
        """The frontier that `encode` wrote; it cannot tell whether the hashes are the right ones: compare the root.

        Raises:
            TreeError: not the one encoding of a frontier.
        """
        if len(encoded) < _SIZE_BYTES:
            raise TreeError("a frontier begins with its size in 8 bytes")
        ends = range(_SIZE_BYTES, len(encoded), HASH_BYTES)
        hashes = tuple(encoded[start : start + HASH_BYTES] for start in ends)
        return cls(int.from_bytes(encoded[:_SIZE_BYTES]), hashes)


def frontier_at(size: int, read: HashReader) -> Frontier:
    """The frontier of the tree's first `size` leaves, out of stored hashes; at most 63 are read.

    Raises:
        TreeError: no tree has this size, or what was read is not a hash.
    """
    if not 0 <= size <= SIZE_MAX:
        raise TreeError("a tree has from 0 to 2**63 - 1 leaves")
    return Frontier(size, _row(0, size, read))


def range_hash(start: int, end: int, read: HashReader) -> bytes:
    """MTH(D[start:end]) out of stored hashes.

    `start` is where RFC 6962 splits a tree: a multiple of the smallest power of two that is not below `end - start`.
    Only for such a range is it a hash that stands in a tree.

    Raises:
        TreeError: no such range, or what was read is not a hash.
    """
    if not 0 <= start <= end <= SIZE_MAX or start % (1 << max(end - start - 1, 0).bit_length()):
        raise TreeError("not a range that a tree is split into")
    return _fold(_row(start, end, read))


def _row(start: int, end: int, read: HashReader) -> tuple[bytes, ...]:
    """The complete subtrees that D[start:end] is a row of, largest first."""
    hashes = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read(level, start >> level))
        start += 1 << level
    if not _all_hashes(hashes):
        raise TreeError("what was read is not a hash of 32 bytes")
    return tuple(hashes)


def _fold(row: Sequence[bytes]) -> bytes:
    """The hash over a row of complete subtrees, largest first: the split at k is always before the last of them."""
    if not row:
        return EMPTY_ROOT
    folded = row[-1]
    for left in reversed(row[:-1]):
        folded = node_hash(left, folded)
    return folded


def _all_hashes(hashes: Sequence[bytes]) -> bool:
    return set(map(len, hashes)) <= {HASH_BYTES}
