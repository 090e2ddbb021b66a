"""The `[audit]` table: what the log is called, how often its head is signed, and where that goes."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from gateway.config.keys import Section, key, number
from gateway.config.values import Address, OptionalFilePath, Whole

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NOT_IN_A_NAME = re.compile(r"[\s+\x00-\x1f\x7f]+")
_ORIGIN_BYTES_MAX = 255
_SYSLOG_PORTS = {"udp": 514, "tcp": 601}


class SyslogWay(StrEnum):
    """How lines reach a syslog."""

    UDP = "udp"
    TCP = "tcp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class SyslogTarget:
    """A syslog: `udp://host:port`, `tcp://host:port` (RFC 6587, counted octets) or `unix:/dev/log`."""

    way: SyslogWay
    address: Address | None = None
    path: Path | None = None

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        return f"unix:{self.path}" if self.address is None else f"{self.way.value}://{self.address}"


@dataclass(frozen=True, slots=True)
class WitnessLine:
    """A witness: its key as it is handed out (`NAME+ID+BASE64`), and the prefix of its URL, without a last slash."""

    verifier_key: str
    url: str

    def __str__(self) -> str:
        """The form in which it is written in a configuration."""
        return f"{self.verifier_key} {self.url}"

    @property
    def name(self) -> str:
        """The name that it cosigns with."""
        return self.verifier_key.partition("+")[0]


def _origin(value: str) -> str:
    if _NOT_IN_A_NAME.search(value) or not value.isprintable():
        raise PydanticCustomError("form", "has a space, a plus or a control character")
    if len(value.encode()) > _ORIGIN_BYTES_MAX:
        raise PydanticCustomError("form", "is longer than 255 bytes")
    return value


def _port(parts: SplitResult, default: int) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise PydanticCustomError("form", "has no valid port")
    return default if port is None else port


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if _HOST.fullmatch(host):
        return host
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise PydanticCustomError("form", "has no host name or address") from None
    return host


def _split(value: object) -> SplitResult:
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    try:
        return urlsplit(value)
    except ValueError:
        raise PydanticCustomError("form", "is no URL") from None


def _syslog(value: object) -> SyslogTarget | None:
    if value is None or value == "":
        return None
    if isinstance(value, SyslogTarget):
        return value
    parts = _split(value)
    if parts.scheme == SyslogWay.UNIX:
        if not parts.path.startswith("/") or parts.netloc:
            raise PydanticCustomError("form", "has no absolute path after unix:")
        return SyslogTarget(SyslogWay.UNIX, path=Path(parts.path))
    if parts.scheme not in _SYSLOG_PORTS:
        raise PydanticCustomError("form", "begins neither with udp:// nor with tcp:// nor with unix:/")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise PydanticCustomError("form", "has more than a host and a port")
    return SyslogTarget(SyslogWay(parts.scheme), Address(_host(parts), _port(parts, _SYSLOG_PORTS[parts.scheme])))


def _witness(value: object) -> WitnessLine:
    if isinstance(value, WitnessLine):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("form", "is not text")
    verifier_key, _, url = value.strip().partition(" ")
    if not url:
        raise PydanticCustomError("form", "is not a key and a URL with a blank between")
    from protocol.transparency.cosignatures import WitnessKey  # noqa: PLC0415 - cryptography is slow to import
    from protocol.transparency.notes import NoteError  # noqa: PLC0415

    try:
        WitnessKey.parse(verifier_key)
    except NoteError as error:
        raise PydanticCustomError("form", "{fault}", {"fault": f"has no witness's key: {error}"}) from None
    parts = _split(url.strip())
    if parts.scheme not in ("http", "https"):
        raise PydanticCustomError("form", "has no http or https URL after the key")
    if parts.query or parts.fragment or parts.username is not None:
        raise PydanticCustomError("form", "has a URL with more than a host, a port and a path")
    _host(parts)
    _port(parts, 443)
    return WitnessLine(verifier_key, url.strip().rstrip("/"))


def _proxy(value: object) -> Address | None:
    if value is None or value == "":
        return None
    if isinstance(value, Address):
        return value
    parts = _split(f"//{value}" if isinstance(value, str) else value)
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise PydanticCustomError("form", "has more than a host and a port")
    return Address(_host(parts), _port(parts, 0) or _no_port())


def _no_port() -> int:
    raise PydanticCustomError("form", "has no port")


def _written(value: object) -> str:
    return "" if value is None else str(value)


Origin = Annotated[str, AfterValidator(_origin)]
Syslog = Annotated[SyslogTarget | None, BeforeValidator(_syslog), PlainSerializer(_written)]
Witness = Annotated[WitnessLine, BeforeValidator(_witness), PlainSerializer(str)]
Proxy = Annotated[Address | None, BeforeValidator(_proxy), PlainSerializer(_written)]


class AuditSection(Section):
    """The auditor's log: its head is signed while entries come, and goes where nobody here can change it (INV-7)."""

    origin: Origin = key(
        'Name of this log, and of the key that signs it: "organisation/gateway". Empty: "holdfast/" and gateway.name, '
        "with - for blanks. Another name begins another log for whoever verifies it.",
        "",
        right="text without spaces and plus, at most 255 bytes, or empty",
    )
    checkpoint_every_ms: Whole = number(
        "How often the head is signed at the latest while entries come; 0 signs none.", 1000, 0, 3_600_000, "ms"
    )
    publish_folder: OptionalFilePath = key(
        "Folder that gets the log as plain files (c2sp.org/tlog-tiles), to be served or copied; empty for none.",
        "",
        right="the path of a folder, or empty",
    )
    syslog: Syslog = key(
        "Syslog that gets each signed head as one line (RFC 5424), best one that only appends; empty for none.",
        "",
        right='"udp://host:port", "tcp://host:port", "unix:/dev/log", or empty',
    )
    witnesses: tuple[Witness, ...] = key(
        "Witnesses that cosign each head once they have checked that it continues the last (c2sp.org/tlog-witness).",
        (),
        right='a list of "KEY URL": the witness\'s verifier key (NAME+ID+BASE64), a blank, and its http or https URL',
    )
    witness_ca_file: OptionalFilePath = key(
        "CAs that the witnesses' certificates must come from; empty for the system's.",
        "",
        right="the path of a PEM file of CA certificates, or empty",
    )
    witness_proxy: Proxy = key(
        "HTTP proxy that witnesses are reached through (CONNECT); empty for none. The environment's is not looked at.",
        "",
        right='"host:port", or empty',
    )


