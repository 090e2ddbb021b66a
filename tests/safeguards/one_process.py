"""A whole gateway in the process of the test, so that a safeguard can be taken away inside it.

Journal, listeners and link are those of `holdfast run`, with the journal's thread in this process; terminals, tills and
the acquirer with its ledger speak with it over real sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.ports import free_ports
from bench.records import LedgerEvent
from bench.till import TEST_CARDS
from gateway.app import Gateway
from gateway.clock import SystemClock
from gateway.config import load_config
from gateway.core.link import LinkState
from gateway.journal.key_changes import open_keyring
from gateway.operations.installing import install
from tests.gateway.shop import Counter, Host, Overrides, comes_true, setup

_SALE: Final[Mapping[str, Any]] = {
    "type": "sale",
    "merchant": "HOLDFAST0000001",
    "terminal": "TILL0001",
    "currency": "156",
    "card": {"pan": TEST_CARDS[0], "expiry": "2912"},
    "entry_mode": "021",
}


class WallClock:
    """The machine's clocks; the wall clock can be put forward by `ahead_ms`."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self._machine = SystemClock()

    def mono_ms(self) -> int:
        """Milliseconds of the monotonic clock."""
        return self._machine.mono_ms()

    def utc_ms(self) -> int:
        """What the wall clock shows."""
        return self._machine.utc_ms() + self.ahead_ms


class OneProcess:
    """The gateway with its acquirer. `clock` is the gateway's."""

    def __init__(self, host: Host, terminal_port: int, till_port: int, clock: WallClock, gateway: Gateway) -> None:
        self.host = host
        self.clock = clock
        self.gateway = gateway
        self._terminal_port = terminal_port
        self._address = f"http://127.0.0.1:{till_port}/v1/transactions"

    async def post(self, key: str, stan: str, amount_minor: int) -> int:
        """A till's sale under this Idempotency-Key; the status that it is told."""
        body = {**_SALE, "stan": stan, "amount_minor": amount_minor}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._address, json=body, headers={"Idempotency-Key": key}) as answer,
        ):
            await answer.read()
            return answer.status

    def charges(self) -> list[LedgerEvent]:
        """What stands in the acquirer's ledger as booked for the till, in its order."""
        return [event for event in self.host.recent if event.terminal.strip() == "TILL0001" and event.act == "booked"]

    def terminal(self, name: str) -> Counter:
        """A terminal of that name that speaks ISO 8583."""
        return Counter("unionpay", self._terminal_port, name)


@asynccontextmanager
async def one_process(folder: Path, overrides: Overrides | None = None, **changes: Any) -> AsyncIterator[OneProcess]:
    """A gateway that is open for business, and believes that the acquirer answers; `changes` are of its `Setup`."""
    (till_port,) = free_ports(1)
    till = {"listen": f"127.0.0.1:{till_port}", "speaks": "http", "allow_unauthenticated": True}
    apart = {"journal": {"own_process": False}}
    house = setup(overrides={**apart, **(overrides or {})}, more_terminals=(till,), **changes)
    install(folder)
    (folder / "holdfast.toml").write_text(house.toml(), encoding="utf-8")
    config, clock = load_config(folder / "holdfast.toml"), WallClock()
    host = Host(folder / "ledger.jsonl", dialect=house.acquirer_dialect, port=house.acquirer_port)
    await host.start()
    gateway = Gateway(config, open_keyring(config.journal.keys, None), clock)
    try:
        await gateway.start()
        engine = gateway._conductor.engine
        await comes_true("the gateway believes that the acquirer answers", lambda: engine.link is LinkState.UP)
        yield OneProcess(host, house.terminal_port, till_port, clock, gateway)
    finally:
        await gateway.stop()
        await host.stop()
        await asyncio.sleep(0)
