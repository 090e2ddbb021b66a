"""A key-encryption key that lies in a PKCS #11 token and never leaves it: the token wraps and unwraps.

The token holds an AES key of 256 bits that is sensitive and cannot be extracted; this process holds the right to use
it, and the PIN. Each call opens a session of its own and closes it: a token that was away for a while needs no restart.
Source: PKCS #11 v2.40 (CKM_AES_GCM, CKM_AES_ECB for the check value, as key check values are commonly made).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from gateway.journal.key_wrapping import NONCE_BYTES, TAG_BYTES, WrapRefused
from gateway.journal.port import JournalKeysWrong

_CHECKED: Final = b"holdfast key v1\x00"
_KEY_BITS: Final = 256


@dataclass(frozen=True, slots=True)
class TokenAddress:
    """Which key of which token.

    Attributes:
        module: the token's library, e.g. /usr/lib/softhsm/libsofthsm2.so.
        token, label: of the token, and of the key in it.
    """

    module: Path
    token: str
    label: str

    def __str__(self) -> str:
        return f"key {self.label!r} in token {self.token!r}"


class TokenKek:
    """See KeyEncryptionKey. The PIN is asked for at each call, and not kept."""

    def __init__(self, address: TokenAddress, pin: Callable[[], str]) -> None:
        self._address = address
        self._pin = pin
        self._lock = Lock()
        self.name = str(address)

    def __repr__(self) -> str:
        return f"TokenKek({self.name})"

    def check(self) -> str:
        """See KeyEncryptionKey: the first 8 bytes of one block encrypted."""
        with self._key() as (key, p11):
            return bytes(key.encrypt(_CHECKED, mechanism=p11.Mechanism.AES_ECB))[:8].hex()

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """See KeyEncryptionKey."""
        nonce = os.urandom(NONCE_BYTES)
        with self._key() as (kek, p11):
            parameters = p11.GCMParams(nonce, aad=bound, tag_bits=8 * TAG_BYTES)
            return nonce + bytes(kek.encrypt(key, mechanism=p11.Mechanism.AES_GCM, mechanism_param=parameters))

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """See KeyEncryptionKey."""
        with self._key() as (kek, p11):
            if len(wrapped) <= NONCE_BYTES + TAG_BYTES:
                raise WrapRefused
            parameters = p11.GCMParams(wrapped[:NONCE_BYTES], aad=bound, tag_bits=8 * TAG_BYTES)
            refusals = (p11.exceptions.EncryptedDataInvalid, p11.exceptions.EncryptedDataLenRange)
            try:
                return bytes(
                    kek.decrypt(wrapped[NONCE_BYTES:], mechanism=p11.Mechanism.AES_GCM, mechanism_param=parameters)
                )
            except (*refusals, p11.exceptions.GeneralError):  # SoftHSM answers a wrong tag with the latter
                raise WrapRefused from None

    def generate(self) -> None:
        """Make the key in the token, so that it can never be read out of it.

        Raises:
            JournalKeysWrong: there is one of that name already, or the token refuses.
        """
        with self._session() as (session, p11):
            if list(session.get_objects(self._sought(p11))):
                raise JournalKeysWrong(f"there is a {self.name} already; it is never replaced")
            wanted = {
                p11.Attribute.SENSITIVE: True,
                p11.Attribute.EXTRACTABLE: False,
                p11.Attribute.PRIVATE: True,
                p11.Attribute.MODIFIABLE: False,
            }
            session.generate_key(
                p11.KeyType.AES,
                _KEY_BITS,
                label=self._address.label,
                store=True,
                capabilities=p11.MechanismFlag.ENCRYPT | p11.MechanismFlag.DECRYPT,
                template=wanted,
            )

    def _sought(self, p11: Any) -> dict[Any, Any]:
        return {
            p11.Attribute.CLASS: p11.ObjectClass.SECRET_KEY,
            p11.Attribute.KEY_TYPE: p11.KeyType.AES,
            p11.Attribute.LABEL: self._address.label,
        }

    @contextmanager
    def _key(self) -> Iterator[tuple[Any, Any]]:
        with self._session() as (session, p11):
            found = list(session.get_objects(self._sought(p11)))
            if len(found) != 1:
                many = "no" if not found else "more than one"
                raise JournalKeysWrong(
                    f"there is {many} {self.name}; `holdfast keys rewrap --to ... --generate` makes one"
                )
            if found[0][p11.Attribute.EXTRACTABLE] or not found[0][p11.Attribute.SENSITIVE]:
                raise JournalKeysWrong(f"{self.name} can be read out of the token; make one that is not extractable")
            yield found[0], p11

    @contextmanager
    def _session(self) -> Iterator[tuple[Any, Any]]:
        """One session, logged in. The lock: a login belongs to the process, so one session's end ends them all."""
        try:
            import pkcs11 as p11  # noqa: PLC0415 - an extra, and only tokens need it
            import pkcs11.exceptions  # noqa: PLC0415
        except ImportError:
            raise JournalKeysWrong(
                f"{self.name}: tokens need a further library: pip install '.[pkcs11]' in the folder of the sources"
            ) from None
        with self._lock:
            try:
                token = p11.lib(str(self._address.module)).get_token(token_label=self._address.token)
                with token.open(rw=True, user_pin=self._pin()) as session:
                    yield session, p11
            except p11.exceptions.NoSuchToken:
                raise JournalKeysWrong(f"{self._address.module} shows no token {self._address.token!r}") from None
            except (p11.exceptions.PinIncorrect, p11.exceptions.PinInvalid, p11.exceptions.PinLenRange):
                raise JournalKeysWrong(f"token {self._address.token!r} refuses the PIN; it may lock itself") from None
            except (p11.exceptions.PKCS11Error, RuntimeError) as error:
                why = f"{type(error).__name__} {error}".strip()
                raise JournalKeysWrong(f"{self.name} cannot be used: {why}") from None
