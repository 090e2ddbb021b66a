"""Values that configuration keys take: parsed once, here, into types that the rest of the gateway can rely on."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo
from pydantic_core import PydanticCustomError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_BIN = re.compile(r"([0-9]{4,12})(?:-([0-9]{4,12}))?")


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Speaks(StrEnum):
    """What is spoken on a listener for terminals."""

    ISO8583 = "iso8583"
    HTTP = "http"


class HttpCredential(StrEnum):
    """How the gateway proves who it is to an HTTP host, beside a certificate."""

    NONE = "none"
    BEARER = "bearer"
    HMAC = "hmac"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, written "host:port" ("[::1]:9480" for IPv6). Port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = self._numeric
        return self.host.lower() == "localhost" if address is None else address.is_loopback

    @property
    def wildcard(self) -> bool:
        """Whether it stands for every address of this machine."""
        address = self._numeric
        return address is not None and address.is_unspecified

    def reaches(self, listening: Address) -> bool:
        """Whether who dials this address is answered by who listens on the other: loopback has several names."""
        if self.port != listening.port or not self.port:
            return False
        if self.loopback or self.wildcard:  # the system takes a call of the wildcard for one of loopback
            return listening.loopback or listening.wildcard
        mine = self._numeric
        return self.host.lower() == listening.host.lower() if mine is None else mine == listening._numeric

    @property
    def _numeric(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return None
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return mapped or address


@dataclass(frozen=True, slots=True)
class BinRange:
    """Card number prefixes from `low` to `high`, both included, with equally many digits."""

    low: str
    high: str

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        return self.low if self.low == self.high else f"{self.low}-{self.high}"

    def __contains__(self, pan: str) -> bool:
        """Whether a card number begins with a prefix of this range."""
        return self.low <= pan[: len(self.low)] <= self.high


def _address(value: object, port_min: int) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    host, colon, port = value.rpartition(":")
    if not colon:
        raise PydanticCustomError("form", "has no port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise PydanticCustomError("form", "has no IPv6 address between the brackets") from None
    elif not _HOST.fullmatch(host):
        raise PydanticCustomError("form", "has no host name or address before the port")
    if not (port.isascii() and port.isdigit() and port_min <= int(port) <= 65535):
        raise PydanticCustomError("form", "has no valid port")
    return Address(host, int(port))


def _listen(value: object) -> Address:
    return _address(value, 0)


def _endpoint(value: object) -> Address:
    return _address(value, 1)


def _bin_range(value: object) -> BinRange:
    if isinstance(value, BinRange):
        return value
    match = _BIN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("form", "is not a range of card number prefixes")
    low, high = match[1], match[2] or match[1]
    if len(low) != len(high):
        raise PydanticCustomError("form", "has ends of different length")
    if low > high:
        raise PydanticCustomError("form", "ends before it begins")
    return BinRange(low, high)


def _whole(value: object) -> object:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise PydanticCustomError("form", "is not a number")
    return value


def _hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise PydanticCustomError("form", "is not hexadecimal") from None


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    return _hex(value)


def _server_name(value: str) -> str:
    if value and not _HOST.fullmatch(value):
        try:
            ipaddress.IPv6Address(value)
        except ValueError:
            raise PydanticCustomError("form", "is no host name or address") from None
    return value


def _digits(count: int) -> AfterValidator:
    def check(value: str) -> str:
        if not (len(value) == count and value.isascii() and value.isdigit()):
            raise PydanticCustomError("form", "has other than {count} digits", {"count": count})
        return value

    return AfterValidator(check)


def _unset(value: object) -> object:
    return None if value == "" else value


def _resolve_optional(value: Path | None, validation: ValidationInfo) -> Path | None:
    return None if value is None else _resolve(value, validation)


def _resolve(value: Path, validation: ValidationInfo) -> Path:
    context: dict[str, Any] = validation.context or {}
    folder = context.get("folder")
    return value if folder is None else (Path(folder) / value.expanduser()).absolute()


def _real(value: Path, validation: ValidationInfo) -> Path:
    path = _resolve(value, validation)
    return Path(os.path.realpath(path)) if path.is_absolute() else path


def _dialect(value: str, validation: ValidationInfo) -> str:
    context: dict[str, Any] = validation.context or {}
    folder = context.get("folder")
    if folder is not None and (value.endswith(".toml") or "/" in value):
        return str((Path(folder) / Path(value).expanduser()).absolute())
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Listen = Annotated[Address, BeforeValidator(_listen), PlainSerializer(str)]
Endpoint = Annotated[Address, BeforeValidator(_endpoint), PlainSerializer(str)]
Prefixes = Annotated[BinRange, BeforeValidator(_bin_range), PlainSerializer(str)]
HexBytes = Annotated[bytes, BeforeValidator(_bytes), PlainSerializer(lambda value: value.hex())]
TwoDigits = Annotated[str, _digits(2)]
ThreeDigits = Annotated[str, _digits(3)]
FilePath = Annotated[Path, AfterValidator(_resolve), PlainSerializer(str)]
RealFilePath = Annotated[Path, AfterValidator(_real), PlainSerializer(str)]
"""Without links: what lies beside the file is looked for beside the file itself, and not beside its link."""
OptionalFilePath = Annotated[
    Path | None,
    BeforeValidator(_unset),
    AfterValidator(_resolve_optional),
    PlainSerializer(lambda path: str(path or "")),
]
ServerName = Annotated[str, AfterValidator(_server_name)]
DialectName = Annotated[str, AfterValidator(_dialect)]
