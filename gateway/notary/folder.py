"""The log as plain files in a folder: c2sp.org/tlog-tiles. Any web server or memory stick can carry it.

Tiles go before the checkpoint that needs them. A full tile is written once and never again; a partial one is written
beside the one before it. Each file is put in its place as a whole. Full tiles and the checkpoint are durable before the
next step; a partial tile that a power cut has emptied is written again at the next start.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from gateway.notary.live_log import LiveLog, LogDamaged, LogUnreadable
from gateway.notary.note_file import CHECKPOINT_BYTES_MAX, replace_file, sync_folder
from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed
from gateway.regular_file import read_regular
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint
from protocol.transparency.notes import NoteError, SignerKey, parse_note
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile, TileError, build_bundle, tiles_of

FOLDER_OUTLET: Final = "folder"
_TILES_IN_ONE_GO: Final = 16
_PARTIAL_TILES_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class FolderConflict:
    """The folder has a head that this log has signed, and that the journal does not continue: only a person settles it.

    Attributes:
        path: of that checkpoint.
        held: entries that it covers.
        journal: entries that the journal has.
    """

    path: Path
    held: int
    journal: int

    def __str__(self) -> str:
        """For a person."""
        wrong = (
            f"the journal has {self.journal}: it was cut, or put back from a backup"
            if self.held > self.journal
            else "the journal has another history of this log: it was edited, or put back from a backup"
        )
        return (
            f"{self.path} is a head of {self.held} entries that this log has signed, and {wrong}; keep this folder as "
            f"evidence: once it is moved elsewhere, and the log continued, publishing goes on in a new one"
        )


class TileFolder:
    """One folder. What it has is never contradicted: a folder with another history is left as it is, and told of."""

    name = FOLDER_OUTLET

    def __init__(
        self,
        folder: Path,
        open_log: Callable[[], LiveLog],
        seeds: Callable[[], Sequence[bytes]],
        conflict: Callable[[FolderConflict], None] = lambda _: None,
        agreed: Callable[[], None] = lambda: None,
    ) -> None:
        """`seeds` are all that ever signed for this journal; `conflict` and `agreed` are called on the outlet's thread.

        `agreed` tells that the journal continues what the folder has, once a head went there.
        """
        self._folder = folder
        self._log = open_log()
        self._seeds = seeds
        self._conflict = conflict
        self._agreed_with = agreed
        self._there: bytes | None = None
        """The checkpoint that was written last; None before the folder was looked at."""
        self._published = 0
        """Entries that it covers."""
        self._outgrown: list[Path] = []
        self._outgrown_before = 0

    def publish(self, signed: Signed) -> None:
        """Write what is new, the checkpoint last; of the head of no entries nothing. Raises OutletFailed."""
        try:
            there = self._read()
            fresh = self._there is None or there != self._there
            since = self._agreed(there, signed) if fresh else self._published
            if not signed.size or since > signed.size:
                return  # the next head that is signed covers what the folder has
            if not self._folder.is_dir():
                self._folder.mkdir()  # its parent must be there: it may be the place where a disk belongs
            self._write_tiles(chain(tiles_of(signed.size, since), _right_edge(signed.size) if fresh else ()))
            replace_file(self._folder / CHECKPOINT_PATH, signed.note)
            self._there, self._published = signed.note, signed.size
            self._forget_partial()
            if fresh:
                self._agreed_with()
        except OSError as error:
            self._there = None  # it may be another folder when it is back
            raise OutletFailed(f"{self._folder}: {error.strerror or error}") from error
        except (LogDamaged, LogUnreadable, TileError) as error:
            raise OutletFailed(str(error)) from error

    def close(self) -> None:
        """Let go of the journal."""
        self._log.close()

    def _read(self) -> bytes | None:
        """The checkpoint that is there now. Raises OSError."""
        try:
            return read_regular(self._folder / CHECKPOINT_PATH, CHECKPOINT_BYTES_MAX)
        except FileNotFoundError:
            return None

    def _agreed(self, note: bytes | None, signed: Signed) -> int:
        """Entries that the folder has of this log's history.

        Raises:
            OutletFailed: it has another history, or a checkpoint of another log.
        """
        self._there = None
        if note is None:
            return 0
        path = self._folder / CHECKPOINT_PATH
        away = "move what is in it elsewhere, then this goes on"
        try:
            there = Checkpoint.parse(parse_note(note).text)
        except NoteError as error:
            raise OutletFailed(f"{path} is no checkpoint ({error}); {away}") from error
        if there.origin != signed.checkpoint.origin:
            raise OutletFailed(f"{path} is of another log; {away}")
        size = self._log.size()
        if there.size > size or self._log.frontier(there.size).root() != there.root:
            try:
                open_checkpoint(note, there.origin, [SignerKey(there.origin, seed).verifier for seed in self._seeds()])
            except NoteError as error:
                raise OutletFailed(
                    f"{path} is of another history of this log, and not signed by it ({error}); {away}"
                ) from error
            told = FolderConflict(path, there.size, size)
            self._conflict(told)
            raise OutletFailed(str(told))
        return there.size

    def _write_tiles(self, tiles: Iterable[Tile]) -> None:
        """Write tiles and bundles; full ones durably. Payments get at least as long as this takes."""
        touched: dict[Path, None] = {}
        began_s = time.monotonic()
        for number, tile in enumerate(tiles, 1):
            path = self._folder / tile.path
            self._make_folder(path.parent)
            full = tile.width == TILE_WIDTH
            replace_file(path, self._content(tile), durable=False)
            if full:
                _sync_file(path)
                touched[path.parent] = None
                self._outgrown.append(path.with_name(path.name + ".p"))
            else:
                self._forget_narrower(path.parent)
            if number % _TILES_IN_ONE_GO == 0:
                time.sleep(time.monotonic() - began_s)
                began_s = time.monotonic()
        for folder in touched:
            sync_folder(folder)

    def _forget_narrower(self, partial: Path) -> None:
        """Of the partial tiles of one place, keep the newest: readers may be between two checkpoints."""
        widths = sorted((int(each.name) for each in partial.iterdir() if each.name.isdigit()), reverse=True)
        for width in widths[_PARTIAL_TILES_KEPT:]:
            with suppress(OSError):
                (partial / str(width)).unlink()

    def _forget_partial(self) -> None:
        """Remove the partial tiles of places that were full in the checkpoint before this one already."""
        for folder in self._outgrown[: self._outgrown_before]:
            shutil.rmtree(folder, ignore_errors=True)
        del self._outgrown[: self._outgrown_before]
        self._outgrown_before = len(self._outgrown)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder, *folder.parents):
                sync_folder(made)
                if made == self._folder:
                    break

    def _content(self, tile: Tile) -> bytes:
        if tile.level is not None:
            return self._log.tile(tile)
        first = tile.index * TILE_WIDTH
        return build_bundle(self._log.bodies(first, first + tile.width))


def _right_edge(size: int) -> Iterator[Tile]:
    """The partial tiles of the tree of `size` entries."""
    level, count = 0, size
    while count:
        if width := count % TILE_WIDTH:
            if not level:
                yield Tile(None, count // TILE_WIDTH, width)
            yield Tile(level, count // TILE_WIDTH, width)
        level, count = level + 1, count // TILE_WIDTH


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
