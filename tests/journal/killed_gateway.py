"""A gateway with its journal apart, until it is killed; prints the journal's pid, then each key once it is durable."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.core.effects import Write
from gateway.core.events import Committed, JournalEvent
from gateway.journal.apart import JournalApart
from gateway.journal.keyring import load_keyring
from gateway.journal.sqlite import SqliteJournalSettings
from tests.journal.rig import sale

OUTSTANDING = 48


async def write_on(folder: Path) -> None:
    keys: list[str] = []
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write_next() -> None:
        keys.append(f"k|{len(keys):06}")
        journal.write(Write(len(keys) - 1, (sale(keys[-1]),)))

    def deliver(events: Sequence[JournalEvent]) -> None:
        for event in events:
            assert isinstance(event, Committed)
            sys.stdout.write(keys[event.token] + "\n")
            write_next()
        sys.stdout.flush()

    settings = SqliteJournalSettings(path=folder / "journal.db", min_free_bytes=0)
    journal = JournalApart(settings, load_keyring(folder / "keys"), deliver, failed.set_exception)
    await journal.open()
    print(journal.pid, flush=True)
    for _ in range(OUTSTANDING):
        write_next()
    await failed


if __name__ == "__main__":
    asyncio.run(write_on(Path(sys.argv[1])))
