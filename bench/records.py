"""What the simulators write down and the checker reads: one JSON object a line, in the order in which it happened.

A transaction is named by its key, `merchant/terminal/STAN`. Terminals of the old kind never use a STAN twice within one
run, so that their key needs no batch or date; UnionPay terminals have batches and STANs that wrap, and their key is
`merchant/terminal/batch/STAN`. A reversal names the key of what it undoes in `original`, whichever form the dialect
gives it (same STAN or DE 90), so that both forms read alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

Business = Literal["sale", "advice", "reversal", "network", "inquiry", "settlement", "other"]
Direction = Literal["", "debit", "credit", "none"]
"""Which way money goes, as the totals of a batch count it; empty where nobody asked."""
TerminalAct = Literal["sent", "answered", "timed_out", "disconnected", "abandoned"]
LedgerAct = Literal[
    "booked",
    "declined",
    "duplicate",
    "reversed",
    "reversal-duplicate",
    "reversal-unknown",
    "reversal-of-declined",
    "refused-late",
    "refused",
    "echo",
    "other",
    "ignored",
    "mac-refused",
    "signed-on",
    "signed-off",
    "parameters",
    "inquiry",
    "balanced",
    "out-of-balance",
    "details",
    "uploaded",
]


class TerminalEvent(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One line of the terminals' history.

    Attributes:
        at: UTC seconds since the epoch.
        event: "sent" is written before the first byte leaves; "answered" when an answer was read; "abandoned" when the
            terminal is switched off for good and will never ask again.
        key, original: of this message; `original` only for a reversal.
        attempt: 1 for the first send.
        amount_minor, currency, card, card_hash: of the message sent, or of the one that is answered. `card` is masked.
        response, approval, rrn: DE 39, 38 and 37 of an answer.
        late: the terminal was no longer waiting for this answer.
        lost: the simulated terminal did not get to see this answer.
        batch, kind, direction: UnionPay terminals only: what they call the message, and how it counts in the totals.
        pin_hash, chip_hash: of the PIN block and the chip data that were sent.
    """

    at: float
    event: TerminalAct
    business: Business
    terminal: str
    merchant: str
    stan: str
    key: str
    mti: str
    original: str = ""
    attempt: int = 0
    amount_minor: int = 0
    currency: str = ""
    card: str = ""
    card_hash: str = ""
    response: str = ""
    approval: str = ""
    rrn: str = ""
    late: bool = False
    lost: bool = False
    batch: str = ""
    kind: str = ""
    direction: Direction = ""
    pin_hash: str = ""
    chip_hash: str = ""


class LedgerEvent(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One message that reached the acquirer, and what came of it.

    Attributes:
        act: what was done; only "booked" and "reversed" move money. "ignored" was read and thrown away.
        answer: DE 39 that was decided; empty for "ignored".
        answered: whether an answer with it was to be sent.
        digest: over every field that a repeat must leave as it was (D8): all but DE 7, 64 and 128.
        batch, kind, direction, pin_hash, chip_hash: as for TerminalEvent.
        totals: DE 48 of a settlement.
        details: of an upload: `STAN:amount:card hash` of each.
    """

    at: float
    act: LedgerAct
    business: Business
    mti: str
    terminal: str = ""
    merchant: str = ""
    stan: str = ""
    key: str = ""
    original: str = ""
    amount_minor: int = 0
    currency: str = ""
    card: str = ""
    card_hash: str = ""
    answer: str = ""
    answered: bool = True
    approval: str = ""
    digest: str = ""
    batch: str = ""
    kind: str = ""
    direction: Direction = ""
    pin_hash: str = ""
    chip_hash: str = ""
    totals: str = ""
    details: tuple[str, ...] = ()


class TerminalBatch(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """A batch as its terminal knows it at the end of the day.

    Attributes:
        key: `merchant/terminal/batch`.
        entries: `STAN:amount:direction` of everything that it was told is approved, in order.
        closed: its settlement was answered 00, or its upload was taken to the end.
        uploaded: it did not balance at first.
    """

    key: str
    entries: tuple[str, ...] = ()
    closed: bool = False
    uploaded: bool = False


class Owed(msgspec.Struct, kw_only=True, frozen=True):
    """One transaction that the gateway's final queue listing still shows."""

    key: str
    state: str = ""
    reason: str = ""


def transaction_key(merchant: str, terminal: str, stan: str) -> str:
    """The key of a transaction; padding of text fields does not count."""
    return f"{merchant.strip()}/{terminal.strip()}/{stan}"


def batch_key(merchant: str, terminal: str, batch: str) -> str:
    """The key of a batch; with `/STAN` behind it the key of a transaction of a UnionPay terminal."""
    return f"{merchant.strip()}/{terminal.strip()}/{batch}"


def card_mask(pan: str) -> str:
    """First six and last four digits at most."""
    return f"{pan[:6]}{'*' * (len(pan) - 10)}{pan[-4:]}" if len(pan) >= 13 else "*" * len(pan)


def card_hash(pan: str) -> str:
    """Tells two cards apart. Test cards only: a plain hash would not hide a real number."""
    return hashlib.blake2b(pan.encode(), digest_size=8, person=b"holdfast-bench").hexdigest() if pan else ""


def secret_hash(value: str) -> str:
    """Tells whether a PIN block or chip data arrived as it was sent, without keeping it."""
    return hashlib.blake2b(value.encode(), digest_size=8, person=b"holdfast-secret").hexdigest() if value else ""


_Line = TypeVar("_Line", TerminalEvent, LedgerEvent, TerminalBatch, Owed)


def read_lines(path: Path, kind: type[_Line]) -> Iterator[_Line]:
    """Read a file of records; a last line that was cut off by a kill is left out.

    Raises:
        msgspec.DecodeError: a line before the last is damaged.
    """
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield decoder.decode(line)
