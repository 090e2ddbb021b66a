"""The configuration's sections and keys: meaning, unit, bounds and default of each, said once.

The file that `holdfast init` writes, the messages about mistakes and the README's table are all made from here.
"""

from __future__ import annotations

from pydantic import Field

from gateway.config import approvers as _approvers
from gateway.config import key_source as _key_source
from gateway.config.audit import AuditSection
from gateway.config.keys import Section
from gateway.config.keys import key as _key
from gateway.config.keys import number as _number
from gateway.config.lines import AcquirerTlsSection, TerminalsTlsSection
from gateway.config.values import (
    DialectName,
    Endpoint,
    FilePath,
    HexBytes,
    HttpCredential,
    Listen,
    LogFormat,
    LogLevel,
    OptionalFilePath,
    Prefixes,
    Speaks,
    ThreeDigits,
    TwoDigits,
    Whole,
)
from gateway.core.standin import StandInMode

_HOUR_MS = 3_600_000
_AMOUNT_MAX = 10**15


class GatewaySection(Section):
    """The gateway itself."""

    name: str = _key("Name of this gateway in logs, metrics and status.", "holdfast", right="any text")
    shutdown_drain_s: Whole = _number(
        "How long a stop waits for messages in flight before it closes all the same.", 20, 0, 3600, "s"
    )


class JournalSection(Section):
    """The durable memory: one encrypted SQLite file and the keys that open it."""

    path: FilePath = _key(
        "The journal's file; relative to this file. Its folder must exist, on a disk that honours fsync.",
        "journal.sqlite3",
        right="the path of a file in an existing folder",
    )
    keys: FilePath = _key(
        "Folder of the keys (`holdfast init` makes it). Never keep or back it up beside the journal.",
        "keys",
        right="the path of a folder made by `holdfast init`",
    )
    key_encryption_key: _key_source.KeySourceText = _key(
        "Where the key comes from that wraps all others: a file in `keys`, an environment variable, a credential of "
        "systemd, or a PKCS #11 token. `holdfast keys rewrap` changes it.",
        "file",
        right=_key_source.RIGHT,
    )
    sensitive_epoch_h: Whole = _number(
        "How long one epoch key seals sensitive data before the next does; it is destroyed when its last transaction "
        "is final.",
        24,
        1,
        8_760,
        "h",
    )
    sensitive_epoch_alarm_h: Whole = _number(
        "Age of the oldest epoch of sensitive data that is still open above which an alarm is raised.",
        72,
        2,
        87_600,
        "h",
    )
    limit_bytes: Whole = _number(
        "Size on disk above which new transactions are refused with 96, reversals somewhat later; 0 for no limit.",
        0,
        0,
        2**50,
        "bytes",
    )
    min_free_bytes: Whole = _number(
        "Free space on the file system below which new transactions are refused with 96, reversals somewhat later.",
        64 * 2**20,
        0,
        2**40,
        "bytes",
    )
    cache_mib: Whole = _number(
        "Page cache of each of the journal's two connections. Memory stays bounded however long the journal grows.",
        32,
        1,
        4_096,
        "MiB",
    )
    own_process: bool = _key(
        "Whether the journal runs in a process of its own, on a core of its own. False saves some 40 MiB.",
        True,
        right="true or false",
    )
    commit_delay_ms: Whole = _number(
        "Added to every commit, to measure how a slower disk would do. Leave it at 0.", 0, 0, 1_000, "ms"
    )


