"""Terminals of several makes, and the requests that their listeners hand to the core.

date     ISO 1987: field 13, reversals name their original by field 90 and have a STAN of their own
horizon  the same without a date: the newest of the same key within a day is meant (D1)
batch    UnionPay: batch number in 60.2, reversals have the STAN of their original; settles and uploads
brief    the same, but its reversals name no batch: they have field 60.1 alone (D12)
http     a till by HTTP: a second key (Idempotency-Key), and the gateway assigns the STAN
named    the same, but the till names its STAN
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Final

from msgspec import structs

from gateway.core.identity import request_from
from gateway.core.settling import closing_key
from gateway.core.totals import counted, totals_of
from gateway.core.transaction import Request, Stored
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import HostRules, Period, TerminalRules
from protocol.settlement import Detail, Totals, details_text, totals_text
from tests.core.messages import ISO, MASTERCARD, MERCHANT, UNIONPAY, UNIONPAY_HOST, UNIONPAY_RULES, VISA
from tests.core.world import HASHING
from tests.simulation.steps import Ask, EndUpload, Inquire, Settle, SignOn, Undo, Upload

CARDS: Final = (VISA, MASTERCARD, UNIONPAY, "4000000000000002", "5200000000000007")
TRACK_CARD: Final = 3
"""This card is sent in track 2 only."""

HORIZON: Final = replace(ISO, period=Period.HORIZON)
HOSTS: Final[dict[str, HostRules]] = {
    "iso": HostRules(),
    "iso-repeat": HostRules(repeat_request=True),
    "unionpay": UNIONPAY_HOST,
    "unionpay-plain": replace(UNIONPAY_HOST, settles=False),
}
SETTLING: Final = frozenset({"batch", "brief"})
"""Kinds that have batches."""

_BY_HTTP: Final = frozenset({"http", "named"})
Asking = Ask | Undo | Settle | Upload | EndUpload | SignOn | Inquire


def rules_of(kind: str, host: str) -> TerminalRules:
    """The habits of a till's dialect; tills by HTTP are of their host's."""
    if kind in SETTLING or (kind in _BY_HTTP and host.startswith("unionpay")):
        return UNIONPAY_RULES
    return HORIZON if kind == "horizon" else ISO


def terminal_of(till: int) -> str:
    """Field 41."""
    return f"TERM000{till}"


def lane_of(till: int) -> str:
    """Its lane, as the gateway names it."""
    return f"{MERCHANT}|{terminal_of(till)}"


def batch_of(till: int, batch: int) -> str:
    """What the keys of a batch begin with."""
    return f"B{batch:06}|{MERCHANT}|{terminal_of(till)}"


def _ends(till: int, stan: int) -> Fields:
    return {11: f"{stan:06}", 41: terminal_of(till), 42: MERCHANT, 49: "156"}


def _sale_fields(step: Ask | Undo, kind: str, rules: TerminalRules, stan: int) -> Fields:
    fields = _ends(step.till, stan) | {3: f"{step.code}0000", 4: f"{step.amount:012}", 22: "012", 25: "00"}
    pan = CARDS[step.card % len(CARDS)]
    if step.card == TRACK_CARD and isinstance(step, Ask):
        fields[35] = f"{pan}=30121010000000000"
    else:
        fields[2] = pan
    if rules.settles:
        names_none = kind == "brief" and isinstance(step, Undo)
        fields[60] = "22" if names_none else f"22{step.batch:06}"
    else:
        fields[7] = "1121120000"
        if kind == "date":
            fields[13] = "1121"
    return fields


@lru_cache(maxsize=4_096)
def asked(step: Ask, kind: str, host: str, utc_ms: int) -> Request:
    """A sale, an authorisation or an advice. `utc_ms` is to be of noon: only its day counts."""
    rules = rules_of(kind, host)
    fields = _sale_fields(step, kind, rules, step.stan)
    request = request_from(Message(step.mti, fields), rules, HASHING, utc_ms)
    if kind not in _BY_HTTP:
        return request
    if kind == "http":
        # What it may be assigned often has another: there are few of the first, more of the second, all of the third.
        first = 500_000 if step.mti[1] == "1" else 750_000
        numbers = (step.stan % 3, 10_000 + step.stan % 31, 20_000 + step.stan)
        assigned = tuple([f"{first + number:06}" for number in numbers])
        key = f"{request.key.rpartition('|')[0]}|{assigned[0]}"
        without = {number: value for number, value in request.fields.items() if number != 11}
        request = structs.replace(request, key=key, stan="", fields=without, assigned=assigned)
    return _with_alias(request, f"{step.mti}-{step.stan}", f"{step.mti}{step.code}{step.amount}{step.card}")


@lru_cache(maxsize=4_096)
def undone(step: Undo, kind: str, host: str, utc_ms: int) -> Request:
    """A terminal's reversal; see `undone_by_http` for the others."""
    rules = rules_of(kind, host)
    same_stan = kind in SETTLING
    fields = _sale_fields(step, kind, rules, step.of if same_stan else step.stan)
    if not same_stan:
        fields[90] = f"{step.mti}{step.of:06}{fields[7]}".ljust(42, "0")
    return request_from(Message("0400", fields), rules, HASHING, utc_ms)


