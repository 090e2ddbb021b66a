"""Settings of an HTTP link, checked when they are made: every mistake at once."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.acquirers.http_credential import Credential, CredentialKind
from gateway.acquirers.settings import EndpointSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLinkSettings:
    """How to reach an acquirer over HTTP, and the limits of doing so.

    Attributes:
        name: of the acquirer, for reports.
        endpoints: in order of preference; with `tls` they are https, else http.
        credential: None for no proof beside the TLS certificate.
        connect_timeout_ms: for name look-up, TCP and TLS together, of one attempt.
        reconnect_initial_ms, reconnect_max_ms, reconnect_jitter_ms: as of an ISO 8583 link.
        reconnect_stable_ms: a watch that the host closes sooner counts as a failed attempt. Hosts close a connection
            on which nothing is asked after some seconds, so this is shorter than that.
        keepalive_idle_s, keepalive_interval_s, keepalive_count: TCP keepalive of the watch.
        reuse_idle_ms: how long an idle connection may wait for the next request. It must be shorter than the host's
            own limit (5 s in Apache and Node.js), or a request can meet the host's hanging up, and is in doubt then.
            0 for a new connection for each request.
        in_flight_max: messages in flight per endpoint; above it the endpoint has no room.
        in_flight_bytes_max: bytes of their requests, per endpoint.
        unheard_max: messages in a row that an endpoint leaves without a usable answer in time; a break with messages in
            flight counts as one of them. Then other endpoints go first until it answers.
        late_answer_ms: how long a connection is kept after TimedOut, for an answer that comes late.
        late_max: how many connections are kept so; above it the longest kept is given up.
        abandoned_max, abandoned_age_ms: as of an ISO 8583 link.
        body_max_bytes, head_field_max_bytes, head_fields_max: limits of a response.
        sweep_interval_ms, report_interval_ms, close_timeout_ms: as of an ISO 8583 link.
    """

    name: str
    endpoints: tuple[EndpointSettings, ...]
    credential: Credential | None = None
    connect_timeout_ms: int = 3_000
    reconnect_initial_ms: int = 200
    reconnect_max_ms: int = 30_000
    reconnect_jitter_ms: int = 250
    reconnect_stable_ms: int = 1_000
    keepalive_idle_s: int = 30
    keepalive_interval_s: int = 10
    keepalive_count: int = 3
    reuse_idle_ms: int = 4_000
    in_flight_max: int = 256
    in_flight_bytes_max: int = 4_194_304
    unheard_max: int = 3
    late_answer_ms: int = 60_000
    late_max: int = 256
    abandoned_max: int = 10_000
    abandoned_age_ms: int = 600_000
    body_max_bytes: int = 65_536
    head_field_max_bytes: int = 8_190
    head_fields_max: int = 64
    sweep_interval_ms: int = 1_000
    report_interval_ms: int = 1_000
    close_timeout_ms: int = 2_000

    def __post_init__(self) -> None:
        """Raise ValueError with all mistakes at once."""
        mistakes = [
            f"{name} must be above 0"
            for name in (
                "connect_timeout_ms", "reconnect_initial_ms", "reconnect_max_ms", "keepalive_idle_s",
                "keepalive_interval_s", "keepalive_count", "in_flight_max", "in_flight_bytes_max", "unheard_max",
                "late_max", "abandoned_max", "abandoned_age_ms", "body_max_bytes", "head_field_max_bytes",
                "head_fields_max", "sweep_interval_ms", "report_interval_ms", "close_timeout_ms",
            )
            if getattr(self, name) <= 0
        ]  # fmt: skip
        mistakes += [
            f"{name} must not be negative"
            for name in ("reconnect_jitter_ms", "reconnect_stable_ms", "reuse_idle_ms", "late_answer_ms")
            if getattr(self, name) < 0
        ]
        if not self.endpoints:
            mistakes.append("endpoints must name at least one address")
        if len({endpoint.name for endpoint in self.endpoints}) != len(self.endpoints):
            mistakes.append("endpoints must differ from one another")
        if self.reconnect_initial_ms > self.reconnect_max_ms:
            mistakes.append("reconnect_initial_ms must not exceed reconnect_max_ms")
        if self.late_answer_ms > self.abandoned_age_ms:
            mistakes.append("late_answer_ms must not exceed abandoned_age_ms")
        bearer = self.credential is not None and self.credential.kind is CredentialKind.BEARER
        if bearer and any(endpoint.tls is None for endpoint in self.endpoints):
            mistakes.append("credential must not be a bearer token without tls: it would travel in clear")
        if mistakes:
            raise ValueError(f"link {self.name}: " + "; ".join(mistakes))
