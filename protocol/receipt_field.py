"""A receipt in a private field of an ISO 8583 answer: what a terminal prints, so that the log cannot be cut behind it.

    HF1:1233:1240:9f86d081884c7d65

    HF1       this form
    1233      index of the entry that made the transaction, from 0: the journal's sequence less one
    1240      number of entries of a tree that covers the transaction and what its terminal was told
    9f86...   the first 8 bytes of that tree's root, lowercase hexadecimal

A root is a hash over every entry before it: a journal that is shorter than 1240 entries, or whose first 1240 entries
have another root, is not the one that the receipt was made from. 8 bytes are enough for that: whoever rewrites a
journal so that it keeps the prefix of a given root has 2**64 trees to try. The text has at most 60 characters, all of
them letters, digits and colons, so that any text field of that length carries it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.transparency.text import NUMBER_MAX, decode_decimal
from protocol.transparency.tree import HASH_BYTES

PREFIX_BYTES: Final = 8
RECEIPT_FIELD_LENGTH_MAX: Final = 60

_FORM: Final = re.compile("HF1:(?P<index>[0-9]{1,19}):(?P<size>[0-9]{1,19}):(?P<prefix>[0-9a-f]{16})")


class ReceiptFieldError(ValueError):
    """A text that is no receipt of this form."""


@dataclass(frozen=True, slots=True)
class ReceiptField:
    """The three parts of a receipt.

    Attributes:
        index: of the transaction's first entry, from 0.
        size: of the tree that the prefix is of; above the index.
        prefix: the first 8 bytes of its root.
    """

    index: int
    size: int
    prefix: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.size <= NUMBER_MAX:
            raise ReceiptFieldError("a receipt's index is below its tree's size")
        if len(self.prefix) != PREFIX_BYTES:
            raise ReceiptFieldError("a receipt has 8 bytes of its tree's root")

    @property
    def text(self) -> str:
        """The field's content."""
        return f"HF1:{self.index}:{self.size}:{self.prefix.hex()}"

    @classmethod
    def of(cls, index: int, size: int, root: bytes) -> ReceiptField:
        """The receipt of the entry `index` under the head (`size`, `root`)."""
        if len(root) != HASH_BYTES:
            raise ReceiptFieldError("a root has 32 bytes")
        return cls(index, size, root[:PREFIX_BYTES])

    @classmethod
    def parse(cls, text: str) -> ReceiptField:
        """The receipt that a field holds; blanks around it are padding.

        Raises:
            ReceiptFieldError: it holds none.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ReceiptFieldError("a receipt reads HF1:INDEX:SIZE: and 16 hexadecimal digits")
        try:
            return cls(decode_decimal(match["index"]), decode_decimal(match["size"]), bytes.fromhex(match["prefix"]))
        except ReceiptFieldError:
            raise
        except ValueError:
            raise ReceiptFieldError("a receipt's numbers are decimal, without leading zeroes") from None
