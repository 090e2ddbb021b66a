"""Receipts in ISO 8583 answers: put into a free private field in its own form, and read back by an auditor."""

from __future__ import annotations

import random

import pytest

from gateway.terminals.receipts import PRIVATE_FIELDS, receipt_field_mistake, with_receipt
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.receipt_field import ReceiptField
from protocol.transparency.text import NUMBER_MAX

SEED = 8_583
ROOT = random.Random(SEED).randbytes(32)
ANSWER = {3: "000000", 4: "000000001200", 11: "000001", 39: "00", 41: "T0000001"}


@pytest.mark.parametrize(("name", "number"), [("iso87-ascii", 62), ("iso87-binary", 63), ("iso87-ascii", 60),
                                              ("unionpay", 63)])  # fmt: skip
@pytest.mark.parametrize("size", [42, 1_000_000, NUMBER_MAX])
def test_an_answer_carries_the_receipt_over_the_wire(name: str, number: int, size: int) -> None:
    dialect = load_dialect(name)
    assert receipt_field_mistake(dialect, number) == ""
    spec = dialect.fields[number]
    before = dict(ANSWER)
    fields = with_receipt(ANSWER, number, spec, 41, lambda: (size, ROOT))
    assert before == ANSWER, "the answer is another's too: it is not changed"
    encoded = dialect.codec.encode(Message("0210", fields, bytes(5 * dialect.tpdu), bytes(dialect.header_bytes)))
    value = dialect.codec.decode(encoded).fields[number]
    text = bytes.fromhex(value).decode() if spec.is_hex else value
    assert ReceiptField.parse(text) == ReceiptField(40, size, ROOT[:8])


def test_an_answer_about_no_transaction_or_with_the_hosts_own_words_is_left_as_it_is() -> None:
    spec = load_dialect("iso87-ascii").fields[62]
    assert with_receipt(ANSWER, 62, spec, 0, lambda: (50, ROOT)) is ANSWER
    assert with_receipt(ANSWER, 62, spec, 51, lambda: (50, ROOT)) is ANSWER, "the head does not cover it"
    of_host = {**ANSWER, 62: "from the host"}
    assert with_receipt(of_host, 62, spec, 41, lambda: (50, ROOT)) is of_host
    assert with_receipt(ANSWER, 62, spec, 50, lambda: (50, ROOT))[62].startswith("HF1:49:50:")


@pytest.mark.parametrize(("name", "number", "why"), [
    ("iso87-ascii", 4, "not a private field"),
    ("iso87-ascii", 39, "not a private field"),
    ("unionpay", 57, "does not have"),
    ("iso87-ascii", 48, "colons"),
    ("unionpay", 60, "variable length up to 60"),
    ("unionpay", 48, "colons"),
])  # fmt: skip
def test_a_field_that_cannot_carry_a_receipt_is_told_with_the_reason(name: str, number: int, why: str) -> None:
    dialect = load_dialect(name)
    assert why in receipt_field_mistake(dialect, number)
    assert {39, 4, 11, 41, 55, 64} & PRIVATE_FIELDS == set()
