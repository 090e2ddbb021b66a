"""What one would write in an afternoon: an aiohttp handler that inserts through aiosqlite and commits each request.

Run as a module it is the server. SQLite is set as the gateway sets it, write-ahead log and synchronous=FULL, so that an
answer means as much. One connection serves all handlers, as aiosqlite's own examples have it: a commit may cover the
rows of handlers that inserted meanwhile, and theirs then find nothing left to do.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.load.peers_http import PATH, HttpClient, record_requests
from bench.load.peers_own import OwnPeer
from bench.load.peers_server import LOCALHOST, Loop, PeerClient, connected

_FILE: Final = "plain.sqlite3"


class PlainPeer(OwnPeer):
    """The handler in a process of its own."""

    name = "aiohttp + aiosqlite"
    note = "one INSERT under a primary key and one commit for each request, WAL, synchronous=FULL, uvloop, over HTTP"

    def __init__(self, folder: Path, *, commit_delay_ms: float = 0.0) -> None:
        super().__init__(folder / _FILE, commit_delay_ms=commit_delay_ms)

    async def start(self) -> None:
        """Start the handler's process. Raises: PeerBroken."""
        await self._run("bench.load.peers_plain")

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        """Connect clients. Raises: PeerBroken, OSError."""
        joined = [HttpClient(loop, record_requests(batch, index, payload)) for index in range(clients)]
        await connected(joined, self._port)
        return joined


def serve(file: Path, port: int, commit_delay_ms: float) -> None:
    """Be the server, until SIGTERM."""
    import aiosqlite  # noqa: PLC0415 - heavy, and for the server's process only
    import uvloop  # noqa: PLC0415
    from aiohttp import web  # noqa: PLC0415

    store: aiosqlite.Connection

    class SlowDisk(sqlite3.Connection):
        """Commits as a slower disk would: the connection's thread waits, and nobody is answered meanwhile."""

        def commit(self) -> None:
            pending = self.in_transaction
            super().commit()
            if pending:
                time.sleep(commit_delay_ms / 1000)

    async def opened(_: web.Application) -> AsyncIterator[None]:
        nonlocal store
        how: dict[str, Any] = {"factory": SlowDisk} if commit_delay_ms else {}
        store = await aiosqlite.connect(file, **how)
        await store.execute("PRAGMA journal_mode = WAL")
        await store.execute("PRAGMA synchronous = FULL")
        await store.execute("CREATE TABLE IF NOT EXISTS stored (key TEXT PRIMARY KEY, record BLOB NOT NULL)")
        await store.commit()
        yield
        await store.close()

    async def submit(request: web.Request) -> web.Response:
        record = await request.read()
        try:
            await store.execute_insert(
                "INSERT INTO stored (key, record) VALUES (?, ?)", (request.headers["Idempotency-Key"], record)
            )
        except sqlite3.IntegrityError:
            return web.json_response({"status": "exists"}, status=409)
        await store.commit()
        return web.json_response({"status": "stored"}, status=201)

    application = web.Application()
    application.cleanup_ctx.append(opened)
    application.router.add_post(PATH, submit)
    web.run_app(
        application, host=LOCALHOST, port=port, access_log=None, print=lambda *_: None, loop=uvloop.new_event_loop()
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Store what is posted, with a commit for each request.")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("port", type=int)
    arguments.add_argument("--commit-delay-ms", type=float, default=0.0)
    given = arguments.parse_args()
    serve(given.file, given.port, given.commit_delay_ms)
