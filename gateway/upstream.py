"""The way to the acquirer, made from the configuration: its link, its rules, and what it cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.acquirers.http import HttpLink
from gateway.acquirers.iso8583 import Iso8583Link
from gateway.acquirers.mapping_file import load_mapping
from gateway.acquirers.port import Deliver, Link
from gateway.clock import Clock
from gateway.config import AcquirerSection
from gateway.config.values import Speaks
from gateway.reporting import Report
from gateway.tls import ReloadableClientContext
from gateway.wiring import http_link_settings, link_settings
from protocol.iso8583.codec import CodecError
from protocol.iso8583.covering import always_fitting
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import HostRules


@dataclass(frozen=True, slots=True)
class Upstream:
    """An acquirer as the core and the application need it.

    Attributes:
        host: the habits of the acquirer's host.
        unencodable: why a message cannot be sent there, or "".
        always_fit: fields of a terminal's dialect that can be sent there whatever they hold.
    """

    link: Link
    host: HostRules
    unencodable: Callable[[Message], str]
    always_fit: Callable[[Dialect], frozenset[int]] = lambda _: frozenset()


def upstream_to(
    section: AcquirerSection, tls: ReloadableClientContext | None, deliver: Deliver, clock: Clock, report: Report
) -> Upstream:
    """The way to an acquirer; nothing is connected yet.

    Raises: what the files of keys and mappings raise where they have changed since the configuration was checked.
    """
    if section.speaks is Speaks.HTTP:
        mapping = load_mapping(section.mapping)
        settings = http_link_settings(section, tls)
        link = HttpLink(settings, mapping, deliver, clock.mono_ms, clock.utc_ms, report)
        return Upstream(link, mapping.host, mapping.unencodable)
    dialect = load_dialect(section.dialect)
    made = link_settings(section, dialect, tls)
    return Upstream(
        Iso8583Link(made, dialect, deliver, clock.mono_ms, report), dialect.host, _unencodable(dialect),
        lambda terminals: always_fitting(terminals, dialect),
    )  # fmt: skip


def _unencodable(dialect: Dialect) -> Callable[[Message], str]:
    """Why a message cannot be encoded for the acquirer; what cannot be forwarded must not be approved (D8, D21)."""
    codec = dialect.codec
    tpdu, header = bytes(5 if dialect.tpdu else 0), bytes(dialect.header_bytes)

    def why(message: Message) -> str:
        try:
            codec.encode(Message(message.mti, dialect.carried(message.fields), tpdu, header))
        except CodecError as error:
            return str(error)
        return ""

    return why
