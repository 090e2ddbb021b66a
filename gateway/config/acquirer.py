"""The sections of the host upstream: meaning, unit, bounds and default of every key."""

from __future__ import annotations

from pydantic import Field

from gateway.config.keys import HOUR_MS, Section
from gateway.config.keys import key as _key
from gateway.config.keys import number as _number
from gateway.config.lines import AcquirerTlsSection
from gateway.config.values import (
    DialectName,
    Endpoint,
    FilePath,
    HexBytes,
    HttpCredential,
    OptionalFilePath,
    Speaks,
    Whole,
)


class AcquirerSessionSection(Section):
    """With this table the gateway signs on to the host as itself, and every message to it carries a MAC (D10)."""

    terminal: str = _key(
        "The gateway's own terminal id at the host.", right="1 to 8 printable characters", example="GATEWAY1"
    )
    merchant: str = _key(
        "The gateway's own merchant id at the host.", right="1 to 15 printable characters", example="000000000000001"
    )
    master_key_file: FilePath = _key(
        "File of the master key shared with the host, in hex, mode 0600; it opens the work keys of the sign-on.",
        right="the path of a file that its owner alone can read",
        example="host.key",
    )
    sign_on: bool = _key(
        "Whether the host gives work keys at a sign-on; if not, the key in the file makes the MACs itself.",
        True,
        right="true or false",
    )
    sign_on_timeout_ms: Whole = _number("How long the answer to a sign-on may take.", 10_000, 10, HOUR_MS, "ms")


class AcquirerSection(Section):
    """The host upstream."""

    name: str = _key("Name of the acquirer in logs, metrics and status.", "acquirer", right="any text")
    endpoints: tuple[Endpoint, ...] = Field(
        min_length=1,
        max_length=16,
        description="Addresses of the host, tried in this order; the next only if no byte was written (D6).",
        json_schema_extra={
            "right": 'one to 16 of "host:port", port 1 to 65535',
            "example": ["127.0.0.1:9583"],
        },
    )
    dialect: DialectName = _key(
        "Dialect that the host speaks: a shipped name or the path of a dialect file.",
        "unionpay",
        right="a shipped dialect's name or the path of a dialect file",
    )
    host_timeout_ms: Whole = _number(
        "How long the host itself waits for its own upstream (D17: shortest of the nested limits).",
        12_000,
        1,
        HOUR_MS,
        "ms",
    )
    reply_timeout_ms: Whole = _number(
        "How long the gateway waits for the host's answer before a request is in doubt and is reversed (D7, D17).",
        15_000,
        2,
        HOUR_MS,
        "ms",
    )
    longest_flight_ms: Whole = _number(
        "Longest time that a message may still be under way to the host; a reversal waits for it (D13).",
        30_000,
        2,
        24 * HOUR_MS,
        "ms",
    )
    connect_timeout_ms: Whole = _number("How long one attempt to connect may take.", 3000, 10, 60_000, "ms")
    reconnect_min_ms: Whole = _number(
        "First pause between attempts to connect; it doubles, with jitter.", 200, 1, 60_000, "ms"
    )
    reconnect_max_ms: Whole = _number("Longest pause between attempts to connect.", 10_000, 1, HOUR_MS, "ms")
    in_flight_max: Whole = _number(
        "Most messages that await this host's answer at once. While as many are under way and it answers, new requests "
        "are answered 96 (HTTP: 503), or 09 (409) where they may have been asked before: they are never approved "
        "without it because there are too many of them.",
        2000,
        1,
        1_000_000,
        "messages",
    )
    echo_interval_ms: Whole = _number(
        "After how long a silence an echo test (0800) is sent; also the pause between probes of an outage.",
        30_000,
        10,
        HOUR_MS,
        "ms",
    )
    echo_timeout_ms: Whole = _number("How long the answer to an echo test may take.", 5000, 10, HOUR_MS, "ms")
    down_after_timeouts: Whole = _number(
        "Unanswered messages in a row after which the host counts as down.", 3, 1, 1000, "messages"
    )
    tpdu: HexBytes = Field(
        default=bytes.fromhex("6000030000"),
        min_length=5,
        max_length=5,
        description="TPDU of messages to the host, where its dialect carries one.",
        json_schema_extra={"right": "10 hexadecimal digits", "unit": "hex"},
    )
    header: HexBytes = Field(
        default=bytes.fromhex("603100310100"),
        max_length=64,
        description="Header of messages to the host, where its dialect carries one.",
        json_schema_extra={"right": "up to 128 hexadecimal digits, an even number of them", "unit": "hex"},
    )
    speaks: Speaks = _key(
        "What the host speaks: ISO 8583 over TCP, or JSON over HTTP.",
        Speaks.ISO8583,
        right='"iso8583" or "http"',
    )
    mapping: DialectName = _key(
        "HTTP only: how messages become JSON and back, and the host's habits: a shipped name or the path of a mapping "
        "file. `dialect` is not looked at then.",
        "tern",
        right="a shipped mapping's name or the path of a mapping file",
    )
    credential: HttpCredential = _key(
        "HTTP only: how requests prove who sends them, beside a certificate: by a bearer token, or signed by HMAC.",
        HttpCredential.NONE,
        right='"none", "bearer" or "hmac"',
    )
    credential_file: OptionalFilePath = _key(
        "HTTP only: file of one line, mode 0600: the token, or the HMAC key in hex.",
        "",
        right="the path of a file that its owner alone can read, or empty",
    )
    credential_key_id: str = _key("HTTP only: the name by which the host knows the HMAC key.", "", right="any text")
    reuse_idle_ms: Whole = _number(
        "HTTP only: how long an idle connection waits for the next request; shorter than the host keeps it. 0: never.",
        4_000,
        0,
        HOUR_MS,
        "ms",
    )
    tls: AcquirerTlsSection | None = _key("TLS to the host.", None, right="a table [acquirer.tls]")
    session: AcquirerSessionSection | None = _key(
        "The gateway's own sign-on to the host, and MACs.", None, right="a table [acquirer.session]"
    )
