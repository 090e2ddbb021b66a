"""What a terminal's message becomes when it is accepted: its first row, and what the journal keeps of it (D10)."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.core.effects import Change, Create
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, Kind, Request, StoredMessage, Transaction
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


def with_alias(create: Create, request: Request) -> tuple[Change, ...]:
    """A first row, and beside it in the same write the second key under which it may be asked for (D1)."""
    if not request.alias:
        return (create,)
    alias = replace(
        create.transaction,
        key=request.alias,
        kind=Kind.ALIAS,
        state=State.CANCELLED,  # nothing is ever sent for it
        fingerprint=request.alias_digest[:16],
        reason="alias",
        advised=False,
        approval="",
        response="",
        exposed=False,
        original=-1,
    )
    return create, Create(EntryKind.TAKEN, alias, StoredMessage(request.mti, {}), {}, None)


def with_assigned_stan(answer: Answer, transaction: Transaction) -> Answer:
    """An answer made before the STAN that the gateway assigns was known, with it (D1)."""
    if transaction.stan or not transaction.id or 11 in answer.fields:
        return answer
    return Answer(answer.mti, {**answer.fields, 11: transaction.sent_stan})