class TerminalsSection(Section):
    """A listener for terminals. Repeat the table for several."""

    listen: Listen = _key(
        "Where terminals connect. 127.0.0.1 hears this machine only, 0.0.0.0 every network.",
        right='"host:port", port 0 to 65535',
        example="127.0.0.1:8583",
    )
    speaks: Speaks = _key(
        "What is spoken here: ISO 8583 over TCP, or JSON over HTTP.",
        Speaks.ISO8583,
        right='"iso8583" or "http"',
    )
    dialect: DialectName = _key(
        "Dialect that these terminals speak: a shipped name or the path of a dialect file. Over HTTP, the dialect in "
        "whose terms transactions are identified (D1).",
        "unionpay",
        right="a shipped dialect's name or the path of a dialect file",
    )
    terminal_timeout_ms: Whole = _number(
        "How long the terminals themselves wait for an answer (D17: longest of the nested limits).",
        60_000,
        10,
        _HOUR_MS,
        "ms",
    )
    connections_max: Whole = _number(
        "Most connections at once; the next is closed at once.", 2000, 1, 100_000, "connections"
    )
    connections_per_address_max: Whole = _number(
        "Most connections at once from one address.", 500, 1, 100_000, "connections"
    )
    in_flight_per_connection_max: Whole = _number(
        "Most unanswered messages of one connection; then it is read no further until one is answered.",
        16,
        1,
        10_000,
        "messages",
    )
    in_flight_max: Whole = _number(
        "Most unanswered messages of this listener; beyond it, one is answered 96, or 09 where it may have been asked "
        "before. The last tenth is for advices, reversals and retries.",
        5000,
        1,
        1_000_000,
        "messages",
    )
    journal_wait_ms_max: Whole = _number(
        "How long a new request may have to wait for the journal; while it would be longer, it is answered 96 at once "
        "(HTTP: 503), or 09 (409) where it may have been asked before. At most a quarter of terminal_timeout_ms.",
        1000,
        10,
        600_000,
        "ms",
    )
    receive_buffer_bytes: Whole = _number(
        "What the operating system keeps of a connection until it is read.", 16_384, 4096, 2**24, "bytes"
    )
    frame_timeout_ms: Whole = _number(
        "How long a frame may take from its first byte to its last.", 5000, 10, 600_000, "ms"
    )
    idle_timeout_ms: Whole = _number(
        "How long a connection may be silent before it is closed.", 300_000, 10, 24 * _HOUR_MS, "ms"
    )
    write_buffer_bytes_max: Whole = _number(
        "Most bytes of answers that a connection may leave unread before it is closed.",
        65_536,
        1024,
        2**24,
        "bytes",
    )
    requests_per_s_max: Whole = _number(
        "HTTP only: most requests a second of one terminal, twice as many after a silence; beyond it, 429.",
        50,
        1,
        100_000,
        "requests/s",
    )
    signing_secrets_file: OptionalFilePath = _key(
        "HTTP only: file of the secrets that requests are signed with, mode 0600, a line for each terminal: its id, a "
        "blank, 32 to 128 hexadecimal digits. Empty for none.",
        "",
        right="the path of a file that its owner alone can read, or empty",
    )
    allow_unauthenticated: bool = _key(
        "HTTP only, on loopback only: take whoever connects for whom they say they are.",
        False,
        right="true or false",
    )
    receipts: bool = _key(
        "HTTP only: give a till the proof that the log has its transaction, with the log's signed head.",
        False,
        right="true or false",
    )
    receipt_field: Whole = _number(
        "ISO 8583 only: private field that answers carry a receipt in, where it is free; 0 for none.", 0, 0, 127
    )
    master_keys_file: OptionalFilePath = _key(
        "ISO 8583 only: file of the terminals' keys, mode 0600, a line for each: its id, a blank, its master key in "
        "hex. With it terminals get work keys at sign-on, and every message must carry a right MAC. Empty for neither.",
        "",
        right="the path of a file that its owner alone can read, or empty",
    )
    frames_per_s_max: Whole = _number(
        "ISO 8583 only: messages a second of one connection above which it is not read from until the second is over.",
        2000,
        1,
        1_000_000,
        "messages/s",
    )
    frames_per_turn_max: Whole = _number(
        "ISO 8583 only: messages of one connection that are taken in one go, before others have their turn.",
        8,
        1,
        10_000,
        "messages",
    )
    keepalives_per_s_max: Whole = _number(
        "ISO 8583 only: keep-alives (empty frames) a second above which a connection is closed.",
        20,
        1,
        100_000,
        "keep-alives/s",
    )
    tls: TerminalsTlsSection | None = _key("TLS on this listener.", None, right="a table [terminals.tls]")


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
    sign_on_timeout_ms: Whole = _number("How long the answer to a sign-on may take.", 10_000, 10, _HOUR_MS, "ms")


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
        _HOUR_MS,
        "ms",
    )
    reply_timeout_ms: Whole = _number(
        "How long the gateway waits for the host's answer before a request is in doubt and is reversed (D7, D17).",
        15_000,
        2,
        _HOUR_MS,
        "ms",
    )
    longest_flight_ms: Whole = _number(
        "Longest time that a message may still be under way to the host; a reversal waits for it (D13).",
        30_000,
        2,
        24 * _HOUR_MS,
        "ms",
    )
    connect_timeout_ms: Whole = _number("How long one attempt to connect may take.", 3000, 10, 60_000, "ms")
    reconnect_min_ms: Whole = _number(
        "First pause between attempts to connect; it doubles, with jitter.", 200, 1, 60_000, "ms"
    )
    reconnect_max_ms: Whole = _number("Longest pause between attempts to connect.", 10_000, 1, _HOUR_MS, "ms")
    in_flight_max: Whole = _number(
        "Most messages that await this host's answer at once.", 2000, 1, 1_000_000, "messages"
    )
    echo_interval_ms: Whole = _number(
        "After how long a silence an echo test (0800) is sent; also the pause between probes of an outage.",
        30_000,
        10,
        _HOUR_MS,
        "ms",
    )
    echo_timeout_ms: Whole = _number("How long the answer to an echo test may take.", 5000, 10, _HOUR_MS, "ms")
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
        _HOUR_MS,
        "ms",
    )
    tls: AcquirerTlsSection | None = _key("TLS to the host.", None, right="a table [acquirer.tls]")
    session: AcquirerSessionSection | None = _key(
        "The gateway's own sign-on to the host, and MACs.", None, right="a table [acquirer.session]"
    )


