"""Who a message is: its transaction key and its fingerprint (D1-D4).

A key is text: `PERIOD|MERCHANT|TERMINAL|CLASS|STAN`. It begins with its period, so that keys made close in time lie
close together. PERIOD is `B` and the batch number, `D` and the local date with its year, or `H` where a dialect carries
neither and the newest transaction within a horizon is meant.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

from gateway.core.transaction import Kind, Request, UploadedDetail
from protocol.emv import TlvError, parse_tlv
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import OriginalForm, Period, TerminalRules
from protocol.masking import mask_pan
from protocol.settlement import Detail, SettlementFieldError, Totals, parse_details, parse_totals

KINDS: Final = {
    "0100": Kind.AUTHORISATION,
    "0101": Kind.AUTHORISATION,
    "0120": Kind.ADVICE,
    "0121": Kind.ADVICE,
    "0200": Kind.SALE,
    "0201": Kind.SALE,
    "0220": Kind.ADVICE,
    "0221": Kind.ADVICE,
    "0320": Kind.UPLOAD,
    "0321": Kind.UPLOAD,
    "0400": Kind.REVERSAL,
    "0401": Kind.REVERSAL,
    "0420": Kind.REVERSAL,
    "0421": Kind.REVERSAL,
    "0500": Kind.SETTLEMENT,
    "0501": Kind.SETTLEMENT,
    "0800": Kind.NETWORK,
    "0801": Kind.NETWORK,
    "0820": Kind.NETWORK,
    "0821": Kind.NETWORK,
}
_SETTLING: Final = frozenset({Kind.SETTLEMENT, Kind.UPLOAD})
_MAC_FIELDS = (64, 128)
_TERMINALS_REMEMBERED_MAX: Final = 100_000
_IDENTIFIER_MAX: Final = 40
"""Characters of a terminal's or merchant's id: a key must fit into a journal entry."""


class BadRequest(Exception):
    """The terminal's message cannot be taken: answer `code`, store nothing.

    Attributes:
        code: field 39 of the answer.
        reason: what is wrong, without values.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} (answer {code})")
        self.code = code
        self.reason = reason


class KeyedHash:
    """Hashes of card data under a key of their own, so that no list of all PANs can undo them (D2).

    HMAC-SHA256, the first 16 bytes. The two uses are kept apart by a prefix.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("the fingerprint key has 32 bytes")
        self._key = key

    def fingerprint(self, pan: str, amount_minor: int, currency: str, processing_code: str) -> bytes:
        """What a retry must have in common with its first sending (D2)."""
        text = f"fingerprint|{pan}|{amount_minor}|{currency}|{processing_code}"
        return self._digest(text)

    def totals(self, totals: Totals) -> bytes:
        """What a retry of a settlement must have in common with its first sending."""
        return self._digest(f"totals|{totals}")

    def details(self, details: Sequence[UploadedDetail]) -> bytes:
        """The same for what a terminal uploads of its batch."""
        return self._digest("details|" + "|".join(f"{d.stan},{d.amount_minor},{d.card.hex()}" for d in details))

    def card(self, pan: str) -> bytes:
        """What stands for a card in exposure counters and hot-card lists (D21); empty without a PAN."""
        return self._digest(f"card|{pan}") if pan else b""

    def _digest(self, text: str) -> bytes:
        # "surrogatepass": text of a hostile JSON body must not raise here.
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")[:16]


@lru_cache(maxsize=64)
def _year_of(month_day: str, today_ordinal: int) -> int:
    """The year that puts MMDD closest to today: a retry just after New Year still means last year's date."""
    today = date.fromordinal(today_ordinal)
    nearest = today.year
    distance = 1_000_000
    for year in (today.year - 1, today.year, today.year + 1):
        try:
            away = abs(date(year, int(month_day[:2]), int(month_day[2:])).toordinal() - today_ordinal)
        except ValueError:  # no such day in that year; the text still separates days from one another
            continue
        if away < distance:
            nearest, distance = year, away
    return nearest


def _date_period(month_day: str, utc_ms: int) -> str:
    today = datetime.fromtimestamp(utc_ms / 1000, UTC).toordinal()
    return f"D{_year_of(month_day, today)}{month_day}"


def _batch(fields: Fields, rules: TerminalRules) -> str:
    text = _part(fields, rules.batch_field, rules.batch_start, rules.batch_length)
    if len(text) != rules.batch_length:
        return ""
    if not _all_digits(text):
        raise BadRequest("30", f"the batch number in field {rules.batch_field} must be digits")
    return text


def _part(fields: Fields, number: int, start: int, length: int) -> str:
    """Some digits of a field; empty where the message has no such."""
    return fields.get(number, "")[start : start + length]


def _network_code(fields: Fields, rules: TerminalRules) -> str:
    return _part(fields, rules.network_field, rules.network_start, rules.network_length)


