"""The Merkle tree over the journal's entries as the journal stores it (protocol/transparency/tree.py).

Leaf i is the entry with sequence i + 1. `entry.leaf` has the leaf hashes, and `subtree` the root of each complete
subtree of 256**level leaves from level 1 on, which are the hashes that tiles are made of. Each is written in the commit
that completes it, so that a proof reads a few hundred hashes however long the journal is.

The tree's frontier is in the journal's head, under its tag: a flipped bit in a stored hash does not get into the next
root, and at opening it is noticed if it is among those that the next root depends on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.journal.bulk import insert_rows
from protocol.transparency.tiles import TILE_HEIGHT, TILE_WIDTH
from protocol.transparency.tree import Frontier, TreeError, frontier_at, node_hash

_SELECT_LEAVES = "SELECT sequence - 1, leaf FROM entry WHERE sequence > ? AND sequence <= ?"
_SELECT_SUBTREES = "SELECT number, hash FROM subtree WHERE level = ? AND number >= ? AND number < ?"


def insert_subtrees(connection: sqlite3.Connection, size: int, levels: Sequence[Sequence[bytes]]) -> None:
    """Write the complete subtrees that a batch adds and that belong into `subtree`, within the caller's commit.

    Args:
        size: leaves before the batch.
        levels: what `Frontier.append` gives of the batch.
    """
    rows = [
        (height // TILE_HEIGHT, number, each)
        for height in range(TILE_HEIGHT, len(levels), TILE_HEIGHT)
        for number, each in enumerate(levels[height], size >> height)
    ]
    if rows:
        insert_rows(connection, "INSERT INTO subtree (level, number, hash) VALUES", 3, rows)


def stored_frontier(connection: sqlite3.Connection, size: int) -> Frontier:
    """The frontier of the first `size` entries, out of at most 255 stored hashes for each level of tiles.

    Raises:
        TreeError: a hash that is needed is missing, or is none.
    """
    tiles: dict[int, dict[object, object]] = {}

    def read(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        if tile_level not in tiles:
            end = size >> TILE_HEIGHT * tile_level
            start = end - end % TILE_WIDTH
            query, values = (
                (_SELECT_SUBTREES, (tile_level, start, end)) if tile_level else (_SELECT_LEAVES, (start, end))
            )
            tiles[tile_level] = dict(connection.execute(query, values).fetchall())
        start = index << height
        row = [_hash(tiles[tile_level].get(each)) for each in range(start, start + (1 << height))]
        while len(row) > 1:
            row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
        return row[0]

    return frontier_at(size, read)


def _hash(stored: object) -> bytes:
    if not isinstance(stored, bytes):
        raise TreeError("a stored hash is missing")
    return stored
