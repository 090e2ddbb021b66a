"""JSON over HTTP: what is taken, what is refused, and that no refusal tells a value."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.http_api import (
    IDEMPOTENCY_KEY_PATTERN,
    BadBody,
    Card,
    Heartbeat,
    NewReversal,
    NewTransaction,
    ProblemKind,
    canonical,
    components,
    decode,
    idempotency_key,
)

PAN = "4111111111111111"
SALE: dict[str, Any] = {
    "type": "sale",
    "merchant": "M00000000000001",
    "terminal": "T0000001",
    "amount_minor": 1000,
    "currency": "156",
    "card": {"pan": PAN},
}


def body(**changed: Any) -> bytes:
    return json.dumps({**SALE, **changed}).encode()


def refused(raw: bytes, depth_max: int = 8) -> BadBody:
    with pytest.raises(BadBody) as caught:
        decode(raw, NewTransaction, depth_max)
    assert PAN not in caught.value.detail
    assert PAN not in str(caught.value)
    return caught.value


def test_a_sale_is_read() -> None:
    read = decode(body(stan="000001", fields={"62": "x" * 255}), NewTransaction, 8)
    assert (read.amount_minor, read.stan, read.card) == (1000, "000001", Card(pan=PAN))


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"type": PAN}, "$.type"),
        ({"type": "refund"}, "$.type"),
        ({"amount_minor": "1000"}, "$.amount_minor"),
        ({"amount_minor": 10.5}, "$.amount_minor"),
        ({"amount_minor": -1}, "$.amount_minor"),
        ({"amount_minor": 10**12}, "$.amount_minor"),
        ({"amount_minor": True}, "$.amount_minor"),
        ({"amount_minor": None}, "$.amount_minor"),
        ({"currency": "CNY"}, "$.currency"),
        ({"terminal": "T|000001"}, "$.terminal"),
        ({"terminal": " T00001"}, "$.terminal"),
        ({"terminal": "T000001\n"}, "break"),
        ({"merchant": "商户"}, "$.merchant"),
        ({"stan": "00001"}, "$.stan"),
        ({"stan": "٠٠٠٠٠١"}, "$.stan"),
        ({"card": {}}, "$.card: one of pan, track2 and emv"),
        ({"card": {"pan": f"{PAN}\n"}}, "$.card: a line break"),
        ({"card": {"pan": PAN, "cvv": "123"}}, "$.card"),
        ({"card": {"emv": "5A0"}}, "$.card.emv"),
        ({"card": {"track2": f"{PAN}=30121010000012345678"}}, "$.card.track2"),
        ({"fields": {"35": PAN}}, "$.fields"),
        ({"fields": {"62": "\u0000"}}, "$.fields"),
        ({"fields": {"62": {"deep": PAN}}}, "$.fields"),
        ({PAN: "x"}, "not documented"),
        ({"local_date": "1332"}, "$.local_date"),
    ],
)
def test_what_is_not_of_its_form_is_refused_by_its_place_and_without_its_value(
    changed: dict[str, Any], place: str
) -> None:
    bad = refused(body(**changed))
    assert bad.kind is ProblemKind.INVALID_REQUEST
    assert place in bad.detail


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nope", b'{"type":"\xff"}', b'"\\ud800"', b"\xef\xbb\xbf{}", body()[:-1], body() + b"x", b"\x00" * 99],
)
def test_what_is_no_json_is_said_to_be_none(raw: bytes) -> None:
    assert refused(raw).kind is ProblemKind.MALFORMED_JSON


@pytest.mark.parametrize("raw", [b"[" * 16_384, b'{"a":' * 3_000, b"[{" * 8_000, body(fields={"62": [[[[[[[[]]]]]]]]})])
def test_nesting_is_refused_before_it_is_followed(raw: bytes) -> None:
    assert refused(raw).kind is ProblemKind.TOO_DEEP


def test_brackets_within_strings_are_no_nesting() -> None:
    assert decode(body(fields={"62": '[{"\\' * 40}), NewTransaction, 2).fields == {"62": '[{"\\' * 40}


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 8_000, b'"' * 16_384, b"[" + b'"\\' * 8_000, b"1.0" * 5_000])
def test_no_body_takes_long_to_look_at(raw: bytes) -> None:
    began = time.thread_time()  # others may have the processor meanwhile
    refused(raw)
    assert time.thread_time() - began < 0.2


def test_an_integer_may_have_a_fraction_of_zero_as_json_schema_has_it() -> None:
    raw = body(fields={"62": "[1.0, 2.0]"}).replace(b"1000,", b"1000.00 ,")
    read = decode(raw, NewTransaction, 8)
    assert (read.amount_minor, read.fields) == (1000, {"62": "[1.0, 2.0]"})


def test_bodies_that_mean_the_same_have_the_same_canonical_bytes() -> None:
    ordered = decode(body(stan="000001"), NewTransaction, 8)
    turned = json.dumps(dict(reversed({**SALE, "stan": "000001"}.items())), indent=3).encode()
    assert canonical(ordered) == canonical(decode(turned, NewTransaction, 8))
    assert canonical(ordered) != canonical(decode(body(stan="000002"), NewTransaction, 8))


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_anything_else_is_refused_in_words(raw: bytes | str) -> None:
    for wanted in (NewTransaction, Heartbeat):
        with pytest.raises(BadBody):
            decode(raw.encode() if isinstance(raw, str) else raw, wanted, 8)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"8e03978e"', "8e03978e"),
        (r'"a \"b\" \\c"', r'a "b" \c'),
        ('"open', '"open'),
        (r'"\n"', r'"\n"'),
        ('""', '""'),
        ("x" * 255, "x" * 255),
    ],
)
def test_an_idempotency_key_is_a_structured_string_or_stands_as_it_is(header: str, key: str) -> None:
    assert idempotency_key(header) == key


@pytest.mark.parametrize("header", ["", " x", "x ", "x" * 256, "schlüssel", "a\tb", "a\n"])
def test_an_idempotency_key_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        idempotency_key(header)


@pytest.mark.parametrize("seed", range(5))
def test_the_keys_that_are_taken_are_those_of_the_documented_pattern(seed: int) -> None:
    rng = random.Random(f"keys/{seed}")
    documented = re.compile(IDEMPOTENCY_KEY_PATTERN)
    taken = 0
    for _ in range(2_000):
        odd = rng.choices(' !~\t\n\r\x00\x1c\x7f\x85\xa0\xe9\u2028"\\', k=rng.choice((0, 1, 1, 2)))
        characters = ["a"] * rng.choice((0, 1, 3, 253, 254, 255, 256)) + odd
        rng.shuffle(characters)
        header = "".join(characters)
        if documented.fullmatch(header) and "\n" not in header:
            taken += 1
            idempotency_key(header)
        else:
            with pytest.raises(ValueError, match="printable"):
                idempotency_key(header)
    assert 200 < taken < 1_800


def test_a_heartbeat_needs_a_clock_with_an_offset() -> None:
    assert decode(b'{"clock":"2026-11-18T07:06:40+08:00"}', Heartbeat, 8).clock.utcoffset() is not None
    for clock in ("2026-11-18T07:06:40", "yesterday", 5):
        with pytest.raises(BadBody):
            decode(json.dumps({"clock": clock}).encode(), Heartbeat, 8)


def test_the_problems_have_types_of_their_own() -> None:
    assert len({kind.uri for kind in ProblemKind}) == len(ProblemKind)
    assert all(kind.uri.startswith("urn:holdfast:problem:") and 400 <= kind.status < 600 for kind in ProblemKind)
    problem = ProblemKind.KEY_REUSED.problem("x")
    assert (problem.type, problem.status) == ("urn:holdfast:problem:key-reused", 422)


def test_the_schemas_close_what_tills_send() -> None:
    references, schemas = components()
    assert references["NewTransaction"] == {"$ref": "#/components/schemas/NewTransaction"}
    for name in ("NewTransaction", "NewReversal", "Heartbeat", "Card"):
        assert schemas[name]["additionalProperties"] is False
    assert decode(b"{}", NewReversal, 8).reason == "cancelled"
