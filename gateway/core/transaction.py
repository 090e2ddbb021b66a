"""Values that the whole gateway speaks of: requests, transactions, answers."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, Final, TypedDict, Unpack

import msgspec

from gateway.core.lifecycle import OBLIGATION, Obligation, State
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import TerminalRules
from protocol.settlement import Totals

DEFAULT_RULES = TerminalRules()
ALIAS_DIGEST_BYTES: Final = 16

PARKED_FROM = " < "
"""In the reason of a parked transaction: stands before the reason that it had, which a release gives back."""

TERMINAL_REVERSAL = "terminal.reversal"
"""Why an original is undone that its terminal has reversed; a code of the terminal's follows behind a hyphen (D12)."""

BATCH_CLOSED = f"{PARKED_FROM}batch.closed"
"""Behind the reason of a reversal: its original's batch was closed before, and is settled with the acquirer."""


class Kind(IntEnum):
    """What a terminal wants. Numbers are stored: never renumber."""

    AUTHORISATION = 1  # 0100
    SALE = 2  # 0200
    ADVICE = 3  # 0120, 0220
    REVERSAL = 4  # 0400, 0420
    NETWORK = 5  # 0800, 0820; never stored
    UNSEEN = 6  # stands for an original that only its reversal has told us of (D15)
    INQUIRY = 8  # moves no money: handed on, never stored (balance, download of parameters)
    SETTLEMENT = 9  # 0500, or the 0320 that ends an upload: closes a batch
    UPLOAD = 10  # 0320 with details of a batch


class Veiled(msgspec.Struct, frozen=True):
    """A value that shows itself without the fields named in `VEILED`: they may hold card data."""

    VEILED: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self.VEILED]


class UploadedDetail(msgspec.Struct, frozen=True, gc=False):
    """What a terminal says of one transaction of its batch; the card as its keyed hash."""

    stan: str
    amount_minor: int
    card: bytes


class Request(Veiled, frozen=True, kw_only=True, gc=False):
    """A terminal's message, validated at the edge.

    Attributes:
        kind: what is wanted.
        mti: as received, repeats included.
        key: transaction key (D1); empty for NETWORK and INQUIRY.
        horizon_ms: 0, or how far back `key` is matched against the newest transaction of that key (D1).
        fingerprint: 16-byte keyed hash of card, amount, currency and processing code (D2).
        card: 16-byte keyed hash of the PAN; empty where the message has none.
        card_mask: at most first six and last four digits.
        lane: the ordered stream that this belongs to (D19).
        original_keys: for REVERSAL: keys under which the original may be stored, likeliest first.
        original_id: for REVERSAL: the stored transaction that is meant and no other; 0 where the keys alone tell.
        keys_beside: for REVERSAL: the same for the days beside those that it names, and for no day; what is found there
            is the original only if it was sent when the reversal says (reversals.sent_as_named). Of a repeat: the same
            STAN's of the day before.
        fields: the fields without MAC and without sensitive authentication data.
        sensitive: sensitive authentication data, in memory only unless the profile retains some of it.
        retained: numbers of sensitive fields that the profile lets the journal keep, encrypted.
        pan: the card number from field 2, track 2 or chip data; in memory only.
        rules: habits of the dialect that it came in; answers made here follow them.
        alias: a second key to the same transaction (D1); empty where it came with none.
        alias_digest: what the message under that alias says; the same alias with another digest is answered 94.
            Its first ALIAS_DIGEST_BYTES are kept.
        assigned: of a request without a STAN: those that the gateway may still assign to it, one after the other until
            one is free. `key` ends with the first, the one that is tried; `stan` is empty.
        batch_unknown: of a REVERSAL: it names no batch (D12 asks for 60.1 alone); the one that its terminal is in is
            meant, and `key` and `original_keys` are not final.
        batch: for dialects that settle: `PERIOD|MERCHANT|TERMINAL`, what all keys of its batch begin with; else empty.
        network_code: of NETWORK, INQUIRY, SETTLEMENT and UPLOAD; empty where the message has none.
        totals: of a 0500, domestic and foreign together; None for all else.
        details: of an UPLOAD: STAN, amount and keyed hash of the card of each transaction.
        fits: the acquirer's dialect takes it, whatever its fields hold; where it is False, that has to be tried.
    """

    VEILED: ClassVar[frozenset[str]] = frozenset({"fields", "sensitive", "pan", "rules"})

    kind: Kind
    mti: str
    key: str
    lane: str
    terminal: str
    merchant: str
    stan: str
    fingerprint: bytes = b""
    card: bytes = b""
    card_mask: str = ""
    amount_minor: int = 0
    currency: str = ""
    horizon_ms: int = 0
    original_keys: tuple[str, ...] = ()
    original_id: int = 0
    keys_beside: tuple[str, ...] = ()
    fields: Fields = {}
    sensitive: Fields = {}
    retained: frozenset[int] = frozenset()
    pan: str = ""
    rules: TerminalRules = DEFAULT_RULES
    alias: str = ""
    alias_digest: bytes = b""
    assigned: tuple[str, ...] = ()
    batch_unknown: bool = False
    batch: str = ""
    network_code: str = ""
    totals: Totals | None = None
    details: tuple[UploadedDetail, ...] = ()
    fits: bool = False


