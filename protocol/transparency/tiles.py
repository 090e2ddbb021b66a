"""The tree and its entries as plain files that never change. c2sp.org/tlog-tiles v0.1.0.

    checkpoint                       the newest checkpoint, the only file that changes
    tile/<L>/<N>[.p/<W>]             256 hashes, or W of them while the tile is not full
    tile/entries/<N>[.p/<W>]         the entries of leaf tile N, each after its length in 2 bytes, big-endian

Hash i of tile N on tile level L is that of the complete subtree (8 * L, 256 * N + i): level 0 has the leaf hashes, and
each hash of the next level is over a full tile of the one before. The hashes of the levels between are computed from a
tile. N is written in groups of three digits, all but the last with an x before: 1234067 is x001/x234/067.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol.transparency.text import NUMBER_MAX
from protocol.transparency.tree import HASH_BYTES, HashReader, node_hash

CHECKPOINT_PATH: Final = "checkpoint"
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
ENTRY_BYTES_MAX: Final = 65_535

_LEVEL_MAX: Final = 63
_TILES_KEPT: Final = 32
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class TileError(ValueError):
    """A path, tile or bundle that is not of the form, or that the tree of this size does not have."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile, or which bundle of entries.

    Attributes:
        level: of tiles, 0 to 63; None for a bundle of entries.
        index: on its level, from 0 on the left.
        width: number of hashes or entries, 1 to 256; less than 256 makes it partial.
    """

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Its path below the log's prefix.

        Raises:
            TileError: there is no such tile.
        """
        if not (self.level is None or 0 <= self.level <= _LEVEL_MAX) or not 0 <= self.index <= NUMBER_MAX:
            raise TileError("a tile has a level from 0 to 63 and an index from 0")
        if not 1 <= self.width <= TILE_WIDTH:
            raise TileError("a tile has from 1 to 256 hashes")
        rest, last = divmod(self.index, 1000)
        path = f"{last:03}"
        while rest:
            rest, group = divmod(rest, 1000)
            path = f"x{group:03}/{path}"
        level = "entries" if self.level is None else self.level
        return f"tile/{level}/{path}" + (f".p/{self.width}" if self.width < TILE_WIDTH else "")

    @classmethod
    def parse(cls, path: str) -> Tile:
        """The tile that has this path; each has one.

        Raises:
            TileError: none has.
        """
        match = _PATH.fullmatch(path) if len(path) <= 100 else None
        if match is None:
            raise TileError("not the path of a tile")
        level = None if match["level"] == "entries" else int(match["level"])
        index = int(match["index"].replace("x", "").replace("/", ""))
        tile = cls(level, index, TILE_WIDTH if match["width"] is None else int(match["width"]))
        if tile.path != path:
            raise TileError("not the one path of a tile")
        return tile


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles and bundles that the tree of `size` entries has and the tree of `since` entries had not.

    Bundles first, then the levels upwards; partial ones at the right edge of each level. A log publishes all of it
    before the checkpoint of `size`.

    Raises:
        TileError: the tree does not grow.
    """
    if not 0 <= since <= size <= NUMBER_MAX:
        raise TileError("a tree only grows, up to 2**63 - 1 entries")
    for level in (None, *range(_LEVEL_MAX + 1)):
        count, before = (number >> TILE_HEIGHT * (level or 0) for number in (size, since))
        if not count:
            return
        for index in range(before >> TILE_HEIGHT, (count + TILE_WIDTH - 1) >> TILE_HEIGHT):
            width = min(TILE_WIDTH, count - (index << TILE_HEIGHT))
            if (index << TILE_HEIGHT) + width > before:
                yield Tile(level, index, width)


def build_tile(tile: Tile, read: HashReader) -> bytes:
    """The content of a tile, out of stored hashes of the complete subtrees at its level.

    Raises:
        TileError: `tile` is a bundle of entries, or what was read is not a hash.
    """
    if tile.level is None:
        raise TileError("a bundle of entries has no hashes")
    first = tile.index << TILE_HEIGHT
    content = [read(tile.level * TILE_HEIGHT, first + place) for place in range(tile.width)]
    if any(len(each) != HASH_BYTES for each in content):
        raise TileError("what was read is not a hash of 32 bytes")
    return b"".join(content)


def build_bundle(entries: Sequence[bytes]) -> bytes:
    """The content of a bundle of entries: each after its length in 2 bytes.

    Raises:
        TileError: not from 1 to 256 entries, or one of more than 65,535 bytes.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise TileError("a bundle has from 1 to 256 entries")
    if any(len(entry) > ENTRY_BYTES_MAX for entry in entries):
        raise TileError("an entry has at most 65,535 bytes")
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def split_bundle(content: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle. Nothing is verified: each must hash to its place in the leaf tile.

    Raises:
        TileError: it has not just so many, or ends within one.
    """
    entries: list[bytes] = []
    offset = 0
    while offset < len(content) and len(entries) < width:
        start = offset + 2
        offset = start + int.from_bytes(content[offset:start])
        entries.append(content[start:offset])
    if offset != len(content) or len(entries) != width:
        raise TileError(f"a bundle of {width} entries is that long and no longer or shorter")
    return entries


TileReader: TypeAlias = Callable[[Tile], bytes]
"""Gives a tile's content. Where a partial tile is asked for, the full one will do (section "Partial Tiles")."""


class TileHashes:
    """Reads hashes of complete subtrees out of tiles: a `HashReader` for proofs and roots.

    Nothing is verified here. A root or proof that is made of wrong tiles does not fit the checkpoint, and that is where
    it shows. The last 32 tiles are kept.
    """

    __slots__ = ("_kept", "_read", "_size")

    def __init__(self, size: int, read: TileReader) -> None:
        """`size` is that of a checkpoint: it says which tiles are partial."""
        if not 0 <= size <= NUMBER_MAX:
            raise TileError("a tree has from 0 to 2**63 - 1 leaves")
        self._size = size
        self._read = read
        self._kept: dict[Tile, bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree (level, index); computed from one tile, by at most 127 hashes.

        Raises:
            TileError: the tree has no such subtree, or a tile has a wrong length.
        """
        if level < 0 or index < 0 or (index + 1) << level > self._size:
            raise TileError("the tree has no such complete subtree")
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, place = divmod(index << height, TILE_WIDTH)
        width = min(TILE_WIDTH, (self._size >> TILE_HEIGHT * tile_level) - (tile_index << TILE_HEIGHT))
        content = self._tile(Tile(tile_level, tile_index, width))
        start = place * HASH_BYTES
        return _complete(split_tile(content[start : start + (HASH_BYTES << height)]))

    def _tile(self, tile: Tile) -> bytes:
        content = self._kept.get(tile)
        if content is None:
            content = self._read(tile)
            if len(content) not in (tile.width * HASH_BYTES, TILE_WIDTH * HASH_BYTES):
                raise TileError(f"{tile.path} has neither the length of its hashes nor of a full tile")
            if len(self._kept) >= _TILES_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[tile] = content
        return content


def split_tile(content: bytes) -> list[bytes]:
    """The hashes of a tile, from left to right."""
    return [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]


def _complete(hashes: Iterable[bytes]) -> bytes:
    """The hash over a power of two of hashes."""
    row = list(hashes)
    while len(row) > 1:
        pairs = iter(row)
        row = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=True)]
    return row[0]
