"""The simulated terminal: one message in flight, retries with the same bytes, then its own reversal until it is taken.

Everything that it sends and everything that it is told goes to a history, in order. Faults of the shop floor are thrown
in by seed: power lost in the middle of a sale, answers that never reach the printer, the same message sent twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.history import APPROVED_CODES, ASK_AGAIN_CODE, REVERSAL_DONE_CODES
from bench.line import Line, dial
from bench.records import TerminalAct, TerminalEvent
from bench.till import CURRENCY, TEST_CARDS, Prepared, Till
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a terminal behaves.

    Attributes:
        answer_timeout_s: how long it waits for an answer.
        tries: sends of one sale before it is reversed.
        pause_s: mean pause between two sales.
        power_loss, answer_loss, double_send: share of sales with that fault.
        reversal_after_loss: share of losses after which it reverses at once instead of trying again.
        amount_minor_max: largest amount.
        connect_pause_s: pause between attempts to connect.
    """

    answer_timeout_s: float = 4.0
    tries: int = 3
    pause_s: float = 0.25
    power_loss: float = 0.02
    answer_loss: float = 0.02
    double_send: float = 0.02
    reversal_after_loss: float = 0.3
    amount_minor_max: int = 50_000
    connect_pause_s: float = 0.1


_LATE_ANSWERS_KNOWN: Final = 3
STEADY: Final = Habits(power_loss=0, answer_loss=0, double_send=0)


class History:
    """The terminals' log: JSON lines in the order in which things happened, and a few counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.latencies_ms: array[float] = array("d")
        self._encode = msgspec.json.Encoder().encode
        self._file = path.open("ab")

    def write(self, event: TerminalEvent) -> None:
        """Append one event."""
        self._file.write(self._encode(event) + b"\n")

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close. Safe to call twice."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as the terminal saw it."""

    mti: str
    response: str
    approval: str
    rrn: str
    message: Message

    @property
    def approved(self) -> bool:
        """Whether the sale went through."""
        return self.response in APPROVED_CODES


@dataclass(frozen=True, slots=True)
class Sold:
    """How a sale ended: the answer, if there was one, and whether the terminal had to reverse."""

    sale: Prepared
    told: Told | None
    reversal: Told | None = None


class GaveUp(Exception):
    """The terminal's time is over: nobody took its message."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The one message in flight. Its answer is None where the connection broke."""

    prepared: Prepared
    answer: asyncio.Future[Message | None]
    answer_loss: bool


