"""`holdfast audit`: verify, log, show, trace and balance. Offline, read-only, and without keys but where said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.audit_group import audit
from gateway.commands.speaking import (
    DEFAULT_CONFIG,
    FAILED,
    WRONG_USAGE,
    AsJson,
    ConfigFile,
    JournalFile,
    fail,
    journal_path,
    load,
    print_json,
)

if TYPE_CHECKING:
    from gateway.audit.browsing import Filter
    from gateway.journal.keyring import Keyring
    from gateway.journal.log_reader import LogReader
    from protocol.transparency.notes import VerifierKey

Number = Annotated[int, typer.Argument(min=1, help="The entry's sequence.", metavar="ENTRY")]
JournalOption = Annotated[
    Path | None, typer.Option("--journal", help="The journal's file; or name a configuration with -c.", metavar="FILE")
]


@audit.command("verify")
def verify_command(
    journal: JournalFile = None,
    config: ConfigFile = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that you hold: the journal must continue it.", metavar="FILE")
    ] = None,
    verifier_key: Annotated[
        list[str] | None,
        typer.Option(help="The log's verifier key, or a file that holds it: checks signatures; may be repeated."),
    ] = None,
    start: Annotated[int, typer.Option("--from", min=0, help="Only entries behind this size.", metavar="SIZE")] = 0,
    published: Annotated[
        Path | None,
        typer.Option(help="Published or exported tiles: they name the entry where a range is known.", metavar="DIR"),
    ] = None,
    open_parts: Annotated[bool, typer.Option("--open", help="With -c: open every part with the keys.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Findings of each kind that are shown.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Verify a journal: every entry, the tree, the heads, and the rows. Exit code 1 says that it is not whole."""
    from gateway.audit.verifying import Wanted, verify  # noqa: PLC0415
    from gateway.commands.audit_shown import show_verdict, verdict_json  # noqa: PLC0415

    if open_parts and config is None:
        fail("--open needs the keys: name the configuration with -c", WRONG_USAGE)
    path = journal_path(journal, config)
    with _failing():
        keyring = _keyring(config) if open_parts and config is not None else None
        keys = _named_keys(verifier_key) if verifier_key else _configured_keys(journal, config, keyring)
        wanted = Wanted(
            journal=path,
            checkpoint=checkpoint,
            keys=keys,
            start=start,
            published=published,
            keyring=keyring,
            limit=limit,
        )
        with _progress() as tell:
            verdict = verify(wanted, tell)
    print_json(verdict_json(verdict)) if as_json else show_verdict(verdict)
    if not verdict.whole:
        raise typer.Exit(FAILED)


