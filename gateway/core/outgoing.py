"""Messages for the acquirer, made from stored fields at the moment of sending (D8, D10, D12).

Everything here follows from the stored record and the host's rules alone, so that a repeat equals its first sending but
for the MTI and the fields that the host wants fresh (D8).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from gateway.core.lifecycle import Obligation
from gateway.core.transaction import PARKED_FROM, TERMINAL_REVERSAL, Kind, Request, Stored, StoredMessage, Transaction
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import first_mti, repeat_mti
from protocol.iso8583.rules import HostRules, OriginalForm
from protocol.settlement import DETAILS_MAX, Detail, Totals, details_text, halves, totals_text

REASON_NO_ANSWER = "98"
REASON_TERMINAL_FAULT = "96"
REASON_WRONG_MAC = "A0"
REASON_OTHER = "06"
_MAC_FIELDS = (64, 128)

# Names of what every message meets: a member of an enumeration costs ten times as much to come by.
_DE_90: Final = OriginalForm.DE_90
_ADVICE: Final = Kind.ADVICE
_REVERSAL: Final = Obligation.REVERSAL


def transmission_time(utc_ms: int) -> str:
    """Field 7: MMDDhhmmss in UTC."""
    return _second(utc_ms // 1000)


@lru_cache(maxsize=64)
def _second(utc_s: int) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%m%d%H%M%S")


def request_message(
    request: StoredMessage, sensitive: Fields, transaction: Transaction, host: HostRules, *, repeat: bool
) -> Message:
    """The terminal's request as it goes upstream: its fields as they are, its MAC dropped (D10)."""
    first = first_mti(request.mti)
    fields = request.fields | sensitive if sensitive else dict(request.fields)
    _complete(fields, transaction, host)
    return Message(repeat_mti(first) if repeat else first, fields)


def advice_message(stored: Stored, host: HostRules, *, repeat: bool, utc_ms: int) -> Message:
    """The advice of a stand-in approval, or a terminal's own advice handed on (D8)."""
    transaction = stored.transaction
    fields = stored.request.fields | stored.sensitive if stored.sensitive else stored.request.fields.copy()
    for number in host.advice_drop_fields:
        if number in fields:
            del fields[number]
    if transaction.kind is _ADVICE:
        mti = first_mti(stored.request.mti)
    else:
        mti = advice_mti(transaction, stored.request, host)
        if stored.answer is not None:
            said = stored.answer.fields
            for number in (37, 38, 39):
                if number in said:
                    fields[number] = said[number]
    _complete(fields, transaction, host)
    if repeat:
        _refresh(fields, host, utc_ms)
        mti = repeat_mti(mti) if host.repeat_advice else mti
    return Message(mti, fields)


def advice_mti(transaction: Transaction, request: StoredMessage, host: HostRules) -> str:
    """0220 for a sale and 0120 for an authorisation, by the host's advice MTI."""
    if transaction.kind is _ADVICE:
        return first_mti(request.mti)
    return _of_class(host.advice_mti, request.mti[1])


@lru_cache(maxsize=64)
def _of_class(mti: str, digit: str) -> str:
    return mti[0] + digit + mti[2:]


def reversal_message(stored: Stored, host: HostRules, *, repeat: bool, utc_ms: int) -> Message:
    """The reversal of a transaction, in the host's form (D12).

    The original may be known only by its reversal (Kind.UNSEEN): then the terminal's reversal is handed on.
    """
    transaction = stored.transaction
    source = stored.request.fields
    fields = {n: source[n] for n in host.reversal_fields if n in source}
    if transaction.approval and 38 in host.reversal_fields:
        fields[38] = transaction.approval
    if host.reason_field:
        fields[host.reason_field] = _reason_code(stored)
    if host.original is _DE_90:
        _complete(fields, transaction, host)
        fields[90] = _original_data(stored, host)
        fields[11] = f"{transaction.id % 999_999 + 1:06}"
    else:
        fields[11] = transaction.sent_stan  # the original's, also where a terminal's reversal had one of its own
    if repeat:
        _refresh(fields, host, utc_ms)
    mti = repeat_mti(host.reversal_mti) if repeat and host.repeat_reversal else host.reversal_mti
    return Message(mti, fields)


def inquiry_message(request: Request, host: HostRules, utc_ms: int) -> Message:
    """An inquiry as it goes upstream: its fields as they are, its MAC dropped (D10)."""
    fields = request.fields | request.sensitive
    if host.original is _DE_90 and 7 not in fields:
        fields[7] = transmission_time(utc_ms)
    return Message(first_mti(request.mti), fields)


def settlement_message(transaction: Transaction, host: HostRules, totals: Totals) -> Message:
    """The 0500 of a closed batch, with what the journal says that the acquirer has booked.

    Raises: SettlementFieldError, where the totals do not fit their field.
    """
    fields = _settling_fields(transaction, host, host.settlement_fields)
    return Message("0500", {**fields, host.totals_field: totals_text(*halves(totals))})


