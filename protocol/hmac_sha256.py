"""HMAC-SHA256 (RFC 2104) under one key that is used again and again."""

from __future__ import annotations

import hashlib
from typing import Final

_IPAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OPAD: Final = bytes(byte ^ 0x5C for byte in range(256))


class HmacSha256:
    """Both pads, and what every message begins with, are hashed beforehand: half the cost of `hmac.digest`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, beginning: bytes = b"") -> None:
        """`key` has at most 64 bytes; `beginning` stands before every message.

        Raises:
            ValueError: the key is longer than SHA-256's block.
        """
        if len(key) > 64:
            raise ValueError("a key of more than 64 bytes is hashed first; nothing here has such a one")
        block = key.ljust(64, b"\x00")
        self._inner = hashlib.sha256(block.translate(_IPAD) + beginning)
        self._outer = hashlib.sha256(block.translate(_OPAD))

    def digest(self, message: bytes) -> bytes:
        """The 32 bytes of HMAC(key, beginning | message)."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()
