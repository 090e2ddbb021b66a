"""What an ISO 8583 link counts."""

from __future__ import annotations

from enum import StrEnum


class Count(StrEnum):
    """Names of the link's counters."""

    SENT = "sent"
    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    NOT_SENT = "not_sent"
    LATE_ANSWERED = "late_answered"
    DUPLICATE_ANSWERS = "duplicate_answers"
    UNMATCHED_ANSWERS = "unmatched_answers"
    UNREADABLE_FRAMES = "unreadable_frames"
    MAC_WRONG = "mac_wrong"
    SIGN_ONS = "sign_ons"
    SIGNED_ON = "signed_on"
    SIGN_ON_FAILED = "sign_on_failed"
    UNSOLICITED = "unsolicited"
    ECHOES_ANSWERED = "echoes_answered"
    REFUSED_MATCH_KEY = "refused_match_key"
    REFUSED_NO_ROOM = "refused_no_room"
    REFUSED_NOT_CONNECTED = "refused_not_connected"
    REFUSED_UNENCODABLE = "refused_unencodable"
    REFUSED_CLOSED = "refused_closed"
    CONNECTED = "connected"
    CONNECT_FAILED = "connect_failed"
    CONNECTION_LOST = "connection_lost"
