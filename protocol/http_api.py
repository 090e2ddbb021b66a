"""JSON over HTTP: what a till sends and is told, and every error it can get (RFC 9457).

The types are strict: an unknown member, a wrong type or a value outside its form is refused, and the OpenAPI document
is made from these same types. Amounts are integers in minor units of an ISO 4217 currency given by its numeric code.
What also exists as an ISO 8583 field has the form that it has there, so that a transaction is the same over both (D1).
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import Enum, StrEnum
from itertools import chain
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

MEDIA_TYPE: Final = "application/json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_URN: Final = "urn:holdfast:problem:"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
GATEWAY_MODE: Final = "X-Gateway-Mode"
IDEMPOTENCY_KEY_PATTERN: Final = "^[!-~]([ -~]{0,253}[!-~])?$"
TERMINAL_PATTERN: Final = "^[0-9A-Za-z]([ 0-9A-Za-z._-]{0,6}[0-9A-Za-z])?$"
TRANSACTION_ID_PATTERN: Final = "^[0-9A-Za-z_-]{1,200}$"
_MERCHANT_PATTERN: Final = "^[0-9A-Za-z]([ 0-9A-Za-z._-]{0,13}[0-9A-Za-z])?$"
_PRIVATE_FIELD_PATTERN: Final = "^(4[678]|5[46789]|6[123])$"

TerminalId = Annotated[
    str, Meta(min_length=1, max_length=8, pattern=TERMINAL_PATTERN, description="As in field 41, without padding.")
]
MerchantId = Annotated[
    str, Meta(min_length=1, max_length=15, pattern=_MERCHANT_PATTERN, description="As in field 42, without padding.")
]
Stan = Annotated[str, Meta(min_length=6, max_length=6, pattern="^[0-9]{6}$", description="As in field 11.")]
AmountMinor = Annotated[int, Meta(ge=0, le=999_999_999_999, description="In minor units of the currency.")]
Currency = Annotated[
    str, Meta(min_length=3, max_length=3, pattern="^[0-9]{3}$", description="ISO 4217 numeric code, such as 156.")
]
PrivateField = Annotated[str, Meta(min_length=2, max_length=2, pattern=_PRIVATE_FIELD_PATTERN)]
PrivateValue = Annotated[str, Meta(min_length=1, max_length=255, pattern="^[ -~]{1,255}$")]


class Mode(StrEnum):
    """What a till is to expect; also the values of X-Gateway-Mode."""

    ONLINE = "online"
    STANDING_IN = "standing-in"
    MAINTENANCE = "maintenance"


class TransactionType(StrEnum):
    """What a till may ask for: 0200, 0100, and 0220 (it has happened; the gateway must take it)."""

    SALE = "sale"
    AUTHORISATION = "authorisation"
    ADVICE = "advice"


class RecordType(StrEnum):
    """What a record can be. `unknown` stands for an original that only its reversal has told of (D15)."""

    SALE = "sale"
    AUTHORISATION = "authorisation"
    ADVICE = "advice"
    REVERSAL = "reversal"
    UNKNOWN = "unknown"


class TransactionState(StrEnum):
    """Where a transaction stands. Paid: `approved` and `approved-offline` alone."""

    IN_PROGRESS = "in-progress"  # being asked; no outcome yet
    APPROVED = "approved"
    APPROVED_OFFLINE = "approved-offline"  # durable and owed to the acquirer, who has not been asked
    DECLINED = "declined"
    IN_DOUBT = "in-doubt"  # no outcome in time: not paid; the gateway reverses whatever was booked (D11)
    REVERSING = "reversing"  # was paid; its reversal is owed
    REVERSED = "reversed"
    CANCELLED = "cancelled"  # was never booked
    PARKED = "parked"  # in a person's hands


class PowerSource(StrEnum):
    """What a terminal runs on."""

    MAINS = "mains"
    BATTERY = "battery"


class Paper(StrEnum):
    """A terminal's paper."""

    OK = "ok"
    LOW = "low"
    OUT = "out"
    NONE = "none"  # it prints nothing


