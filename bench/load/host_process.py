"""The lean host as its parent sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from bench.load.books import SavedLane, read_books
from bench.load.host import HostCounts, HostOrder, HostSettings
from bench.own_process import end_child, start_module

_ANSWER_WITHIN_S: Final = 30.0
_STOP_WITHIN_S: Final = 10.0


class HostBroken(Exception):
    """The host did not do what it was started for."""


class HostProcess:
    """The child. It is away until it is told to be back."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start it. Raises: HostBroken."""
        self._child = await start_module("bench.load.host", self._settings)
        assert self._child.stdout is not None
        if await asyncio.wait_for(self._child.stdout.readline(), _ANSWER_WITHIN_S) != b"ready\n":
            raise HostBroken("the host did not start")

    async def back(self) -> HostCounts:
        """Listen. Raises: HostBroken."""
        return await self._obeyed(HostOrder(act="back"))

    async def away(self) -> HostCounts:
        """Close the port and all connections. Raises: HostBroken."""
        return await self._obeyed(HostOrder(act="away"))

    async def counts(self) -> HostCounts:
        """What it has booked so far. Raises: HostBroken."""
        return await self._obeyed(HostOrder(act="counts"))

    async def books(self, path: Path) -> dict[str, SavedLane]:
        """Everything that it has booked; `path` is written. Raises: HostBroken, OSError."""
        await self._obeyed(HostOrder(act="save", path=str(path)))
        return read_books(path)

    async def close(self) -> None:
        """End it. Safe to call twice."""
        child, self._child = self._child, None
        await end_child(child, _STOP_WITHIN_S)

    async def _obeyed(self, order: HostOrder) -> HostCounts:
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise HostBroken("the host was not started")
        async with self._turn:
            child.stdin.write(msgspec.json.encode(order) + b"\n")
            try:
                line = await asyncio.wait_for(child.stdout.readline(), _ANSWER_WITHIN_S)
            except TimeoutError:
                raise HostBroken(f"the host did not answer within {_ANSWER_WITHIN_S:g} s") from None
        if not line:
            raise HostBroken("the host has ended by itself")
        counts = msgspec.json.decode(line, type=HostCounts)
        if counts.problem:
            raise HostBroken(counts.problem)
        return counts
