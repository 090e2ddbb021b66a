"""What an overload run is played with: the gateway with both listeners, and the crowd's own process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from bench.child import GatewayBroken, Setup
from bench.overload_crowd import Orders, Told


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadSetup(Setup):
    """A gateway with its default limits, but for how many connections come from one address, and stand-in."""

    http_port: int
    connections: int

    def toml(self) -> str:
        """The gateway's configuration file."""
        limits = f"connections_max = {self.connections}\nconnections_per_address_max = {self.connections}"
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
reconnect_min_ms = 50
reconnect_max_ms = 500
echo_interval_ms = 1000
[standin]
mode = "on"
floor_limit_minor = {self.floor_limit_minor}
terminal_count_max = 1000000
terminal_total_minor_max = 1000000000000
card_count_max = 100000000
card_total_minor_max = 1000000000000000
overall_count_max = 100000000
overall_total_minor_max = 1000000000000000
entry_modes = []
[operations]
listen = "127.0.0.1:{self.operations_port}"
"""


class CrowdProcess:
    """The crowd's own process."""

    def __init__(self, orders: Orders, told: Callable[[Told], None]) -> None:
        self._orders = orders
        self._told = told
        self._child: asyncio.subprocess.Process | None = None

    async def run(self) -> Told:
        """Run it to its end; returns what it tells last.

        Raises:
            GatewayBroken: it ended by itself, or could not connect.
        Cancellation: it is ended.
        """
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.overload_crowd", msgspec.json.encode(self._orders).decode(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, limit=2**24,
        )  # fmt: skip
        assert child.stdout is not None
        last = Told(problem="the crowd has ended by itself")
        try:
            async for line in child.stdout:
                last = msgspec.json.decode(line, type=Told)
                self._told(last)
            await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if last.phases is None:
            raise GatewayBroken(last.problem or "the crowd has ended by itself")
        return last