class ReversalReason(StrEnum):
    """Why a till reverses; reasons of UnionPay's field 39 (D12)."""

    NO_ANSWER = "no-answer"
    TERMINAL_FAULT = "terminal-fault"
    CANCELLED = "cancelled"


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a till sends."""


_CARD_NAMED_BY: Final = ("pan", "track2", "emv")


class Card(_Asked, frozen=True):
    """The card as it was read: a number, a track 2 or chip data; more than one where the terminal has them.

    Attributes:
        pan: field 2.
        expiry: YYMM, field 14.
        track2: field 35, its separator "=" or "D".
        emv: hex of BER-TLV, field 55.
        sequence_number: of the card, field 23.
    """

    pan: Annotated[str, Meta(min_length=12, max_length=19, pattern="^[0-9]{12,19}$")] | UnsetType = UNSET
    expiry: Annotated[str, Meta(min_length=4, max_length=4, pattern="^[0-9]{2}(0[1-9]|1[0-2])$")] | UnsetType = UNSET
    track2: Annotated[str, Meta(min_length=17, max_length=37, pattern="^[0-9]{12,19}[=D][0-9]{4,17}$")] | UnsetType = (
        UNSET
    )
    emv: Annotated[str, Meta(min_length=2, max_length=510, pattern="^([0-9A-Fa-f]{2}){1,255}$")] | UnsetType = UNSET
    sequence_number: Annotated[str, Meta(min_length=3, max_length=3, pattern="^[0-9]{3}$")] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Raise ValueError where the card is not named in any way."""
        if self.pan is UNSET and self.track2 is UNSET and self.emv is UNSET:
            raise ValueError("one of pan, track2 and emv is needed")


class NewTransaction(_Asked, frozen=True):
    """Body of `POST /v1/transactions`.

    Attributes:
        stan: the till's own number; without it the gateway assigns one.
        batch: batch number, where the terminal's dialect tells two uses of a STAN apart by it; else it is not used.
        local_date: MMDD, field 13; where the dialect tells two uses of a STAN apart by the date.
        local_time: hhmmss, field 12.
        entry_mode: field 22; by default 051 for chip data, 021 for a track, 012 for a number alone.
        processing_code: field 3; by default 000000.
        fields: private data by field number, handed on to the acquirer where its dialect has that field.
    """

    type: TransactionType
    merchant: MerchantId
    terminal: TerminalId
    amount_minor: AmountMinor
    currency: Currency
    card: Card
    stan: Stan | UnsetType = UNSET
    batch: Annotated[str, Meta(min_length=6, max_length=6, pattern="^[0-9]{6}$")] | UnsetType = UNSET
    local_date: (
        Annotated[str, Meta(min_length=4, max_length=4, pattern="^(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$")]
        | UnsetType
    ) = UNSET
    local_time: (
        Annotated[str, Meta(min_length=6, max_length=6, pattern="^([01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]$")] | UnsetType
    ) = UNSET
    entry_mode: Annotated[str, Meta(min_length=3, max_length=3, pattern="^[0-9]{3}$")] | UnsetType = UNSET
    processing_code: Annotated[str, Meta(min_length=6, max_length=6, pattern="^[0-9]{6}$")] | UnsetType = UNSET
    fields: Annotated[dict[PrivateField, PrivateValue], Meta(max_length=11)] = {}


class NewReversal(_Asked, frozen=True):
    """Body of `POST /v1/transactions/{id}/reversal`."""

    reason: ReversalReason = ReversalReason.CANCELLED


class Heartbeat(_Asked, frozen=True):
    """Body of `POST /v1/terminals/{id}/heartbeat`: how a terminal is. All but its clock may be left out.

    Attributes:
        signal_dbm: strength of its radio signal.
        clock: what it takes for the time, with its offset from UTC.
    """

    clock: Annotated[datetime, Meta(tz=True)]
    battery_percent: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    power_source: PowerSource | UnsetType = UNSET
    signal_dbm: Annotated[int, Meta(ge=-200, le=50)] | UnsetType = UNSET
    paper: Paper | UnsetType = UNSET
    software_version: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[ -~]{1,64}$")] | UnsetType = UNSET


class HeartbeatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a heartbeat.

    Attributes:
        clock_offset_ms: how far the terminal's clock is ahead of ours; negative where it is behind.
    """

    server_time: Annotated[datetime, Meta(tz=True)]
    mode: Mode
    clock_offset_ms: int


class TransactionView(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as a till sees it. Card data is at most first six and last four digits (INV-8).

    Attributes:
        id: names it for good; opaque.
        state: of an answer to a POST: what this till is told now and on every retry, as long as it holds; else where
            it stands now.
        response_code: field 39 that the terminal was told; empty while it was told nothing.
        rrn: retrieval reference number, field 37; empty in lists, and where there is none.
        offline: approved without asking the acquirer first.
    """

    id: str
    type: RecordType
    state: TransactionState
    merchant: str
    terminal: str
    stan: str
    amount_minor: int
    currency: str
    card_masked: str
    response_code: str
    response_text: str
    approval_code: str
    rrn: str
    offline: bool
    accepted_at: Annotated[datetime, Meta(tz=True)]


class TransactionPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list, oldest first. `next` is the value of `after` that gives the next part; null at the end."""

    transactions: list[TransactionView]
    next: int | None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457). `type` is stable, and a client decides by it; `detail` says what would be right."""

    type: str
    title: str
    status: int
    detail: str


class ProblemKind(Enum):
    """Every error that a till can get: the end of its `type` URI, its status, its title."""

    MALFORMED_HTTP = ("malformed-http", 400, "The request is not HTTP/1.1 as it should be")
    MALFORMED_JSON = ("malformed-json", 400, "The body is not JSON")
    TOO_DEEP = ("too-deep", 400, "The JSON is nested too deep")
    INVALID_REQUEST = ("invalid-request", 400, "The request does not have its documented form")
    KEY_MISSING = ("idempotency-key-missing", 400, "The Idempotency-Key is missing")
    KEY_INVALID = ("idempotency-key-invalid", 400, "The Idempotency-Key does not have its documented form")
    UNAUTHENTICATED = ("unauthenticated", 401, "The terminal has not proved who it is")
    SIGNATURE_EXPIRED = ("signature-expired", 401, "The time of the signature is too far from ours")
    NONCE_REUSED = ("nonce-reused", 401, "The nonce of the signature was used before")
    TERMINAL_NOT_ALLOWED = ("terminal-not-allowed", 403, "These credentials do not speak for this terminal")
    NOT_FOUND = ("not-found", 404, "There is nothing under this path")
    TRANSACTION_UNKNOWN = ("transaction-unknown", 404, "There is no such transaction")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "This path does not take this method")
    BODY_TIMEOUT = ("body-timeout", 408, "The body did not come in time")
    IN_PROGRESS = ("in-progress", 409, "The transaction is still in progress")
    NOT_REVERSIBLE = ("not-reversible", 409, "This cannot be reversed")
    TOO_LARGE = ("too-large", 413, "The body is too large")
    MEDIA_TYPE = ("unsupported-media-type", 415, "The body is not of a type that is taken")
    KEY_REUSED = ("key-reused", 422, "The Idempotency-Key or the STAN was used before for something else")
    RATE_LIMITED = ("rate-limited", 429, "This terminal sends too fast")
    FAIR_SHARE = ("fair-share", 429, "This terminal has its share of what can be under way")
    HEADERS_TOO_LARGE = ("headers-too-large", 431, "A line of the request's head is too long, or they are too many")
    INTERNAL = ("internal", 500, "Our own fault")
    RECORD_DAMAGED = ("record-damaged", 500, "The record of this transaction is damaged; a person must look")
    OVERLOADED = ("overloaded", 503, "The gateway is overloaded; this request was not taken")
    NOT_RECORDED = ("not-recorded", 503, "The gateway could not record this; nothing was sent")
    RECEIPT_LATER = ("receipt-later", 503, "No signed head of the log covers this transaction yet")
    STOPPING = ("stopping", 503, "The gateway is stopping; this request was not taken")

    @property
    def uri(self) -> str:
        """The `type` of the problem."""
        return PROBLEM_URN + str(self.value[0])

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.value[1])

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return str(self.value[2])

    def problem(self, detail: str) -> Problem:
        """The body of the answer."""
        return Problem(type=self.uri, title=self.title, status=self.status, detail=detail)


class BadBody(Exception):
    """A body that is not taken.

    Attributes:
        kind: MALFORMED_JSON, TOO_DEEP or INVALID_REQUEST.
        detail: what is wrong and where; never a value.
    """

    def __init__(self, kind: ProblemKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # also one without an end: linear on any input
_WHOLE: Final = re.compile(rb'("(?:[^"\\]|\\.)*+"?)|(?<=[\s:,\[])(-?[0-9]+)\.0+(?=[\s,\]}])', re.DOTALL)
# Looked for as numbers: CPython looks for a byte string of one only after a TypeError of its own.
_LIST: Final = ord("[")
_POINT: Final = ord(".")
_BACKSLASH: Final = ord("\\")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])+)"')
_PLACE: Final = re.compile(r" - at `(\$[\w.\[\]]*)`$")
_DECODERS: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    wanted: msgspec.json.Decoder(wanted) for wanted in (NewTransaction, NewReversal, Heartbeat)
}
_T = TypeVar("_T")


