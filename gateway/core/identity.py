"""Who a message is: its transaction key and its fingerprint (D1-D4).

A key is text: `PERIOD|MERCHANT|TERMINAL|CLASS|STAN`. It begins with its period, so that keys made close in time lie
close together. PERIOD is `B` and the batch number, `D` and the local date with its year, or `H` where a dialect carries
neither and the newest transaction within a horizon is meant.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

from gateway.core.card_data import is_pan, pan_of
from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest, all_digits, batch_number, digits, identifier, network_code, part
from gateway.core.settling import settling_request
from gateway.core.transaction import Kind, Request
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import OriginalForm, Period, TerminalRules
from protocol.masking import mask_pan

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
_ASKED: Final = frozenset({Kind.SALE, Kind.AUTHORISATION})
_MAC_FIELDS = (64, 128)
_REPLACEMENT: Final = 95
"""Of a reversal: what is to stand of the original's amount, 12 digits, and more; zeros where nothing is."""
_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1).toordinal()

# Names of what every message is compared with: a member of an enumeration costs ten times as much to come by.
_REVERSAL: Final = Kind.REVERSAL
_NETWORK: Final = Kind.NETWORK
_ADVICE: Final = Kind.ADVICE
_BATCH: Final = Period.BATCH
_HORIZON: Final = Period.HORIZON


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
    return f"D{_year_of(month_day, _EPOCH + utc_ms // _DAY_MS)}{month_day}"


def _period(fields: Fields, rules: TerminalRules, utc_ms: int) -> str:
    """Batch where carried, else local date where carried, else the horizon (D1)."""
    if rules.period is _BATCH and (batch := batch_number(fields, rules)):
        return f"B{batch}"
    if rules.period is not _HORIZON and (month_day := fields.get(rules.date_field, "")[:4]):
        if len(month_day) != 4 or not all_digits(month_day):
            raise BadRequest("30", f"field {rules.date_field} must begin with the month and the day")
        return _date_period(month_day, utc_ms)
    return "H"


def _period_named(fields: Fields, rules: TerminalRules, utc_ms: int) -> str:
    """Of a reversal that has no date itself: the one in field 90, which no horizon ends; else the horizon."""
    month_day = fields.get(90, "")[10:14]
    if rules.period is not Period.DATE or rules.original is not OriginalForm.DE_90 or not all_digits(month_day):
        return "H"
    named = _date_period(month_day, utc_ms)
    return named if _days_from(named, 0) else "H"


