"""Base64 and decimal numbers: one way to write each, and no other way is read.

A second way to write the same value would let two different files say the same thing, and a flipped bit go unnoticed.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

NUMBER_MAX: Final = (1 << 63) - 1
"""The largest size or index: what other verifiers and the databases count in, a signed 64-bit integer."""


def encode_base64(octets: bytes) -> str:
    """Base64 with padding, RFC 4648 section 4."""
    return b64encode(octets).decode("ascii")


def decode_base64(text: str) -> bytes:
    """What `text` encodes.

    Raises:
        ValueError: not base64 of RFC 4648 section 4, without its padding, or with pad bits that are not zero (3.5).
    """
    octets = b64decode(text.encode("ascii"), validate=True)
    if encode_base64(octets) != text:
        raise ValueError("not the one base64 of its octets")
    return octets


def decode_decimal(text: str) -> int:
    """The number that ASCII digits write, from 0 to `NUMBER_MAX`, without leading zeroes.

    Raises:
        ValueError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or (text[0] == "0" and text != "0"):
        raise ValueError("not a decimal number without leading zeroes")
    number = int(text)
    if number > NUMBER_MAX:
        raise ValueError("more than 2**63 - 1")
    return number
