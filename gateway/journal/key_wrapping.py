"""The key-encryption key: what wraps every other key of a keyring, wherever it comes from itself.

A key of 32 bytes that the process holds (from a file, the environment, systemd) wraps here; a key in a token never
leaves it, and the token wraps (key_token.py). Both are AES-256-GCM, so that what a wrapped key is bound to is checked
as it opens: a random nonce of 12 bytes, then ciphertext and tag.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.journal.key_folder import KeyFileWrong, read_private_file
from gateway.journal.port import JournalKeysWrong

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEK_FILE: Final = "kek.key"
NEXT_KEK_FILE: Final = "kek.next"

_HEX: Final = re.compile(rb"[0-9a-fA-F]{64}")


class WrapRefused(Exception):
    """A wrapped key does not open: damaged, bound to something else, or wrapped by another key."""


class KeyEncryptionKey(Protocol):
    """What wraps the keys of a keyring. Two kinds exist: `RawKek`, and `key_token.TokenKek`."""

    @property
    def name(self) -> str:
        """Where it comes from, as messages name it; holds no secret."""

    def check(self) -> str:
        """Its check value, 16 hexadecimal digits: tells two keys apart, and gives nothing away.

        Raises:
            JournalKeysWrong: it cannot be had; the message says why.
        """

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Nonce, ciphertext and tag of `key`, bound to `bound`. Raises as `check`."""

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """The key again; raises WrapRefused, and as `check`."""


def key_check(key: bytes) -> str:
    """Check value of a key: tells whether two keys are the same, and nothing else."""
    return hmac.digest(key, b"holdfast key check v1", "sha256")[:8].hex()


class RawKek:
    """A key-encryption key that this process holds. Its repr does not show it."""

    def __init__(self, key: bytes, name: str) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self.name = name

    def __repr__(self) -> str:
        return f"RawKek({self.name})"

    def check(self) -> str:
        """See KeyEncryptionKey."""
        return key_check(self._key)

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """See KeyEncryptionKey."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, key, bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """See KeyEncryptionKey."""
        try:
            return AESGCM(self._key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
        except (ValueError, InvalidTag):
            raise WrapRefused from None


def kek_from_folder(folder: Path, kek_check: str = "") -> RawKek:
    """The key-encryption key in the folder of the keys.

    While it is being replaced there are two; `kek_check` says which one the keyring is wrapped with.

    Raises:
        JournalKeysWrong: no file, open to others, or not 32 bytes.
    """
    following = folder / NEXT_KEK_FILE
    if kek_check and following.exists():
        kek = RawKek(_read_32(following), str(following))
        if kek.check() == kek_check:
            return kek  # the keyring is written, and a crash came before the file got its name
    return RawKek(_read_32(folder / KEK_FILE), str(folder / KEK_FILE))


def _read_32(path: Path) -> bytes:
    try:
        key = read_private_file(path)
    except KeyFileWrong as wrong:
        if path.exists() or not path.parent.is_dir():
            raise
        raise KeyFileWrong(f"{wrong}; if it lies elsewhere, journal.key_encryption_key says where") from None
    if len(key) != KEY_BYTES:
        raise KeyFileWrong(f"{path} must hold {KEY_BYTES} bytes, it holds {len(key)}")
    return key


def kek_from_text(text: bytes, name: str) -> RawKek:
    """A key-encryption key written as 64 hexadecimal digits or in base64; blanks around it do not matter.

    Raises:
        JournalKeysWrong: neither, or not 32 bytes. The message shows nothing of it.
    """
    stripped = text.strip()
    if _HEX.fullmatch(stripped):
        return RawKek(bytes.fromhex(stripped.decode()), name)
    try:
        key = base64.b64decode(stripped, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise JournalKeysWrong(
            f"{name} does not hold a key: 32 bytes as 64 hexadecimal digits or in base64 (`openssl rand -hex 32`)"
        )
    return RawKek(key, name)
