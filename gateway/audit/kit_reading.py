"""A kit as a log to prove from: its tiles and entries, read out of the folder. Nothing in it is believed unverified."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.audit.kit import BROKEN_OFF, VERIFIER_KEY, KitError
from gateway.audit.kit_head import HeadError, SignedHead, verified_head, verifier_keys_of
from protocol.transparency.notes import NOTE_BYTES_MAX, VerifierKey
from protocol.transparency.tiles import (
    CHECKPOINT_PATH,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    TileError,
    TileHashes,
    split_bundle,
)
from protocol.transparency.tree import HASH_BYTES

_BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (2 + 65_535)
_TRANSACTION: Final = slice(19, 27)
"""Where an entry names its transaction (protocol/journal_entry.py)."""


class Kit:
    """An exported kit.

    Attributes:
        head: its checkpoint, whose signature has been verified.
        hashes: reads the tree's hashes out of its tiles; they are not verified, what is computed of them is.
    """

    def __init__(self, folder: Path, keys: Sequence[VerifierKey] = ()) -> None:
        """Open the kit in `folder`.

        Args:
            keys: of the log; those that came with the kit where none are given.
        Raises:
            KitError: it is none, it was broken off, or its checkpoint is refused.
        """
        self.folder = folder
        if (folder / BROKEN_OFF).exists():
            raise KitError(f"{folder} is not complete: its export is running, or was broken off")
        note = self._read(CHECKPOINT_PATH, NOTE_BYTES_MAX)
        try:
            self.head: SignedHead = verified_head(note, keys or verifier_keys_of(str(folder / VERIFIER_KEY)))
        except HeadError as error:
            raise KitError(f"{folder}: {error}") from None
        self.hashes = TileHashes(self.size, self._tile)

    @property
    def size(self) -> int:
        """Number of entries that the checkpoint speaks of."""
        return self.head.checkpoint.size

    def body(self, index: int) -> bytes:
        """The entry at an index, as it lies in the kit.

        Raises:
            KitError: it is not there, or its bundle is damaged.
        """
        if not 0 <= index < self.size:
            raise KitError(f"the kit has no entry {index + 1}")
        number, place = divmod(index, TILE_WIDTH)
        return self._bundle(number)[place]

    def sequences_of(self, transaction: int) -> list[int]:
        """The sequences of all entries in the kit that name a transaction, by what lies there.

        Raises:
            KitError: as of `body`.
        """
        named = transaction.to_bytes(8)
        return [
            number * TILE_WIDTH + place + 1
            for number in range((transaction - 1) // TILE_WIDTH, -(-self.size // TILE_WIDTH))
            for place, body in enumerate(self._bundle(number))
            if body[_TRANSACTION] == named
        ]

    def _bundle(self, number: int) -> list[bytes]:
        width = min(TILE_WIDTH, self.size - number * TILE_WIDTH)
        path = Tile(None, number, width).path
        try:
            return split_bundle(self._read(path, _BUNDLE_BYTES_MAX), width)
        except TileError as error:
            raise KitError(f"{path}: {error}") from None

    def _tile(self, tile: Tile) -> bytes:
        first = tile.index << TILE_HEIGHT
        width = min(TILE_WIDTH, (self.size >> TILE_HEIGHT * (tile.level or 0)) - first)
        return self._read(Tile(tile.level, tile.index, width).path, TILE_WIDTH * HASH_BYTES)

    def _read(self, path: str, bytes_max: int) -> bytes:
        try:
            with open(self.folder / path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise KitError(f"{self.folder / path} is not a regular file: nobody exported that")
                content = file.read(bytes_max + 1)
        except FileNotFoundError:
            raise KitError(f"{self.folder / path} is missing") from None
        except OSError as error:
            raise KitError(f"{self.folder / path} cannot be read: {error.strerror}") from None
        if len(content) > bytes_max:
            raise KitError(f"{self.folder / path} is larger than it can be")
        return content


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting: a pipe in a folder that somebody else filled would never give its first byte."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
