"""What a soak is played with: the gateway with both listeners behind proxies, a forgetful acquirer, an operator."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from bench.books import Books
from bench.child import Gateway, Setup
from bench.proxy import CALM, Proxy, Weather
from bench.records import LedgerEvent, transaction_key
from gateway.config import load_config
from gateway.operations.client import OperationsClient, RefusedError
from protocol.iso8583.dialect import load_dialect

_SMALL_CACHE: Final = "[journal]\ncache_mib = 4\n"  # soon full, so that what grows afterwards is a leak
_WHY: Final = "soak: the acquirer's books were looked at"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSetup(Setup):
    """The bench's configuration with a listener for tills, and replays that lose no time and give up early."""

    http_port: int

    def toml(self) -> str:
        """The gateway's configuration file."""
        replay = "[replay]\nbackoff_min_ms = 50\nbackoff_max_ms = 1000\nattempts_max = 8\n"
        return (
            Setup.toml(self).replace("[replay]\n", replay).replace("[journal]\n", _SMALL_CACHE)
            + f"""\
[[terminals]]
listen = "127.0.0.1:{self.http_port}"
speaks = "http"
dialect = "{self.terminal_dialect}"
allow_unauthenticated = true
"""
        )


class ForgetfulBooks(Books):
    """Books that forget what has not been touched for two windows, so that they do not grow for hours.

    What comes again for a forgotten key is booked as new, and the checker calls it a phantom.
    """

    def __init__(self) -> None:
        super().__init__()
        self._touched: set[str] = set()
        self._touched_before: set[str] = set()

    def apply(self, event: LedgerEvent) -> None:
        """Change the books as a line of the ledger says."""
        super().apply(event)
        if event.business != "network":
            self._touched.add(event.original or event.key)

    def end_window(self) -> None:
        """Forget what was last touched in the window before this one."""
        for key in self._touched_before - self._touched:
            self._positions.pop(key, None)
        self._touched_before, self._touched = self._touched, set()


class Networks:
    """The proxies: `near` for terminals and tills, `far` for the acquirer."""

    def __init__(self, setup: SoakSetup, acquirer_port: int, near_port: int, till_port: int, seed: int) -> None:
        def proxy(name: str, target: int, port: int, dialect: str | None) -> Proxy:
            framing = load_dialect(dialect).framing if dialect else None
            return Proxy(("127.0.0.1", target), seed=_seed_of(seed, name), port=port, framing=framing)

        self.terminals = proxy("near", setup.terminal_port, near_port, setup.terminal_dialect)
        self.tills = proxy("tills", setup.http_port, till_port, None)
        self.far = proxy("far", acquirer_port, setup.acquirer_port, setup.acquirer_dialect)

    @property
    def all(self) -> tuple[Proxy, Proxy, Proxy]:
        """Every proxy."""
        return self.terminals, self.tills, self.far

    async def start(self) -> None:
        """Listen."""
        for proxy in self.all:
            await proxy.start()

    async def near_weather(self, weather: Weather) -> None:
        """Change the weather on the terminals' side; lines that are there are reset, so that new ones meet it."""
        await self.terminals.change(weather)
        await self.tills.change(of_streams(weather))
        for proxy in (self.terminals, self.tills):
            await proxy.cut()

    async def far_weather(self, weather: Weather) -> None:
        """Change the weather on the acquirer's side, likewise."""
        await self.far.change(weather)
        await self.far.cut()

    async def heal(self) -> None:
        """Good weather everywhere; what went dark does not come back to life."""
        for proxy in self.all:
            await proxy.change(CALM)
            await proxy.cut()

    async def stop(self) -> None:
        """Close everything."""
        for proxy in self.all:
            await proxy.stop()


def of_streams(weather: Weather) -> Weather:
    """The same weather for lines that are not cut into messages: TCP loses or reorders no bytes of a stream."""
    return replace(weather, drop_reply=0.0, late_reply=0.0, reset_reply=weather.reset_reply + weather.drop_reply)


def _seed_of(seed: int, name: str) -> int:
    return random.Random(f"{seed}/{name}").randrange(1 << 30)


class _Parked(msgspec.Struct):
    id: int
    merchant: str
    terminal: str
    stan: str


class _Page(msgspec.Struct):
    transactions: list[_Parked]


class Operator:
    """A person who knows the acquirer's books, and decides by them about what is parked."""

    def __init__(self, gateway: Gateway, books: Books, seed: int, log: Path) -> None:
        self._gateway = gateway
        self._log = log
        self._books = books
        self._dice = random.Random(f"operator/{seed}")

    async def maintenance(self, *, on: bool) -> None:
        """Close the link, or open it again, by the command line. Raises: GatewayBroken."""
        await self._gateway.operate("maintenance", "on" if on else "off", "--why", "soak", "--who", "bench")

    async def parked(self) -> list[tuple[int, str]]:
        """Ids and keys of what waits for a person. Raises: RefusedError, NotRunningError."""
        client = OperationsClient(load_config(self._gateway.config).operations)
        body = await asyncio.to_thread(client.get, "/v1/queue", [("state", "parked"), ("limit", "1000")])
        rows = msgspec.json.decode(body, type=_Page).transactions
        return [(row.id, transaction_key(row.merchant, row.terminal, row.stan)) for row in rows]

    def chosen(self, key: str) -> tuple[str, ...]:
        """What to try for a transaction, in this order: nothing is cancelled that the acquirer has booked."""
        booked = self._books.net(key) == 1
        acts = ["release", "void"] if booked else ["release", "cancel", "void"]
        self._dice.shuffle(acts)
        return tuple(acts)

    async def steer(self, identifier: int, act: str, key: str) -> bool:
        """Act on a transaction, and write it down; False where the gateway says that this act is not for it.

        Raises:
            RefusedError: any other refusal.
        """
        client = OperationsClient(load_config(self._gateway.config).operations)
        with self._log.open("ab") as log:
            log.write(msgspec.json.encode({"at": time.time(), "act": act, "id": identifier, "key": key}) + b"\n")
        try:
            await asyncio.to_thread(client.steer, f"/v1/queue/{identifier}/{act}", "bench", _WHY)
        except RefusedError as refused:
            if refused.status != 409:
                raise
            return False
        return True


def records_of(folder: Path) -> tuple[Path, Path]:
    """The terminals' history and the acquirer's ledger."""
    return folder / "history.jsonl", folder / "ledger.jsonl"
