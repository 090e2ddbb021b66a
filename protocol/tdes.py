"""DES and TDES in ECB: the block operations that MACs, DUKPT and work keys are made of.

A single-length key is DES (TDES with the same key three times), a double-length one TDES with the first half used
again. Parity bits are ignored, as terminals and the hosts that key them do.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK_BYTES: Final = 8
SINGLE_BYTES: Final = 8
DOUBLE_BYTES: Final = 16
TRIPLE_BYTES: Final = 24

ZERO_BLOCK: Final = bytes(BLOCK_BYTES)


def tdes(key: bytes) -> TripleDES:
    """The cipher of a key of 8, 16 or 24 bytes.

    Raises:
        ValueError: another length. The message holds no key; callers with names for their keys check before.
    """
    if len(key) == SINGLE_BYTES:
        return TripleDES(key * 3)
    if len(key) == DOUBLE_BYTES:
        return TripleDES(key + key[:SINGLE_BYTES])
    if len(key) == TRIPLE_BYTES:
        return TripleDES(key)
    raise ValueError(f"a DES or TDES key has 8, 16 or 24 bytes, not {len(key)}")


def ecb(key: bytes) -> Cipher[ECB]:
    """A key made ready for blocks that are encrypted each by itself; its encryptor keeps nothing between blocks.

    Raises:
        ValueError: the key's length (see `tdes`).
    """
    return Cipher(tdes(key), ECB())  # noqa: S305  the methods of these standards are made of single blocks


def ecb_encrypt(key: bytes, blocks: bytes) -> bytes:
    """Whole blocks of 8 bytes, each encrypted by itself.

    Raises:
        ValueError: the key's length (see `tdes`), or blocks that are not whole.
    """
    _check_whole(blocks)
    return ecb(key).encryptor().update(blocks)


def ecb_decrypt(key: bytes, blocks: bytes) -> bytes:
    """The inverse of `ecb_encrypt`, with the same errors."""
    _check_whole(blocks)
    return ecb(key).decryptor().update(blocks)


def check_value(key: bytes, size_bytes: int = 4) -> bytes:
    """A key's check value (KCV): the first bytes of a block of zeros encrypted under it.

    Raises:
        ValueError: the key's length.
    """
    return ecb_encrypt(key, ZERO_BLOCK)[:size_bytes]


def _check_whole(blocks: bytes) -> None:
    if len(blocks) % BLOCK_BYTES:
        raise ValueError(f"{len(blocks)} bytes are no whole blocks of {BLOCK_BYTES}")
