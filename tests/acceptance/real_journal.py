"""A real journal, from a gateway that was killed in an outage, its exported kit, and what can be done to such a kit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.outage import run
from bench.scenario import Options
from gateway.journal.keyring import load_keyring
from gateway.journal.log_reader import LogReader
from protocol.journal_entry import decode_entry, encode_entry
from protocol.transparency.checkpoints import Checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile, build_bundle, build_tile, tiles_of
from protocol.transparency.tree import HashReader
from tests.acceptance.logs import GrownLog

SEED = 20_111
_PATIENCE_S = 300


class RealJournal:
    """What `holdfast-bench outage --kill` has left, and the kit that `holdfast audit export` made of it.

    Attributes:
        path: the journal.
        kit: the exported folder.
        key: a file with the verifier key, outside of the kit, as an auditor has it.
        signer: the gateway's own key: what an operator has who wants to deceive.
        bodies: every entry.
        middle: index of an entry in a full tile that is about a transaction.
    """

    def __init__(self, folder: Path) -> None:
        options = Options(terminals=10, seconds=5, sales_per_second=40.0, kill=True, seed=SEED, keep=folder / "run")
        assert run(options) == 0, f"the outage run of seed {SEED} was not held"
        self.config = folder / "run" / "holdfast.toml"
        self.path = folder / "run" / "journal.sqlite3"
        self.kit = folder / "kit"
        done = holdfast("audit", "export", str(self.kit), "-c", str(self.config))
        assert done.returncode == 0, done.stderr
        self.key = folder / "key.txt"
        shutil.copy(self.kit / "verifier-key.txt", self.key)
        self.origin = self.key.read_text(encoding="utf-8").partition("+")[0]
        self.signer = SignerKey(self.origin, load_keyring(folder / "run" / "keys").log_key)
        with LogReader(self.path) as reader:
            self.bodies = [entry.body for entry in reader.entries(0, reader.size)]
        assert len(self.bodies) > TILE_WIDTH + 20, "too few were sold to fill a tile"
        self.middle = next(i for i in range(100, TILE_WIDTH) if decode_entry(self.bodies[i]).transaction)

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.bodies)

    def head(self, size: int, bodies: list[bytes] | None = None) -> bytes:
        """A signed head of the first `size` entries, of another history where one is given."""
        log = GrownLog((bodies or self.bodies)[:size])
        return sign_checkpoint(Checkpoint(self.origin, size, log.frontier.root()), [self.signer])

    def kit_of(self, bodies: list[bytes], folder: Path) -> Path:
        """The kit of another history, signed by the gateway's own key; only an earlier head shows what it is."""
        shutil.copytree(self.kit, folder, ignore=lambda _, names: {"tile", CHECKPOINT_PATH} & set(names))
        log = GrownLog(bodies)
        write_tiles(folder, bodies, log.read)
        (folder / CHECKPOINT_PATH).write_bytes(self.head(len(bodies), bodies))
        return folder


def holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)  # noqa: S603


def write_tiles(folder: Path, bodies: list[bytes], read: HashReader, tiles: list[Tile] | None = None) -> None:
    """Write tiles and bundles, all of the log by default."""
    for tile in tiles if tiles is not None else tiles_of(len(bodies)):
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        first = tile.index * TILE_WIDTH
        bundle = tile.level is None
        path.write_bytes(build_bundle(bodies[first : first + tile.width]) if bundle else build_tile(tile, read))


def edited(body: bytes) -> bytes:
    """The same entry with another amount: what a thief would change."""
    entry = decode_entry(body)
    entry.amount_minor += 1
    return encode_entry(entry)


def flip(path: Path, place: int) -> None:
    """Flip one bit of a file."""
    octets = bytearray(path.read_bytes())
    octets[place] ^= 1
    path.write_bytes(octets)


Damage = Callable[[RealJournal, Path], Path]
"""Makes of a copy of the kit, which it may change, a bad kit."""


def bundle_of(index: int) -> str:
    """The path of the full bundle that an entry is in."""
    return Tile(None, index // TILE_WIDTH).path


def flipped_byte_in_an_entry(journal: RealJournal, kit: Path) -> Path:
    before = sum(2 + len(body) for body in journal.bodies[: journal.middle])
    flip(kit / bundle_of(journal.middle), before + 2 + 38)
    return kit


def flipped_byte_in_a_hash(journal: RealJournal, kit: Path) -> Path:
    flip(kit / Tile(0, journal.middle // TILE_WIDTH).path, 32 * (journal.middle % TILE_WIDTH) + 5)
    return kit


def flipped_byte_in_the_checkpoint(journal: RealJournal, kit: Path) -> Path:
    flip(kit / CHECKPOINT_PATH, len(journal.origin) + 8)
    return kit


def _with_entries(journal: RealJournal, kit: Path, bodies: list[bytes]) -> Path:
    """Put other entries into the first bundle; the hashes stay."""
    (kit / Tile(None, 0).path).write_bytes(build_bundle(bodies[:TILE_WIDTH]))
    return kit


def dropped_entry(journal: RealJournal, kit: Path) -> Path:
    bodies = [*journal.bodies]
    del bodies[journal.middle]
    return _with_entries(journal, kit, bodies)


def swapped_entries(journal: RealJournal, kit: Path) -> Path:
    bodies, at = [*journal.bodies], journal.middle
    bodies[at], bodies[at + 1] = bodies[at + 1], bodies[at]
    return _with_entries(journal, kit, bodies)


def edited_entry(journal: RealJournal, kit: Path) -> Path:
    bodies = [*journal.bodies]
    bodies[journal.middle] = edited(bodies[journal.middle])
    return _with_entries(journal, kit, bodies)


def edited_entry_and_all_hashes(journal: RealJournal, kit: Path) -> Path:
    """As good as can be done without the key: entries and tiles fit each other, and not what was signed."""
    bodies = [*journal.bodies]
    bodies[journal.middle] = edited(bodies[journal.middle])
    write_tiles(kit, bodies, GrownLog(bodies).read)
    return kit


def cut_tail(journal: RealJournal, kit: Path) -> Path:
    """Without the key: the newest entries are missing, and their hashes; the checkpoint tells of them."""
    bodies = journal.bodies[:-20]
    shutil.rmtree(kit / "tile")
    write_tiles(kit, bodies, GrownLog(bodies).read)
    return kit


def cut_tail_signed_anew(journal: RealJournal, kit: Path) -> Path:
    return journal.kit_of(journal.bodies[:-20], kit.with_name("cut"))


def rewritten_tail_signed_anew(journal: RealJournal, kit: Path) -> Path:
    bodies = [*journal.bodies[:-10], *map(edited, journal.bodies[-10:])]
    return journal.kit_of(bodies, kit.with_name("rewritten"))


def rewritten_past_signed_anew(journal: RealJournal, kit: Path) -> Path:
    bodies = [*journal.bodies]
    bodies[journal.middle] = edited(bodies[journal.middle])
    return journal.kit_of(bodies, kit.with_name("past"))


WITHOUT_THE_KEY: tuple[Damage, ...] = (
    flipped_byte_in_an_entry, flipped_byte_in_a_hash, flipped_byte_in_the_checkpoint, dropped_entry, swapped_entries,
    edited_entry, edited_entry_and_all_hashes, cut_tail,
)  # fmt: skip
"""Seen by whoever has the verifier key."""

WITH_THE_KEY: tuple[Damage, ...] = (cut_tail_signed_anew, rewritten_tail_signed_anew, rewritten_past_signed_anew)
"""Done by whoever has the gateway's own key: seen by whoever kept a head."""
