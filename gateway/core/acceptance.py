"""What a terminal's message becomes when it is accepted: its first row, and what the journal keeps of it (D10)."""

from __future__ import annotations

from gateway.core.lifecycle import State
from gateway.core.transaction import Request, StoredMessage, Transaction
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