class Terminal:
    """One terminal on the event loop.

    Its coroutines are not to be run beside each other: a terminal does one thing at a time.
    """

    def __init__(
        self,
        dialect: Dialect,
        endpoint: tuple[str, int],
        history: History,
        *,
        terminal: str = "T0000001",
        habits: Habits = STEADY,
        seed: int = 0,
        first_stan: int = 1,
    ) -> None:
        self.till = Till(dialect, terminal, first_stan=first_stan)
        self.habits = habits
        self.finish_by: float | None = None  # monotonic; when even an unfinished sale is given up
        self._dialect = dialect
        self._endpoint = endpoint
        self._history = history
        self._dice = random.Random(f"{seed}/{terminal}")
        self._line: Line | None = None
        self._waiting: _Waiting | None = None
        self._known: dict[tuple[str, str], Prepared] = {}

    # --- the connection --------------------------------------------------------------------------------------------

    async def _connected(self) -> Line:
        """The line, dialled again until somebody answers.

        Raises:
            GaveUp: `finish_by` has passed.
        """
        while self._line is None or not self._line.open:
            try:
                self._line = await dial(self._dialect, self._endpoint, self._on_answer, self._on_lost)
            except OSError:
                self._history.counts["connect_failed"] += 1
                if self.finish_by is not None and time.monotonic() > self.finish_by:
                    raise GaveUp from None
                await asyncio.sleep(self.habits.connect_pause_s * (0.5 + self._dice.random()))
        return self._line

    def hang_up(self) -> None:
        """Drop the connection as a power cut would."""
        if self._line is not None:
            self._line.abort()
            self._line = None

    def _on_lost(self) -> None:
        if self._waiting is not None and not self._waiting.answer.done():
            self._waiting.answer.set_result(None)

    def _on_answer(self, message: Message) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.answer.done():
            prepared = waiting.prepared
            if (message.mti, message.fields.get(11)) == (prepared.answer_mti, prepared.stan):
                self._record("answered", prepared, message, lost=waiting.answer_loss)
                waiting.answer.set_result(message)
                return
        late = self._known.get((message.mti, message.fields.get(11, "")))
        if late is None:
            self._history.counts["unmatched"] += 1
        else:
            self._record("answered", late, message, late=True)

    def _record(
        self,
        event: TerminalAct,
        prepared: Prepared,
        answer: Message | None = None,
        *,
        late: bool = False,
        lost: bool = False,
    ) -> None:
        fields = answer.fields if answer is not None else {}
        self._history.write(
            TerminalEvent(
                at=time.time(),
                event=event,
                business=prepared.business,
                terminal=self.till.terminal.strip(),
                merchant=self.till.merchant.strip(),
                stan=prepared.stan,
                key=prepared.key,
                mti=answer.mti if answer is not None else prepared.message.mti,
                original=prepared.original,
                attempt=prepared.attempts,
                amount_minor=prepared.amount_minor,
                currency=CURRENCY,
                card=prepared.card,
                card_hash=prepared.card_hash,
                response=fields.get(39, ""),
                approval=fields.get(38, "").strip(),
                rrn=fields.get(37, ""),
                late=late,
                lost=lost,
            )
        )
        self._history.counts[event] += 1
        if event == "answered":
            self._history.counts[f"code {fields.get(39, 'none')}"] += 1

    # --- one message -----------------------------------------------------------------------------------------------

    async def attempt(
        self, prepared: Prepared, *, power_loss: bool = False, answer_loss: bool = False, twice: bool = False
    ) -> Told | None:
        """Send a message once and wait for its answer.

        Args:
            power_loss: the terminal goes dark shortly after sending, and comes back.
            answer_loss: the answer arrives, but the terminal does not get to see it.
            twice: the same bytes are sent twice.
        Returns:
            None after a time-out, a broken connection or one of the losses.
        Raises:
            GaveUp: `finish_by` has passed and nobody listens.
        """
        line = await self._connected()
        prepared.attempts += 1
        self._known = dict([*self._known.items()][-_LATE_ANSWERS_KNOWN:])
        self._known[prepared.answer_mti, prepared.stan] = prepared
        answer: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._waiting = _Waiting(prepared, answer, answer_loss or power_loss)
        self._record("sent", prepared)
        started = time.monotonic()
        line.send(prepared.frame)
        if twice:
            line.send(prepared.frame)
        if power_loss:
            await asyncio.sleep(self._dice.random() * 0.05)
            self._waiting = None
            self.hang_up()
            self._record("disconnected", prepared)
            await asyncio.sleep(self._dice.random() * 0.5)
            return None
        try:
            message = await asyncio.wait_for(answer, self.habits.answer_timeout_s)
        except TimeoutError:
            self._record("timed_out", prepared)
            return None
        finally:
            self._waiting = None
        if message is None:
            self._record("disconnected", prepared)
            await asyncio.sleep(self.habits.connect_pause_s * (0.5 + self._dice.random()))
            return None
        if answer_loss:
            return None
        self._history.latencies_ms.append((time.monotonic() - started) * 1000)
        fields = message.fields
        return Told(message.mti, fields.get(39, ""), fields.get(38, "").strip(), fields.get(37, ""), message)

    async def sell(self, amount_minor: int, pan: str) -> Sold:
        """A whole sale as a real terminal does it: retries of the same bytes, then a reversal until it is taken.

        Raises:
            GaveUp: `finish_by` has passed; how the sale stands is unknown to the terminal.
        """
        dice, habits = self._dice, self.habits
        sale = self.till.sale(amount_minor, pan)
        power_loss = dice.random() < habits.power_loss
        answer_loss = dice.random() < habits.answer_loss
        twice = dice.random() < habits.double_send
        tries = habits.tries
        if (power_loss or answer_loss) and dice.random() < habits.reversal_after_loss:
            tries = 1
        for number in range(tries):
            first = number == 0
            told = await self.attempt(
                sale,
                power_loss=first and power_loss,
                answer_loss=first and answer_loss,
                twice=first and twice,
            )
            if told is not None and told.response != ASK_AGAIN_CODE:
                self._history.counts["approved" if told.approved else "refused"] += 1
                return Sold(sale, told)
            if told is not None:
                await asyncio.sleep(habits.connect_pause_s)
            self._give_up_when_late()
        return Sold(sale, None, await self.reverse(sale))

    async def reverse(self, sale: Prepared) -> Told:
        """Send the terminal's own reversal until it is taken.

        Raises:
            GaveUp: `finish_by` has passed.
        """
        reversal = self.till.reversal(sale)
        while True:
            told = await self.attempt(reversal)
            if told is not None:
                if told.response in REVERSAL_DONE_CODES:
                    self._history.counts["reversed"] += 1
                    return told
                await asyncio.sleep(self.habits.connect_pause_s)
            self._give_up_when_late()

    def _give_up_when_late(self) -> None:
        if self.finish_by is not None and time.monotonic() > self.finish_by:
            raise GaveUp

    async def keep_selling(self, stop: asyncio.Event) -> None:
        """Sell at random until `stop`, then finish the sale that is under way, if `finish_by` leaves time for it."""
        dice, habits = self._dice, self.habits
        try:
            while not stop.is_set():
                await _pause(stop, habits.pause_s * (0.5 + dice.random()))
                if stop.is_set():
                    break
                await self.sell(dice.randint(100, habits.amount_minor_max), dice.choice(TEST_CARDS))
        except GaveUp:
            self._history.counts["gave_up"] += 1
        finally:
            self.hang_up()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake up when `stop` is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