def _period(fields: Fields, rules: TerminalRules, utc_ms: int) -> str:
    """Batch where carried, else local date where carried, else the horizon (D1)."""
    if rules.period is Period.BATCH and (batch := _batch(fields, rules)):
        return f"B{batch}"
    if rules.period is not Period.HORIZON and (month_day := fields.get(rules.date_field, "")[:4]):
        if len(month_day) != 4 or not _all_digits(month_day):
            raise BadRequest("30", f"field {rules.date_field} must begin with the month and the day")
        return _date_period(month_day, utc_ms)
    return "H"


def pan_of(fields: Fields) -> str:
    """The card number from field 2, track 2, or chip data (tags 5A, 57); empty where there is none.

    A track without a card number in clear (encrypted by the terminal) has none: what is taken for a card number is
    kept and shown in part, and nothing else may be.
    """
    if pan := fields.get(2):
        return pan
    if track := fields.get(35):
        before_separator = track.upper().replace("D", "=").partition("=")[0]
        if _is_pan(before_separator):
            return before_separator
    return _pan_of_chip(chip) if (chip := fields.get(55)) else ""


def _is_pan(text: str) -> bool:
    return len(text) <= 19 and _all_digits(text)


def _all_digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _pan_of_chip(chip: str) -> str:
    """Tag 5A, else what stands before the separator in tag 57; empty where the field is no TLV."""
    try:
        tags = {tlv.tag: tlv.value.hex().upper() for tlv in parse_tlv(bytes.fromhex(chip))}
    except (TlvError, ValueError):
        return ""
    pan = tags.get("5A", "").rstrip("F") or tags.get("57", "").partition("D")[0]
    return pan if _is_pan(pan) else ""


def _identifier(fields: Fields, number: int, *, required: bool) -> str:
    text = fields.get(number, "").strip()
    if not text and required:
        raise BadRequest("30", f"field {number} is missing")
    if len(text) > _IDENTIFIER_MAX:
        raise BadRequest("30", f"field {number} is longer than {_IDENTIFIER_MAX} characters")
    if "|" in text or not text.isprintable():
        raise BadRequest("30", f"field {number} holds a character that an identifier cannot have")
    return text


def _digits(fields: Fields, number: int, length: int) -> str:
    text = fields.get(number, "")
    if len(text) != length or not _all_digits(text):
        raise BadRequest("30", f"field {number} must have {length} digits" if text else f"field {number} is missing")
    return text


class BatchMemory:
    """The batch that each terminal is in, as far as it was heard since the start.

    A UnionPay reversal need not name its batch (D12 has it repeat 60.1 alone); it means the one that its terminal is
    in. Bounded; the terminal unheard for longest is forgotten.
    """

    __slots__ = ("_periods",)

    def __init__(self) -> None:
        self._periods: OrderedDict[str, str] = OrderedDict()

    def period(self, lane: str, period: str) -> str:
        """Note a batch that a message names, or give the one that its terminal was last heard in."""
        if not period.startswith("B"):
            return self._periods.get(lane, period)
        self._periods[lane] = period
        self._periods.move_to_end(lane)
        if len(self._periods) > _TERMINALS_REMEMBERED_MAX:
            self._periods.popitem(last=False)
        return period


def request_from(
    message: Message, rules: TerminalRules, hashing: KeyedHash, utc_ms: int, batches: BatchMemory | None = None
) -> Request:
    """Turn a decoded message into a request that the core understands.

    Args:
        batches: what is remembered of terminals that do not name their batch in every message.
    Raises: BadRequest, with the code to answer. Source: D1, D2, D15.
    """
    kind = KINDS.get(message.mti)
    if kind is None or (kind in _SETTLING and not rules.settles):
        raise BadRequest("30", "this message type is not supported")
    fields = message.fields
    if kind is Kind.NETWORK or _is_inquiry(kind, fields, rules):
        return _unstored_request(message, rules, utc_ms)
    terminal = _identifier(fields, 41, required=True)
    merchant = _identifier(fields, 42, required=True)
    if kind in _SETTLING:
        return _settling_request(message, rules, hashing, f"{merchant}|{terminal}")
    stan = _digits(fields, 11, 6)
    processing_code = fields.get(3, "")
    amount_minor = 0
    if kind is not Kind.REVERSAL:
        processing_code = _digits(fields, 3, 6)
        if kind is Kind.ADVICE and processing_code[:2] in rules.asked_advices:
            kind = Kind.SALE  # it may be declined, so that it is asked, and never approved unseen (D21)
        elif _part(fields, rules.type_field, rules.type_start, rules.type_length) in rules.advice_types:
            kind = Kind.ADVICE
        amount_minor = int(_digits(fields, 4, 12))
    elif 4 in fields:
        amount_minor = int(_digits(fields, 4, 12))
    currency = fields.get(49, "") or rules.default_currency
    if len(currency) != 3 or not (currency.isascii() and currency.isalnum()):
        raise BadRequest("30", "field 49 is not a currency of ISO 4217")
    pan = pan_of(fields)
    if pan and not _is_pan(pan):
        raise BadRequest("30", "field 2 is no card number")
    period = _period(fields, rules, utc_ms)
    if batches is not None and rules.period is Period.BATCH:
        period = batches.period(f"{merchant}|{terminal}", period)
    sensitive = rules.sensitive_fields
    return Request(
        kind=kind,
        mti=message.mti,
        key=f"{period}|{merchant}|{terminal}|{message.mti[1]}|{stan}",
        horizon_ms=rules.horizon_hours * 3_600_000 if period == "H" else 0,
        fingerprint=hashing.fingerprint(pan, amount_minor, currency, processing_code),
        card=hashing.card(pan),
        card_mask=mask_pan(pan) if pan else "",
        lane=f"{merchant}|{terminal}",
        terminal=terminal,
        merchant=merchant,
        stan=stan,
        amount_minor=amount_minor,
        currency=currency,
        original_keys=_original_keys(fields, rules, period, f"{merchant}|{terminal}", utc_ms)
        if kind is Kind.REVERSAL
        else (),
        fields={n: v for n, v in fields.items() if n not in sensitive and n not in _MAC_FIELDS},
        sensitive={n: v for n, v in fields.items() if n in sensitive},
        retained=rules.retained_sensitive_fields,
        pan=pan,
        rules=rules,
        batch=_batch_key(period, f"{merchant}|{terminal}", rules),
    )


