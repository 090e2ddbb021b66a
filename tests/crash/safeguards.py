"""Safeguards of the journal, each with what removes it in this process: the checks must notice that it is gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from gateway.journal import connections
from gateway.journal.schema import PAGE_BYTES


def sync_only_at_checkpoints() -> None:
    """`synchronous = NORMAL`: a commit returns before it is on the disk (INV-1)."""
    connect = connections._connect

    async def connect_carelessly(database: str, settings: tuple[str, ...]) -> connections.Threaded:
        careless = tuple(each.replace("synchronous = FULL", "synchronous = NORMAL") for each in settings)
        return await connect(database, careless)

    connections._connect = connect_carelessly


def serve_before_the_log_is_synced() -> None:
    """No checkpoint when a journal is opened: a commit that a kill left unsynced is shown, and then lost (INV-1)."""
    execute = sqlite3.Connection.execute

    def execute_carelessly(self: sqlite3.Connection, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "PRAGMA wal_checkpoint(TRUNCATE)":
            return execute(self, "SELECT 0, 0, 0")
        if sql == "PRAGMA page_count":  # compared with the file, which is not up to date then
            (_, _, name), *_ = execute(self, "PRAGMA database_list").fetchall()
            with open(name, "rb") as file:  # noqa: PTH123 - a name from SQLite
                return execute(self, f"SELECT {file.seek(0, 2) // PAGE_BYTES}")
        return execute(self, sql, *parameters)

    connections.GatheringConnection.execute = execute_carelessly  # type: ignore[method-assign]


SAFEGUARDS: Final[dict[str, Callable[[], None]]] = {
    "sync of each commit": sync_only_at_checkpoints,
    "sync at opening": serve_before_the_log_is_synced,
}