def undone_by_http(step: Undo, original: Stored, kind: str, host: str, utc_ms: int) -> Request:
    """A till's reversal of a transaction that its listener has found; its key is its original's, of class 4."""
    rules = rules_of(kind, host)
    known, stored = original.transaction, original.request.fields
    fields = {n: stored[n] for n in (2, 3, 4, 7, 22, 25, 49, 60) if n in stored} | _ends(step.till, 0)
    fields[11] = known.sent_stan
    request = request_from(Message("0400", fields), rules, HASHING, utc_ms)
    parts = known.key.split("|")
    parts[3] = "4"
    request = structs.replace(request, key="|".join(parts), original_keys=(known.key,))
    return _with_alias(request, f"undo-{step.stan}", known.key)


def of_any_age(request: Request, original: Stored, utc_ms: int) -> Request:
    """A till's reversal as its listener hands it over now: its original is meant, however old it has become."""
    age_ms = max(0, utc_ms - original.transaction.accepted_ms)
    return structs.replace(request, horizon_ms=age_ms + 2 * 3_600_000 if request.key.startswith("H|") else 0)


def _with_alias(request: Request, name: str, means: str) -> Request:
    digest = hashlib.sha256(HASHING.card(f"body|{means}")).digest()
    return structs.replace(request, alias=f"idem|{request.merchant}|{request.terminal}|{name}", alias_digest=digest)


def settling(
    step: Settle | Upload | EndUpload | SignOn, rows: list[Stored], host: HostRules, utc_ms: int
) -> Request | None:
    """What a UnionPay terminal says about its batch, whose transactions are `rows`; None for an upload of nothing."""
    rules = UNIONPAY_RULES
    fields = _ends(step.till, step.stan)
    rows = counted(rows, rules, host.approved_codes)
    match step:
        case Settle():
            mti, code = "0500", "201"
            fields[48] = totals_text(totals_of(rows, rules) + Totals(step.wrong))
        case Upload():
            mti, code = "0320", "201"
            some = rows[step.first : step.first + min(8, step.count)]
            if not some:
                return None
            fields[48] = details_text(
                [Detail(row.transaction.stan, row.transaction.amount_minor, row.request.fields[2]) for row in some]
            )
        case EndUpload():
            mti, code = "0320", "202"
        case SignOn():
            mti, code = "0800", "003"
    fields[60] = f"00{step.batch:06}{code}"
    return request_from(Message(mti, fields), rules, HASHING, utc_ms)


@lru_cache(maxsize=256)
def inquired(step: Inquire, kind: str, host: str, utc_ms: int) -> Request:
    """A balance inquiry."""
    fields = _ends(step.till, step.stan) | {2: VISA, 3: "310000"}
    return request_from(Message("0200", fields), rules_of(kind, host), HASHING, utc_ms)


def is_closed(by_key: dict[str, list[int]], till: int, batch: int) -> bool:
    """Whether the journal has a settlement that closed this batch."""
    return closing_key(batch_of(till, batch)) in by_key
