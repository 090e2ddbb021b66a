"""Limits of the HTTP listener, each with a setting and a counter (INV-9), and the names of what it counts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from gateway.terminals.limits import ListenerSettings
from gateway.tls import ReloadableServerContext
from protocol.response_codes import APPROVALS


@dataclass(slots=True, frozen=True, kw_only=True)
class HttpListenerSettings:
    """Where the listener listens, and what it holds at most.

    Attributes:
        name: for reports.
        host, port: where to listen; port 0 takes a free one.
        tls: None for plain HTTP. With it nothing but TLS is spoken; where it asks for client certificates, they say
            for which terminals a connection may speak.
        allow_unauthenticated: take whoever connects for whom they say they are; on a loopback address only.
        tls_handshake_timeout_ms, tls_handshakes_max, backlog, connections_max, connections_per_address_max: as in
            ListenerSettings.
        head_timeout_ms: a request's head must be complete this long after its first byte.
        body_timeout_ms: its body must be complete this long after its head.
        write_timeout_ms: the terminal must have taken the answer by then.
        idle_timeout_ms: a connection that sends no request for this long is closed.
        line_bytes_max, headers_max: the longest line of a head, and the most of them; together they bound the memory
            that a connection holds before it has proved anything.
        body_bytes_max, json_depth_max: the largest body, and how deep its JSON may be nested.
        reply_wait_ms: how long a request is held open for its outcome; then 409, and a retry joins it again. Longer
            than any time limit of the core (D17).
        in_flight_max: unanswered requests of the whole listener; above it, 503. The last tenth is for all but new
            requests.
        journal_wait_ms_max: while a transaction would wait longer for the journal, new requests get 503.
        receive_buffer_bytes, write_buffer_limit_bytes: what the operating system keeps of a connection, each way.
        in_flight_per_terminal_max: of one terminal; above it, 429.
        rate_per_s, burst: requests a second of one terminal, and how many it may send at once after a silence; above
            it, 429. Terminals do not share it.
        terminals_max: terminals whose rates and heartbeats are remembered; the one silent for longest is forgotten.
        signature_window_ms: how far the time of a signature may be from ours.
        nonces_max, nonces_per_terminal_max: nonces remembered for twice the window; above it requests are refused,
            because a replay could not be told any more.
        approved_codes: answers of the acquirer that approve (HostRules.approved_codes).
        list_max: most transactions in one part of a list.
        receipts: whether a till gets the tlog-proof of its transaction.
        sweep_interval_ms, report_interval_ms, close_timeout_ms: as in ListenerSettings.
    """

    name: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    tls: ReloadableServerContext | None = None
    allow_unauthenticated: bool = False
    tls_handshake_timeout_ms: int = 5_000
    tls_handshakes_max: int = 1_000
    backlog: int = 1_024
    connections_max: int = 4_096
    connections_per_address_max: int = 1_024
    head_timeout_ms: int = 5_000
    body_timeout_ms: int = 5_000
    write_timeout_ms: int = 10_000
    idle_timeout_ms: int = 60_000
    line_bytes_max: int = 2_048
    headers_max: int = 32
    body_bytes_max: int = 16_384
    json_depth_max: int = 8
    reply_wait_ms: int = 60_000
    in_flight_max: int = 4_096
    journal_wait_ms_max: int = 1_000
    receive_buffer_bytes: int = 16_384
    write_buffer_limit_bytes: int = 65_536
    in_flight_per_terminal_max: int = 16
    rate_per_s: int = 50
    burst: int = 100
    terminals_max: int = 10_000
    signature_window_ms: int = 300_000
    nonces_max: int = 262_144
    nonces_per_terminal_max: int = 65_536
    approved_codes: frozenset[str] = APPROVALS
    list_max: int = 100
    receipts: bool = False
    sweep_interval_ms: int = 500
    report_interval_ms: int = 1_000
    close_timeout_ms: int = 2_000

    def __post_init__(self) -> None:
        """Raise ValueError with all mistakes at once."""
        mistakes = [
            f"{name} must be above 0"
            for name in self.__dataclass_fields__
            if isinstance(value := getattr(self, name), int) and name not in _NOT_COUNTED and value <= 0
        ]
        if not 0 <= self.port <= 65_535:
            mistakes.append("port must lie within 0 and 65535")
        if self.allow_unauthenticated and not self.loopback:
            mistakes.append("allow_unauthenticated is for a loopback host only")
        if mistakes:
            raise ValueError(f"listener {self.name}: " + "; ".join(mistakes))

    @property
    def request_bytes_max(self) -> int:
        """The longest request on the wire: its head, and its body in chunks of some bytes each."""
        return self.line_bytes_max * self.headers_max + 2 * self.body_bytes_max

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def accepting(self) -> ListenerSettings:
        """The part that is about accepting connections."""
        return ListenerSettings(
            name=self.name,
            host=self.host,
            port=self.port,
            tls=self.tls,
            tls_handshake_timeout_ms=self.tls_handshake_timeout_ms,
            tls_handshakes_max=self.tls_handshakes_max,
            backlog=self.backlog,
            connections_max=self.connections_max,
            connections_per_address_max=self.connections_per_address_max,
            receive_buffer_bytes=self.receive_buffer_bytes,
            write_buffer_limit_bytes=self.write_buffer_limit_bytes,
            close_timeout_ms=self.close_timeout_ms,
        )


_NOT_COUNTED = frozenset({"port", "allow_unauthenticated", "receipts"})


class HttpCount(StrEnum):
    """Names of what the listener counts, beside the acceptor's (limits.Count) and one for each kind of problem."""

    REQUESTS = "requests"  # handed to the core
    REPLIES = "replies"
    REPLIES_DROPPED = "replies_dropped"  # nobody waits any more: the retry gets the stored outcome
    REPLIES_UNKNOWN = "replies_unknown"  # for a token that awaits nothing
    UNANSWERED = "requests_unanswered"  # 409 after reply_wait_ms
    ACQUIRER_FULL = "refused_acquirer_full"  # 503 or 409, because the acquirer had as much as it may have
    HEARTBEATS = "heartbeats"
    CLOSED_HEAD_TIMEOUT = "closed_head_timeout"
    CLOSED_BODY_TIMEOUT = "closed_body_timeout"
    CLOSED_WRITE_TIMEOUT = "closed_write_timeout"
    CLOSED_IDLE = "closed_idle"
