"""Checks that look at more than one key, or at the world outside: nested time limits, dialects, files, addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import approvers, key_source
from gateway.config.acquirer import AcquirerSection, AcquirerSessionSection
from gateway.config.audit import audit_mistakes, witness_ca_mistakes
from gateway.config.host_key import HostKeyWrong, read_host_key
from gateway.config.lines import tls_client_settings, tls_server_settings
from gateway.config.master_keys import MasterKeysWrong, read_master_keys
from gateway.config.models import Config
from gateway.config.secrets import SigningSecretsWrong, read_signing_secrets
from gateway.config.terminals import TerminalsSection
from gateway.config.values import Address, HttpCredential, Speaks

if TYPE_CHECKING:
    from gateway.tls import TlsClientSettings, TlsServerSettings
    from protocol.iso8583.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: the key that it is told of, what is wrong and what would be right.

    Attributes:
        also: other keys that the check looked at.
        source: where the key stands, if neither in the file nor in a table overridden by the environment.
    """

    key: str
    text: str
    also: tuple[str, ...] = ()
    source: str = ""


def check(config: Config, *, starting: bool = True) -> Iterator[Mistake]:
    """Every mistake that no single key shows; certificates and keys of lines only where they are about to be used."""
    yield from _time_limits(config)
    yield from _pairs(config)
    yield from _addresses(config)
    yield from _dialects(config)
    yield from _files(config)
    yield from _approvers(config)
    if starting:
        yield from _keys(config)
        yield from _lines(config)
        yield from (Mistake(key, text) for key, text in witness_ca_mistakes(config.audit))


def _time_limits(config: Config) -> Iterator[Mistake]:
    """Time limits nest: host < gateway < terminal (D17)."""
    acquirer = config.acquirer
    if acquirer.host_timeout_ms >= acquirer.reply_timeout_ms:
        yield Mistake(
            "acquirer.reply_timeout_ms",
            f"is not longer than acquirer.host_timeout_ms; time limits nest, host < gateway < terminal (D17): "
            f"more than {acquirer.host_timeout_ms} ms",
            ("acquirer.host_timeout_ms",),
        )
    if acquirer.longest_flight_ms < acquirer.reply_timeout_ms:
        yield Mistake(
            "acquirer.longest_flight_ms",
            f"is shorter than acquirer.reply_timeout_ms; a reversal waits until its original cannot be under way "
            f"any more (D13): {acquirer.reply_timeout_ms} ms or more",
            ("acquirer.reply_timeout_ms",),
        )
    asked_ms, twice = acquirer.reply_timeout_ms, ""
    if _repeats_requests(acquirer):
        asked_ms, twice = 2 * asked_ms, "twice (repeat_request: the host is asked once more, D7) "
    for place, terminals in _listeners(config):
        if terminals.terminal_timeout_ms <= asked_ms:
            yield Mistake(
                f"{place}.terminal_timeout_ms",
                f"is not longer than {twice}acquirer.reply_timeout_ms; time limits nest, host < gateway < terminal "
                f"(D17): more than {asked_ms} ms",
                ("acquirer.reply_timeout_ms",),
            )
        elif terminals.terminal_timeout_ms <= asked_ms + config.replay.lane_wait_ms:
            yield Mistake(
                "replay.lane_wait_ms",
                f"and {twice}acquirer.reply_timeout_ms together are not shorter than {place}.terminal_timeout_ms; a "
                f"request may wait for its lane and then for the host (D17, D20): less than "
                f"{terminals.terminal_timeout_ms - asked_ms} ms",
                ("acquirer.reply_timeout_ms", f"{place}.terminal_timeout_ms"),
            )


def _repeats_requests(acquirer: AcquirerSection) -> bool:
    """Whether a request whose answer stays away is sent once more; False where that cannot be read, told elsewhere."""
    if acquirer.speaks is Speaks.HTTP:
        from gateway.acquirers.mapping_file import MappingError, load_mapping  # noqa: PLC0415 - only HTTP needs them

        try:
            return load_mapping(acquirer.mapping).host.repeat_request
        except MappingError:
            return False
    dialect = _dialect(acquirer.dialect)
    return dialect is not None and dialect.host.repeat_request


