"""The people who may ask for, and approve, what cannot be undone: a name and a public key each."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

RIGHT: Final = 'a list of "NAME:PUBLIC KEY", each as `holdfast keys approver` prints it'

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Approver:
    """One person; `public_key` is of Ed25519, 32 bytes."""

    name: str
    public_key: bytes

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        return f"{self.name}:{base64.b64encode(self.public_key).decode()}"


def is_name(text: str) -> bool:
    """Whether a person may be called so: 1 to 64 letters, digits, `.`, `_`, `@` and `-`."""
    return _NAME.fullmatch(text) is not None


def repeated(approvers: tuple[Approver, ...]) -> str:
    """What stands twice: one person must not pass for two. Empty where nothing does."""
    names = {each.name for each in approvers}
    keys = {each.public_key for each in approvers}
    if len(names) < len(approvers):
        return "names a person twice; each once"
    return "has one key for two people; each has their own" if len(keys) < len(approvers) else ""


def _validated(value: object) -> Approver:
    if isinstance(value, Approver):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    name, _, key = value.rpartition(":")
    try:
        public_key = base64.b64decode(key, validate=True)
    except binascii.Error:
        public_key = b""
    if not is_name(name) or len(public_key) != _KEY_BYTES:
        raise PydanticCustomError("form", "is not a name, a colon and a public key")
    return Approver(name, public_key)


ApproverText = Annotated[Approver, BeforeValidator(_validated), PlainSerializer(str)]
