"""Writes until it is killed; prints each key once its Committed has been delivered. Run by test_crash.py."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.core.effects import Write
from gateway.core.events import Committed, JournalEvent
from gateway.core.lifecycle import State
from gateway.journal.keyring import load_keyring
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from tests.journal.rig import START_MS, sale

OUTSTANDING = 48


async def write_on(folder: Path, run: str) -> None:
    keys: dict[int, str] = {}
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write_next() -> None:
        token = len(keys)
        keys[token] = f"{run}|{token:06}"
        state = State.ASKING if token % 5 == 0 else State.STORED
        journal.write(Write(token, (sale(keys[token], state=state, lane=f"L{token % 7}"),)))

    def deliver(events: Sequence[JournalEvent]) -> None:
        told = []
        for event in events:
            assert isinstance(event, Committed)
            told.append(f"{keys[event.token]} {event.ids[0]}\n")
            write_next()
        sys.stdout.write("".join(told))
        sys.stdout.flush()

    journal = SqliteJournal(
        SqliteJournalSettings(path=folder / "journal.db", min_free_bytes=0),
        load_keyring(folder / "keys"),
        deliver,
        failed.set_exception,
        lambda: START_MS,
    )
    await journal.open()
    for _ in range(OUTSTANDING):
        write_next()
    await failed


if __name__ == "__main__":
    asyncio.run(write_on(Path(sys.argv[1]), sys.argv[2]))
