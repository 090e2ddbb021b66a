"""Terminals that do more than sell: they send everything again, or void, reverse, ask for balances and are declined."""

from __future__ import annotations

import random
from typing import Final

from bench.load.frames import Amounts, Answer, SaleFrames, sale_message
from bench.load.tally import Outcome
from bench.load.terminals import Reports, Terminal, Told, Wire, outcome_of
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import OriginalForm

RETRIES_MAX: Final = 5
_SAME: Final = (37, 38, 39)
"""What a retry must be told as the first time: reference, approval and code (INV-6)."""

_DECLINED, _REVERSED, _VOIDED, _INQUIRED = 0.08, 0.16, 0.22, 0.30
"""Shares of a mixed load, added up: the rest are sales."""


class RepeatingTerminal(Terminal):
    """Sends each sale again 1 to 5 times, the first time often twice at once; all answers must agree."""

    def __init__(self, index: int, frames: SaleFrames, loop: Reports, wire: Wire, seed: int) -> None:
        super().__init__(index, frames, loop, wire)
        self._dice = random.Random(f"repeat-{seed}-{index}")
        self._left = 0
        self._awaited = 0
        self._sale = b""
        self._sale_stan = b""
        self._first = b""

    def send(self, number: int) -> None:
        """A new sale, or the last one again."""
        if self._left:
            self._left -= 1
            self._awaited = 1
            self.pending, self.pending_stan = self._sale, self._sale_stan
            super().ask_again()
            self.resent -= 1  # as planned, not for want of an answer
            return
        self._first = b""
        self._awaited = 1
        self._left = self._dice.randint(1, RETRIES_MAX)
        super().send(number)
        self._sale, self._sale_stan = self.pending, self.pending_stan
        if self._sale and self._dice.random() < 0.3:
            self._awaited = 2
            self._left -= 1
            self._wire.write(self._sale)

    def ask_again(self) -> None:
        """The same frame once more."""
        self._awaited = 1
        super().ask_again()

    def answered(self, answer: Answer, frame: bytes) -> None:
        """An answer for this terminal; the request is over when all that were sent at once are answered."""
        if not self.pending or answer.stan != self.pending_stan:
            self.stale += 1
            return
        outcome = outcome_of(answer.code)
        if not self._first:
            self._first = frame
            self.note(Told(outcome + 1))
        elif frame != self._first and not self._agree(frame):
            self.disagreed += 1
        self._awaited -= 1
        if not self._awaited:
            self.pending = b""
            self._loop.acknowledged(self.index, outcome)

    def give_up(self) -> None:
        """Ask no more."""
        if self._first:
            self.pending = b""
        super().give_up()

    def _agree(self, frame: bytes) -> bool:
        decode = self.frames.dialect.codec.decode
        first, again = decode(self._first[2:]).fields, decode(frame[2:]).fields
        return all(first.get(n) == again.get(n) for n in _SAME)


class MixedTerminal(Terminal):
    """Sells; some sales are declined, some reversed or voided later, and now and then a balance is asked for."""

    def __init__(self, index: int, frames: SaleFrames, loop: Reports, wire: Wire, seed: int, amounts: Amounts) -> None:
        super().__init__(index, frames, loop, wire)
        self._dice = random.Random(f"mixed-{seed}-{index}")
        self._amounts = amounts
        self._kind = "sale"
        self._last: Message | None = None  # the newest sale, from when it is approved until it is undone
        self._told_fields: Fields = {}
        self._sold: Message | None = None

    def send(self, number: int) -> None:  # noqa: ARG002
        """Whatever the dice say."""
        drawn = self._dice.random()
        if drawn < _DECLINED:
            self._kind = "declined"
            self.sell(declined=True)
        elif drawn < _REVERSED and self._last is not None:
            self._reverse(self._last)
        elif drawn < _VOIDED and self._last is not None:
            self._void(self._last)
        elif _VOIDED <= drawn < _INQUIRED:
            self._inquire()
        else:
            self._kind = "sale"
            self.sell()
            self._sold = self._decoded(self.pending)

    def answered(self, answer: Answer, frame: bytes) -> None:
        """An answer for this terminal."""
        if not self.pending or answer.stan != self.pending_stan:
            self.stale += 1
            return
        self.pending = b""
        outcome = outcome_of(answer.code)
        approved = outcome is Outcome.APPROVED
        if self._kind == "reversal":
            if approved and self._last is not None:
                self.told[int(self._last.fields[11]) - 1] = Told.REVERSED
                self._last = None
            if self.frames.dialect.terminal.original is OriginalForm.DE_90:
                self.told.append(Told.NOTHING)
        elif self._kind == "inquiry":
            self.told.append(Told.NOTHING)
        else:
            self.told.append(outcome + 1)
            if approved and self._kind == "sale":
                self._last, self._told_fields = self._sold, self._decoded(frame).fields
            elif approved and self._kind == "void":
                self._last = None
        self._loop.acknowledged(self.index, outcome)

    def give_up(self) -> None:
        """Ask no more."""
        if self._kind == "reversal" and self.pending:
            if self._last is not None:
                self.told[int(self._last.fields[11]) - 1] = Told.UNKNOWN
            if self.frames.dialect.terminal.original is not OriginalForm.DE_90:
                self.pending = b""
        super().give_up()

    def _decoded(self, frame: bytes) -> Message:
        return self.frames.dialect.codec.decode(frame[2:])

    def _ask(self, kind: str, message: Message, stan: int) -> None:
        self._kind = kind
        dialect = self.frames.dialect
        self.ask(dialect.framing.wrap(dialect.codec.encode(message)), stan)

    def _reverse(self, sale: Message) -> None:
        """The terminal's own reversal, in its dialect's form (D12)."""
        rules = self.frames.dialect
        source = sale.fields
        fields: Fields = {n: source[n] for n in (2, 3, 4, 7, 12, 13, 14, 22, 25, 41, 42, 49, 60) if n in source}
        stan = int(source[11])
        if rules.terminal.original is not OriginalForm.SAME_STAN:
            fields[90] = f"{sale.mti}{source[11]}{source.get(7, ''):0>10}{'':0>22}"
            stan = self.next_stan()
            if not stan:
                return
        fields[11] = f"{stan:06}"
        if rules.host.reason_field:
            fields[rules.host.reason_field] = "98"
        self._ask("reversal", Message(rules.host.reversal_mti, fields, sale.tpdu, sale.header), stan)

    def _void(self, sale: Message) -> None:
        """A void of the newest sale: a transaction of its own, asked online."""
        stan = self.next_stan()
        if not stan:
            return
        message = self._fresh(stan)
        message.fields[3] = "200000"
        message.fields |= {n: self._told_fields[n] for n in (37, 38) if n in self._told_fields}
        if 61 in self.frames.dialect.fields and 60 in message.fields:
            message.fields[60] = "23" + message.fields[60][2:]
            message.fields[61] = f"{message.fields[60][2:8]}{sale.fields[11]}{sale.fields[13]}"
        self._ask("void", message, stan)

    def _inquire(self) -> None:
        """A balance inquiry: it moves no money."""
        stan = self.next_stan()
        if not stan:
            return
        message = self._fresh(stan)
        message.fields[3] = "310000"
        del message.fields[4]
        if 60 in message.fields:
            message.fields[60] = "01" + message.fields[60][2:]
        self._ask("inquiry", message, stan)

    def _fresh(self, stan: int) -> Message:
        frames = self.frames
        return sale_message(frames.dialect, frames.terminal, frames.card, stan, self._amounts.minor(stan), frames.now)