def _pairs(config: Config) -> Iterator[Mistake]:
    """A first pause is not above the longest, a part is not above the whole."""
    pairs = [
        ("acquirer", config.acquirer.reconnect_min_ms, config.acquirer.reconnect_max_ms, "reconnect_{}_ms"),
        ("replay", config.replay.backoff_min_ms, config.replay.backoff_max_ms, "backoff_{}_ms"),
    ]
    journal = config.journal
    if journal.sensitive_epoch_alarm_h <= journal.sensitive_epoch_h:
        right = f"is not above journal.sensitive_epoch_h; {journal.sensitive_epoch_h + 1} h or more"
        yield Mistake("journal.sensitive_epoch_alarm_h", right, ("journal.sensitive_epoch_h",))
    for table, least, most, key in pairs:
        if least > most:
            low, high = f"{table}.{key.format('min')}", f"{table}.{key.format('max')}"
            yield Mistake(high, f"is below {low}; {least} ms or more", (low,))
    for place, terminals in _listeners(config):
        parts = [
            ("connections_per_address_max", "connections_max"),
            ("in_flight_per_connection_max", "in_flight_max"),
        ]
        for part, whole in parts:
            most = getattr(terminals, whole)
            if getattr(terminals, part) > most:
                yield Mistake(f"{place}.{part}", f"is above {place}.{whole}; {most} or less", (f"{place}.{whole}",))


def _addresses(config: Config) -> Iterator[Mistake]:
    """No address twice, operators on loopback, and no acquirer that is the gateway itself."""
    seen: dict[Address, str] = {}
    listeners = [(f"{place}.listen", terminals.listen) for place, terminals in _listeners(config)]
    for key, address in [*listeners, ("operations.listen", config.operations.listen)]:
        if address.port and address in seen:
            yield Mistake(key, f"is the same address as {seen[address]}; each needs its own port", (seen[address],))
        seen.setdefault(address, key)
    for number, endpoint in enumerate(config.acquirer.endpoints):
        own = next((key for address, key in seen.items() if endpoint.reaches(address)), None)
        if own is not None:
            yield Mistake(
                f"acquirer.endpoints[{number}]",
                f"is this gateway's own {own}; the address of the acquirer's host",
                (own,),
            )
    if not config.operations.listen.loopback and not config.operations.allow_remote:
        yield Mistake(
            "operations.listen",
            "can be reached from other machines; a loopback address such as 127.0.0.1, or allow_remote = true "
            "(default 127.0.0.1:9480)",
            ("operations.allow_remote",),
        )


def _dialects(config: Config) -> Iterator[Mistake]:
    """Every dialect can be loaded, and the header fits the acquirer's. What is wrong with a dialect is told once."""
    from protocol.iso8583.dialect import DialectError, load_dialect  # noqa: PLC0415 - only a check needs it

    users: dict[str, list[str]] = {}
    for place, terminals in _listeners(config):
        users.setdefault(terminals.dialect, []).append(f"{place}.dialect")
    if config.acquirer.speaks is not Speaks.HTTP:
        users.setdefault(config.acquirer.dialect, []).append("acquirer.dialect")
    for name, (key, *others) in users.items():
        try:
            dialect = load_dialect(name)
        except DialectError as error:
            for mistake in error.mistakes:
                yield Mistake(key, f"{mistake} (also of {', '.join(others)})" if others else mistake)
            continue
        header = config.acquirer.header
        speaks_it = config.acquirer.speaks is not Speaks.HTTP and name == config.acquirer.dialect
        if speaks_it and dialect.header_bytes not in (0, len(header)):
            yield Mistake(
                "acquirer.header",
                f"has {len(header)} bytes; the acquirer's dialect has headers of {dialect.header_bytes}: "
                f"{2 * dialect.header_bytes} hexadecimal digits",
                ("acquirer.dialect",),
            )


