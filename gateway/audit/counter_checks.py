"""Whether the exposure counters have what the rows of stood-in sales say: one that has less lets more be stood in for.

A counter that is not there is zero (D21), so that one that was deleted shows nowhere else. One that has more refuses
too early and loses nothing: damage to a record leaves it so. Only with the keys: rows and counters are tagged.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from gateway.audit.damage import Damage, Findings
from gateway.core.standin import counters_of
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.rows import Row, RowCodec

_PLACED: Final = "SELECT name, count, amount_minor, since_ms, tag FROM counter"
_LOGGED: Final = "SELECT sequence, packed, tag FROM counter_log ORDER BY sequence"
_decode: Final = msgspec.msgpack.Decoder(dict[str, tuple[int, int, int]]).decode


class CounterChecks:
    """Takes rows, and compares what they count in with what is stored."""

    def __init__(self, reader: LogReader, findings: Findings, codec: RowCodec) -> None:
        self._reader = reader
        self._findings = findings
        self._codec = codec
        self._counts = Counter[str]()
        self._amounts = Counter[str]()

    def expect(self, row: Row) -> None:
        """A row that is as its entries say."""
        if row.exposed:
            for name in counters_of(row.transaction()):
                self._counts[name] += 1
                self._amounts[name] += row.amount_minor

    def run(self) -> None:
        """Compare."""
        try:
            stored = self._stored()
        except LogDamaged:
            return  # told of by the check of the table's pages
        less = 0
        for name, count in self._counts.items():
            has, amount_minor = stored.get(name, (0, 0))
            less += has < count or amount_minor < self._amounts[name]
        if less:
            text = f"table counter: {less} exposure counters have less than the stored sales say, or are not there"
            self._findings.add(Damage.TABLE, f"{text}: more may have been stood in for than the limits allow")

    def _stored(self) -> dict[str, tuple[int, int]]:
        stored: dict[str, tuple[int, int]] = {}
        wrong = 0
        for name, count, amount_minor, since_ms, tag in self._reader.select(_PLACED):
            text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            whole = all(isinstance(each, int) for each in (count, amount_minor, since_ms))
            if whole and self._codec.counter_tag(text, count, amount_minor, since_ms) == tag:
                stored[text] = (count, amount_minor)
            else:
                wrong += 1
        for sequence, packed, tag in self._reader.select(_LOGGED):
            if isinstance(packed, bytes) and self._codec.log_tag(sequence, packed) == tag:
                stored |= {name: (count, amount) for name, (count, amount, _) in _decode(packed).items()}
            else:
                wrong += 1
        if wrong:
            self._findings.add(Damage.TABLE, f"table counter: {wrong} exposure counters are not as they were written")
        return stored
