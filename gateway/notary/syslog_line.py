"""A checkpoint as one line of syslog: RFC 5424, over UDP, TCP (RFC 6587, counted octets) or a unix socket.

    <109>1 2026-01-31T23:59:59.999Z gateway-7 holdfast 4711 CHECKPOINT
        [checkpoint@32473 origin="..." size="20852163" root="..." signature="..." note="..."] head of 20852163 entries

Facility 13 (log audit), severity 5 (notice). `root` and `signature` are base64 as in the note, and `note` is the base64
of the whole signed note: what an auditor cuts out of a syslog and decodes is a file for any verifier. 32473 is the
enterprise number that RFC 5612 keeps for whoever has none.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed
from protocol.transparency.notes import parse_note
from protocol.transparency.text import encode_base64

SYSLOG_OUTLET: Final = "syslog"
_PRIORITY: Final = 13 * 8 + 5
_WITHIN_S: Final = 5.0
_HOST_NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class SyslogEnd:
    """The far end. `host` is empty for a unix socket, whose path is `path`."""

    stream: bool
    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        """As a person names it."""
        return str(self.path) if self.path is not None else f"{self.host}:{self.port}"


def syslog_line(signed: Signed, host_name: str, number: int) -> bytes:
    """The line, without a newline.

    Args:
        host_name: of this machine.
        number: of this process.
    """
    checkpoint = signed.checkpoint
    moment = datetime.fromtimestamp(signed.signed_ms / 1000, UTC).isoformat(timespec="milliseconds")
    own = parse_note(signed.note).signatures[0]
    facts = {
        "origin": checkpoint.origin,
        "size": str(checkpoint.size),
        "root": encode_base64(checkpoint.root),
        "signature": encode_base64(own.key_id + own.signature),
        "note": encode_base64(signed.note),
    }
    structured = " ".join(f'{name}="{_escaped(value)}"' for name, value in facts.items())
    return (
        f"<{_PRIORITY}>1 {moment.replace('+00:00', 'Z')} {_printable(host_name)} holdfast {number} CHECKPOINT "
        f"[checkpoint@32473 {structured}] head of {checkpoint.size} entries"
    ).encode()


def _escaped(value: str) -> str:
    """RFC 5424 section 6.3.3."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _printable(name: str) -> str:
    kept = "".join(character for character in name if "!" <= character <= "~")
    return kept[:_HOST_NAME_MAX] or "-"


class SyslogDestination:
    """One syslog. Nothing there says that a line has arrived, and over UDP nothing says that it has not."""

    name = SYSLOG_OUTLET

    def __init__(self, end: SyslogEnd) -> None:
        self._end = end
        self._socket: socket.socket | None = None
        self._sent: tuple[int, bytes] | None = None

    def publish(self, signed: Signed) -> None:
        """Send the line, once for each head. Raises OutletFailed."""
        head = signed.size, signed.checkpoint.root
        if head == self._sent:
            return  # only cosignatures are new
        line = syslog_line(signed, socket.gethostname(), os.getpid())
        try:
            if self._socket is None:
                self._socket = self._connected()
            if self._socket.type == socket.SOCK_STREAM and self._end.path is None:
                self._refuse_closed(self._socket)
                line = b"%d %s" % (len(line), line)
            elif self._socket.type == socket.SOCK_STREAM:
                line += b"\n"
            self._socket.sendall(line)
        except OSError as error:
            self.close()
            raise OutletFailed(f"{self._end}: {error.strerror or error}") from error
        self._sent = head

    def close(self) -> None:
        """Hang up."""
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()

    def _connected(self) -> socket.socket:
        if self._end.path is not None:
            try:
                return _dialled(socket.SOCK_DGRAM, str(self._end.path))
            except OSError:
                return _dialled(socket.SOCK_STREAM, str(self._end.path))
        if self._end.stream:
            return socket.create_connection((self._end.host, self._end.port), _WITHIN_S)
        family, kind, number, _, address = socket.getaddrinfo(self._end.host, self._end.port, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, kind, number)
        made.settimeout(_WITHIN_S)
        made.connect(address)
        return made

    def _refuse_closed(self, connected: socket.socket) -> None:
        """A syslog says nothing: what can be read is the end, and a line sent after it would be lost without a word."""
        connected.setblocking(False)
        try:
            if not connected.recv(4096):
                raise ConnectionResetError("the syslog has hung up")
        except BlockingIOError:
            pass
        finally:
            connected.settimeout(_WITHIN_S)


def _dialled(kind: socket.SocketKind, path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(_WITHIN_S)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