def origin_of(section: AuditSection, gateway_name: str) -> str:
    """The log's origin: what is configured, or made of the gateway's name."""
    made = _NOT_IN_A_NAME.sub("-", gateway_name.strip()).strip("-")
    made = "".join(character for character in made if character.isprintable())
    return section.origin or f"holdfast/{made or 'gateway'}"[:_ORIGIN_BYTES_MAX]


def audit_mistakes(section: AuditSection, journal: Path, keys: Path) -> Iterator[tuple[str, str, str]]:
    """What no key of the table shows by itself: the key, what is wrong and would be right, the other key looked at."""
    folder = section.publish_folder
    if folder is not None:
        for there, other, what in ((journal, "journal.path", "the journal"), (keys, "journal.keys", "the keys")):
            if Path(os.path.realpath(there)).is_relative_to(os.path.realpath(folder)):
                text = f"holds {what}: who is served that folder gets them too; a folder of its own"
                yield "audit.publish_folder", text, other
        if folder.is_file():
            yield "audit.publish_folder", "is a file; the path of a folder", "audit.publish_folder"
    names: dict[str, int] = {}
    for place, each in enumerate(section.witnesses):
        if names.setdefault(each.name, place) != place:
            key_of_it = f"audit.witnesses[{place}]"
            yield key_of_it, "has the name of another witness; each witness once", "audit.witnesses"


def witness_ca_mistakes(section: AuditSection) -> Iterator[tuple[str, str]]:
    """Whether the CAs of the witnesses can be used today: the key, what is wrong and would be right."""
    if section.witness_ca_file is not None:
        from gateway.tls import TlsClientSettings, mistakes_of  # noqa: PLC0415 - slow to import

        for mistake in mistakes_of(TlsClientSettings(ca_file=section.witness_ca_file)):
            yield "audit.witness_ca_file", mistake.text
