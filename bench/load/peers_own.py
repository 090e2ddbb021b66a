"""A peer that is one of our own modules, run in a process of its own, with one SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import Final

from bench.load.peers_server import ChildServer, PeerBroken
from bench.ports import free_ports

_BUSY_TIMEOUT_S: Final = 10.0


class OwnPeer:
    """The process, its port and its file; the table with the records is `stored`."""

    keeps = True

    def __init__(self, file: Path, *, commit_delay_ms: float) -> None:
        self.file = file
        self._delay_ms = commit_delay_ms
        self._server: ChildServer | None = None
        self._port = 0

    async def _run(self, module: str, *given: str) -> None:
        """Start a module with its arguments, file, port and delay. Raises: PeerBroken."""
        self._server = ChildServer(self.file.parent)
        (self._port,) = free_ports(1)
        usual = (str(self.file), str(self._port), "--commit-delay-ms", str(self._delay_ms))
        self._server.spawn(sys.executable, "-m", module, *given, *usual)
        await self._server.listening(self._port)

    async def stored(self) -> int:
        """Rows of its table, read from the file. Raises: PeerBroken."""
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)
            ) as reader:
                return int(reader.execute("SELECT count(*) FROM stored").fetchone()[0])
        except sqlite3.Error as error:
            raise PeerBroken(f"its rows cannot be counted: {error}") from error

    def ended(self) -> str:
        """How the process ended, if it did."""
        return self._server.ended() if self._server is not None else "the server was not started"

    async def stop(self) -> None:
        """Stop the process."""
        if self._server is not None:
            await self._server.stop()
