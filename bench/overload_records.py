"""What the crowd writes down, eight bytes for each thing that happened, and how the checker is told of it.

A refused sale that never reached the acquirer cannot be wrong, and there are millions of them: the checker is told of
those that were answered otherwise or not at all, and of every sale that the acquirer knows. An answer that promises
nothing ("in progress, ask again") is not told of: whoever hears nothing else would ask again or reverse.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Final

from bench.history import APPROVED_CODES
from bench.records import LedgerEvent, TerminalEvent, card_hash, card_mask, read_lines, transaction_key

SENT: Final = 1
ANSWERED: Final = 2
NOTHING_STORED: Final = "96"
"""As what a refusal is written down that says that nothing was stored, over HTTP too."""
ASK_AGAIN: Final = "09"
"""The same of a refusal that promises nothing."""
_REFUSALS: Final = frozenset({NOTHING_STORED, ASK_AGAIN})
_AMOUNTS: Final = 400
_TERMINAL_BITS: Final = 24
_STAN_BITS: Final = 20


class Outcome(Enum):
    """How a sale was answered."""

    APPROVED = auto()
    REFUSED = auto()  # at once and in so many words; the same sale may be sent again
    OTHER = auto()

    @classmethod
    def of_code(cls, code: str) -> Outcome:
        """By field 39."""
        if code in APPROVED_CODES:
            return cls.APPROVED
        return cls.REFUSED if code in _REFUSALS else cls.OTHER


def amount_minor(terminal: int, stan: int) -> int:
    """The amount of a sale: it follows from who sells and which sale it is, and has no cents."""
    return 100 * (1 + (7 * terminal + stan) % _AMOUNTS)


def packed(kind: int, terminal: int, stan: int, code: str) -> int:
    """One thing that happened."""
    digits = int.from_bytes(code.encode("ascii")[:2], "big")
    return ((kind << _TERMINAL_BITS | terminal) << _STAN_BITS | stan) << 16 | digits


def unpacked(record: int) -> tuple[int, int, int, str]:
    """Kind, terminal, STAN and code."""
    digits = record & 0xFFFF
    code = digits.to_bytes(2, "big").decode("ascii") if digits else ""
    stan = record >> 16 & (1 << _STAN_BITS) - 1
    terminal = record >> 16 + _STAN_BITS & (1 << _TERMINAL_BITS) - 1
    return record >> 16 + _STAN_BITS + _TERMINAL_BITS, terminal, stan, code


def read_records(path: Path) -> array[int]:
    """What the crowd has written. Raises: OSError."""
    records = array("Q")
    with path.open("rb") as file:
        records.frombytes(file.read())
    return records


def history(records: array[int], ledger: Path, card: str, merchant: str) -> Iterator[TerminalEvent]:
    """The terminals' history as the checker reads it, in the order in which it happened.

    A sale that was never answered, or last of all told to ask again, is given up ("abandoned") at the end: its terminal
    would reverse it. Whether there was silence is judged elsewhere.
    """
    known = {event.key for event in read_lines(ledger, LedgerEvent)}
    told: set[int] = set()
    asked: set[int] = set()
    refused: set[int] = set()
    unsure: set[int] = set()
    for record in records:
        sale = record >> 16 & (1 << _STAN_BITS + _TERMINAL_BITS) - 1
        kind, _, _, code = unpacked(record)
        unsure.discard(sale)
        if kind == SENT:
            asked.add(sale)
        elif code == ASK_AGAIN:
            refused.add(sale)
            unsure.add(sale)
        elif code == NOTHING_STORED:
            refused.add(sale)
        else:
            told.add(sale)
    silent = asked - told - refused
    masked, hashed = card_mask(card), card_hash(card)
    attempts: dict[str, int] = {}

    def event(kind: int, terminal: int, stan: int, code: str, *, abandoned: bool = False) -> TerminalEvent:
        name = f"T{terminal:07d}"
        key = transaction_key(merchant, name, f"{stan:06d}")
        if kind == SENT:
            attempts[key] = attempts.get(key, 0) + 1
        return TerminalEvent(
            at=0.0, event="abandoned" if abandoned else "sent" if kind == SENT else "answered", business="sale",
            terminal=name, merchant=merchant, stan=f"{stan:06d}", key=key, mti="0200", attempt=attempts.get(key, 1),
            amount_minor=amount_minor(terminal, stan), currency="156", card=masked, card_hash=hashed, response=code,
        )  # fmt: skip

    for record in records:
        sale = record >> 16 & (1 << _STAN_BITS + _TERMINAL_BITS) - 1
        kind, terminal, stan, code = unpacked(record)
        if kind == ANSWERED and code == ASK_AGAIN:
            continue
        if sale in told or sale in silent or transaction_key(merchant, f"T{terminal:07d}", f"{stan:06d}") in known:
            yield event(kind, terminal, stan, code)
    for sale in sorted(silent | unsure):
        _, terminal, stan, _ = unpacked(sale << 16)
        if sale in told or sale in silent or transaction_key(merchant, f"T{terminal:07d}", f"{stan:06d}") in known:
            yield event(0, terminal, stan, "", abandoned=True)