def _is_inquiry(kind: Kind, fields: Fields, rules: TerminalRules) -> bool:
    """A request that moves no money: a balance. Whether a network message is one, its network code says."""
    return kind in {Kind.SALE, Kind.AUTHORISATION} and fields.get(3, "")[:2] in rules.inquiries


def _batch_key(period: str, lane: str, rules: TerminalRules) -> str:
    """What the keys of a terminal's batch begin with, where its dialect settles; else empty."""
    return f"{period}|{lane}" if rules.settles and period.startswith("B") else ""


def closing_key(batch: str) -> str:
    """The second key of whatever closes a batch: there is at most one."""
    return f"{batch}|5|"


def _unstored_request(message: Message, rules: TerminalRules, utc_ms: int) -> Request:
    """A network message or an inquiry: nothing of it is kept."""
    fields, network = message.fields, message.mti[1] == "8"
    code = _network_code(fields, rules) if network else ""
    inquiry = not network or code[:2] in rules.passed_codes
    terminal = _identifier(fields, 41, required=inquiry)
    merchant = _identifier(fields, 42, required=inquiry)
    lane = f"{merchant}|{terminal}"
    sensitive = rules.sensitive_fields
    return Request(
        kind=Kind.INQUIRY if inquiry else Kind.NETWORK,
        mti=message.mti,
        key="",
        lane="",
        terminal=terminal,
        merchant=merchant,
        stan=_digits(fields, 11, 6) if inquiry else fields.get(11, ""),
        fields={n: v for n, v in fields.items() if n not in sensitive and n not in _MAC_FIELDS},
        sensitive={n: v for n, v in fields.items() if n in sensitive},
        rules=rules,
        batch=_batch_key(_period(fields, rules, utc_ms), lane, rules) if code in rules.sign_on_codes else "",
        network_code=code,
    )


def _settling_request(message: Message, rules: TerminalRules, hashing: KeyedHash, lane: str) -> Request:
    """A 0500 with totals, an 0320 with details, or the 0320 that ends an upload and closes the batch."""
    fields = message.fields
    stan = _digits(fields, 11, 6)
    if not (number := _batch(fields, rules)):
        raise BadRequest("30", f"field {rules.batch_field} must name the batch")
    code = _network_code(fields, rules)
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


def _original_keys(fields: Fields, rules: TerminalRules, period: str, lane: str, utc_ms: int) -> tuple[str, ...]:
    """Keys under which the original of a reversal may be stored, likeliest first (D12)."""
    if rules.original is OriginalForm.DE_90 and (original := fields.get(90, "")):
        if len(original) < 20 or not _all_digits(original[:20]):
            raise BadRequest("30", "field 90 must begin with the original's MTI, STAN and field 7")
        message_class, stan = original[1], original[4:10]
        if message_class not in "12":
            raise BadRequest("12", "field 90 names an original that cannot be reversed")
        periods = [period]
        if rules.period is not Period.HORIZON:
            periods.append(_date_period(original[10:14], utc_ms))
            periods.reverse() if rules.date_field == 7 else None
        return tuple(dict.fromkeys(f"{p}|{lane}|{message_class}|{stan}" for p in periods))
    # The same STAN: the original is financial or an authorisation. Field 61 names its batch where it is an older one;
    # with another STAN it names what the original itself refers to (the sale that a void undoes), which is not meant.
    stan = fields.get(11, "")
    periods = [period]
    older = fields.get(61, "")[:12]
    if rules.period is Period.BATCH and _all_digits(older) and older[6:] == stan:
        periods.insert(0, f"B{older[:6]}")
    return tuple(dict.fromkeys(f"{p}|{lane}|{message_class}|{stan}" for p in periods for message_class in "21"))
