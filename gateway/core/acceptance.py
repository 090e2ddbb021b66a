"""What a terminal's message becomes when it is accepted: its first row, and what the journal keeps of it (D10)."""

from __future__ import annotations

import hmac

from gateway.core.lifecycle import State
from gateway.core.transaction import ALIAS_DIGEST_BYTES, Answer, Request, StoredMessage, Transaction
from protocol.iso8583.message import Fields


def new_transaction(request: Request, state: State, utc_ms: int) -> Transaction:
    """The first row of a request's transaction."""
    return Transaction(
        key=request.key,
        kind=request.kind,
        state=state,
        lane=request.lane,
        terminal=request.terminal,
        merchant=request.merchant,
        stan=request.stan,
        fingerprint=request.fingerprint,
        card=request.card,
        card_mask=request.card_mask,
        amount_minor=request.amount_minor,
        currency=request.currency,
        accepted_ms=utc_ms,
        changed_ms=utc_ms,
    )


def stored_message(request: Request) -> StoredMessage:
    """What the journal keeps: the card number in field 2 even where the terminal sent it in a track (D10)."""
    if request.pan and 2 not in request.fields:
        return StoredMessage(request.mti, {2: request.pan, **request.fields})
    return StoredMessage(request.mti, request.fields)


def retained(request: Request) -> Fields:
    """The sensitive fields that the profile lets the journal keep until the outcome is final."""
    return {n: v for n, v in request.sensitive.items() if n in request.retained} if request.retained else {}


def with_alias(row: Transaction, request: Request) -> Transaction:
    """A first row that was not handed over yet, with the second key under which it may be asked for (D1)."""
    if request.alias:
        row.alias, row.alias_digest = request.alias, request.alias_digest[:ALIAS_DIGEST_BYTES]
    return row


def same_under_alias(known: Transaction, request: Request) -> bool:
    """Whether the same was asked under the alias that both have (D2)."""
    return hmac.compare_digest(known.alias_digest, request.alias_digest[:ALIAS_DIGEST_BYTES])


def with_assigned_stan(answer: Answer, transaction: Transaction) -> Answer:
    """An answer made before the STAN that the gateway assigns was known, with it (D1)."""
    if transaction.stan or not transaction.id or 11 in answer.fields:
        return answer
    return Answer(answer.mti, {**answer.fields, 11: transaction.sent_stan})
