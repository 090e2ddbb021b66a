"""The tree over what the entries really are, held against the subtrees that the journal stores and against heads.

Two trees grow beside each other. *Real* is made of the entries as they are now. *Told* takes, wherever the journal
stores the root of a complete subtree of 256 entries, that root. They are one tree as long as nothing was changed. Where
they part, a head (a signed checkpoint, or the journal's own) says which of the two it was made of:

    the head's root is    then
    told's                entries were changed after it, leaf hashes made to fit: in the subtrees that were named
    real's                the stored subtrees were changed, the entries are those of the head
    neither's             the journal is another one than the head's, from some entry below the head's size on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.audit.damage import Damage, Findings
from gateway.journal.log_reader import LogReader
from protocol.transparency.tiles import TILE_HEIGHT, TILE_WIDTH
from protocol.transparency.tree import Frontier, frontier_at

_NODE: Final = b"\x01"


@dataclass(slots=True)
class Head:
    """A size and a root that somebody says the journal had.

    Attributes:
        name: whose it is, in words.
        real, told: roots of the two trees at this size; None where entries are missing or not so many.
    """

    name: str
    size: int
    root: bytes
    real: bytes | None = None
    told: bytes | None = None


@dataclass(slots=True)
class _Growing:
    """A tree of complete tiles. `frontier` counts tiles; None once it cannot be known any more."""

    frontier: Frontier | None

    def add(self, root: bytes | None) -> list[bytes]:
        """Take in the next tile's root; returns the roots of what it completes, of level 2 (256 tiles), 3, and so on.

        One tile completes nothing, or a subtree of level 2, or that and the one of level 3 that it ends, and so on.
        """
        if self.frontier is None or root is None:
            self.frontier = None
            return []
        self.frontier, levels = self.frontier.append([root])
        return [row[0] for row in levels[TILE_HEIGHT::TILE_HEIGHT]]

    def root_with(self, leaves: Sequence[bytes | None]) -> bytes | None:
        """The root with a part of a tile behind the complete ones."""
        known = [each for each in leaves if each is not None]
        if self.frontier is None or len(known) != len(leaves):
            return None
        part, _ = Frontier().append(known)
        size = (self.frontier.size << TILE_HEIGHT) + len(known)
        return Frontier(size, (*self.frontier.hashes, *part.hashes)).root()


class TreeChecks:
    """Takes leaves in order; heads get their roots as their sizes are passed."""

    def __init__(self, reader: LogReader, findings: Findings, heads: list[Head], start: int = 0) -> None:
        """`start` is the size of the tree that the leaves go on from; what was before is taken as stored.

        Raises:
            LogDamaged: what is stored of it is not there.
        """
        self._reader = reader
        self._findings = findings
        self._heads = heads
        self._start = start
        self._tiles = start >> TILE_HEIGHT
        first = frontier_at(self._tiles, lambda level, index: reader.hashes(level + TILE_HEIGHT, index))
        self._real = _Growing(first)
        self._told = _Growing(first)
        self._leaves: list[bytes | None] = [*reader.leaves(self._size, start)] if start else []
        self._edited: dict[int, bytes] = {}
        self._parted: list[tuple[int, int]] = []
        self._stored: list[bytes] = []
        self._stored_from = 0

    def add(self, leaves: Sequence[bytes | None], edited: Mapping[int, bytes]) -> None:
        """Take in the next leaves.

        Args:
            leaves: None where an entry is missing; where an entry does not hash to its stored leaf, that leaf.
            edited: by sequence, what those entries hash to.
        """
        self._leaves += leaves
        self._edited |= edited
        while len(self._leaves) >= TILE_WIDTH:
            tile, self._leaves = self._leaves[:TILE_WIDTH], self._leaves[TILE_WIDTH:]
            self._tile(tile)
            self._edited = {sequence: each for sequence, each in self._edited.items() if sequence > self._size}

    @property
    def _size(self) -> int:
        return self._tiles << TILE_HEIGHT

    def finish(self) -> None:
        """All leaves were taken: what is left is a part of a tile, and then the heads are compared."""
        self._pass_heads(self._leaves)
        for sequence in self._edited:
            self._findings.add(Damage.EDITED, "it is not the entry that its leaf hash was made of", sequence=sequence)
        self._judge()

    def root(self) -> bytes | None:
        """The root of the real tree, None where entries are missing."""
        return self._real.root_with(self._leaves)

    def _tile(self, tile: list[bytes | None]) -> None:
        stored = self._stored_root(self._tiles)
        tile = self._settled(tile, stored)
        self._pass_heads(tile[:-1])
        real = None if None in tile else folded([each for each in tile if each is not None])
        told = stored or real
        if real is not None and real != told:
            self._parted.append((1, self._tiles))
        above = self._real.add(real if real is not None else told)
        self._told.add(told)
        for level, each in enumerate(above, 2):
            number = self._tiles >> TILE_HEIGHT * (level - 1)
            if (there := self._reader.subtrees(level, number, number + 1)) and there[0] != each:
                self._parted.append((level, number))
        self._tiles += 1
        self._pass_heads([])

    def _stored_root(self, tile: int) -> bytes | None:
        place = tile - self._stored_from
        if not 0 <= place < len(self._stored):
            self._stored_from = tile
            whole = self._reader.size >> TILE_HEIGHT
            ahead = self._reader.subtrees(1, tile, min(tile + TILE_WIDTH, whole))
            self._stored = ahead or self._reader.subtrees(1, tile, tile + 1) or []
            place = 0
        return self._stored[place] if self._stored else None

    def _settled(self, tile: list[bytes | None], stored: bytes | None) -> list[bytes | None]:
        """Where an entry and its leaf hash disagree: which of the two the tree was made of."""
        first = self._size + 1
        mine = {sequence: each for sequence, each in self._edited.items() if sequence < first + TILE_WIDTH}
        if not mine:
            return tile
        changed = [mine.get(first + place, leaf) for place, leaf in enumerate(tile)]
        whole = [each for each in changed if each is not None]
        if stored is not None and len(whole) == TILE_WIDTH and folded(whole) == stored:
            for sequence in mine:
                text = "the stored leaf hash is not that of the entry; the tree has the entry as it is"
                self._findings.add(Damage.LEAF, text, sequence=sequence)
            return changed
        for sequence in mine:
            self._findings.add(Damage.EDITED, "it is not the entry that its leaf hash was made of", sequence=sequence)
        return tile

    def _pass_heads(self, leaves: Sequence[bytes | None]) -> None:
        """Note the roots of heads whose size is met with the first so many of `leaves`."""
        for head in self._heads:
            place = head.size - self._size
            if 0 <= place <= len(leaves) and head.size >= self._start and (place or not head.real):
                head.real = self._real.root_with(leaves[:place])
                head.told = self._told.root_with(leaves[:place])

    def _judge(self) -> None:
        """Say what the heads say of where the two trees part, and of the rest."""
        reached = [head for head in self._heads if head.real is not None or head.told is not None]
        entries_are_right = bool(reached) and all(head.root == head.real for head in reached)
        for level, number in self._parted:
            first = (number << TILE_HEIGHT * level) + 1
            last = (number + 1) << TILE_HEIGHT * level
            if entries_are_right:
                text = f"stored hash {number} of level {level} is not that of these entries; the head is"
                self._findings.add(Damage.SUBTREE, text, sequence=first, last=last)
            elif level == 1:
                text = "at least one of them is another than when the tree was made, its leaf hash made to fit"
                self._findings.add(Damage.REWRITTEN, text, sequence=first, last=last)
            else:
                text = f"stored hash {number} of level {level} is not that of the subtrees below it"
                self._findings.add(Damage.SUBTREE, text, sequence=first, last=last)
        for head in reached:
            if head.root not in (head.real, head.told):
                text = f"of the first {head.size} entries, at least one is not what {head.name} was made of"
                self._findings.add(Damage.REWRITTEN_TAIL, text, sequence=1, last=head.size)


def folded(row: Sequence[bytes]) -> bytes:
    """The root of a complete subtree, out of hashes of its lower level."""
    while len(row) > 1:
        pairs = iter(row)
        row = [sha256(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return row[0]