class StandInSection(Section):
    """Which sales are approved while the acquirer cannot be asked (D21). Each limit holds per currency.

    There is no "unlimited": a limit of 0 allows nothing, and a key left out has its default.
    """

    mode: StandInMode = _key(
        "Whether to stand in; dry-run decides and records but refuses.",
        StandInMode.ON,
        right='"on", "off" or "dry-run"',
    )
    floor_limit_minor: Whole = _number("Largest single sale.", 5_000, 0, _AMOUNT_MAX, "minor units")
    terminal_count_max: Whole = _number("Most stored sales of one terminal.", 50, 0, 10**9, "transactions")
    terminal_total_minor_max: Whole = _number(
        "Largest sum of one terminal's stored sales.", 100_000, 0, _AMOUNT_MAX, "minor units"
    )
    terminal_age_s_max: Whole = _number(
        "How long a terminal may have had something stored and still stand in.", 86_400, 0, 31_536_000, "s"
    )
    card_count_max: Whole = _number("Most stored sales of one card.", 3, 0, 10**9, "transactions")
    card_total_minor_max: Whole = _number(
        "Largest sum of one card's stored sales.", 10_000, 0, _AMOUNT_MAX, "minor units"
    )
    card_age_s_max: Whole = _number(
        "How long a card may have had something stored and still be taken.", 86_400, 0, 31_536_000, "s"
    )
    overall_count_max: Whole = _number("Most stored sales altogether.", 100_000, 0, 10**9, "transactions")
    overall_total_minor_max: Whole = _number(
        "Largest sum of all stored sales.", 100_000_000, 0, _AMOUNT_MAX, "minor units"
    )
    overall_age_s_max: Whole = _number(
        "How long anything may have been stored and sales still stand in.", 86_400, 0, 31_536_000, "s"
    )
    processing_codes: tuple[TwoDigits, ...] = _key(
        "First two digits of DE 3 that may stand in: 00 sale; 01 cash and 20 refund are off by default.",
        ("00",),
        right="a list of texts of two digits",
    )
    currencies: tuple[ThreeDigits, ...] = _key(
        "ISO 4217 numeric codes that may stand in.", ("156",), right="a list of texts of three digits"
    )
    entry_modes: tuple[TwoDigits, ...] = _key(
        "First two digits of DE 22 that may stand in: 02 and 90 stripe, 05 chip, 07 contactless, 01 keyed; [] for any.",
        ("02", "05", "07", "90"),
        right="a list of texts of two digits",
    )
    bin_ranges: tuple[Prefixes, ...] = _key(
        "Card number prefixes that may stand in; an empty list takes every card.",
        (),
        right='a list of "622200-622299" or "6222", 4 to 12 digits',
    )
    hot_cards_file: OptionalFilePath = _key(
        "File of cards that never stand in: one keyed hash a line (`holdfast hot-card`); empty for none.",
        "",
        right="the path of a file with one hash of 32 hexadecimal digits a line, or empty",
    )
    allow_chip_without_issuer: bool = _key(
        "Whether a chip card may be approved without the issuer's authentication (DE 55 tag 91).",
        False,
        right="true or false",
    )
    allow_pin_dropped: bool = _key(
        "Whether a sale with an online PIN may be stored, although its PIN cannot be forwarded (D10).",
        False,
        right="true or false",
    )
    allow_track_dropped: bool = _key(
        "Whether a sale with track data that may not be stored may go on, forwarded by its card number alone.",
        False,
        right="true or false",
    )


