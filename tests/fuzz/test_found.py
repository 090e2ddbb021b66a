"""Inputs that were found by fuzzing, each with what must come of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest
from gateway.terminals.http_mapping import request_of
from protocol.http_api import NewTransaction, decode
from protocol.iso8583.dialect import DialectError, load_dialect, shipped_dialects

DOTS = 6000
INQUIRY = (
    b'{"type":"sale","merchant":"M00000000000001","terminal":"T0000001","amount_minor":1200,"currency":"156",'
    b'"card":{"pan":"4111111111111111"},"processing_code":"310000"}'
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            b'name="x"\n[fields]\n3={type="n",length=[]}\n',
            id="a length that is a list",
        ),
        pytest.param(
            b'name="x"\n[fields]\n3={type="n",length={}}\n',
            id="a length that is a table",
        ),
        pytest.param(
            b"a=" + b"[" * 2000 + b"]" * 2000,
            id="lists within lists",
        ),
        pytest.param(
            b"a=" + b"1" * 5000,
            id="a number of 5000 digits",
        ),
        pytest.param(
            b'name="x"\n[terminal]\nsensitive_fields=[0x' + b"f" * 5000 + b"]\n",
            id="a field number of 5000 hexadecimal digits",
        ),
    ],
)
def test_a_dialect_file_is_refused_with_its_mistakes(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "found.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - which one it is, is what is looked at
        load_dialect(str(path))
    if not isinstance(caught.value, DialectError):
        raise caught.value


def test_a_dialect_file_of_one_long_key_is_refused_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "found.toml"
    path.write_text("a" + ".a" * DOTS + "=1", encoding="utf-8")
    began = time.thread_time()
    with pytest.raises(DialectError):
        load_dialect(str(path))
    assert time.thread_time() - began < 0.05


@pytest.mark.parametrize("name", shipped_dialects())
def test_a_sale_over_http_with_the_processing_code_of_a_balance_inquiry_is_refused(name: str) -> None:
    body = decode(INQUIRY, NewTransaction, 8)
    with pytest.raises(BadRequest):
        request_of(body, "a-1", load_dialect(name).terminal, KeyedHash(bytes(32)), 1_700_000_000_000)
