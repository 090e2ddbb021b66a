"""UnionPay terminals directly at the UnionPay acquirer, without a gateway: what the tests of both begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.batches import BatchVerdict, check_batches
from bench.certificates import Authority
from bench.history import Verdict, check
from bench.records import LedgerEvent, TerminalEvent, read_lines
from bench.terminal import Habits, History
from bench.unionpay_acquirer import UnionPayAcquirer
from bench.unionpay_terminal import UnionPayTerminal
from protocol.iso8583.dialect import load_dialect

CARD = "6212345678900000003"
MASTER_KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
QUICK = Habits(answer_timeout_s=1.0, power_loss=0, answer_loss=0, double_send=0, connect_pause_s=0.01)
UNIONPAY = load_dialect("unionpay")


@dataclass(slots=True)
class Shop:
    """One terminal, one acquirer, and what they wrote down."""

    folder: Path
    acquirer: UnionPayAcquirer
    terminal: UnionPayTerminal
    history: History

    def told(self) -> list[TerminalEvent]:
        """The terminal's history so far."""
        self.history.flush()
        return list(read_lines(self.history.path, TerminalEvent))

    def booked(self) -> list[LedgerEvent]:
        """The ledger so far."""
        return list(read_lines(self.folder / "ledger.jsonl", LedgerEvent))

    def acts(self, business: str = "") -> list[str]:
        """What the acquirer did, for one kind of business or all."""
        return [event.act for event in self.booked() if not business or event.business == business]

    def steps(self) -> list[str]:
        """What the terminal did and was told, without sessions."""
        return [
            f"{e.business} {e.event}{e.response and f' {e.response}'}" for e in self.told() if e.business != "network"
        ]

    def verdict(self) -> Verdict:
        """The five zeros."""
        return check(self.told(), self.booked())

    def batches(self) -> BatchVerdict:
        """The batch check."""
        return check_batches(self.terminal.memory.batches(), self.booked())


def in_shop(
    folder: Path,
    story: Callable[[Shop], Awaitable[None]],
    *,
    key_code: str = "003",
    first_stan: int = 1,
    habits: Habits = QUICK,
    tls: bool = False,
) -> None:
    """Run a story; the terminal has not connected yet."""

    async def run() -> None:
        authority = Authority(folder / "tls") if tls else None
        acquirer = UnionPayAcquirer(
            folder / "ledger.jsonl",
            {"T0000001": MASTER_KEY},
            tls=authority.server_context(authority.server("acquirer")) if authority else None,
        )
        await acquirer.start()
        history = History(folder / "history.jsonl")
        terminal = UnionPayTerminal(
            UNIONPAY,
            ("127.0.0.1", acquirer.port),
            history,
            master_key=MASTER_KEY,
            key_code=key_code,
            first_stan=first_stan,
            habits=habits,
            tls=authority.client_context(authority.client("T0000001")) if authority else None,
        )
        try:
            await story(Shop(folder, acquirer, terminal, history))
        finally:
            terminal.line.hang_up()
            await acquirer.stop()
            history.close()

    asyncio.run(run())
