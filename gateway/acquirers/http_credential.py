"""How the gateway proves who it is to an HTTP host, beside a certificate: a token, or a signature of each request."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from gateway.acquirers.mapping import HttpRequest
from gateway.private_file import PrivateFileWrong, read_private

SIGNATURE_VERSION: Final = "HOLDFAST-HMAC-1"
_TOKEN: Final = re.compile(r"[!-~]{8,4096}")
_SECRET: Final = re.compile(r"(?:[0-9a-fA-F]{2}){16,64}")


class CredentialKind(StrEnum):
    """How the gateway proves who it is, beside a certificate."""

    BEARER = "bearer"  # Authorization: Bearer TOKEN
    HMAC = "hmac"  # each request is signed; see `authorization`


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A token or a key. Never shown.

    Attributes:
        key_id: with HMAC, the name by which the host knows the key.
    """

    kind: CredentialKind
    secret: bytes = field(repr=False)
    key_id: str = ""


class CredentialWrong(Exception):
    """The file cannot be used; the message says what would be right, and holds no secret."""


def read_credential(kind: CredentialKind, path: Path, key_id: str = "") -> Credential:
    """Read a file that holds one line: the bearer token, or the HMAC key in hexadecimal digits.

    Raises:
        CredentialWrong: no file, open to others than its owner, or not one such line.
    """
    try:
        text = read_private(path, "a file of one line").strip()
    except PrivateFileWrong as wrong:
        raise CredentialWrong(str(wrong)) from None
    if kind is CredentialKind.BEARER:
        if _TOKEN.fullmatch(text) is None:
            raise CredentialWrong("must hold one line: a token of 8 to 4096 printable characters without blanks")
        return Credential(kind=kind, secret=text.encode())
    if _SECRET.fullmatch(text) is None:
        raise CredentialWrong("must hold one line: 32 to 128 hexadecimal digits, an even number of them")
    return Credential(kind=kind, secret=bytes.fromhex(text), key_id=key_id)


def authorization(credential: Credential, request: HttpRequest, utc_s: int, nonce: str) -> str:
    """The value of the Authorization header.

    A signature is the lower-case hex of HMAC-SHA256 over lines joined by LF: HOLDFAST-HMAC-1, method, path, key id,
    seconds since 1970, nonce, Idempotency-Key, lower-case hex of the SHA-256 of the body: what the gateway's own HTTP
    listener asks of tills. It is made anew for each send; the Idempotency-Key in it stays (D8).
    """
    if credential.kind is CredentialKind.BEARER:
        return f"Bearer {credential.secret.decode('ascii')}"
    body = hashlib.sha256(request.body or b"").hexdigest()
    lines = (
        SIGNATURE_VERSION, request.method, request.path, credential.key_id, str(utc_s), nonce, request.key, body,
    )  # fmt: skip
    made = hmac.digest(credential.secret, "\n".join(lines).encode(), "sha256").hex()
    return f'Holdfast-HMAC terminal="{credential.key_id}", timestamp="{utc_s}", nonce="{nonce}", signature="{made}"'