def decode(body: bytes, wanted: type[_T], depth_max: int) -> _T:
    """Read a body.

    Args:
        wanted: one of the types of this module that a till sends.
        depth_max: objects and lists within each other that are looked into at all.
    Raises:
        BadBody: it is not JSON, nested too deep, or not of the type. The text holds no value of the body.
    """
    if _deeper_than(body, depth_max):
        raise BadBody(ProblemKind.TOO_DEEP, f"at most {depth_max} objects and lists within each other")
    try:
        if _POINT in body:
            body = _WHOLE.sub(_without_fraction, body)
        decoded: _T = _DECODERS[wanted].decode(body)
    except msgspec.ValidationError as error:
        raise BadBody(ProblemKind.INVALID_REQUEST, _without_values(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadBody(ProblemKind.MALFORMED_JSON, "a JSON object in UTF-8 is expected") from None
    if _BACKSLASH in body:  # JSON has no other way to say a line break
        _refuse_line_breaks(decoded)
    return decoded


def _refuse_line_breaks(value: object, at: str = "") -> None:
    """The `$` of a pattern also matches before a newline at the end, here and in some validators.

    Raises:
        BadBody: there is one.
    """
    if isinstance(value, str) and "\n" in value:
        place = f"{at}: " if at else ""
        raise BadBody(ProblemKind.INVALID_REQUEST, f"{place}a line break is in none of the values")
    if isinstance(value, dict):
        for text in chain.from_iterable(value.items()):
            _refuse_line_breaks(text, at)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            inner = getattr(value, name)
            _refuse_line_breaks(inner, f"{at or '$'}.{name}" if isinstance(inner, msgspec.Struct) else at)


def _deeper_than(body: bytes, depth_max: int) -> bool:
    """Whether brackets outside of strings are nested deeper. A body that is no JSON may be judged either way."""
    if body.count(b"{") + (body.count(b"[") if _LIST in body else 0) <= depth_max:
        return False
    depth = 0
    for octet in _STRINGS.sub(b"", body):
        if octet in b"[{":
            depth += 1
            if depth > depth_max:
                return True
        elif octet in b"]}":
            depth -= 1
    return False


def _without_fraction(found: re.Match[bytes]) -> bytes:
    """12.0 is an integer to JSON Schema, and so to whoever goes by the OpenAPI document; to msgspec it is none."""
    return found[1] if found[1] is not None else found[2]


def _without_values(text: str) -> str:
    """What a validation error says, but for values and names that the body made up: they may hold card data."""
    place = _PLACE.search(text)
    what = text[: place.start()] if place else text
    if what.startswith("Object contains unknown field"):
        what = "there is a member that is not documented"
    elif not what.startswith(("Expected ", "Object missing required field", "one of ", "a line break ")):
        what = "a value is not one of those documented"
    return f"{place[1]}: {what}" if place else what


def idempotency_key(header: str) -> str:
    """The key that a header means: the string within the quotes of a structured field (RFC 9651), else as it stands.

    Raises:
        ValueError: it does not have the documented form.
    Source: draft-ietf-httpapi-idempotency-key-header.
    """
    # IDEMPOTENCY_KEY_PATTERN without a search: each sale has such a key.
    if not (1 <= len(header) <= 255 and header.isascii() and header.isprintable() and header == header.strip()):
        raise ValueError("1 to 255 printable ASCII characters, without blanks around them")
    if header[0] == '"' and (quoted := _QUOTED.fullmatch(header)):
        return re.sub(r'\\(["\\])', r"\1", quoted[1])
    return header


_encode_in_order: Final = msgspec.json.Encoder(order="deterministic").encode


def canonical(body: NewTransaction | NewReversal) -> bytes:
    """The same bytes for bodies that mean the same, however their members are ordered and spaced."""
    return _encode_in_order(body)


def components() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """JSON Schemas of every type: a reference to each by its name, and `components/schemas` of OpenAPI."""
    types = (NewTransaction, NewReversal, Heartbeat, HeartbeatAnswer, TransactionView, TransactionPage, Problem)
    references, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas["Card"]["anyOf"] = [{"required": [name]} for name in _CARD_NAMED_BY]
    return {made.__name__: dict(one) for made, one in zip(types, references, strict=True)}, dict(schemas)
