"""Messages that settle a terminal's batch, validated: 0500, 0320, and the 0320 that ends an upload (UnionPay)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest, batch_number, digits, network_code
from gateway.core.transaction import Kind, Request, UploadedDetail
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import TerminalRules
from protocol.settlement import Detail, SettlementFieldError, Totals, parse_details, parse_totals

_MAC_FIELDS: Final = (64, 128)


def closing_key(batch: str) -> str:
    """The second key of whatever closes a batch: there is at most one."""
    return f"{batch}|5|"


def settling_request(message: Message, rules: TerminalRules, hashing: KeyedHash, lane: str) -> Request:
    """A 0500 with totals, an 0320 with details, or the 0320 that ends an upload and closes the batch.

    Args:
        lane: merchant and terminal.
    Raises: BadRequest.
    """
    fields = message.fields
    stan = digits(fields, 11, 6)
    if not (number := batch_number(fields, rules)):
        raise BadRequest("30", f"field {rules.batch_field} must name the batch")
    code = network_code(fields, rules)
    text = fields.get(rules.totals_field, "")
    totals: Totals | None = None
    details: tuple[UploadedDetail, ...] = ()
    kept: Fields = {n: v for n, v in fields.items() if n not in rules.sensitive_fields and n not in _MAC_FIELDS}
    kind = Kind.SETTLEMENT
    try:
        if message.mti[1] == "5":
            domestic, foreign = parse_totals(text)
            totals = domestic + foreign
        elif code not in rules.upload_end_codes:
            kind = Kind.UPLOAD
            details = _uploaded(parse_details(text), hashing)
            kept = {n: v for n, v in kept.items() if n not in (2, rules.totals_field)}  # it holds card numbers
    except SettlementFieldError as error:
        raise BadRequest("30", f"field {rules.totals_field}: {error}") from None
    batch = f"B{number}|{lane}"
    said = hashing.totals(totals) if totals is not None else hashing.details(details)
    merchant, _, terminal = lane.partition("|")
    return Request(
        kind=kind,
        mti=message.mti,
        key=f"{batch}|{message.mti[1]}|{stan}",
        fingerprint=said,
        lane=lane,
        terminal=terminal,
        merchant=merchant,
        stan=stan,
        currency=fields.get(49, "") or rules.default_currency,
        fields=kept,
        rules=rules,
        batch=batch,
        alias=closing_key(batch) if kind is Kind.SETTLEMENT else "",
        alias_digest=said if kind is Kind.SETTLEMENT else b"",
        network_code=code,
        totals=totals,
        details=details,
    )


def _uploaded(details: Sequence[Detail], hashing: KeyedHash) -> tuple[UploadedDetail, ...]:
    return tuple(UploadedDetail(each.stan, each.amount_minor, hashing.card(each.pan)) for each in details)