@audit.command("log")
def log_command(
    journal: JournalFile = None,
    config: ConfigFile = None,
    since: Annotated[str, typer.Option(help="UTC, as 2026-01-31 or 2026-01-31T23:59:59.", metavar="TIME")] = "",
    until: Annotated[str, typer.Option(help="UTC, the same; a day alone includes all of it.", metavar="TIME")] = "",
    terminal: Annotated[str, typer.Option(help="Only this terminal.")] = "",
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind of entry; may be repeated.")] = None,
    amount: Annotated[
        str, typer.Option(help="Minor units: 500, or a range: 500-1000, 500-, -1000.", metavar="RANGE")
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 100,
    oldest: Annotated[bool, typer.Option("--oldest/--newest", help="Oldest first, or newest first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one entry a line.")] = False,
) -> None:
    """List entries, the card masked; newest first."""
    from gateway.audit.browsing import log  # noqa: PLC0415
    from gateway.commands.audit_shown import show_entries  # noqa: PLC0415

    wanted = _filter(since, until, terminal, state or [], kind or [], amount)
    with _reading(journal_path(journal, config)) as reader, _progress() as tell:
        show_entries(log(reader, wanted, oldest=oldest, limit=limit, tell=tell), as_json=as_json)


@audit.command("show")
def show_command(
    entry: Number, journal: JournalOption = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Show one entry with what it commits to; with -c and the keys, its message, the card masked."""
    from gateway.audit.entry_reports import entry_report  # noqa: PLC0415
    from gateway.audit.opening import opened_message  # noqa: PLC0415
    from gateway.commands.audit_shown import entry_json, show_entry  # noqa: PLC0415

    with _reading(journal_path(journal, config)) as reader:
        if entry > reader.size:
            fail(f"there is no entry {entry}: the journal has {reader.size}")
        stored = reader.entry(entry - 1)
        report = entry_report(reader, stored, whole=True)
        messages = opened_message(_keyring(config), stored) if config is not None else {}
    print_json(entry_json(report, messages)) if as_json else show_entry(report, messages)


@audit.command("trace")
def trace_command(
    transaction: Annotated[str, typer.Argument(help="The transaction's id, or its key.", metavar="TXN")],
    journal: JournalOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell one transaction's life: every entry, the rule that decided, what the terminal was told, and by whom."""
    import dataclasses  # noqa: PLC0415

    from gateway.audit.tracing import NotFound, find, trace  # noqa: PLC0415
    from gateway.commands.audit_shown import show_trace  # noqa: PLC0415

    with _reading(journal_path(journal, config)) as reader:
        try:
            with _progress() as tell:
                traced = trace(reader, find(reader, transaction, tell), tell)
        except NotFound as missing:
            fail(str(missing))
    print_json(dataclasses.asdict(traced)) if as_json else show_trace(traced)


@audit.command("balance")
def balance_command(
    journal: JournalFile = None,
    config: ConfigFile = None,
    by: Annotated[str, typer.Option(help="day, terminal, or day,terminal.")] = "day",
    limit: Annotated[int, typer.Option(min=0, help="Differences that are shown.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Add up what terminals were told against what is booked, owed and parked. Exit code 1 where it does not add up."""
    import dataclasses  # noqa: PLC0415

    from gateway.audit.balancing import Balancing  # noqa: PLC0415
    from gateway.commands.audit_shown import show_balance  # noqa: PLC0415

    groups = [each.strip() for each in by.split(",")]
    if not set(groups) <= {"day", "terminal"}:
        fail("--by is day, terminal, or day,terminal", WRONG_USAGE)
    with _reading(journal_path(journal, config)) as reader, _progress() as tell:
        balance = Balancing(reader, tell).run(groups, limit)
    print_json(dataclasses.asdict(balance)) if as_json else show_balance(balance)
    if not balance.adds_up:
        raise typer.Exit(FAILED)


@contextmanager
def _failing() -> Iterator[None]:
    """What goes wrong is said in words."""
    from gateway.journal.port import JournalError  # noqa: PLC0415

    try:
        yield
    except JournalError as error:
        fail(str(error))
    except BrokenPipeError:
        raise  # who reads has read enough
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror}")


@contextmanager
def _reading(path: Path) -> Iterator[LogReader]:
    from gateway.journal.log_reader import LogReader  # noqa: PLC0415

    with _failing(), LogReader(path) as reader:
        yield reader
        reader.check_unchanged()


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    from gateway.operations.progress import Progress  # noqa: PLC0415

    with Progress(sys.stderr) as progress:
        yield progress.tell


def _named_keys(named: list[str]) -> tuple[VerifierKey, ...]:
    """The verifier keys of one log that options name, each a key or a file of them, one a line."""
    from gateway.audit.heads import read_keys  # noqa: PLC0415
    from gateway.audit.kit_head import HeadError, verifier_keys_of  # noqa: PLC0415

    texts: list[str] = []
    for each in named:
        try:
            texts += [key.text for key in verifier_keys_of(each)] if Path(each).is_file() else [each]
        except HeadError as error:
            fail(str(error))
    return read_keys(texts)


def _configured_keys(journal: Path | None, config: Path | None, keyring: Keyring | None) -> tuple[VerifierKey, ...]:
    """The verifier keys of the configuration that names the journal; none where its keys are not at hand."""
    from gateway.commands.audit_proofs import log_keys  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415

    if journal is not None:
        return ()
    named = config or DEFAULT_CONFIG
    try:
        return log_keys(load(named), keyring or _keyring(named))[0]
    except (JournalError, OSError):
        return ()  # who verifies may hold a copy without keys: signatures are told as not checked


def _keyring(config: Path) -> Keyring:
    from gateway.config.key_source import load_keys  # noqa: PLC0415

    return load_keys(load(config).journal)


def _filter(since: str, until: str, terminal: str, states: list[str], kinds: list[str], amount: str) -> Filter:
    from gateway.audit.browsing import Filter  # noqa: PLC0415
    from gateway.core.lifecycle import EntryKind, State  # noqa: PLC0415

    state_names = {one.name.lower().replace("_", "-"): one for one in State}
    kind_names = {one.name.lower().replace("_", "-"): one for one in EntryKind}
    for given, known, option in ((states, state_names, "--state"), (kinds, kind_names, "--kind")):
        if unknown := [each for each in given if each not in known]:
            fail(f"{option} {unknown[0]}: it is one of {', '.join(known)}", WRONG_USAGE)
    low, high = _range(amount)
    return Filter(
        since_ms=_utc_ms(since, "--since", end=False),
        until_ms=_utc_ms(until, "--until", end=True),
        terminal=terminal,
        states=frozenset(state_names[each] for each in states),
        kinds=frozenset(kind_names[each] for each in kinds),
        amount_min=low,
        amount_max=high,
    )


def _range(amount: str) -> tuple[int | None, int | None]:
    low, dash, high = amount.partition("-")
    if not all(each == "" or (each.isascii() and each.isdigit()) for each in (low, high)) or amount == "-":
        fail("--amount is a number of minor units, or a range such as 500-1000", WRONG_USAGE)
    if not dash:
        high = low
    return (int(low) if low else None), (int(high) if high else None)


def _utc_ms(text: str, option: str, *, end: bool) -> int | None:
    from datetime import UTC, date, datetime, timedelta  # noqa: PLC0415

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        fail(f"{option} {text}: a time is written as 2026-01-31 or 2026-01-31T23:59:59", WRONG_USAGE)
    begins_ms = int(moment.timestamp() * 1000)
    if not end:
        return begins_ms
    try:
        date.fromisoformat(text)
    except ValueError:
        return begins_ms
    return begins_ms + timedelta(days=1) // timedelta(milliseconds=1) - 1  # a day alone: all of it


from gateway.commands import audit_checkpoint, audit_proofs, audit_sensitive  # noqa: E402, F401 - they register commands

__all__ = ["audit"]