def _files(config: Config) -> Iterator[Mistake]:
    """What must exist does."""
    if not config.journal.path.parent.is_dir():
        yield Mistake("journal.path", "lies in a folder that does not exist; a file in an existing folder")
    elif config.journal.path.is_dir():
        yield Mistake("journal.path", "is a folder; the path of a file")
    elif Path(os.path.realpath(config.journal.path)).is_relative_to(os.path.realpath(config.journal.keys)):
        yield Mistake(
            "journal.path",
            "lies in the folder of the keys; a file elsewhere, for whoever copies the journal must not get its keys "
            "with it",
            ("journal.keys",),
        )
    if not config.journal.keys.is_dir():
        yield Mistake("journal.keys", "is not a folder that exists; `holdfast init` makes one with keys")
    if config.standin.hot_cards_file is not None:
        yield from _hot_cards(config.standin.hot_cards_file)
    for place, terminals in _listeners(config):
        yield from _http(place, terminals)
        yield from _master_keys(place, terminals)
        yield from _receipts(config, place, terminals)
    if config.acquirer.speaks is Speaks.HTTP:
        yield from _mapping(config.acquirer)
        yield from _keys_upstream(config)
    if config.acquirer.session is not None:
        yield from _session(config.acquirer, config.acquirer.session)
    for key, text, other in audit_mistakes(config.audit, config.journal.path, config.journal.keys):
        yield Mistake(key, text, (other,))


def _approvers(config: Config) -> Iterator[Mistake]:
    """Two people are two people."""
    if twice := approvers.repeated(config.operations.approvers):
        yield Mistake("operations.approvers", twice)


def _keys(config: Config) -> Iterator[Mistake]:
    """The key-encryption key can be had, and is the one that the keyring was made with."""
    if wrong := key_source.key_source_mistake(config.journal):
        yield Mistake("journal.key_encryption_key", f"cannot be used: {wrong}")


def _master_keys(place: str, terminals: TerminalsSection) -> Iterator[Mistake]:
    """The terminals' keys can be used with their dialect, if they are needed at all."""
    path, key = terminals.master_keys_file, f"{place}.master_keys_file"
    if path is None:
        return
    if terminals.speaks is Speaks.HTTP:
        right = "is for ISO 8583; empty: HTTP requests are signed by signing_secrets_file"
        yield Mistake(key, right, (f"{place}.speaks",))
        return
    dialect = _dialect(terminals.dialect)
    if dialect is None:
        return  # told already
    from gateway.terminals.session_keys import session_mistakes  # noqa: PLC0415 - cryptography is slow to import

    if impossible := session_mistakes(dialect):
        for mistake in impossible:
            yield Mistake(key, f"cannot be used with this dialect: {mistake}", (f"{place}.dialect",))
        return
    try:
        read_master_keys(path, dialect.terminal)
    except MasterKeysWrong as wrong:
        for mistake in wrong.mistakes:
            yield Mistake(key, mistake)


def _receipts(config: Config, place: str, terminals: TerminalsSection) -> Iterator[Mistake]:
    """A receipt is of a kind that the listener's peers understand, and can be made."""
    over_http = terminals.speaks is Speaks.HTTP
    if terminals.receipts and not over_http:
        yield Mistake(f"{place}.receipts", "is for HTTP; receipt_field is for ISO 8583", (f"{place}.speaks",))
    if terminals.receipts and over_http and not config.audit.checkpoint_every_ms:
        right = "needs signed heads; false, or audit.checkpoint_every_ms above 0"
        yield Mistake(f"{place}.receipts", right, ("audit.checkpoint_every_ms",))
    if not terminals.receipt_field:
        return
    key = f"{place}.receipt_field"
    if over_http:
        yield Mistake(key, "is for ISO 8583; 0, and receipts = true", (f"{place}.speaks",))
    elif (dialect := _dialect(terminals.dialect)) is not None:
        from gateway.terminals.receipts import receipt_field_mistake  # noqa: PLC0415 - only a check needs it

        if wrong := receipt_field_mistake(dialect, terminals.receipt_field):
            yield Mistake(key, f"{wrong}; 0 for none", (f"{place}.dialect",))