def upload_messages(transaction: Transaction, host: HostRules, details: Sequence[Detail]) -> list[Message]:
    """The 0320s of a batch that the acquirer found out of balance, and the one that ends them. STANs follow on."""
    messages = []
    stan = int(transaction.sent_stan)
    for number, first in enumerate(range(0, len(details), DETAILS_MAX)):
        fields = _settling_fields(transaction, host, host.upload_fields)
        fields[11] = f"{(stan + number) % 999_999 + 1:06}"
        fields[host.totals_field] = details_text(details[first : first + DETAILS_MAX])
        messages.append(Message("0320", fields))
    end = _settling_fields(transaction, host, host.upload_end_fields)
    end[11] = f"{(stan + len(messages)) % 999_999 + 1:06}"
    return [*messages, Message("0320", end)]


def _settling_fields(transaction: Transaction, host: HostRules, template: Fields) -> Fields:
    """Fields of a profile's template, with batch, STAN, terminal and merchant of the batch."""
    fields = {**template, 11: transaction.sent_stan, 41: transaction.terminal, 42: transaction.merchant}
    if host.batch_field in fields:
        end = host.batch_start + host.batch_length
        text = fields[host.batch_field]
        number = transaction.key[1:].partition("|")[0]
        fields[host.batch_field] = text[: host.batch_start] + number + text[end:]
    return fields


def probe_message(host: HostRules, stan: int, utc_ms: int) -> Message:
    """The echo test that keeps a link known, and closes an outage."""
    fields = {**host.echo_fields, 11: f"{stan % 999_999 + 1:06}"}
    if host.original is _DE_90:
        fields[7] = transmission_time(utc_ms)
    return Message(host.echo_mti, fields)


def outgoing(stored: Stored, host: HostRules, *, utc_ms: int) -> Message:
    """What a stored transaction owes upstream, as a message. `attempts` counts this sending."""
    repeat = stored.transaction.attempts > 1
    if stored.transaction.obligation is _REVERSAL:
        return reversal_message(stored, host, repeat=repeat, utc_ms=utc_ms)
    return advice_message(stored, host, repeat=repeat, utc_ms=utc_ms)


def _complete(fields: Fields, transaction: Transaction, host: HostRules) -> None:
    """Hosts that know originals by field 7 must get one; it follows from the time of acceptance (D8, D12)."""
    if not transaction.stan:
        fields[11] = transaction.sent_stan
    if host.original is _DE_90 and 7 not in fields:
        fields[7] = transmission_time(transaction.accepted_ms)


def _refresh(fields: Fields, host: HostRules, utc_ms: int) -> None:
    if 7 in host.repeat_refresh and 7 in fields:
        fields[7] = transmission_time(utc_ms)


def _original_data(stored: Stored, host: HostRules) -> str:
    """Field 90 (ISO 1987): original MTI 4, STAN 6, field 7 10, field 32 11, field 33 11."""
    transaction, request = stored.transaction, stored.request
    if transaction.kind is Kind.UNSEEN:
        if carried := request.fields.get(90, ""):
            return carried.ljust(42, "0")
        mti = f"0{transaction.key.split('|')[3]}00"
    else:
        mti = advice_mti(transaction, request, host) if transaction.advised else first_mti(request.mti)
    stan = transaction.sent_stan
    sent = request.fields.get(7) or transmission_time(transaction.accepted_ms)
    acquirer = request.fields.get(32, "")
    forwarder = request.fields.get(33, "")
    return f"{mti}{stan}{sent}{acquirer:>011}{forwarder:>011}"


def _reason_code(stored: Stored) -> str:
    """Field 39 of a UnionPay reversal (D12): why it is sent; the terminal's own reason where it gave one."""
    reason = stored.transaction.reason.partition(PARKED_FROM)[0]  # what was said of an earlier one stands behind
    if stored.transaction.kind is Kind.UNSEEN:
        return stated_reason(stored.request.fields) or REASON_TERMINAL_FAULT
    if reason.startswith(TERMINAL_REVERSAL):
        return reason.removeprefix(TERMINAL_REVERSAL).removeprefix("-") or REASON_TERMINAL_FAULT
    if reason.startswith(("answer.none", "recovered.")):
        return REASON_NO_ANSWER
    return REASON_WRONG_MAC if reason.startswith("answer.mac-wrong") else REASON_OTHER


def stated_reason(reversal: Fields) -> str:
    """The reason that a terminal's reversal gives in field 39; empty where it gives none that could be handed on."""
    code = reversal.get(39, "")
    return code if len(code) == 2 and code.isascii() and code.isalnum() else ""
