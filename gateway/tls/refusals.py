"""Why a handshake failed, in a small fixed set of reasons that counters and reports can be kept by."""

from __future__ import annotations

import ssl
from enum import StrEnum


class Refusal(StrEnum):
    """Reasons; the value is for counters, `text` for people."""

    NO_CERTIFICATE = "no_certificate"
    UNTRUSTED = "untrusted_ca"
    SELF_SIGNED = "self_signed"
    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    WRONG_NAME = "wrong_name"
    WRONG_PURPOSE = "wrong_purpose"
    BAD_CERTIFICATE = "bad_certificate"
    OLD_PROTOCOL = "protocol_too_old"
    NO_CIPHER = "no_shared_cipher"
    PLAIN_TEXT = "plain_text"
    BY_PEER = "refused_by_peer"
    TIMED_OUT = "timed_out"
    HUNG_UP = "hung_up"
    OTHER = "other"

    @property
    def text(self) -> str:
        """The reason in words; "peer" is the other side, whichever side we are."""
        return _TEXTS[self]


_TEXTS = {
    Refusal.NO_CERTIFICATE: "the peer showed no certificate",
    Refusal.UNTRUSTED: "the peer's certificate is not from a CA that is trusted here",
    Refusal.SELF_SIGNED: "the peer's certificate is signed by itself, not by a CA that is trusted here",
    Refusal.EXPIRED: "the peer's certificate, or its CA's, has expired",
    Refusal.NOT_YET_VALID: "the peer's certificate, or its CA's, is not yet valid",
    Refusal.WRONG_NAME: "the peer's certificate has another name than the one expected",
    Refusal.WRONG_PURPOSE: "the peer's certificate was not issued for this purpose",
    Refusal.BAD_CERTIFICATE: "the peer's certificate could not be verified",
    Refusal.OLD_PROTOCOL: "no protocol version in common: TLS 1.2 or 1.3 is needed",
    Refusal.NO_CIPHER: "no cipher in common",
    Refusal.PLAIN_TEXT: "the peer does not speak TLS",
    Refusal.BY_PEER: "the peer refused the handshake",
    Refusal.TIMED_OUT: "the handshake took too long",
    Refusal.HUNG_UP: "the peer hung up during the handshake",
    Refusal.OTHER: "the handshake failed",
}

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_VERIFY_CODES = {
    2: Refusal.UNTRUSTED,  # unable to get issuer certificate
    9: Refusal.NOT_YET_VALID,
    10: Refusal.EXPIRED,
    18: Refusal.SELF_SIGNED,  # the certificate itself
    19: Refusal.UNTRUSTED,  # a root that the peer sent along
    20: Refusal.UNTRUSTED,  # unable to get local issuer certificate
    21: Refusal.UNTRUSTED,  # unable to verify the first certificate
    26: Refusal.WRONG_PURPOSE,
    62: Refusal.WRONG_NAME,  # host name
    64: Refusal.WRONG_NAME,  # IP address
}

# SSL_R_* of OpenSSL, as `SSLError.reason` names them. What version of OpenSSL says what differs, so that there are more
# names here than any one of them uses.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Refusal.NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": Refusal.OLD_PROTOCOL,
    "UNKNOWN_PROTOCOL": Refusal.OLD_PROTOCOL,
    "VERSION_TOO_LOW": Refusal.OLD_PROTOCOL,
    "WRONG_SSL_VERSION": Refusal.OLD_PROTOCOL,
    "NO_PROTOCOLS_AVAILABLE": Refusal.OLD_PROTOCOL,
    "TLSV1_ALERT_PROTOCOL_VERSION": Refusal.OLD_PROTOCOL,
    "INAPPROPRIATE_FALLBACK": Refusal.OLD_PROTOCOL,
    "NO_SHARED_CIPHER": Refusal.NO_CIPHER,
    "WRONG_VERSION_NUMBER": Refusal.PLAIN_TEXT,
    "HTTP_REQUEST": Refusal.PLAIN_TEXT,
    "HTTPS_PROXY_REQUEST": Refusal.PLAIN_TEXT,
    "RECORD_LAYER_FAILURE": Refusal.PLAIN_TEXT,
    "PACKET_LENGTH_TOO_LONG": Refusal.PLAIN_TEXT,
    "ENCRYPTED_LENGTH_TOO_LONG": Refusal.PLAIN_TEXT,
    "UNEXPECTED_EOF_WHILE_READING": Refusal.HUNG_UP,
}


def refusal_of(error: BaseException) -> Refusal:
    """The reason of what a handshake (or the first read after it) raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, Refusal.BAD_CERTIFICATE)
    if isinstance(error, ssl.SSLEOFError):
        return Refusal.HUNG_UP
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return _REASONS.get(reason, Refusal.BY_PEER if "_ALERT_" in reason else Refusal.OTHER)
    if isinstance(error, TimeoutError) or (type(error) is ConnectionAbortedError and "taking longer" in str(error)):
        return Refusal.TIMED_OUT  # the second is what asyncio and uvloop raise when their handshake timer fires
    if isinstance(error, ConnectionError):
        return Refusal.HUNG_UP
    return Refusal.OTHER