def _session(acquirer: AcquirerSection, session: AcquirerSessionSection) -> Iterator[Mistake]:
    """The gateway's own session fits the host's dialect, and its key can be read."""
    place = "acquirer.session"
    if acquirer.speaks is Speaks.HTTP:
        yield Mistake(f"{place}.terminal", "is for ISO 8583; without a table [acquirer.session]", ("acquirer.speaks",))
        return
    named = True
    for key, longest in (("terminal", 8), ("merchant", 15)):
        text = getattr(session, key)
        if not 1 <= len(text) <= longest or not (text.isascii() and text.isprintable()):
            yield Mistake(f"{place}.{key}", f"is not 1 to {longest} printable characters of ASCII")
            named = False
    try:
        master_key = read_host_key(session.master_key_file)
    except HostKeyWrong as wrong:
        yield Mistake(f"{place}.master_key_file", str(wrong))
        return
    if not named or (dialect := _dialect(acquirer.dialect)) is None:
        return  # told already
    from gateway.acquirers.session import HostSession, session_mistakes  # noqa: PLC0415 - slow to import

    try:
        settings = HostSession(
            terminal=session.terminal,
            merchant=session.merchant,
            master_key=master_key if session.sign_on else b"",
            fixed_key=b"" if session.sign_on else master_key,
        )
    except ValueError as error:
        yield Mistake(f"{place}.master_key_file", str(error))
        return
    for mistake in session_mistakes(settings, dialect):
        yield Mistake(f"{place}.master_key_file", mistake, ("acquirer.dialect",))


def _mapping(acquirer: AcquirerSection) -> Iterator[Mistake]:
    """The mapping can be loaded, and what proves who the gateway is can be read and is not sent in clear."""
    from gateway.acquirers.http_credential import CredentialKind, CredentialWrong, read_credential  # noqa: PLC0415
    from gateway.acquirers.mapping_file import MappingError, load_mapping  # noqa: PLC0415 - only HTTP needs them

    try:
        load_mapping(acquirer.mapping)
    except MappingError as error:
        for mistake in error.mistakes:
            yield Mistake("acquirer.mapping", mistake)
    kind, path = acquirer.credential, acquirer.credential_file
    if kind is HttpCredential.NONE:
        if path is not None:
            right = 'has no use while acquirer.credential is "none"; empty, or "bearer" or "hmac" there'
            yield Mistake("acquirer.credential_file", right, ("acquirer.credential",))
        return
    if kind is HttpCredential.BEARER and acquirer.tls is None:
        yield Mistake("acquirer.credential", "is a token in clear; a table [acquirer.tls], or hmac", ("acquirer.tls",))
    if path is None:
        yield Mistake("acquirer.credential_file", "is empty; the path of a file that its owner alone can read")
        return
    try:
        read_credential(CredentialKind(kind), path, acquirer.credential_key_id)
    except CredentialWrong as wrong:
        yield Mistake("acquirer.credential_file", str(wrong))


_DAY_HOURS = 24


