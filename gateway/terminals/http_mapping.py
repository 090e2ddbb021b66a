"""Between JSON and the core: a till's body becomes the request that the same transaction over ISO 8583 would be.

Key, lane and fingerprint are made in one place for both (`core.identity`): a body is written down as an ISO 8583
message first, and read from there (D1, D2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.lifecycle import State
from gateway.core.parts import BadRequest
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from protocol.http_api import (
    Card,
    NewReversal,
    NewTransaction,
    RecordType,
    ReversalReason,
    TransactionState,
    TransactionType,
    TransactionView,
    canonical,
)
from protocol.iso8583.covering import covers
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import FieldSpec, FieldType
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import Period, TerminalRules
from protocol.masking import contains_pan
from protocol.response_codes import REASON_NO_REPLY, REASON_OTHER, REASON_TERMINAL_FAULT, response_text

_MTI: Final = {
    TransactionType.SALE: "0200",
    TransactionType.AUTHORISATION: "0100",
    TransactionType.ADVICE: "0220",
}
_BUSINESS: Final = {TransactionType.SALE: "22", TransactionType.AUTHORISATION: "10", TransactionType.ADVICE: "36"}
_GIVING_BACK: Final = {TransactionType.SALE: "23", TransactionType.AUTHORISATION: "11", TransactionType.ADVICE: "25"}
"""Field 60.1 of UnionPay, in front of the batch number: of what takes money, and of voids and refunds (field 3: 20)."""

_REASONS: Final = {
    ReversalReason.NO_ANSWER: REASON_NO_REPLY,
    ReversalReason.TERMINAL_FAULT: REASON_TERMINAL_FAULT,
    ReversalReason.CANCELLED: REASON_OTHER,
}
_RECORD_TYPES: Final = {
    Kind.SALE: RecordType.SALE,
    Kind.AUTHORISATION: RecordType.AUTHORISATION,
    Kind.ADVICE: RecordType.ADVICE,
    Kind.REVERSAL: RecordType.REVERSAL,
    Kind.UNSEEN: RecordType.UNKNOWN,
}
_STATES: Final = {
    State.ASKING: TransactionState.IN_PROGRESS,
    State.ASKING_CANCELLED: TransactionState.IN_PROGRESS,
    State.STORED: TransactionState.APPROVED_OFFLINE,
    State.STORED_CANCELLED: TransactionState.REVERSING,
    State.REVERSING: TransactionState.REVERSING,
    State.APPROVED: TransactionState.APPROVED,
    State.DECLINED: TransactionState.DECLINED,
    State.REVERSED: TransactionState.REVERSED,
    State.CANCELLED: TransactionState.CANCELLED,
    State.PARKED: TransactionState.PARKED,
}
_UNDOING: Final = frozenset({State.REVERSING, State.REVERSED})
_REVERSIBLE: Final = frozenset({Kind.SALE, Kind.AUTHORISATION, Kind.ADVICE, Kind.UNSEEN})
_ORIGINAL_FIELDS: Final = (2, 3, 4, 7, 12, 13, 14, 22, 23, 25, 49)
_HORIZON: Final = "H|"
_OF_ONE: Final = "O"
"""In place of the period, before a sequence: the key of the reversal of this transaction and no other."""
_SEQUENCE: Final = re.compile("[1-9][0-9]{0,17}")
_LONG_NUMBER: Final = re.compile("[2-689](?:[ -]?[0-9]){12}")
"""What every card number has (protocol.masking), and few keys: looked for first, for it is found in one pass."""

_INQUIRY: Final = Kind.INQUIRY
_APPROVED: Final = TransactionState.APPROVED
_APPROVED_OFFLINE: Final = TransactionState.APPROVED_OFFLINE
_ASSIGNED_FROM: Final = {"1": 500_000, "2": 750_000}
_ASSIGNED: Final = 250_000
"""STANs for each message class: keys of two classes differ, so that an equal STAN in both would not be noticed."""

_KEPT_KEY_MAX: Final = 128
"""An alias has at most 223 bytes in the journal (protocol.journal_entry)."""

_TERMINAL_LENGTH: Final = 8
_MERCHANT_LENGTH: Final = 15
_DIGITS: Final = {3: 6, 4: 12, 7: 10, 11: 6, 12: 6, 13: 4, 14: 4, 22: 3, 23: 3, 25: 2, 49: 3}
_FORMS: Final = {
    2: FieldSpec(name="pan", type=FieldType.N, length=19, prefix_digits=2),
    **{number: FieldSpec(name=str(number), type=FieldType.N, length=length) for number, length in _DIGITS.items()},
    41: FieldSpec(name="terminal", type=FieldType.ANS, length=_TERMINAL_LENGTH),
    42: FieldSpec(name="merchant", type=FieldType.ANS, length=_MERCHANT_LENGTH),
}
"""What a body can put into a field. Of tracks, chip and private data that is too much to be told without a look."""


def fitting(dialect: Dialect, always_fit: frozenset[int]) -> frozenset[int]:
    """The fields that can be forwarded whatever a body says, as far as their form over HTTP tells.

    Args:
        dialect: in whose terms these tills' transactions are identified.
        always_fit: its fields that fit the acquirer's dialect whatever they hold (covering.always_fitting).
    """
    specs, rules = dialect.fields, dialect.terminal
    batch = FieldSpec(name="batch", type=FieldType.N, length=rules.batch_start + 9, prefix_digits=3)
    forms = {**_FORMS, rules.batch_field: batch}
    return frozenset(n for n in always_fit if n in forms and n in specs and covers(specs[n], forms[n]))


def request_of(
    body: NewTransaction,
    idempotency_key: str,
    rules: TerminalRules,
    hashing: KeyedHash,
    utc_ms: int,
    *,
    always_fit: frozenset[int] = frozenset(),
) -> Request:
    """What a till asks for.

    With a STAN it is who it would be over ISO 8583. Without one the Idempotency-Key says who it is, and the core
    assigns one of the STANs that follow from that, the first that nobody else has.

    Args:
        always_fit: fields that can be forwarded whatever a body says (`fitting`).
    Raises:
        BadRequest: a field cannot be taken in the dialect of these terminals.
    Source: D1, D2.
    """
    message = Message(_MTI[body.type], _fields(body, rules))
    named = _presentable(idempotency_key, hashing)
    assigned = () if body.stan else _assignable(f"{body.merchant}|{body.terminal}|{named}", message.mti[1])
    if assigned:
        message.fields[11] = assigned[0]
    request = request_from(
        message, rules, hashing, utc_ms, batches=False, always_fit=always_fit,
        alias=f"idem|{body.merchant}|{body.terminal}|{named}", alias_digest=_digest(canonical(body), hashing),
    )  # fmt: skip
    if request.kind is _INQUIRY:
        raise BadRequest("30", "a balance is not asked for over HTTP")  # nothing of it would be recorded
    if assigned:
        without = {number: value for number, value in request.fields.items() if number != 11}
        return replace(request, stan="", fields=without, assigned=assigned)
    return request


def reversal_of(
    original: Stored, body: NewReversal, idempotency_key: str, rules: TerminalRules, hashing: KeyedHash, utc_ms: int
) -> Request | None:
    """The reversal of a transaction; None where such a thing cannot be reversed.

    Its key says by its sequence which transaction is undone, so that there is one reversal of each, however often it is
    asked for, and none is taken for a retry of another's (D12, D15). The original's key alone does not say it: one
    without a date comes again, and an authorisation and a sale may have one STAN. Over ISO 8583 the same original may
    have a reversal beside it, which finds nothing left to undo.
    """
    known = original.transaction
    parts = known.key.split("|")
    if known.kind not in _REVERSIBLE or len(parts) != 5:
        return None
    stored = original.request.fields
    fields = {number: stored[number] for number in (*_ORIGINAL_FIELDS, rules.batch_field) if number in stored}
    fields |= {
        4: f"{known.amount_minor:012}",
        11: known.sent_stan,
        39: _REASONS[body.reason],
        41: known.terminal.ljust(_TERMINAL_LENGTH),
        42: known.merchant.ljust(_MERCHANT_LENGTH),
    }
    request = request_from(Message("0400", fields), rules, hashing, utc_ms, batches=False)
    parts[0], parts[3] = f"{_OF_ONE}{known.id}", "4"  # this original is meant and no other, however old it is (D1)
    key = "|".join(parts)
    # The Idempotency-Key is a second key, unique per terminal (D1).
    alias = f"idem|{request.merchant}|{request.terminal}|{_presentable(idempotency_key, hashing)}"
    digest = _digest(known.key.encode() + b"\n" + canonical(body), hashing)
    return replace(
        request, key=key, original_keys=(known.key,), original_id=known.id, horizon_ms=0, alias=alias,
        alias_digest=digest,
    )  # fmt: skip


def _assignable(named: str, message_class: str) -> tuple[str, ...]:
    """STANs for what is named so, each once, far from 1, where terminals begin to count, and many again with each
    batch."""
    digest = hashlib.sha256(named.encode()).digest()
    first = _ASSIGNED_FROM[message_class]
    places = range(0, len(digest), 8)
    stans = [f"{first + int.from_bytes(digest[at : at + 8]) % _ASSIGNED:06}" for at in places]
    return tuple(dict.fromkeys(stans))


def _digest(means: bytes, hashing: KeyedHash) -> bytes:
    """What a body means, made under the fingerprint key: a plain digest would let a card number be found by trying
    (INV-8)."""
    return hashlib.sha256(hashing.card("body|" + means.decode())).digest()


def _presentable(idempotency_key: str, hashing: KeyedHash) -> str:
    """The key as it may be kept: short, and not in clear where it may hold a card number (INV-8)."""
    if len(idempotency_key) > _KEPT_KEY_MAX or (
        _LONG_NUMBER.search(idempotency_key) and contains_pan(idempotency_key, inside_runs=True)
    ):
        return hashing.card("key|" + idempotency_key).hex()
    return idempotency_key


def _fields(body: NewTransaction, rules: TerminalRules) -> Fields:
    card = body.card
    fields: Fields = {int(number): value for number, value in body.fields.items()} if body.fields else {}
    if card.pan:
        fields[2] = card.pan
    fields[3] = body.processing_code or "000000"
    fields[4] = f"{body.amount_minor:012}"
    fields[11] = body.stan or "000000"
    if body.local_time:
        fields[12] = body.local_time
    if body.local_date:
        fields[13] = body.local_date
        if rules.date_field == 7:
            fields[7] = body.local_date + (body.local_time or "000000")
    if card.expiry:
        fields[14] = card.expiry
    fields[22] = body.entry_mode or _entry_mode(card)
    if card.sequence_number:
        fields[23] = card.sequence_number
    fields[25] = "00"
    if card.track2:
        fields[35] = card.track2.replace("D", "=")
    fields[41] = body.terminal.ljust(_TERMINAL_LENGTH)
    fields[42] = body.merchant.ljust(_MERCHANT_LENGTH)
    fields[49] = body.currency
    if card.emv:
        fields[55] = card.emv.lower()
    if body.batch and rules.period is Period.BATCH:
        business = _GIVING_BACK if fields[3].startswith("20") else _BUSINESS
        front = business[body.type][: rules.batch_start].ljust(rules.batch_start, "0")
        fields[rules.batch_field] = f"{front}{body.batch}000"
    return fields


def _entry_mode(card: Card) -> str:
    if card.emv:
        return "051"
    return "021" if card.track2 else "012"


def transaction_id(transaction: Transaction) -> str:
    """The name of a transaction over HTTP: its key, with the sequence where the key alone comes again (D1)."""
    text = transaction.key
    if text.startswith(_HORIZON):
        text += f"|{transaction.id}"
    encoded = binascii.b2a_base64(text.encode(), newline=False).decode()
    return encoded.replace("+", "-").replace("/", "_").rstrip("=")


def named_by(identifier: str) -> tuple[str, int] | None:
    """The key that an id stands for, and the sequence, 0 where the key says it all; None where it stands for none."""
    try:
        text = base64.b64decode(identifier + "=" * (-len(identifier) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:  # of base64, or of UTF-8
        return None
    parts = text.split("|")
    if text.startswith(_HORIZON):
        return ("|".join(parts[:5]), int(parts[5])) if len(parts) == 6 and _SEQUENCE.fullmatch(parts[5]) else None
    return (text, 0) if len(parts) == 5 else None


def is_shown(transaction: Transaction) -> bool:
    """Whether a row is a transaction that tills ask for or undo: no settlement, no stand-in for an unknown original."""
    return transaction.kind in _RECORD_TYPES


def view(
    transaction: Transaction, answer: Answer | None, approved_codes: frozenset[str], code: str = ""
) -> TransactionView:
    """A transaction as a till sees it.

    Args:
        answer: what its terminal was told, as far as known.
        code: field 39 that this till is being told now; empty where it only looks.
    """
    fields = answer.fields if answer is not None else {}
    told = code or transaction.response
    return TransactionView(
        id=transaction_id(transaction),
        type=_RECORD_TYPES[transaction.kind],
        state=_state(transaction, approved_codes, code),
        merchant=transaction.merchant,
        terminal=transaction.terminal,
        stan=transaction.sent_stan,
        amount_minor=transaction.amount_minor,
        currency=transaction.currency,
        card_masked=transaction.card_mask,
        response_code=told,
        response_text=response_text(told) if told else "",
        approval_code=fields.get(38, "") or transaction.approval,
        rrn=fields.get(37, ""),
        offline=transaction.advised and transaction.response in approved_codes,
        accepted_at=datetime.fromtimestamp(transaction.accepted_ms / 1000, UTC),
    )


def _state(transaction: Transaction, approved_codes: frozenset[str], code: str) -> TransactionState:
    """What is told to a till that asks is the same each time; to one that looks, where the transaction stands."""
    if code in approved_codes:
        return _APPROVED_OFFLINE if transaction.advised else _APPROVED
    if transaction.state in _UNDOING and transaction.response not in approved_codes and transaction.response:
        return TransactionState.IN_DOUBT if transaction.state is State.REVERSING or code else TransactionState.REVERSED
    return _STATES[transaction.state]