class ReplaySection(Section):
    """Sending what is stored, when service returns (D9, D18-D20)."""

    lane_wait_ms: Whole = _number(
        "How long a new request waits for its lane to drain before it stands in behind it (D20).",
        5000,
        0,
        _HOUR_MS,
        "ms",
    )
    lane_waiting_max: Whole = _number(
        "Most requests that wait in one lane; beyond it they are decided at once.", 4, 0, 10_000, "requests"
    )
    window_max: Whole = _number(
        "Most lanes replayed beside each other; the window opens step by step (D19). At most half of in_flight_max is "
        "used, so that sales find room.",
        128,
        1,
        10_000,
        "lanes",
    )
    rate_per_s: Whole = _number("Most replayed messages a second; 0 for no limit.", 0, 0, 1_000_000, "messages/s")
    attempts_max: Whole = _number("Sends after which a message is parked for a person (D18).", 10, 1, 100_000, "sends")
    backoff_min_ms: Whole = _number(
        "First pause before a message is sent again; it doubles, with jitter (D9).", 1000, 1, _HOUR_MS, "ms"
    )
    backoff_max_ms: Whole = _number("Longest pause before a message is sent again.", 300_000, 1, 24 * _HOUR_MS, "ms")


class OperationsSection(Section):
    """The operators' own listener: health, metrics, status and steering."""

    listen: Listen = _key(
        "Where operators and probes connect; apart from the terminals.",
        "127.0.0.1:9480",
        right='"host:port", port 0 to 65535',
    )
    token_file: FilePath = _key(
        "File of the token that steering asks for (`holdfast init` makes it, mode 0600).",
        "operations.token",
        right="the path of a file made by `holdfast init`",
    )
    allow_remote: bool = _key(
        "Whether `listen` may be other than loopback. Status then crosses the network unencrypted.",
        False,
        right="true or false",
    )
    approvers: tuple[_approvers.ApproverText, ...] = _key(
        "The people who may ask for, and approve, what cannot be undone (two for each act); none: nobody may.",
        (),
        right=_approvers.RIGHT,
    )


class LogSection(Section):
    """What is logged, on standard error."""

    level: LogLevel = _key(
        "Least severe line that is written.", LogLevel.INFO, right='"debug", "info", "warning" or "error"'
    )
    format: LogFormat = _key(
        "One JSON object a line, or lines for people.", LogFormat.JSON, right='"json" or "console"'
    )


class Config(Section):
    """Everything that the gateway is told, validated; paths are absolute when read from a file."""

    gateway: GatewaySection = Field(default_factory=GatewaySection)
    journal: JournalSection = Field(default_factory=JournalSection)
    terminals: tuple[TerminalsSection, ...] = Field(min_length=1, max_length=64)
    acquirer: AcquirerSection
    standin: StandInSection = Field(default_factory=StandInSection)
    replay: ReplaySection = Field(default_factory=ReplaySection)
    operations: OperationsSection = Field(default_factory=OperationsSection)
    audit: AuditSection = Field(default_factory=AuditSection)
    log: LogSection = Field(default_factory=LogSection)