def _keys_upstream(config: Config) -> Iterator[Mistake]:
    """An Idempotency-Key upstream tells two uses of a STAN apart at least as well as the gateway does (D1)."""
    from gateway.acquirers.mapping_file import MappingError, load_mapping  # noqa: PLC0415 - only HTTP needs them
    from protocol.iso8583.rules import Period  # noqa: PLC0415 - only a check needs it

    try:
        host = load_mapping(config.acquirer.mapping).host
    except MappingError:  # told by `_mapping`
        return
    for place, terminals in _listeners(config):
        dialect = _dialect(terminals.dialect)
        if dialect is None:
            continue
        rules = dialect.terminal
        if rules.period is Period.BATCH and (
            (rules.batch_field, rules.batch_start, rules.batch_length)
            != (host.batch_field, host.batch_start, host.batch_length)
        ):
            yield Mistake(
                "acquirer.mapping",
                f"looks for the batch elsewhere than the dialect of {place}, so that a STAN of the next batch would "
                f"pass for a retry; batch_field = {rules.batch_field}, batch_start = {rules.batch_start}, batch_length "
                f"= {rules.batch_length} in its table [host]",
                (f"{place}.dialect",),
            )
        if rules.period is Period.HORIZON and rules.horizon_hours < _DAY_HOURS:
            yield Mistake(
                f"{place}.dialect",
                f"has horizon_hours = {rules.horizon_hours}; a host that speaks HTTP tells two uses of a STAN apart by "
                f"their date: {_DAY_HOURS} or more",
                ("acquirer.mapping",),
            )


def _dialect(name: str) -> Dialect | None:
    """A dialect by name; None where it cannot be loaded, which `_dialects` tells."""
    from protocol.iso8583.dialect import DialectError, load_dialect  # noqa: PLC0415 - only a check needs it

    try:
        return load_dialect(name)
    except DialectError:
        return None


def _http(place: str, terminals: TerminalsSection) -> Iterator[Mistake]:
    """A till that speaks HTTP proves who it is: by its certificate, or by signing (deny by default)."""
    if terminals.speaks is not Speaks.HTTP:
        return
    path = terminals.signing_secrets_file
    if terminals.allow_unauthenticated and not terminals.listen.loopback:
        yield Mistake(
            f"{place}.allow_unauthenticated",
            "is for a loopback address only; false, with signing_secrets_file or client certificates",
            (f"{place}.listen",),
        )
    certificates = terminals.tls is not None and terminals.tls.client_ca_file is not None
    if path is None and not certificates and not terminals.allow_unauthenticated:
        yield Mistake(
            f"{place}.signing_secrets_file",
            "is empty, and no client certificates are asked for: no till could prove who it is; a file of secrets, or "
            "client_ca_file in [terminals.tls], or allow_unauthenticated = true on loopback",
        )
    if path is not None:
        try:
            read_signing_secrets(path)
        except SigningSecretsWrong as wrong:
            yield Mistake(f"{place}.signing_secrets_file", str(wrong))


def _lines(config: Config) -> Iterator[Mistake]:
    """Certificates, chains and keys of every TLS table can be used today."""
    tables: list[tuple[str, TlsServerSettings | TlsClientSettings]] = [
        (f"{place}.tls", tls_server_settings(terminals.tls))
        for place, terminals in _listeners(config)
        if terminals.tls is not None
    ]
    if config.acquirer.tls is not None:
        tables.append(("acquirer.tls", tls_client_settings(config.acquirer.tls)))
    if not tables:
        return
    from gateway.tls import mistakes_of  # noqa: PLC0415 - slow to import, and most need no TLS

    for table, settings in tables:
        for mistake in mistakes_of(settings):
            yield Mistake(f"{table}.{mistake.key}", mistake.text)


def _hot_cards(path: Path) -> Iterator[Mistake]:
    """A hot-card file holds keyed hashes only: a card number in it would be one at rest (INV-8)."""
    key = "standin.hot_cards_file"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        yield Mistake(key, "cannot be read as plain text; one hash of 32 hexadecimal digits a line, or empty")
        return
    wrong = [
        number
        for number, line in enumerate(lines, 1)
        if line.strip() and not re.fullmatch(r"[0-9a-fA-F]{32}", line.strip())
    ]
    if wrong:
        yield Mistake(key, f"line {wrong[0]} is no hash; 32 hexadecimal digits, made by `holdfast hot-card`")


def _listeners(config: Config) -> Iterator[tuple[str, TerminalsSection]]:
    for number, terminals in enumerate(config.terminals):
        yield f"terminals[{number}]", terminals