class Answer(Veiled, frozen=True, gc=False, array_like=True):
    """What a terminal is told: MTI and fields. MAC, TPDU and header are made fresh by the listener (D3)."""

    VEILED: ClassVar[frozenset[str]] = frozenset({"fields"})

    mti: str
    fields: Fields


class Changes(TypedDict, total=False):
    """What may change in a transaction beside its state."""

    position: int
    attempts: int
    not_before_ms: int
    response: str
    reason: str
    resume: State | None
    exposed: bool
    advised: bool
    approval: str
    booked: bool


class Transaction(msgspec.Struct, gc=False, array_like=True):
    """One transaction's row. Never changed once handed over: `evolved` makes the next one.

    Attributes:
        id: sequence of the entry that created it; 0 until it is committed.
        key, fingerprint, card, card_mask, lane, terminal, merchant, stan, amount_minor, currency: as in Request.
        position: its place in the lane; 0 means its own id (D14). A terminal's reversal moves the original to the
            place where the reversal was accepted.
        attempts: sends committed so far; the next one is a repeat when above 0 (D9).
        not_before_ms: UTC; earliest send of its reversal, as long as that is unsent; else 0 (D13).
        accepted_ms, changed_ms: UTC times of record.
        response: the code that the terminal was told; empty while it was told nothing.
        reason: machine-readable reason, e.g. "standin.floor-limit"; never card data. Of a parked transaction: why it
            is parked, PARKED_FROM, and the reason before.
        resume: for PARKED: the state to go back to on release.
        exposed: its amount counts in the stand-in counters until it is settled (D21).
        original: for a terminal's reversal: id of the transaction that it undoes.
        advised: it goes upstream as an advice, so that a reversal names the advice's MTI as the original's (D12).
        approval: field 38 as far as known, ours or the host's (D12); empty where unknown.
        revision: counts changes from 1; an update states the revision that it makes.
        alias: a second key under which it is found as under the first (D1); empty where it has none.
        alias_digest: what was asked under that alias; empty where it has none.
        booked: the acquirer has said that it approved the request, or that it has the advice; never taken back (D13).
    """

    key: str
    kind: Kind
    state: State
    lane: str
    terminal: str
    merchant: str
    stan: str
    fingerprint: bytes
    card: bytes
    card_mask: str
    amount_minor: int
    currency: str
    accepted_ms: int
    changed_ms: int
    id: int = 0
    position: int = 0
    attempts: int = 0
    not_before_ms: int = 0
    response: str = ""
    reason: str = ""
    resume: State | None = None
    exposed: bool = False
    original: int = 0
    advised: bool = False
    approval: str = ""
    revision: int = 1
    alias: str = ""
    alias_digest: bytes = b""
    booked: bool = False

    @property
    def obligation(self) -> Obligation:
        """What is owed upstream for it now."""
        return OBLIGATION[self.state]

    @property
    def sent_stan(self) -> str:
        """Field 11 upstream: the terminal's STAN, or the one in its key where the gateway assigned it (D1)."""
        return self.stan or self.key.rpartition("|")[2]

    def evolved(self, utc_ms: int, state: State, **changes: Unpack[Changes]) -> Transaction:
        """The next row of this transaction, one revision on."""
        after: Transaction = self.__copy__()  # type: ignore[attr-defined]  # every Struct has it
        after.changed_ms = utc_ms
        after.state = state
        after.revision += 1
        for name, value in changes.items():
            setattr(after, name, value)
        return after


class StoredMessage(Veiled, frozen=True, gc=False, array_like=True):
    """A terminal's message as the journal keeps it: fields, not a frame (D10)."""

    VEILED: ClassVar[frozenset[str]] = frozenset({"fields"})

    mti: str
    fields: Fields


class Stored(Veiled, frozen=True, gc=False, array_like=True):
    """A transaction read back from the journal, every part verified.

    Attributes:
        transaction: the row.
        request: the terminal's message.
        sensitive: retained sensitive fields; empty once final.
        answer: what the terminal was told, or None while it was told nothing.
    """

    VEILED: ClassVar[frozenset[str]] = frozenset({"sensitive"})

    transaction: Transaction
    request: StoredMessage
    sensitive: Fields
    answer: Answer | None
