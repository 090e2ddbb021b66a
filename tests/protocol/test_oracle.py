"""A second, independent codec reads what ours writes and writes what ours reads."""

from __future__ import annotations

import copy
import random
from typing import Any

import iso8583
import iso8583.specs
import pytest

from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.fields import FieldSpec, FieldType, ValueEncoding
from tests.protocol.generated import some_message

MESSAGES = 2500
TRACK_TO_HEX = str.maketrans(":;<=>?", "ABCDEF")


def oracle_field(spec: FieldSpec) -> dict[str, Any]:
    raw = spec.is_packed or (spec.is_hex and spec.encoding is ValueEncoding.BINARY)
    signed = spec.type is FieldType.XN
    length = spec.length
    if spec.is_hex and not raw:
        length *= 2
    if signed:
        length = length + 2 if raw else length + 1  # the sign's byte is two hex digits
    prefix = spec.prefix_bytes
    return {
        "data_enc": "b" if raw else "latin-1",
        "len_enc": {"ascii": "ascii", "bcd": "bcd", "binary": "b"}[spec.length_encoding],
        "len_type": prefix,
        "max_len": length,
        "len_count": "nibbles" if spec.is_packed else "bytes",
        f"{spec.pad}_pad": spec.pad_nibble,
        "desc": spec.name,
    }


def oracle_spec(dialect: Dialect) -> dict[str, Any]:
    spec: dict[str, Any] = copy.deepcopy(dict(iso8583.specs.default))
    characters = dialect.name == "iso87-ascii"
    spec["t"]["data_enc"] = "ascii" if characters else "b"
    for bitmap in ("p", "1"):
        spec[bitmap]["data_enc"] = "ascii" if characters else "b"
    for number, field in dialect.fields.items():
        spec[str(number)] = oracle_field(field)
    return spec


def to_oracle(spec: FieldSpec, value: str) -> str:
    if spec.is_packed and spec.type is FieldType.XN:
        return value[0].encode().hex() + value[1:]
    if spec.is_packed:
        return value.translate(TRACK_TO_HEX)
    return value.upper() if spec.is_hex else value


@pytest.mark.parametrize("name", ["iso87-ascii", "iso87-binary"])
def test_both_codecs_agree_in_both_directions(name: str) -> None:
    dialect = load_dialect(name)
    spec = oracle_spec(dialect)
    rng = random.Random(f"oracle {name}")
    seen: set[int] = set()
    for _ in range(MESSAGES):
        message = some_message(dialect, rng)
        seen.update(message.fields)
        expected = {str(n): to_oracle(dialect.fields[n], value) for n, value in message.fields.items()}
        theirs, _ = iso8583.encode({"t": message.mti, **expected}, spec)
        ours = dialect.codec.encode(message)
        assert bytes(theirs) == ours
        assert dialect.codec.decode(bytes(theirs)) == message
        document, _ = iso8583.decode(ours, spec)
        assert {k: v for k, v in document.items() if k not in ("t", "p", "1", "h")} == expected
        assert document["t"] == message.mti
    assert seen == set(dialect.fields)
