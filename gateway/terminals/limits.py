"""Limits of a terminal listener, each with a setting and a counter (INV-9), and the names of what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.tls import ReloadableServerContext


@dataclass(slots=True, frozen=True, kw_only=True)
class ListenerSettings:
    """Where a listener listens, and what it holds at most.

    Attributes:
        name: for reports.
        host, port: where to listen; port 0 takes a free one.
        tls: None for plain TCP. With it nothing but TLS is spoken, and no connection falls back.
        tls_handshake_timeout_ms: a connection that has not finished its handshake by then is closed.
        tls_handshakes_max: while as many handshakes are under way, an accepted connection is closed at once.
        backlog: connections that the operating system keeps until they are accepted.
        connections_max, connections_per_address_max: above either, an accepted connection is closed at once.
            Handshakes under way count. Terminals behind one router share an address.
        in_flight_per_connection_high, in_flight_per_connection_low: a connection with as many unanswered requests as
            the first is not read from until it has no more than the second (back-pressure by the peer's window).
        frames_per_turn_max: frames of one connection that are taken in one turn of the loop; the rest of what one read
            brought waits for the next turn, so that everybody else's come in between.
        taking_ms_per_turn_max: what all connections together may take of one turn of the loop for their frames; the
            others come in the next turn, first come, first served.
        frames_per_s_max: a connection that has sent as many within a second is not read from until the second is over.
        keepalives_per_s_max: a connection that sends more keep-alives within a second is closed.
        in_flight_max: unanswered requests of the whole listener; above it a request is answered 96, not submitted, or
            09 where it may have been asked before. The last tenth is for advices, reversals and retries.
        receipt_field: private field that answers carry a receipt in, where it is free; 0 for none.
        journal_wait_ms_max: while a transaction would wait longer for the journal, new requests are answered the same;
            advices, reversals and retries are taken.
        receive_buffer_bytes: what the operating system keeps of a connection until it is read. It bounds what lies
            unread while a connection is not read from, and what one read brings.
        frame_timeout_ms: a frame must be complete this long after its first byte, else the connection is closed.
        idle_timeout_ms: a connection that has sent no frame and awaits no answer for this long is closed.
        write_buffer_limit_bytes: a terminal that leaves more than this unread is closed; the operating system keeps as
            much beside.
        reply_timeout_ms: a request that the core has not answered by then is forgotten, so that it cannot hold its
            place for ever. Longer than any time limit of the core (D17).
        sweep_interval_ms: how often the timeouts above are looked at; they are exceeded by this much at most.
        report_interval_ms: at most one line per reason in this time.
        close_timeout_ms: how long a connection that is being closed may leave its last answers unread.
    """

    name: str = "iso8583"
    host: str = "127.0.0.1"
    port: int = 0
    tls: ReloadableServerContext | None = None
    tls_handshake_timeout_ms: int = 5_000
    tls_handshakes_max: int = 1_000
    backlog: int = 1_024
    connections_max: int = 4_096
    connections_per_address_max: int = 1_024
    in_flight_per_connection_high: int = 64
    in_flight_per_connection_low: int = 32
    frames_per_turn_max: int = 8
    taking_ms_per_turn_max: int = 20
    frames_per_s_max: int = 2_000
    keepalives_per_s_max: int = 20
    in_flight_max: int = 8_192
    journal_wait_ms_max: int = 1_000
    receipt_field: int = 0
    receive_buffer_bytes: int = 16_384
    frame_timeout_ms: int = 10_000
    idle_timeout_ms: int = 600_000
    write_buffer_limit_bytes: int = 262_144
    reply_timeout_ms: int = 300_000
    sweep_interval_ms: int = 1_000
    report_interval_ms: int = 1_000
    close_timeout_ms: int = 2_000

    def __post_init__(self) -> None:
        """Raise ValueError with all mistakes at once."""
        mistakes = [
            f"{name} must be above 0"
            for name in (
                "tls_handshake_timeout_ms", "tls_handshakes_max", "backlog", "connections_max",
                "connections_per_address_max", "in_flight_per_connection_high", "frames_per_turn_max",
                "taking_ms_per_turn_max",
                "frames_per_s_max", "keepalives_per_s_max", "in_flight_max", "journal_wait_ms_max",
                "receive_buffer_bytes", "frame_timeout_ms",
                "idle_timeout_ms", "write_buffer_limit_bytes", "reply_timeout_ms", "sweep_interval_ms",
                "report_interval_ms", "close_timeout_ms",
            )
            if getattr(self, name) <= 0
        ]  # fmt: skip
        if not 0 <= self.port <= 65_535:
            mistakes.append("port must lie within 0 and 65535")
        if not 0 <= self.in_flight_per_connection_low < self.in_flight_per_connection_high:
            mistakes.append("in_flight_per_connection_low must lie within 0 and below the high mark")
        if mistakes:
            raise ValueError(f"listener {self.name}: " + "; ".join(mistakes))


CLOSED_PER_SWEEP: Final = 4
"""Overdue connections that one sweep closes. A thousand that time out together must not stop everybody for as long as
it takes to close a thousand: the next sweep follows soon, and everybody's messages come in between."""

NEXT_SWEEP_S: Final = 0.005


class Count(StrEnum):
    """Names of a listener's counters."""

    ACCEPTED = "connections_accepted"
    REFUSED_TOTAL = "connections_refused_total"
    REFUSED_ADDRESS = "connections_refused_address"
    ACCEPT_FAILED = "accept_failed"  # no descriptor or memory left; tried again at the next sweep
    REFUSED_HANDSHAKES = "connections_refused_handshakes"  # too many handshakes under way
    HANDSHAKE_FAILED = "handshake_failed"  # for any of the reasons that follow, or reset before it began
    HANDSHAKE_NO_CERTIFICATE = "handshake_no_certificate"
    HANDSHAKE_UNTRUSTED = "handshake_untrusted_ca"
    HANDSHAKE_SELF_SIGNED = "handshake_self_signed"
    HANDSHAKE_EXPIRED = "handshake_certificate_expired"
    HANDSHAKE_NOT_YET_VALID = "handshake_certificate_not_yet_valid"
    HANDSHAKE_WRONG_NAME = "handshake_wrong_name"
    HANDSHAKE_WRONG_PURPOSE = "handshake_wrong_purpose"
    HANDSHAKE_BAD_CERTIFICATE = "handshake_bad_certificate"
    HANDSHAKE_OLD_PROTOCOL = "handshake_protocol_too_old"
    HANDSHAKE_NO_CIPHER = "handshake_no_shared_cipher"
    HANDSHAKE_PLAIN_TEXT = "handshake_plain_text"
    HANDSHAKE_BY_PEER = "handshake_refused_by_peer"  # it does not trust the gateway's certificate, mostly
    HANDSHAKE_TIMED_OUT = "handshake_timed_out"
    HANDSHAKE_HUNG_UP = "handshake_hung_up"
    HANDSHAKE_OTHER = "handshake_other"
    FRAMES = "frames"
    REQUESTS = "requests"  # handed to the core
    REPLIES = "replies"
    REPLIES_DROPPED = "replies_dropped"  # the terminal had gone: its retry gets the stored outcome
    REPLIES_UNKNOWN = "replies_unknown"  # for a token that awaits nothing
    FIELDS_LEFT_OUT = "answer_fields_left_out"  # the host said more than this dialect can carry
    REPLIES_UNENCODABLE = "replies_unencodable"
    UNANSWERED = "requests_unanswered"
    PAUSED = "reading_paused"
    SLOWED = "reading_slowed"  # more frames than a connection may send in a second
    OVERLOADED = "answered_overload"  # 96
    IN_PROGRESS = "answered_in_progress"  # 09: there was no room, and 96 could have been untrue of an earlier send
    ACQUIRER_FULL = "refused_acquirer_full"  # of either: because the acquirer had as much as it may have
    STOPPING = "answered_stopping"  # 96
    NOT_PERMITTED = "answered_not_permitted"  # 58: the connection's certificate names other terminals
    MAC_MISSING = "answered_mac_missing"  # A0: no MAC, or fields behind it
    MAC_WRONG = "answered_mac_wrong"  # A0
    MAC_UNKNOWN_TERMINAL = "answered_mac_unknown_terminal"  # A0: the key file has no line for it
    MAC_NO_KEY = "answered_mac_no_key"  # A0: no key follows from its key serial number
    MAC_OUTDATED = "mac_of_previous_period"  # taken; the answer asks for a new sign-on
    SIGN_ON_UNKNOWN_TERMINAL = "answered_sign_on_unknown_terminal"  # 58
    SIGN_ON_UNSUITABLE = "answered_sign_on_unsuitable"  # 12: its master key cannot serve the keys it asks for
    SIGNED_ON = "signed_on"  # answered 00
    BAD_FRAMING = "bad_framing"
    BAD_MESSAGE = "bad_message"  # answered 30
    BAD_MESSAGE_CLOSED = "bad_message_closed"  # too little was readable to answer
    BAD_MTI_CLOSED = "bad_mti_closed"  # an answer, or what has none
    BAD_REQUEST = "bad_request"  # answered with the code that the reason has
    CLOSED_FRAME_TIMEOUT = "closed_frame_timeout"
    CLOSED_IDLE = "closed_idle"
    CLOSED_KEEPALIVE_FLOOD = "closed_keepalive_flood"
    CLOSED_WRITE_BUFFER = "closed_write_buffer"
