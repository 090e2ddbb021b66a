"""Surfaces of text: JSON requests and what the gateway makes of them, field 48 of settlements, dialect files."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest
from gateway.core.transaction import Kind
from gateway.terminals.http_mapping import named_by, request_of
from protocol.http_api import (
    BadBody,
    Heartbeat,
    NewReversal,
    NewTransaction,
    canonical,
    decode,
    idempotency_key,
)
from protocol.iso8583.dialect import DialectError, load_dialect, shipped_dialects
from protocol.journal_entry import SECOND_KEY_BYTES_MAX
from protocol.settlement import (
    DETAILS_MAX,
    Balance,
    SettlementFieldError,
    details_text,
    parse_details,
    parse_totals,
    result_of,
    totals_text,
    with_result,
)
from tests.fuzz.surface import Surface, must
from tests.fuzz.wire import read_message

BODY_BYTES_MAX: Final = 16_384
DIALECT_BYTES_MAX: Final = 8192
_DEPTH_MAX: Final = 8
_KEY: Final = "8e03978e-40d5-43dd-bc93-6894a57f9324"
_HASHING: Final = KeyedHash(bytes(32))
_DIGITS: Final = re.compile(rb"[0-9]{12,19}")
_KEY_BYTES_MAX: Final = 255
"""Of a key in a journal entry (protocol.journal_entry)."""

# --- JSON --------------------------------------------------------------------------------------------------------

_SALE: Final[dict[str, Any]] = {
    "type": "sale",
    "merchant": "M00000000000001",
    "terminal": "T0000001",
    "amount_minor": 1000,
    "currency": "156",
    "card": {"pan": "4111111111111111", "expiry": "3012", "sequence_number": "001"},
}


def _read_body(data: bytes) -> None:
    """The first byte says what the body is for."""
    wanted = (NewTransaction, NewReversal, Heartbeat)[data[0] % 3 if data else 0]
    body = data[1:]
    try:
        read = decode(body, wanted, _DEPTH_MAX)
    except BadBody as error:
        must(len(error.detail) < 500, "a long refusal")
        must(not any(run.decode() in error.detail for run in _DIGITS.findall(body)), "a refusal that tells a number")
        return
    if isinstance(read, Heartbeat):
        must(read.clock.utcoffset() is not None, "a clock without an offset")
        return
    must(isinstance(read, (NewTransaction, NewReversal)), "a body of another type")
    assert isinstance(read, (NewTransaction, NewReversal))
    must(decode(canonical(read), wanted, _DEPTH_MAX) == read, "the body does not come back")
    if isinstance(read, NewTransaction):
        for name in shipped_dialects():
            _request(read, name)


def _request(body: NewTransaction, dialect_name: str) -> None:
    """What the gateway makes of it, and whether the host could be sent that."""
    dialect = load_dialect(dialect_name)
    try:
        request = request_of(body, _KEY, dialect.terminal, _HASHING, 1_700_000_000_000)
    except BadRequest:
        return
    must(len(request.key.encode()) <= _KEY_BYTES_MAX, "a key too long for the journal")
    must(len(request.alias.encode()) <= SECOND_KEY_BYTES_MAX, "an alias too long for the journal")
    # A balance inquiry moves no money, whatever amount it names.
    must(request.amount_minor == (0 if request.kind is Kind.INQUIRY else body.amount_minor), "another amount")
    must(request.pan == "" or request.pan not in repr(request), "a card number that shows")


def _body_seeds() -> list[bytes]:
    sales = (
        _SALE,
        {**_SALE, "stan": "000001", "batch": "000001", "local_date": "1122", "local_time": "235959"},
        {**_SALE, "card": {"track2": "4111111111111111=30121010000012345678"[:37]}, "entry_mode": "021"},
        {**_SALE, "type": "advice", "card": {"emv": "9f2608010203040506070882027c00"}},
        {**_SALE, "type": "authorisation", "fields": {"48": "x" * 200, "60": "22000001000", "63": "{}[]"}},
        {**_SALE, "card": {"emv": "5a0841111111111111115f340101"}, "processing_code": "310000"},
    )
    heartbeat = {"clock": "2026-11-18T07:06:40+08:00", "battery_percent": 40, "paper": "low", "signal_dbm": -70}
    return [
        *(b"\0" + json.dumps(sale).encode() for sale in sales),
        *(b"\1" + text for text in (b"{}", b'{"reason":"no-answer"}')),
        *(b"\2" + json.dumps(value).encode() for value in (heartbeat, {"clock": "0001-01-01T00:00:00+23:59"})),
    ]


def _read_names(data: bytes) -> None:
    """An Idempotency-Key and a transaction's id, as they come with the head of a request."""
    text = data.decode("latin-1")
    try:
        key = idempotency_key(text)
    except ValueError:
        pass
    else:
        must(1 <= len(key) <= len(text) and key.isascii() and key.isprintable(), "a key that is none")
    found = named_by(text)
    must(found is None or (found[0].count("|") == 4 and found[1] >= 0), "an id that stands for no key")


