"""Between JSON and the core: a till's body becomes the request that the same transaction over ISO 8583 would be.

Key, lane and fingerprint are made in one place for both (`core.identity`): a body is written down as an ISO 8583
message first, and read from there (D1, D2).
"""

from __future__ import annotations

import base64
import hashlib
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
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import TerminalRules
from protocol.masking import contains_pan
from protocol.response_codes import REASON_NO_REPLY, REASON_OTHER, REASON_TERMINAL_FAULT, response_text

_MTI: Final = {
    TransactionType.SALE: "0200",
    TransactionType.AUTHORISATION: "0100",
    TransactionType.ADVICE: "0220",
}
_BUSINESS: Final = {TransactionType.SALE: "22", TransactionType.AUTHORISATION: "10", TransactionType.ADVICE: "36"}
"""Field 60.1 of UnionPay, in front of the batch number."""

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
_KEPT_KEY_MAX: Final = 128
"""An alias, like any key, has at most 255 bytes in the journal (protocol.journal_entry)."""

_TERMINAL_LENGTH: Final = 8
_MERCHANT_LENGTH: Final = 15


def request_of(
    body: NewTransaction, idempotency_key: str, rules: TerminalRules, hashing: KeyedHash, utc_ms: int
) -> Request:
    """What a till asks for.

    With a STAN it is who it would be over ISO 8583. Without one the Idempotency-Key alone says who it is, and the core
    assigns a STAN.

    Raises:
        BadRequest: a field cannot be taken in the dialect of these terminals.
    Source: D1, D2.
    """
    message = Message(_MTI[body.type], _fields(body, rules))
    request = request_from(message, rules, hashing, utc_ms, batches=False)
    if request.kind is Kind.INQUIRY:
        raise BadRequest("30", "a balance is not asked for over HTTP")  # nothing of it would be recorded
    if not body.stan:
        named = hashlib.sha256(_presentable(idempotency_key, hashing).encode()).hexdigest()[:32]
        without = {number: value for number, value in request.fields.items() if number != 11}
        key = f"I|{request.merchant}|{request.terminal}|{message.mti[1]}|{named}"
        request = replace(request, key=key, stan="", fields=without, horizon_ms=0)
    return _with_alias(request, idempotency_key, canonical(body), hashing)


def reversal_of(
    original: Stored, body: NewReversal, idempotency_key: str, rules: TerminalRules, hashing: KeyedHash, utc_ms: int
) -> Request | None:
    """The reversal of a transaction; None where such a thing cannot be reversed.

    Its key is its original's with the class of reversals, so that there is one reversal of each, whoever asks for it
    how often, also over ISO 8583 in a dialect whose reversals have the STAN of their original (D12, D15).
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
    parts[3] = "4"
    key = "|".join(parts)
    horizon_ms = rules.horizon_hours * 3_600_000 if key.startswith(_HORIZON) else 0
    request = replace(request, key=key, original_keys=(known.key,), horizon_ms=horizon_ms)
    return _with_alias(request, idempotency_key, known.key.encode() + b"\n" + canonical(body), hashing)


def _with_alias(request: Request, idempotency_key: str, means: bytes, hashing: KeyedHash) -> Request:
    """Add the Idempotency-Key as a second key, unique per terminal (D1).

    The digest of what the body means is made under the fingerprint key: a plain one would let a card number be found
    by trying (INV-8).
    """
    digest = hashlib.sha256(hashing.card("body|" + means.decode())).digest()
    alias = f"idem|{request.merchant}|{request.terminal}|{_presentable(idempotency_key, hashing)}"
    return replace(request, alias=alias, alias_digest=digest)


def _presentable(idempotency_key: str, hashing: KeyedHash) -> str:
    """The key as it may be kept: short, and not in clear where it may hold a card number (INV-8)."""
    if len(idempotency_key) > _KEPT_KEY_MAX or contains_pan(idempotency_key, inside_runs=True):
        return hashing.card("key|" + idempotency_key).hex()
    return idempotency_key


def _fields(body: NewTransaction, rules: TerminalRules) -> Fields:
    card = body.card
    fields: Fields = {
        **{int(number): value for number, value in body.fields.items()},
        3: body.processing_code or "000000",
        4: f"{body.amount_minor:012}",
        11: body.stan or "000000",
        22: body.entry_mode or _entry_mode(card),
        25: "00",
        41: body.terminal.ljust(_TERMINAL_LENGTH),
        42: body.merchant.ljust(_MERCHANT_LENGTH),
        49: body.currency,
    }
    given = {
        2: card.pan,
        12: body.local_time,
        13: body.local_date,
        14: card.expiry,
        23: card.sequence_number,
        35: card.track2,
        55: card.emv.lower() if card.emv else None,
    }
    fields |= {number: value for number, value in given.items() if value}
    if body.local_date and rules.date_field == 7:
        fields[7] = body.local_date + (body.local_time or "000000")
    if body.batch:
        front = _BUSINESS[body.type][: rules.batch_start].ljust(rules.batch_start, "0")
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
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def key_of(identifier: str) -> str | None:
    """The key that an id stands for; None where it stands for none."""
    try:
        text = base64.b64decode(identifier + "=" * (-len(identifier) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:  # of base64, or of UTF-8
        return None
    parts = text.split("|")
    if text.startswith(_HORIZON):
        return "|".join(parts[:5]) if len(parts) == 6 else None
    return text if len(parts) == 5 else None


def is_shown(transaction: Transaction) -> bool:
    """Whether a row is a transaction, and not merely a second key to one."""
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
        return TransactionState.APPROVED_OFFLINE if transaction.advised else TransactionState.APPROVED
    if transaction.state in _UNDOING and transaction.response not in approved_codes and transaction.response:
        return TransactionState.IN_DOUBT if transaction.state is State.REVERSING or code else TransactionState.REVERSED
    return _STATES[transaction.state]
