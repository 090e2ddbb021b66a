"""What a slow-clients run is played with: the gateway with both listeners, and the crowd's own process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.child import Gateway, GatewayBroken, Setup
from bench.own_process import end_child, start_module
from bench.slow_crowd import Counts, Orders

_STOP_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSetup(Setup):
    """A gateway with defaults but for what admits the crowd. Nobody stands in: approved means by the acquirer."""

    http_port: int
    connections_max: int
    connections_per_address_max: int

    def toml(self) -> str:
        """The gateway's configuration file."""
        limits = f"""\
connections_max = {self.connections_max}
connections_per_address_max = {self.connections_per_address_max}"""
        return f"""\
# Written by the bench.
[gateway]
name = "bench"
[journal]
path = "journal.sqlite3"
keys = "keys"
[[terminals]]
listen = "127.0.0.1:{self.terminal_port}"
dialect = "{self.terminal_dialect}"
{limits}
[[terminals]]
listen = "127.0.0.1:{self.http_port}"
speaks = "http"
dialect = "{self.terminal_dialect}"
allow_unauthenticated = true
{limits}
[acquirer]
endpoints = ["127.0.0.1:{self.acquirer_port}"]
dialect = "{self.acquirer_dialect}"
[standin]
mode = "off"
[operations]
listen = "127.0.0.1:{self.operations_port}"
"""


class _Listener(msgspec.Struct):
    listen: str
    connections: int


class Look(msgspec.Struct):
    """What the gateway tells of itself; listeners in the order of their tables."""

    terminals: list[_Listener]
    counters: dict[str, int]


class SlowGateway(Gateway):
    """A gateway whose connections can be looked at."""

    async def look(self) -> Look:
        """Its connections and counters. Raises: GatewayBroken, where it does not tell."""
        answer = await self._get("/v1/status")
        if answer is None:
            raise GatewayBroken(f"the gateway does not tell its status\n{self.log_end()}")
        return msgspec.json.decode(answer, type=Look)


class CrowdProcess:
    """The crowd's own process."""

    def __init__(self, orders: Orders) -> None:
        self.counts = Counts({}, 0, {}, 0, present=False)
        self._orders = orders
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; it stays outside until it is told to enter."""
        self._child = await start_module("bench.slow_crowd", self._orders, session=False)
        self._reading = asyncio.get_running_loop().create_task(self._read(self._child))

    def tell(self, order: str) -> None:
        """Give an order: "enter" or "leave". Raises: GatewayBroken, where nobody is there to take it."""
        if self._child is None or self._child.stdin is None or self._child.returncode is not None:
            raise GatewayBroken("the crowd has ended by itself")
        self._child.stdin.write(f"{order}\n".encode())

    async def stop(self) -> None:
        """End it. Safe to call twice."""
        child, self._child = self._child, None
        await end_child(child, _STOP_WITHIN_S)
        if self._reading is not None:
            await self._reading

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            self.counts = msgspec.json.decode(line, type=Counts)
