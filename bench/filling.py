"""Stores a backlog by the gateway's own core and journal, with no sockets in front, as while the acquirer is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.child import GatewayBroken
from bench.screen import Screen
from gateway.clock import SystemClock
from gateway.conductor import Conductor
from gateway.config import load_config
from gateway.config.key_source import load_keys
from gateway.core.effects import Alarm, OperatorReply, Send
from gateway.core.engine import Engine
from gateway.core.events import JournalEvent, NotSent, Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.transaction import Answer, Transaction
from gateway.journal.port import JournalError
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.wiring import engine_settings, policy
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

_CARDS: Final = ("4111111111111111", "5555555555554444", "6212345678900000003", "4012888888881881")
_PROGRESS_S: Final = 1.0
_LINE_EVERY_S: Final = 30.0


class Filling:
    """Stores the backlog through core and journal: every terminal has one sale in flight until all are stored."""

    def __init__(
        self,
        config_path: Path,
        transactions: int,
        terminals: int,
        screen: Screen,
        *,
        sold: Callable[[int, int], Message] | None = None,
    ) -> None:
        """Make core and journal as the configuration says.

        Args:
            transactions, terminals: how many sales are stored, and of how many terminals.
            sold: the sale of a terminal's index and a STAN; where not given, `sale`.
        """
        config = load_config(config_path)
        clock = SystemClock()
        keyring = load_keys(config.journal)
        self._transactions = transactions
        self._terminals = terminals
        self._screen = screen
        self._clock = clock
        self._hashing = KeyedHash(keyring.fingerprint_key)
        self._rules = load_dialect(config.terminals[0].dialect).terminal
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._journal = SqliteJournal(
            SqliteJournalSettings(path=config.journal.path),
            keyring,
            self._journalled,
            self._failed,
            clock.utc_ms,
        )
        engine = Engine(
            engine_settings(config),
            load_dialect(config.acquirer.dialect).host,
            policy(config.standin),
            jitter=lambda: 0.5,
            unencodable=lambda _: "",
            mono_ms=clock.mono_ms(),
            utc_ms=clock.utc_ms(),
        )
        self._conductor = Conductor(
            engine,
            clock,
            self._journal,
            send=self._away,
            reply=self._replied,
            reply_operator=_ignore_operator,
            alarm=_ignore_alarm,
        )
        self._stans = [0] * terminals
        self._sent = self._stored = 0
        self._sold = sale if sold is None else sold
        self._line_at = time.monotonic() + _LINE_EVERY_S

    @property
    def sales(self) -> list[int]:
        """How many each terminal has sold; their STANs begin with 1."""
        return list(self._stans)

    async def run(self) -> float:
        """Store everything; returns the seconds that it took.

        Raises:
            JournalError: the journal stopped; GatewayBroken: a sale was refused.
        """
        await self._journal.open()
        began = time.monotonic()
        try:
            for terminal in range(min(self._terminals, self._transactions)):
                self._sell(terminal)
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=_PROGRESS_S)
                self._show(time.monotonic() - began)
            self._ended.result()
            return time.monotonic() - began
        finally:
            self._conductor.close()
            await self._journal.close()

    def _show(self, took_s: float) -> None:
        """How far it is; a line now and then where there is no terminal to draw on."""
        self._screen.counts(pace(self._stored, self._transactions, took_s))
        if not self._screen.live and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            self._screen.phase(took_s, "storing")

    def _sell(self, terminal: int) -> None:
        if self._sent >= self._transactions:
            return
        self._sent += 1
        self._stans[terminal] += 1
        request = request_from(
            self._sold(terminal, self._stans[terminal]), self._rules, self._hashing, self._clock.utc_ms()
        )
        self._conductor.submit(Requested(terminal, request))

    def _replied(self, terminal: int, answer: Answer, _: Transaction | None) -> None:
        if answer.fields[39] != "00":
            self._fail(GatewayBroken(f"a sale of the backlog was answered {answer.fields[39]}"))
            return
        self._stored += 1
        if self._stored == self._transactions and not self._ended.done():
            self._ended.set_result(None)
        asyncio.get_running_loop().call_soon(self._sell, terminal)

    def _journalled(self, events: Sequence[JournalEvent]) -> None:
        self._conductor.submit_all(events)

    def _away(self, send: Send) -> None:
        self._conductor.submit(NotSent(send.token, "the acquirer is away"))

    def _failed(self, error: JournalError) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


def sale(terminal: int, stan: int) -> Message:
    """A keyed sale of a UnionPay terminal, about 250 bytes with what the gateway keeps of it."""
    return Message(
        "0200",
        {
            2: _CARDS[(terminal + stan) % len(_CARDS)],
            3: "000000",
            4: f"{100 + stan % 900:012}",
            11: f"{stan:06}",
            12: "120000",
            13: "1121",
            14: "2912",
            22: "021",
            25: "00",
            41: f"B{terminal:07}",
            42: "HOLDFASTBACKLOG",
            49: "156",
            60: "22000001000500",
        },
    )


def _ignore_alarm(_: Alarm) -> None:
    """Nobody watches the filling."""


def _ignore_operator(_: OperatorReply) -> None:
    """Nobody steers the filling."""


def pace(stored: int, transactions: int, took_s: float) -> dict[str, int]:
    """How far it is, for the screen: stored, a second, seconds left at that rate; 0 left while none is stored."""
    left_s = took_s * (transactions - stored) / stored if stored else 0.0
    return {"stored": stored, "a second": round(stored / max(took_s, 0.001)), "seconds left": round(left_s)}
