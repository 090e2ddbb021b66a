"""The gateway of a load: wide limits, so that what is measured is the gateway and not its patience."""

from __future__ import annotations

from dataclasses import dataclass

from bench.child import Setup

TLS_FOLDER = "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSetup(Setup):
    """Limits that the load does not meet; time limits that a busy machine does not.

    Attributes:
        speaks: "iso8583" or "http".
        tls: the gateway's certificate is in the folder `tls`.
        commit_delay_ms: 0 for none; then the key is not written.
    """

    speaks: str = "iso8583"
    tls: bool = False
    commit_delay_ms: float = 0.0
    host_timeout_ms: int = 4_000
    reply_timeout_ms: int = 5_000
    longest_flight_ms: int = 6_000
    terminal_timeout_ms: int = 10_000

    def toml(self) -> str:
        """The gateway's configuration file."""
        delay = f"commit_delay_ms = {self.commit_delay_ms:g}\n" if self.commit_delay_ms else ""
        only_http = "allow_unauthenticated = true\nrequests_per_s_max = 100000\n" if self.speaks == "http" else ""
        in_flight = max(10_000, 4 * self.terminals)
        connections = max(2_000, 2 * self.terminals)
        tls = f"""\
[terminals.tls]
certificate_file = "{TLS_FOLDER}/gateway.pem"
key_file = "{TLS_FOLDER}/gateway.key"
handshakes_max = {max(1000, self.terminals)}
"""
        return f"""\
# Written by the bench: limits that the load does not meet.
[gateway]
name = "bench"
[journal]
path = "journal.sqlite3"
keys = "keys"
{delay}[[terminals]]
listen = "127.0.0.1:{self.terminal_port}"
speaks = "{self.speaks}"
dialect = "{self.terminal_dialect}"
{only_http}terminal_timeout_ms = {self.terminal_timeout_ms}
connections_max = {connections}
connections_per_address_max = {connections}
in_flight_per_connection_max = 1000
in_flight_max = {in_flight}
frames_per_s_max = 100000
frames_per_turn_max = 64
{tls if self.tls else ""}[acquirer]
endpoints = ["127.0.0.1:{self.acquirer_port}"]
dialect = "{self.acquirer_dialect}"
in_flight_max = {in_flight}
host_timeout_ms = {self.host_timeout_ms}
reply_timeout_ms = {self.reply_timeout_ms}
longest_flight_ms = {self.longest_flight_ms}
connect_timeout_ms = 500
reconnect_min_ms = 50
reconnect_max_ms = 500
echo_interval_ms = 500
echo_timeout_ms = 2000
down_after_timeouts = 3
[standin]
mode = "on"
floor_limit_minor = {self.floor_limit_minor}
terminal_count_max = 1000000000
terminal_total_minor_max = 1000000000000000
card_count_max = 1000000000
card_total_minor_max = 1000000000000000
overall_count_max = 1000000000
overall_total_minor_max = 1000000000000000
[replay]
lane_wait_ms = {self.lane_wait_ms}
window_max = 256
[operations]
listen = "127.0.0.1:{self.operations_port}"
"""
