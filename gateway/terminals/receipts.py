"""Receipts that testify: what a terminal takes away of the log, so that the log cannot be cut or rewritten behind it.

Over HTTP a till asks for the tlog-proof of its transaction (c2sp.org/tlog-proof), which is there once a checkpoint that
covers it is signed, a second later at most. In ISO 8583 the answer itself carries a receipt in a private field
(protocol/receipt_field.py), under the newest head that is durable, signed or not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import FieldSpec, FieldType
from protocol.iso8583.message import Fields
from protocol.receipt_field import RECEIPT_FIELD_LENGTH_MAX, ReceiptField

RECEIPT_MEDIA_TYPE: Final = "text/plain"
RECEIPT_RELATION: Final = "urn:holdfast:receipt"
PRIVATE_FIELDS: Final = frozenset({46, 47, 48, *range(56, 64), *range(112, 128)})
"""Fields that ISO 8583:1987 leaves to nations and to private use, and that both sides agree on."""


class ReceiptLater(Exception):
    """No signed checkpoint covers the transaction yet: the same request does better in a while."""


ReceiptOf: TypeAlias = Callable[[int], Awaitable[bytes | None]]
"""Makes the receipt of a transaction, by its id: a tlog-proof; None where there is no such transaction.

Raises ReceiptLater.
"""

LogHead: TypeAlias = Callable[[], tuple[int, bytes]]
"""Size and root of the log as far as it is durable and was told of (SqliteJournal.log_head)."""


def with_receipt(fields: Fields, number: int, spec: FieldSpec, transaction: int, log_head: LogHead) -> Fields:
    """An answer's fields with the receipt of its transaction in field `number`, in a dictionary of its own.

    Unchanged where the answer is about no transaction of the log, where the head does not cover it, or where the field
    holds something that the acquirer has said.

    Args:
        spec: of the field, one that `receipt_field_mistake` finds nothing wrong with.
        transaction: its id, which is the sequence of the entry that made it; 0 for none.
    """
    if not transaction or number in fields:
        return fields
    size, root = log_head()
    if transaction > size:
        return fields
    text = ReceiptField.of(transaction - 1, size, root).text
    return {**fields, number: text.encode("ascii").hex() if spec.is_hex else text}


def receipt_field_mistake(dialect: Dialect, number: int) -> str:
    """Why answers of a dialect cannot carry a receipt in a field; empty where they can."""
    spec = dialect.fields.get(number)
    if number not in PRIVATE_FIELDS:
        return "is not a private field; one of " + ", ".join(map(str, sorted(PRIVATE_FIELDS)))
    if spec is None:
        return "is a field that this dialect does not have"
    if not spec.prefix_digits or spec.length < RECEIPT_FIELD_LENGTH_MAX:
        return f"is not a field of variable length up to {RECEIPT_FIELD_LENGTH_MAX} characters or more"
    if spec.type is not FieldType.ANS and not spec.is_hex:
        return "is a field that a receipt's colons cannot stand in; one of type ans or b"
    return ""
