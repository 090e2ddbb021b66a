"""The configuration's sections and keys: meaning, unit, bounds and default of each, said once.

The file that `holdfast init` writes, the messages about mistakes and the table of docs/configuration.md are all made
from here. The long sections are in modules of their own: terminals.py, acquirer.py, lines.py (TLS) and audit.py.
"""

from __future__ import annotations

from pydantic import Field

from gateway.config import approvers as _approvers
from gateway.config import key_source as _key_source
from gateway.config.acquirer import AcquirerSection
from gateway.config.audit import AuditSection
from gateway.config.keys import HOUR_MS, Section
from gateway.config.keys import key as _key
from gateway.config.keys import number as _number
from gateway.config.terminals import TerminalsSection
from gateway.config.values import (
    FilePath,
    Listen,
    LogFormat,
    LogLevel,
    OptionalFilePath,
    Prefixes,
    RealFilePath,
    ThreeDigits,
    TwoDigits,
    Whole,
)
from gateway.core.standin import StandInMode

_AMOUNT_MAX = 10**15


class GatewaySection(Section):
    """The gateway itself."""

    name: str = _key("Name of this gateway in logs, metrics and status.", "holdfast", right="any text")
    shutdown_drain_s: Whole = _number(
        "How long a stop waits for messages in flight before it closes all the same.", 20, 0, 3600, "s"
    )


class JournalSection(Section):
    """The durable memory: one encrypted SQLite file and the keys that open it."""

    path: RealFilePath = _key(
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
        "Free space on the file system, beside 512 bytes for each transaction that is owed, below which new ones are "
        "refused with 96, reversals somewhat later; 0 keeps nothing back.",
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
    allow_expired: bool = _key(
        "Whether a card may stand in whose last month is over (DE 14, track 2 or chip).",
        False,
        right="true or false",
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
        HOUR_MS,
        "ms",
    )
    lane_waiting_max: Whole = _number(
        "Most requests that wait in one lane; beyond it they are decided at once: behind what the lane owes they stand "
        "in, behind requests of their own terminal alone they are declined (91).",
        4,
        0,
        10_000,
        "requests",
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
    attempts_max: Whole = _number(
        "Sends after which a message is parked for a person (D18); none counts while all is put off (91, 96).",
        10, 1, 100_000, "sends",
    )  # fmt: skip
    backoff_min_ms: Whole = _number(
        "First pause before a message is sent again; it doubles, with jitter (D9).", 1000, 1, HOUR_MS, "ms"
    )
    backoff_max_ms: Whole = _number("Longest pause before a message is sent again.", 300_000, 1, 24 * HOUR_MS, "ms")


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
