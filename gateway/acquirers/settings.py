"""Settings of an ISO 8583 link, checked when they are made: every mistake at once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from gateway.acquirers.session import HostSession


@dataclass(slots=True, frozen=True, kw_only=True)
class EndpointSettings:
    """One address of an acquirer.

    Attributes:
        tls: None for plain TCP. With it nothing is sent before certificate and name of the host are verified; there is
            no falling back.
        server_hostname: name that the certificate must carry; None for `host`.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None

    @property
    def name(self) -> str:
        """How the endpoint is called in status and reports."""
        return f"{self.host}:{self.port}"


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkSettings:
    """How to reach an acquirer, and the limits of doing so.

    Attributes:
        name: of the acquirer, for reports.
        endpoints: in order of preference.
        tpdu, header: what stands before every message, for dialects that have them.
        session: as whom the gateway signs on, and how it makes MACs; None for a host that wants neither.
        connect_timeout_ms: for name look-up, TCP and TLS together.
        reconnect_initial_ms, reconnect_max_ms, reconnect_jitter_ms: pauses between attempts double from the first to
            the second, and a random part of the third is added to each.
        reconnect_stable_ms: a connection that lived shorter than this counts as a failed attempt, so that a host that
            accepts and hangs up is not hammered.
        keepalive_idle_s, keepalive_interval_s, keepalive_count: TCP keepalive of an idle connection.
        unacknowledged_ms: a connection whose bytes the peer's kernel has not acknowledged for this long is broken.
        in_flight_max: messages in flight per endpoint; above it the endpoint has no room.
        write_buffer_high_bytes, write_buffer_low_bytes: an endpoint has no room while more than the first waits for a
            slow host, until it is less than the second.
        frame_timeout_ms: a connection on which a frame begun by the host stays incomplete for longer is closed.
        unheard_max: messages in a row that time out while nothing else comes from the endpoint either; a break with
            messages in flight counts as one of them. Then its connection is closed and made anew, and other endpoints
            go first until the host is heard on it.
        abandoned_max, abandoned_age_ms: how many sends without an answer are remembered, and how long, to tell late
            answers. While one is remembered its match key is closed to other transactions, so the age should exceed
            the longest time after which the host still answers (D17).
        echo_answered_per_s_max: echo tests from the host that are answered per second and endpoint; more are ignored.
        sweep_interval_ms: how often overdue frames and kept-back report lines are looked for.
        report_interval_ms: at most one line per kind and reason in this time.
        close_timeout_ms: how long `close` waits for the sockets to close.
    """

    name: str
    endpoints: tuple[EndpointSettings, ...]
    tpdu: bytes = b""
    header: bytes = b""
    session: HostSession | None = None
    connect_timeout_ms: int = 5_000
    reconnect_initial_ms: int = 200
    reconnect_max_ms: int = 30_000
    reconnect_jitter_ms: int = 250
    reconnect_stable_ms: int = 5_000
    keepalive_idle_s: int = 30
    keepalive_interval_s: int = 10
    keepalive_count: int = 3
    unacknowledged_ms: int = 30_000
    in_flight_max: int = 256
    write_buffer_high_bytes: int = 65_536
    write_buffer_low_bytes: int = 16_384
    frame_timeout_ms: int = 10_000
    unheard_max: int = 3
    abandoned_max: int = 10_000
    abandoned_age_ms: int = 600_000
    echo_answered_per_s_max: int = 10
    sweep_interval_ms: int = 1_000
    report_interval_ms: int = 1_000
    close_timeout_ms: int = 2_000

    def __post_init__(self) -> None:
        """Raise ValueError with all mistakes at once."""
        mistakes = [
            f"{name} must be above 0"
            for name in (
                "connect_timeout_ms", "reconnect_initial_ms", "reconnect_max_ms", "in_flight_max",
                "keepalive_idle_s", "keepalive_interval_s", "keepalive_count", "unacknowledged_ms",
                "write_buffer_high_bytes", "frame_timeout_ms", "unheard_max", "abandoned_max", "abandoned_age_ms",
                "echo_answered_per_s_max", "sweep_interval_ms", "report_interval_ms", "close_timeout_ms",
            )
            if getattr(self, name) <= 0
        ]  # fmt: skip
        if not self.endpoints:
            mistakes.append("endpoints must name at least one address")
        if len({endpoint.name for endpoint in self.endpoints}) != len(self.endpoints):
            mistakes.append("endpoints must differ from one another")
        if self.reconnect_initial_ms > self.reconnect_max_ms:
            mistakes.append("reconnect_initial_ms must not exceed reconnect_max_ms")
        if self.reconnect_jitter_ms < 0 or self.reconnect_stable_ms < 0:
            mistakes.append("reconnect_jitter_ms and reconnect_stable_ms must not be negative")
        if not 0 <= self.write_buffer_low_bytes <= self.write_buffer_high_bytes:
            mistakes.append("write_buffer_low_bytes must lie within 0 and write_buffer_high_bytes")
        if mistakes:
            raise ValueError(f"link {self.name}: " + "; ".join(mistakes))