def request_from(
    message: Message,
    rules: TerminalRules,
    hashing: KeyedHash,
    utc_ms: int,
    *,
    batches: bool = True,
    always_fit: frozenset[int] = frozenset(),
    alias: str = "",
    alias_digest: bytes = b"",
) -> Request:
    """Turn a decoded message into a request that the core understands.

    Args:
        batches: whether a message must name its batch where batches are settled; a till's over HTTP need not.
        always_fit: fields that can be forwarded whatever they hold (covering.always_fitting).
        alias, alias_digest: of the request, where it came with a second key.
    Raises: BadRequest, with the code to answer. Source: D1, D2, D15.
    """
    kind = KINDS.get(message.mti)
    if kind is None or (kind in _SETTLING and not rules.settles):
        raise BadRequest("30", "this message type is not supported")
    fields = message.fields
    if kind is _NETWORK or _is_inquiry(kind, fields, rules):
        return _unstored_request(message, rules, utc_ms)
    terminal, merchant, lane = _sender(fields.get(41, ""), fields.get(42, ""))
    if kind in _SETTLING:
        return settling_request(message, rules, hashing, lane)
    stan = digits(fields, 11, 6)
    kind, processing_code, amount_minor = _asked_for(kind, fields, rules)
    currency = fields.get(49, "") or rules.default_currency
    if len(currency) != 3 or not (currency.isascii() and currency.isalnum()):
        raise BadRequest("30", "field 49 is not a currency of ISO 4217")
    pan = pan_of(fields)
    if pan and not is_pan(pan):
        raise BadRequest("30", "field 2 is no card number")
    period = _period(fields, rules, utc_ms)
    if kind is _REVERSAL and period == "H":
        period = _period_named(fields, rules, utc_ms)
    of_batch, settles = period[0] == "B", rules.settles
    batch_unknown = batches and settles and not of_batch
    if batch_unknown and kind is not _REVERSAL:
        raise BadRequest("30", f"field {rules.batch_field} must name the batch")
    sensitive = rules.sensitive_fields
    plain, fits = _shape(tuple(fields), sensitive, always_fit)
    begins = f"{period}|{lane}"
    return Request(
        kind=kind,
        mti=message.mti,
        key=f"{begins}|{message.mti[1]}|{stan}",
        horizon_ms=rules.horizon_hours * 3_600_000 if period == "H" else 0,
        fingerprint=hashing.fingerprint(pan, amount_minor, currency, processing_code),
        card=hashing.card(pan),
        card_mask=mask_pan(pan) if pan else "",
        lane=lane,
        terminal=terminal,
        merchant=merchant,
        stan=stan,
        amount_minor=amount_minor,
        currency=currency,
        original_keys=_original_keys(fields, rules, period, lane, utc_ms) if kind is _REVERSAL else (),
        keys_beside=_keys_beside(fields, rules, period, lane, utc_ms)
        if kind is _REVERSAL
        else _key_of_yesterday(message.mti, f"{lane}|{message.mti[1]}|{stan}", period, utc_ms),
        fields=fields if plain else _storable(fields, sensitive),
        sensitive={} if plain else {n: v for n, v in fields.items() if n in sensitive},
        retained=rules.retained_sensitive_fields,
        pan=pan,
        rules=rules,
        batch_unknown=batch_unknown,
        batch=begins if settles and of_batch else "",
        fits=fits,
        alias=alias,
        alias_digest=alias_digest,
    )


def _asked_for(kind: Kind, fields: Fields, rules: TerminalRules) -> tuple[Kind, str, int]:
    """What a message is after all (an advice may be asked, D21), with its processing code and amount.

    Raises: BadRequest.
    """
    if kind is _REVERSAL:
        if fields.get(_REPLACEMENT, "")[:12].strip("0 "):
            # The rest of it is to stand: undoing all of it would give back what was paid (INV-5).
            raise BadRequest("30", f"field {_REPLACEMENT} asks for a reversal in part, which is not supported")
        return kind, fields.get(3, ""), int(digits(fields, 4, 12)) if 4 in fields else 0
    processing_code = digits(fields, 3, 6)
    if kind is _ADVICE and processing_code[:2] in rules.asked_advices:
        kind = Kind.SALE  # it may be declined, so that it is asked, and never approved unseen (D21)
    elif rules.advice_types and part(fields, rules.type_field, rules.type_start, rules.type_length) in (
        rules.advice_types
    ):
        kind = _ADVICE
    return kind, processing_code, int(digits(fields, 4, 12))


@lru_cache(maxsize=8192)
def _sender(terminal_field: str, merchant_field: str) -> tuple[str, str, str]:
    """Terminal, merchant and lane of fields 41 and 42; remembered, because a terminal sends the same in every message.

    Raises: BadRequest.
    """
    terminal, merchant = identifier(terminal_field, 41, required=True), identifier(merchant_field, 42, required=True)
    return terminal, merchant, f"{merchant}|{terminal}"


@lru_cache(maxsize=512)
def _shape(numbers: tuple[int, ...], sensitive: frozenset[int], always_fit: frozenset[int]) -> tuple[bool, bool]:
    """Of a set of fields: whether all of them may be stored, and whether all always fit the acquirer's dialect."""
    plain = sensitive.isdisjoint(numbers) and not any(n in numbers for n in _MAC_FIELDS)
    return plain, always_fit.issuperset(numbers)


def _storable(fields: Fields, sensitive: frozenset[int]) -> Fields:
    """The fields without MAC and without sensitive authentication data."""
    return {n: v for n, v in fields.items() if n not in sensitive and n not in _MAC_FIELDS}


def _is_inquiry(kind: Kind, fields: Fields, rules: TerminalRules) -> bool:
    """A request that moves no money: a balance. Whether a network message is one, its network code says."""
    return kind in _ASKED and fields.get(3, "")[:2] in rules.inquiries


