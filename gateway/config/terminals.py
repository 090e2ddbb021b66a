"""The section of the terminals' listeners, one table for each: meaning, unit, bounds and default of every key."""

from __future__ import annotations

from gateway.config.keys import HOUR_MS, Section
from gateway.config.keys import key as _key
from gateway.config.keys import number as _number
from gateway.config.lines import TerminalsTlsSection
from gateway.config.values import DialectName, Listen, OptionalFilePath, Speaks, Whole


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
        HOUR_MS,
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
        "How long a connection may be silent before it is closed.", 300_000, 10, 24 * HOUR_MS, "ms"
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
