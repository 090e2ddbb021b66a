"""The rows of transactions, held against what their newest entries say, and sensitive data against their states.

A row is what the gateway works from; the entries are what is proved. Where they disagree, one of them was changed. Its
tag under the row-integrity key is checked where the keys are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.audit.counter_checks import CounterChecks
from gateway.audit.damage import Damage, Findings
from gateway.audit.index_checks import IndexChecks
from gateway.audit.lives import state_word
from gateway.audit.standings import Standings
from gateway.core.lifecycle import FINAL
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.rows import TAG_BYTES, Row, RowCodec, RowDamaged

_TELL_EVERY: Final = 4096
_decode: Final = msgspec.msgpack.Decoder(Row).decode


class RowChecks:
    """Checks every row of a journal. `checked` counts them."""

    def __init__(
        self,
        reader: LogReader,
        findings: Findings,
        standings: Standings,
        *,
        start: int,
        size: int,
        codec: RowCodec | None,
        indexes: IndexChecks,
        counters: CounterChecks | None = None,
    ) -> None:
        """Entries behind `start` up to `size` were taken: older transactions have a standing only since.

        `indexes` is told where each row belongs in the tables that transactions are found by, `counters` what counts.
        """
        self._reader = reader
        self._findings = findings
        self._standings = standings
        self._start = start
        self._size = size
        self._codec = codec
        self._indexes = indexes
        self._counters = counters
        self.checked = 0

    def run(self, tell: Callable[[int], None]) -> None:
        """Check all rows; `tell` is given the transaction that it has come to."""
        newest = 0
        try:
            for number, stored in self._reader.select("SELECT id, row FROM tx ORDER BY id"):
                if not isinstance(number, int):
                    self._findings.add(Damage.ROW_UNKNOWN, "a row has no number")
                    continue
                newest = number
                self._row(number, stored)
                if not self.checked % _TELL_EVERY:
                    tell(number)
                    self._standings.let_go(number)
        except LogDamaged:
            text = f"rows after that of transaction {newest} cannot be read"
            self._findings.add(Damage.UNREADABLE, text)
            return
        for number in self._standings.left():
            text = f"its entries say {state_word(self._standings.get(number).state)}, and it has no row"
            self._findings.add(Damage.ROW_MISSING, text, transaction=number)
            self._indexes.leave_out(number)

    def _row(self, number: int, stored: object) -> None:
        self.checked += 1
        if not 0 < number <= self._size:
            text = f"a row is there, the entry {number} that would have created it is not"
            self._findings.add(Damage.ROW_UNKNOWN, text, transaction=number)
            return
        state, attempts, payment, told = self._standings.get(number)
        self._standings.forget(number)
        self._indexes.leave_out(number)  # unless nothing is found
        try:
            if self._codec is not None:
                row = self._codec.unpack(number, stored)
            elif isinstance(stored, bytes):
                row = _decode(stored[:-TAG_BYTES])
            else:
                raise RowDamaged("row")  # noqa: TRY301  # as the codec says it
        except (msgspec.MsgspecError, UnicodeDecodeError, RowDamaged):
            self._findings.add(Damage.ROW, "its row is not one that was written", transaction=number)
            return
        if not state:
            if number <= self._start:
                self._expect(row)
                return
            text = f"a row says {state_word(row.state)}, and no entry tells of this transaction"
            self._findings.add(Damage.ROW_UNKNOWN, text, transaction=number)
            return
        differs = [
            name
            for name, same in (
                ("id", row.id == number),
                ("state", row.state == state),
                ("attempts", row.attempts == attempts),
                ("amount, currency, keys or fingerprint", payment_of(row) == payment),
                ("response or reason", hash((row.response + row.reason).encode()) == told),
            )
            if not same
        ]
        if differs:
            text = f"{' and '.join(differs)} in the row differ from its newest entry"
            if row.state != state:
                text += f": {state_word(row.state)} where the entry says {state_word(state)}"
            self._findings.add(Damage.ROW, text, transaction=number)
            return
        self._expect(row)

    def _expect(self, row: Row) -> None:
        self._indexes.expect(row)
        if self._counters is not None:
            self._counters.expect(row)

    def sensitive_left(self, sequence: int) -> None:
        """Check that what sensitive data is still stored belongs to a transaction that is not final (INV-8)."""
        if sequence > self._size:
            return
        state = self._standings.get(sequence).state
        if state in FINAL:
            text = f"it is {state_word(state)}, and its sensitive data is still stored"
            self._findings.add(Damage.SENSITIVE, text, transaction=sequence)


def payment_of(row: Row) -> int:
    """What entry_checks notes of an entry that tells of the same payment."""
    return hash((row.amount_minor, row.key.encode() + row.payment + row.currency.encode()))