# --- field 48 of a settlement ------------------------------------------------------------------------------------


def _read_settlement(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        domestic, foreign = parse_totals(text)
        answer = with_result(text, Balance.BALANCED)
        must(totals_text(domestic, foreign, Balance.BALANCED) == answer, "the totals do not come back")
        must(result_of(answer) is Balance.BALANCED, "another result than was said")
        result_of(text)
    except SettlementFieldError:
        pass
    try:
        details = parse_details(text)
    except SettlementFieldError:
        return
    must(len(details) * 40 + 2 == len(text), "another number of details")
    if len(details) <= DETAILS_MAX:
        must(details_text(details) == text, "the details do not come back")
    must(not any(detail.pan and detail.pan in repr(detail) for detail in details), "a card number that shows")


def _settlement_seeds() -> list[bytes]:
    one = b"00000001" + b"6212345678900000003".rjust(20, b"0") + b"000000001000"
    return [b"0" * 62, b"000000123456003000000000100001100000000000000000000000000000" + b"01", b"01" + one,
            b"08" + 8 * one, b"00", b"99" + 99 * one]  # fmt: skip


# --- dialect files -----------------------------------------------------------------------------------------------

SHORT: Final = """name = "x"
mti = "bcd"
bitmap = "hex"
hex_case = "lower"
tpdu = true
header_bytes = 3
[framing]
length = "bcd-2"
limit_bytes = 300
[defaults]
length_encoding = "bcd"
[defaults.n]
encoding = "bcd"
pad_nibble = "f"
[fields]
2 = { type = "n", length = "LL", max = 19, pad = "right", counts = "bytes" }
3 = { name = "code", type = "n", length = 6 }
28 = { type = "xn", length = 8 }
35 = { type = "z", length = "LL", max = 37, separator = "D" }
55 = { type = "b", length = "LLL", max = 99, tlv = true, encoding = "ascii" }
90 = { type = "ans", length = 4, encoding = "binary" }
"""
EXTENDS: Final = """name = "y"
extends = "iso87-ascii"
fields = { 54 = false, 48 = { max = 20 }, 60 = { type = "n", length = 7 } }
[terminal]
period = "batch"
sensitive_fields = [35, 52]
[host]
reversal_mti = "0420"
"""


def _read_dialect(folder: Path, data: bytes) -> None:
    """A dialect file, and behind a NUL a frame for it."""
    text, _, frame = data.partition(b"\0")
    path = folder / "fuzzed.toml"
    path.write_bytes(text)
    try:
        dialect = load_dialect(str(path))
    except DialectError as error:
        must(error.mistakes and all(error.mistakes), "a refusal without a mistake")
        must(len(str(error)) <= 4000 + 400 * len(text), "mistakes longer than the file")
        return
    read_message(dialect, frame)


def _dialect_seeds() -> list[bytes]:
    frame = bytes.fromhex("6000030000010203" + "0200") + b"6000000000000000" + b"\x02\x41\x1f" + b"\x00\x00\x00"
    return [SHORT.encode() + b"\0" + frame, EXTENDS.encode(), b'name = "z"\nextends = "unionpay"\n', SHORT.encode(),
            b'name = "w"\n[fields]\n3 = { type = "n", length = 6 }\n']  # fmt: skip


def _dialect_surface() -> Surface:
    folder = tempfile.TemporaryDirectory(prefix="holdfast-fuzz-")
    return Surface(
        name="dialect-file",
        # The default keeps the folder for as long as the surface is there.
        read=lambda data, folder=folder: _read_dialect(Path(folder.name), data),  # type: ignore[misc]
        make_seeds=_dialect_seeds,
        size_max=DIALECT_BYTES_MAX,
        worst=(b"[", b"a=1\n", b"[a]\n", b'"', b"1", b"{a=", b"[[a]]\n", b"#"),
    )


def text_surfaces() -> list[Surface]:
    """JSON bodies, names in a request's head, settlements, dialect files."""
    return [
        Surface(
            name="http-body",
            read=_read_body,
            make_seeds=_body_seeds,
            size_max=BODY_BYTES_MAX,
            worst=(b"[", b'{"a":', b'"', b'\\"', b"1", b"1.0,", b"]", b" ", b'"\\', b",1", b"\xff"),
        ),
        Surface(
            name="http-names",
            read=_read_names,
            make_seeds=lambda: [_KEY.encode(), b'"8e0"', rb'"a \"b\" \\c"', b"TXxUfDAwMDAwMXwyMDB8MDAwMDAx"],
            size_max=8190,
            worst=(b'"', b"\\", b'\\"', b"=", b"A", b"fA"),
        ),
        Surface(
            name="settlement",
            read=_read_settlement,
            make_seeds=_settlement_seeds,
            size_max=4096,
            worst=(b"0", b"9", b"\xd9\xa1"),
        ),
        _dialect_surface(),
    ]
