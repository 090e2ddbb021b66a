"""The log as plain files in a folder: c2sp.org/tlog-tiles. Any web server or memory stick can carry it.

Tiles go before the checkpoint that needs them. A full tile is written once and never again; a partial one is written
beside the one before it. Each file is put in its place as a whole. Full tiles and the checkpoint are durable before the
next step; a partial tile that a power cut has emptied is written again at the next start.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final

from gateway.notary.live_log import LiveLog, LogDamaged, LogUnreadable
from gateway.notary.note_file import CHECKPOINT_BYTES_MAX, replace_file, sync_folder
from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed
from protocol.transparency.checkpoints import Checkpoint
from protocol.transparency.notes import NoteError, parse_note
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile, TileError, build_bundle, tiles_of

FOLDER_OUTLET: Final = "folder"
_TILES_IN_ONE_GO: Final = 16
_PARTIAL_TILES_KEPT: Final = 3


class TileFolder:
    """One folder. What it has is never contradicted: a folder with another history is left as it is, and told of."""

    name = FOLDER_OUTLET

    def __init__(self, folder: Path, open_log: Callable[[], LiveLog]) -> None:
        self._folder = folder
        self._log = open_log()
        self._published: int | None = None
        """Entries of the checkpoint in the folder; None before that was looked at."""
        self._outgrown: list[Path] = []
        self._outgrown_before = 0

    def publish(self, signed: Signed) -> None:
        """Write what is new, the checkpoint last. Raises OutletFailed."""
        try:
            fresh = self._published is None
            since = self._agreed(signed) if self._published is None else self._published
            self._write_tiles(chain(tiles_of(signed.size, since), _right_edge(signed.size) if fresh else ()))
            replace_file(self._folder / CHECKPOINT_PATH, signed.note)
            self._published = signed.size
            self._forget_partial()
        except OSError as error:
            self._published = None  # it may be another folder when it is back
            raise OutletFailed(f"{self._folder}: {error.strerror or error}") from error
        except (LogDamaged, LogUnreadable, TileError) as error:
            raise OutletFailed(str(error)) from error

    def close(self) -> None:
        """Let go of the journal."""
        self._log.close()

    def _agreed(self, signed: Signed) -> int:
        """Entries that the folder has of this log's history.

        Raises:
            OutletFailed: it has another history, or a checkpoint of another log.
            OSError: the folder is not there, or cannot be read.
        """
        if not self._folder.is_dir():
            self._folder.mkdir()  # its parent must be there: it may be the place where a disk belongs
        path = self._folder / CHECKPOINT_PATH
        away = "move what is in it elsewhere, then this goes on"
        try:
            with path.open("rb") as file:
                there = Checkpoint.parse(parse_note(file.read(CHECKPOINT_BYTES_MAX)).text)
        except FileNotFoundError:
            return 0
        except NoteError as error:
            raise OutletFailed(f"{path} is no checkpoint ({error}); {away}") from error
        if there.origin != signed.checkpoint.origin:
            raise OutletFailed(f"{path} is of another log; {away}")
        if there.size > signed.size:
            raise OutletFailed(f"{path} is of {there.size} entries, the journal has {signed.size} signed; {away}")
        if self._log.frontier(there.size).root() != there.root:
            raise OutletFailed(f"{path} is of another history of this log; {away}")
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
