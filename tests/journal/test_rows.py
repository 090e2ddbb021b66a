"""Rows hold every value of a transaction, and no row passes for another."""

from __future__ import annotations

import pytest
from msgspec.structs import fields, replace

from gateway.core.lifecycle import State
from gateway.core.transaction import Kind, Transaction
from gateway.journal.rows import RowCodec, RowDamaged, row_of

WHOLE = Transaction(
    key="key",
    kind=Kind.REVERSAL,
    state=State.PARKED,
    lane="lane",
    terminal="terminal",
    merchant="merchant",
    stan="000001",
    fingerprint=b"fingerprint",
    card=b"card",
    card_mask="424242******4242",
    amount_minor=100,
    currency="156",
    accepted_ms=1,
    changed_ms=2,
    id=3,
    position=4,
    attempts=5,
    not_before_ms=6,
    response="00",
    reason="reason",
    resume=State.STORED,
    exposed=True,
    original=7,
    advised=True,
    approval="123456",
    revision=8,
    alias="alias",
    alias_digest=b"d" * 16,
)


def test_a_row_holds_every_value_of_a_transaction() -> None:
    unset = Transaction("", Kind.SALE, State.ASKING, "", "", "", "", b"", b"", "", 0, "", 0, 0)
    for field in fields(Transaction):
        assert getattr(WHOLE, field.name) != getattr(unset, field.name), f"{field.name} is not told apart here"
    codec = RowCodec(b"k" * 32)
    row = row_of(WHOLE, 3, 4, 7, answered_at=3, retained=True)
    assert codec.unpack(3, codec.pack(row)).transaction() == WHOLE


def test_every_flipped_bit_of_a_row_is_noticed() -> None:
    codec = RowCodec(b"k" * 32)
    packed = codec.pack(row_of(WHOLE, 3, 4, 7, answered_at=3, retained=True))
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RowDamaged):
            codec.unpack(3, bytes(flipped))


@pytest.mark.parametrize("stored", [None, 7, "text", b"", b"short"])
def test_what_is_no_row_is_damaged(stored: object) -> None:
    with pytest.raises(RowDamaged):
        RowCodec(b"k" * 32).unpack(3, stored)


def test_a_row_under_another_id_or_key_is_damaged() -> None:
    codec = RowCodec(b"k" * 32)
    packed = codec.pack(row_of(replace(WHOLE), 3, 4, 7, answered_at=0, retained=False))
    with pytest.raises(RowDamaged, match="another id"):
        codec.unpack(4, packed)
    with pytest.raises(RowDamaged):
        RowCodec(b"l" * 32).unpack(3, packed)