def _batch_key(period: str, lane: str, rules: TerminalRules) -> str:
    """What the keys of a terminal's batch begin with, where its dialect settles; else empty."""
    return f"{period}|{lane}" if rules.settles and period.startswith("B") else ""


def _unstored_request(message: Message, rules: TerminalRules, utc_ms: int) -> Request:
    """A network message or an inquiry: nothing of it is kept."""
    fields, network = message.fields, message.mti[1] == "8"
    code = network_code(fields, rules) if network else ""
    inquiry = not network or code[:2] in rules.passed_codes
    terminal = identifier(fields.get(41, ""), 41, required=inquiry)
    merchant = identifier(fields.get(42, ""), 42, required=inquiry)
    lane = f"{merchant}|{terminal}"
    sensitive = rules.sensitive_fields
    return Request(
        kind=Kind.INQUIRY if inquiry else Kind.NETWORK,
        mti=message.mti,
        key="",
        lane="",
        terminal=terminal,
        merchant=merchant,
        stan=digits(fields, 11, 6) if inquiry else fields.get(11, ""),
        fields=_storable(fields, sensitive),
        sensitive={n: v for n, v in fields.items() if n in sensitive},
        rules=rules,
        batch=_batch_key(_period(fields, rules, utc_ms), lane, rules) if code in rules.sign_on_codes else "",
        network_code=code,
    )


def _original_keys(fields: Fields, rules: TerminalRules, period: str, lane: str, utc_ms: int) -> tuple[str, ...]:
    """Keys under which the original of a reversal may be stored, likeliest first (D12)."""
    if rules.original is OriginalForm.DE_90 and (original := fields.get(90, "")):
        if len(original) < 20 or not all_digits(original[:20]):
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
    if rules.period is Period.BATCH and all_digits(older) and older[6:] == stan:
        periods.insert(0, f"B{older[:6]}")
    return tuple(dict.fromkeys(f"{p}|{lane}|{message_class}|{stan}" for p in periods for message_class in "21"))


def _keys_beside(fields: Fields, rules: TerminalRules, period: str, lane: str, utc_ms: int) -> tuple[str, ...]:
    """Keys of the days beside those that a reversal names, and of no day.

    It may come after the midnight of its original. Its own date is then a day later than the original's; and field 90
    has a date in UTC, which may be a day off the local one. A wrong date may have changed its year with the midnight.
    Some makes learn the date from the answer, so that a reversal has one and its original none.
    """
    original = fields.get(90, "")
    if rules.original is not OriginalForm.DE_90 or not original or not period.startswith("D"):
        return ()
    named = _date_period(original[10:14], utc_ms)
    # What came without a date is under no day's key, and its reversal may have one all the same.
    beside = (
        _days_from(period, -1), _days_from(named, -1), _days_from(named, 1),
        *(_date_period(p[-4:], utc_ms - _DAY_MS) for p in (period, named)), "H",
    )  # fmt: skip
    return tuple(
        dict.fromkeys(f"{p}|{lane}|{original[1]}|{original[4:10]}" for p in beside if p and p not in (period, named))
    )


def _key_of_yesterday(mti: str, ends: str, period: str, utc_ms: int) -> tuple[str, ...]:
    """The key of a first sending a day earlier, where it may differ.

    A date that is far off today, or is none, changes its year with some midnight. And some makes give a repeat the
    date of its own.
    """
    if period[0] != "D":
        return ()
    if (before := _date_period(period[-4:], utc_ms - _DAY_MS)) != period:
        return (f"{before}|{ends}",)
    if mti[3] != "1" or not (before := _days_from(period, -1)):
        return ()
    return (f"{before}|{ends}",)


def _days_from(period: str, days: int) -> str:
    """The period so many days later; empty where its date is none."""
    try:
        day = date.fromisoformat(f"{period[1:-4]}-{period[-4:-2]}-{period[-2:]}")
        return f"D{date.fromordinal(day.toordinal() + days):%Y%m%d}"
    except ValueError:
        return ""
