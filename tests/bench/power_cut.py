"""A power cut that takes what was only in the write-ahead log with it."""

from __future__ import annotations

import sqlite3

import pytest

from bench.child import Gateway


def lose_the_log_with_each_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a kill of a gateway loses what its journal has written since the gateway's start.

    A reader keeps all of that in the log until then: in a quiet moment the journal would move it into the database.
    """
    start, kill = Gateway.start, Gateway.kill
    readers: list[sqlite3.Connection] = []

    async def start_and_read(gateway: Gateway, ready_within_s: float = 20.0) -> None:
        await start(gateway, ready_within_s)
        reader = sqlite3.connect(f"file:{gateway.folder / 'journal.sqlite3'}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tx").fetchall()
        readers.append(reader)

    async def kill_and_lose(gateway: Gateway) -> None:
        await kill(gateway)
        (gateway.folder / "journal.sqlite3-wal").unlink(missing_ok=True)
        while readers:
            readers.pop().close()

    monkeypatch.setattr(Gateway, "start", start_and_read)
    monkeypatch.setattr(Gateway, "kill", kill_and_lose)
