"""A real journal that grows by sales, and what may be done to it behind its back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.core.effects import Write
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import Keyring, create_keyring
from gateway.notary.live_log import LiveLog
from gateway.notary.signing import Signed, Signing
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.proofs import verify_consistency
from tests.journal.rig import Rig, sale, sqlite_make

ORIGIN = "holdfast/test"
NOW_MS = 1_700_000_000_000


class Scene:
    """The journal, its keys, and signing as the gateway has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.db"
        self.keyring: Keyring = create_keyring(folder / "keys")
        self.seeds: list[bytes] = [self.keyring.log_key]
        self.rig = Rig(sqlite_make(self.path, self.keyring)).open()
        self.origin = ORIGIN
        self._opened: list[Signing] = []
        self._sales = 0

    @property
    def kept(self) -> Path:
        """The file of the newest signed checkpoint."""
        return self.folder / "journal.db-checkpoint"

    def grow(self, entries: int) -> tuple[int, bytes]:
        """Add so many entries, in commits of up to 100; the head afterwards."""
        while entries:
            batch = min(entries, 100)
            entries -= batch
            writes = []
            for _ in range(batch):
                self._sales += 1
                row = sale(f"M|T|{self._sales:06}", state=State.DECLINED, answer=None)
                writes.append(Write(self.rig.next_token(), (row,)))
            self.rig.perform(*writes)
        return self.head()

    def head(self) -> tuple[int, bytes]:
        """Size and root of the journal's tree."""
        return self.rig.journal.log_head()

    def signers(self) -> list[SignerKey]:
        return [SignerKey(self.origin, self.seeds[0])]

    def log_seeds(self) -> list[bytes]:
        return self.seeds

    def signing(self, rest: Callable[[float], None] = lambda _: None) -> Signing:
        """Signing that has read what was kept."""
        made = self.unopened(rest)
        made.open(*self.head())
        return made

    def unopened(self, rest: Callable[[float], None] = lambda _: None) -> Signing:
        made = Signing(self.path, self.origin, self.signers, lambda: self.seeds, lambda: NOW_MS, rest=rest)
        self._opened.append(made)
        return made

    def log(self) -> LiveLog:
        return LiveLog(self.path)

    def checkpoint(self, note: bytes) -> Checkpoint:
        """The checkpoint that a note holds, verified with the log's own key."""
        return open_checkpoint(note, self.origin, [SignerKey(self.origin, self.seeds[0]).verifier])

    def check_continues(self, first: Signed, second: Signed) -> None:
        """The second head continues the first, as any verifier finds it."""
        log = self.log()
        try:
            proof = log.consistency(first.size, second.size)
        finally:
            log.close()
        one, other = self.checkpoint(first.note), self.checkpoint(second.note)
        verify_consistency(one.size, other.size, one.root, other.root, proof)

    def edit(self, sql: str, *values: Any) -> None:
        """Change the file as somebody would who has it, past the gateway."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            assert connection.execute(sql, values).rowcount, "nothing was changed"
        finally:
            connection.close()

    def backup(self, into: str) -> Path:
        """A copy of the closed journal and everything beside it."""
        self.rig.close()
        folder = self.folder.parent / f"{self.folder.name}-{into}"
        shutil.copytree(self.folder, folder)
        self.rig.open()
        return folder

    def restore(self, folder: Path, *, whole: bool = False) -> None:
        """Put a backup in the place of what there is; `whole` removes what it has not, the newest checkpoint too."""
        self.rig.close()
        if whole:
            for path in self.folder.iterdir():
                if path.is_file():
                    path.unlink()
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy2(path, self.folder / path.name)
        self.rig.open()

    def note(self, detail: str) -> int:
        return self.rig.run(self.rig.journal.note(EntryKind.LOG_BROKEN, detail))

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self.rig.close()
