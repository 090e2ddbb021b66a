"""Names entries by tiles that were published or exported: those have the leaf hash of every entry as it was signed.

A journal that was rewritten with all its stored hashes made to fit shows a range of entries only, the size of a stored
subtree at best. Leaf tiles that somebody kept tell which entry it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.audit.damage import Damage, Findings
from gateway.audit.heads import HeadRefused
from gateway.journal.log_reader import LogDamaged, LogReader
from protocol.transparency.tiles import TILE_HEIGHT, TILE_WIDTH, Tile
from protocol.transparency.tree import HASH_BYTES, leaf_hash

_NAMED_MAX: Final = 1000


def name_within(folder: Path, reader: LogReader, findings: Findings) -> None:
    """Add a finding for each entry, in the ranges found rewritten, that is not the one of the published leaf tiles.

    Raises:
        HeadRefused: there are no leaf tiles in this folder.
    """
    if not (folder / "tile" / "0").is_dir():
        raise HeadRefused(f"{folder} has no leaf tiles (tile/0)")
    ranges = [each for each in findings.kept if each.kind in (Damage.REWRITTEN, Damage.REWRITTEN_TAIL)]
    tiles = sorted(
        {tile for each in ranges for tile in range((each.sequence - 1) >> TILE_HEIGHT, _end_tile(each.last))}
    )
    named = 0
    for number in tiles:
        named += _name(folder, number, reader, findings)
        if named >= _NAMED_MAX:
            return


def _end_tile(last: int) -> int:
    return ((last - 1) >> TILE_HEIGHT) + 1


def _name(folder: Path, number: int, reader: LogReader, findings: Findings) -> int:
    """Name the entries of one tile that are others than the published ones; returns how many."""
    published = _tile(folder, number)
    first = number << TILE_HEIGHT
    named = 0
    try:
        for entry in reader.entries(first, min(first + len(published), reader.size)):
            if leaf_hash(entry.body) != published[entry.sequence - 1 - first]:
                findings.add(Damage.EDITED, "it is not the entry of the published leaf tile", sequence=entry.sequence)
                named += 1
    except LogDamaged:
        pass  # told of already: entries of this tile cannot be read
    return named


def _tile(folder: Path, number: int) -> list[bytes]:
    """The hashes of a published leaf tile: the full one, else the widest partial one, else none."""
    whole = folder / Tile(0, number).path
    candidates = [whole]
    partial = whole.with_name(whole.name + ".p")
    if partial.is_dir():
        widths = sorted((int(each.name) for each in partial.iterdir() if each.name.isdigit()), reverse=True)
        candidates += [partial / str(width) for width in widths]
    for path in candidates:
        if path.is_file() and path.stat().st_size <= TILE_WIDTH * HASH_BYTES:
            content = path.read_bytes()
            return [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]
    return []
