"""Writes so many transactions to a journal, says what was acknowledged, and ends as the gateway would.

Arguments: folder, name of the run, count. Standard output has a line for each that was acknowledged, `KEY ID`, and one
for each that was refused, `KEY refused`. Ends with 0 when all is done, with 1 when the journal has failed: then the
last line of standard error names the failure.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.core.effects import Write
from gateway.core.events import Committed, JournalEvent, WriteRefused
from gateway.journal import upkeep
from gateway.journal.keyring import load_keyring
from gateway.journal.port import JournalError
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from tests.journal.rig import START_MS, sale

OUTSTANDING: Final = 6
CHECKPOINT_FRAMES: Final = 30


async def write_all(folder: Path, run: str, count: int) -> None:
    """Keep a few writes in flight until all are answered. Raises JournalError when the journal has failed."""
    keys = [f"{run}|{number:06}" for number in range(count)]
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = list(range(count))
    answered = 0

    def failed(error: JournalError) -> None:
        if not ended.done():
            ended.set_exception(error)

    def write_next() -> None:
        if waiting:
            token = waiting.pop(0)
            journal.write(Write(token, (sale(keys[token], lane=f"L{token % 7}"),)))

    def deliver(events: Sequence[JournalEvent]) -> None:
        nonlocal answered
        told = []
        for event in events:
            assert isinstance(event, Committed | WriteRefused)
            what = str(event.ids[0]) if isinstance(event, Committed) else "refused"
            told.append(f"{keys[event.token]} {what}\n")
            answered += 1
            write_next()
        os.write(1, "".join(told).encode())
        if answered == count and not ended.done():
            ended.set_result(None)

    settings = SqliteJournalSettings(path=folder / "journal.db", min_free_bytes=0)
    journal = SqliteJournal(settings, load_keyring(folder / "keys"), deliver, failed, lambda: START_MS)
    await journal.open()
    for _ in range(OUTSTANDING):
        write_next()
    await ended
    await journal.close()


if __name__ == "__main__":
    upkeep._CHECKPOINT_FRAMES = CHECKPOINT_FRAMES  # type: ignore[misc]
    try:
        asyncio.run(write_all(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    except BaseException as error:  # noqa: BLE001 - the journal's threads would keep the process
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)
