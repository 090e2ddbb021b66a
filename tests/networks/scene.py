"""A shop on a bad network: a proxy between terminals and gateway, another between gateway and acquirer.

The gateway is a real process; the terminals keep a history and the acquirer a ledger, so that the checker of the bench
can judge the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.books import Books
from bench.history import Verdict, check
from bench.ports import free_ports
from bench.proxy import CALM, Choice, Proxy, Weather
from bench.records import LedgerEvent, TerminalEvent, read_lines, transaction_key
from bench.terminal import GaveUp, Habits, History, Terminal
from bench.till import TEST_CARDS
from gateway.core.lifecycle import State
from gateway.core.transaction import Kind
from protocol.iso8583.dialect import load_dialect
from tests.gateway.shop import House, Shop, comes_true, open_shop, setup

FINISH_WITHIN_S: Final = 20.0
DRAIN_WITHIN_S: Final = 20.0
QUICK_REPLAY: Final = {"backoff_min_ms": 50, "backoff_max_ms": 500, "lane_wait_ms": 300}
PATIENT: Final = Habits(answer_timeout_s=2.0, pause_s=0.05, power_loss=0, answer_loss=0, double_send=0)
"""Terminals without faults of their own: whatever goes wrong is the network's doing."""

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction as the gateway's operators see it at the end; `is_reversal` is a terminal's own reversal."""

    key: str
    state: str
    is_reversal: bool
    id: int
    reason: str


class Scene:
    """A shop whose lines go through `near` (terminals) and `fars` (acquirer, in the gateway's order of preference)."""

    def __init__(self, shop: Shop, near: Proxy, fars: list[Proxy], seed: int) -> None:
        self.shop, self.near, self.fars = shop, near, fars
        self.history = History(shop.folder / "history.jsonl")
        self._seed = seed

    async def sell(
        self, terminals: Iterable[int], sales: int, habits: Habits = PATIENT, amount_minor_max: int = 40_000
    ) -> None:
        """Let terminals, by their numbers, sell beside each other, so many sales each."""
        await asyncio.gather(*(self._sell(number, sales, habits, amount_minor_max) for number in terminals))

    def terminal(self, number: int, habits: Habits = PATIENT) -> Terminal:
        """A terminal of this number, behind the near network; from now on it has FINISH_WITHIN_S."""
        name = f"T{number:07d}"
        dialect = load_dialect(self.shop.setup.terminal_dialect)
        endpoint = (self.near.host, self.near.port)
        terminal = Terminal(dialect, endpoint, self.history, terminal=name, habits=habits, seed=self._seed)
        terminal.finish_by = time.monotonic() + FINISH_WITHIN_S
        return terminal

    async def _sell(self, number: int, sales: int, habits: Habits, amount_minor_max: int) -> None:
        terminal, name = self.terminal(number, habits), f"T{number:07d}"
        with contextlib.suppress(GaveUp):  # the checker finds what is not finished
            for sale in range(sales):
                amount_minor = 100 + hash_of(self._seed, name, sale) % amount_minor_max
                await terminal.sell(amount_minor, TEST_CARDS[sale % len(TEST_CARDS)])
        terminal.hang_up()

    async def settled(self, *, heal_first: bool = True, within_s: float = DRAIN_WITHIN_S) -> Verdict:
        """Heal the networks, wait until nothing is owed, and have the bench's checker judge everything.

        Args:
            heal_first: False leaves the networks as they are, where they let everything through in the end.
        """
        if heal_first:
            for proxy in (self.near, *self.fars):
                proxy.choose = None
                await proxy.change(CALM)
                await proxy.cut()  # connections that went dark do not come back to life

        async def so() -> bool:
            return await self.shop.gateway.queue_depth() == 0

        await comes_true("the queue is empty", so, within_s)
        queue = await self.shop.gateway.queue()
        self.history.flush()
        return check(
            read_lines(self.history.path, TerminalEvent),
            read_lines(self.shop.folder / "ledger.jsonl", LedgerEvent),
            queue,
        )

    async def rows(self) -> list[Row]:
        """Every transaction in the journal, whatever its state."""
        states = "&".join(f"state={state.name.lower().replace('_', '-')}" for state in State)
        rows: list[Row] = []
        after = 0
        while True:
            code, body = await self.shop.get(f"/v1/queue?{states}&after={after}&limit={_PAGE}")
            assert code == 200, body
            page: list[dict[str, Any]] = json.loads(body)["transactions"]
            for row in page:
                key = transaction_key(row["merchant"], row["terminal"], row["stan"])
                is_reversal = row["kind"] == Kind.REVERSAL.name.lower()
                rows.append(Row(key, row["state"], is_reversal, row["id"], row["reason"]))
                after = row["id"]
            if len(page) < _PAGE:
                return rows


def hash_of(*parts: object) -> int:
    """A number that follows from its parts alone, in every run."""
    value = 0
    for octet in "/".join(map(str, parts)).encode():
        value = (value * 1_000_003 ^ octet) & 0xFFFF_FFFF
    return value >> 7


def clean(verdict: Verdict, seed: int) -> None:
    """The five zeros, and something to show for them."""
    found = "\n".join(map(str, verdict.findings[:20]))
    assert verdict.clean, f"seed {seed}, {verdict.figures()}\n{found}"
    assert verdict.acknowledged > 0, f"seed {seed}: nothing was sold"
    assert verdict.booked > 0, f"seed {seed}: nothing was booked"


@contextlib.asynccontextmanager
async def open_scene(
    folder: Path,
    seed: int,
    *,
    near: Weather = CALM,
    far: Weather = CALM,
    choose: Choice | None = None,
    ways: int = 1,
    acquirer: dict[str, object] | None = None,
    replay: dict[str, object] | None = None,
    books: Books | None = None,
    **changes: Any,
) -> AsyncIterator[Scene]:
    """A shop that is open, and then the weather.

    Args:
        choose: decides about messages between gateway and acquirer.
        ways: addresses of the acquirer, each behind a proxy of its own.
        acquirer, replay: keys of those tables.
        books: what the acquirer decides by, where it is not the usual; `changes` are those of the bench's Setup.
    """
    ports = free_ports(ways)
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    overrides = {"acquirer": {"endpoints": endpoints, **(acquirer or {})}, "replay": {**QUICK_REPLAY, **(replay or {})}}
    house: House = setup(overrides=overrides, **changes)
    async with open_shop(folder, house, start=False) as shop, contextlib.AsyncExitStack() as stack:
        if books is not None:
            shop.host.books = books

        async def opened(target_port: int, dialect: str, place: str, port: int = 0) -> Proxy:
            framing = load_dialect(dialect).framing
            proxy = Proxy(("127.0.0.1", target_port), seed=hash_of(seed, place), port=port, framing=framing)
            await proxy.start()
            stack.push_async_callback(proxy.stop)
            return proxy

        fars = [
            await opened(house.acquirer_port, house.acquirer_dialect, f"far {number}", port)
            for number, port in enumerate(ports)
        ]
        scene = Scene(shop, await opened(house.terminal_port, house.terminal_dialect, "near"), fars, seed)
        stack.callback(scene.history.close)
        await shop.start()
        await scene.near.change(near)
        for proxy in fars:
            proxy.choose = choose
            await proxy.change(far)
        yield scene
