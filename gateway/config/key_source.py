"""Where the key-encryption key comes from: a file, the environment, systemd, or a PKCS #11 token.

file                        `kek.key` in the folder of the keys
env:NAME                    an environment variable: 64 hexadecimal digits, or base64, of 32 bytes
credential:NAME             systemd's credential of that name (LoadCredentialEncrypted=): 32 bytes, or as above
pkcs11:token=T;object=K?module-path=/LIBRARY.so&pin-source=env:NAME
                            an AES key of a token, as an RFC 7512 URI; the PIN from env:NAME, credential:NAME or
                            file:/PATH, never from the URI itself
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote, unquote

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from gateway.private_file import PrivateFileWrong, read_private

if TYPE_CHECKING:
    from gateway.config.models import JournalSection
    from gateway.journal.key_wrapping import KeyEncryptionKey
    from gateway.journal.keyring import Keyring

RIGHT: Final = (
    '"file", "env:NAME", "credential:NAME" or "pkcs11:token=T;object=K?module-path=/P.so&pin-source=env:NAME"'
)

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_CREDENTIAL_BYTES_MAX: Final = 4096


class KeyKind(StrEnum):
    """The kinds of places that a secret can come from."""

    FILE = "file"
    ENVIRONMENT = "env"
    CREDENTIAL = "credential"
    TOKEN = "pkcs11"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
class KeySource:
    """A place that the key-encryption key comes from; holds no secret.

    Attributes:
        name: of the variable or the credential.
        module, token, label: of a key in a token.
        pin: where the token's PIN comes from: "env:NAME", "credential:NAME" or "file:/PATH".
    """

    kind: KeyKind
    name: str = ""
    module: str = ""
    token: str = ""
    label: str = ""
    pin: str = ""

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        match self.kind:
            case KeyKind.FILE:
                return "file"
            case KeyKind.ENVIRONMENT | KeyKind.CREDENTIAL:
                return f"{self.kind.value}:{self.name}"
            case KeyKind.TOKEN:
                token, label = quote(self.token, safe=" "), quote(self.label, safe=" ")
                module, pin = quote(self.module, safe="/"), quote(self.pin, safe=":/")
                return f"pkcs11:token={token};object={label}?module-path={module}&pin-source={pin}"


IN_FOLDER: Final = KeySource(KeyKind.FILE)


class KeySourceWrong(Exception):
    """A source that cannot be understood, or that gives nothing; the message says what would be right."""


def parse_key_source(text: str) -> KeySource:
    """A source as it is written.

    Raises:
        KeySourceWrong: not one of the four forms; the message shows nothing of a PIN.
    """
    kind, separator, rest = text.partition(":")
    if text == KeyKind.FILE.value:
        return IN_FOLDER
    if kind == KeyKind.ENVIRONMENT.value and separator:
        if not _VARIABLE.fullmatch(rest):
            raise KeySourceWrong("names no environment variable; env:NAME, of letters, digits and _")
        if rest.upper().startswith("HOLDFAST_"):
            raise KeySourceWrong("names a variable that begins with HOLDFAST_; those are keys of this configuration")
        return KeySource(KeyKind.ENVIRONMENT, rest)
    if kind == KeyKind.CREDENTIAL.value and separator:
        if not _CREDENTIAL.fullmatch(rest):
            raise KeySourceWrong("names no credential; credential:NAME, of letters, digits, _, . and -")
        return KeySource(KeyKind.CREDENTIAL, rest)
    if kind == KeyKind.TOKEN.value and separator:
        return _parse_token(rest)
    raise KeySourceWrong("is none of the four places that a key-encryption key can come from")


def _parse_token(rest: str) -> KeySource:
    path, _, query = rest.partition("?")
    said: dict[str, str] = {}
    for part in [*path.split(";"), *(query.split("&") if query else [])]:
        name, separator, value = part.partition("=")
        if not separator or name in said:
            raise KeySourceWrong("is not an RFC 7512 URI: each part is NAME=VALUE, and stands once")
        said[name] = unquote(value)
    if "pin-value" in said:
        raise KeySourceWrong("holds the PIN itself; pin-source=env:NAME, pin-source=credential:NAME or file:/PATH")
    wanted = ("token", "object", "module-path", "pin-source")
    if missing := [name for name in wanted if not said.get(name)]:
        raise KeySourceWrong(f"says no {', '.join(missing)}")
    if unknown := [name for name in said if name not in wanted]:
        raise KeySourceWrong(f"says {', '.join(sorted(unknown))[:60]}, which is not used here; {', '.join(wanted)} are")
    if not Path(said["module-path"]).is_absolute():
        raise KeySourceWrong("has a module-path that is not absolute; e.g. /usr/lib/softhsm/libsofthsm2.so")
    kind, _, name = said["pin-source"].partition(":")
    right = {"env": bool(_VARIABLE.fullmatch(name)), "credential": bool(_CREDENTIAL.fullmatch(name))}
    if not (right.get(kind) or (kind == "file" and name.startswith("/"))):
        raise KeySourceWrong("has a pin-source that is none of env:NAME, credential:NAME and file:/PATH")
    if kind == "env" and name.upper().startswith("HOLDFAST_"):
        raise KeySourceWrong("takes the PIN from a variable that begins with HOLDFAST_; those are configuration keys")
    return KeySource(KeyKind.TOKEN, "", said["module-path"], said["token"], said["object"], said["pin-source"].strip())


def open_key_source(source: KeySource, environ: Mapping[str, str] | None = None) -> KeyEncryptionKey | None:
    """The key-encryption key; None where it lies in the folder of the keys, which the keyring then finds itself.

    A token is not asked for anything yet.

    Raises:
        KeySourceWrong: there is no such variable or credential, or it holds no key.
    """
    from gateway.journal.key_wrapping import RawKek, kek_from_text  # noqa: PLC0415 - cryptography is slow to import
    from gateway.journal.port import JournalKeysWrong  # noqa: PLC0415

    surroundings = os.environ if environ is None else environ
    match source.kind:
        case KeyKind.FILE:
            return None
        case KeyKind.ENVIRONMENT | KeyKind.CREDENTIAL:
            secret = _secret(str(source), surroundings)
            name = f"the key-encryption key from {source}"
            if source.kind is KeyKind.CREDENTIAL and len(secret) == 32:
                return RawKek(secret, name)
            try:
                return kek_from_text(secret, name)
            except JournalKeysWrong as wrong:
                raise KeySourceWrong(str(wrong)) from None
        case KeyKind.TOKEN:
            from gateway.journal.key_token import TokenAddress, TokenKek  # noqa: PLC0415

            def pin() -> str:
                try:
                    return _secret(source.pin, surroundings).decode().strip()
                except (KeySourceWrong, UnicodeDecodeError) as wrong:
                    raise JournalKeysWrong(f"the PIN of token {source.token!r}: {wrong}") from None

            return TokenKek(TokenAddress(Path(source.module), source.token, source.label), pin)


def _secret(place: str, environ: Mapping[str, str]) -> bytes:
    kind, _, name = place.partition(":")
    if kind == "file":
        try:
            return read_private(Path(name), "a file of one line").encode()
        except PrivateFileWrong as wrong:
            raise KeySourceWrong(f"{name} {wrong}") from None
    if kind == "env":
        if not environ.get(name):
            raise KeySourceWrong(f"there is no environment variable {name}, or it is empty")
        return environ[name].encode()
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise KeySourceWrong(
            f"there is no CREDENTIALS_DIRECTORY; systemd makes it for a unit with LoadCredentialEncrypted={name}:FILE"
        )
    try:  # systemd gives it to the service's user alone; by an ACL, which looks like a mode for the group
        with (Path(folder) / name).open("rb") as file:
            return file.read(_CREDENTIAL_BYTES_MAX)
    except OSError as error:
        raise KeySourceWrong(f"the credential {name} cannot be read in {folder}: {error.strerror}") from None


def load_keys(journal: JournalSection) -> Keyring:
    """The keys of a configured gateway, wherever their key-encryption key comes from; changes nothing.

    Raises:
        JournalKeysWrong: as keyring.load_keyring, or the key-encryption key cannot be had.
    """
    from gateway.journal.keyring import load_keyring  # noqa: PLC0415 - cryptography is slow to import

    return load_keyring(journal.keys, key_encryption_key(journal))


def key_source_mistake(journal: JournalSection) -> str:
    """Why the gateway could not open its keys with this source, in words; empty where it could.

    Of the key in the folder itself, the start tells. A token is logged in to.
    """
    from gateway.journal.key_folder import is_there  # noqa: PLC0415
    from gateway.journal.keyring import KEYRING_FILE, fitting, read_content  # noqa: PLC0415
    from gateway.journal.port import JournalKeysWrong  # noqa: PLC0415

    if journal.key_encryption_key.kind is KeyKind.FILE:
        return ""
    try:
        kek = open_key_source(journal.key_encryption_key)
        assert kek is not None
        if is_there(journal.keys / KEYRING_FILE):
            fitting(journal.keys, read_content(journal.keys), kek)
        else:
            kek.check()
    except (KeySourceWrong, JournalKeysWrong) as wrong:
        return str(wrong)
    return ""


def key_encryption_key(journal: JournalSection) -> KeyEncryptionKey | None:
    """As `open_key_source`, for a configured gateway; raises JournalKeysWrong."""
    from gateway.journal.port import JournalKeysWrong  # noqa: PLC0415

    try:
        return open_key_source(journal.key_encryption_key)
    except KeySourceWrong as wrong:
        raise JournalKeysWrong(f"journal.key_encryption_key: {wrong}") from None


def _validated(value: object) -> KeySource:
    if isinstance(value, KeySource):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    try:
        return parse_key_source(value)
    except KeySourceWrong as wrong:
        raise PydanticCustomError("form", "{wrong}", {"wrong": str(wrong)}) from None


KeySourceText = Annotated[KeySource, BeforeValidator(_validated), PlainSerializer(str)]
