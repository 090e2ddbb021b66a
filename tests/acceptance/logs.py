"""Logs to try: real journal entries, the tree over them as it grew, and its files."""

from __future__ import annotations

import random
from pathlib import Path

from protocol.journal_entry import Entry, encode_entry
from protocol.transparency.checkpoints import Checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_WIDTH, build_bundle, build_tile, tiles_of
from protocol.transparency.tree import Frontier, leaf_hash

ORIGIN = "example.org/gateway-7"
SIGNER = SignerKey(ORIGIN, bytes(range(32)))


def journal_entry(sequence: int) -> bytes:
    """An entry of a journal, one that no other sequence has."""
    return encode_entry(
        Entry(
            kind=5,
            state=3,
            sequence=sequence,
            time_ms=1_700_000_000_000 + sequence,
            transaction=sequence,
            attempts=1,
            amount_minor=100 + sequence,
            key=f"M|T|{sequence:06}|200",
            fingerprint=b"",
            currency="978",
            response="00",
            reason="",
            detail="",
            parts=(),
        )
    )


class GrownLog:
    """A log that took its entries in batches of any size, with every hash that it was told of."""

    def __init__(self, entries: list[bytes], batches: random.Random | None = None) -> None:
        """Without `batches` it takes all at once."""
        self.entries = entries
        self.frontier = Frontier()
        self.stored: dict[tuple[int, int], bytes] = {}
        leaves = [leaf_hash(entry) for entry in entries]
        while leaves:
            count = batches.randint(0, 40) if batches else len(leaves)
            before = self.frontier.size
            self.frontier, levels = self.frontier.append(leaves[:count])
            del leaves[:count]
            for level, row in enumerate(levels):
                for place, each in enumerate(row, before >> level):
                    assert (level, place) not in self.stored
                    self.stored[level, place] = each

    def read(self, level: int, index: int) -> bytes:
        return self.stored[level, index]

    def leaf(self, index: int) -> bytes:
        return self.stored[0, index]

    def checkpoint(self, size: int, root: bytes, *signers: SignerKey) -> bytes:
        return sign_checkpoint(Checkpoint(ORIGIN, size, root), signers or [SIGNER])

    def publish(self, folder: Path, since: int = 0) -> None:
        """Write what the log publishes as files: tiles, bundles, and the checkpoint last."""
        for tile in tiles_of(self.frontier.size, since):
            path = folder / tile.path
            path.parent.mkdir(parents=True, exist_ok=True)
            first = tile.index * TILE_WIDTH
            if tile.level is None:
                path.write_bytes(build_bundle(self.entries[first : first + tile.width]))
            else:
                path.write_bytes(build_tile(tile, self.read))
        (folder / CHECKPOINT_PATH).write_bytes(self.checkpoint(self.frontier.size, self.frontier.root()))
