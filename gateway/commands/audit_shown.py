"""What `holdfast audit` prints: for a person on a terminal, plain lines elsewhere, and JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

import msgspec
import typer

from gateway.audit.balancing import Balance, Sums
from gateway.audit.entry_reports import EntryReport
from gateway.audit.tracing import Trace
from gateway.audit.verifying import Verdict
from gateway.one_line import one_line

_ENTRY_COLUMNS = (
    "entry", "time", "kind", "txn", "state", "terminal", "amount", "currency", "card", "told", "reason", "detail",
)  # fmt: skip


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON, with how far it is vouched for and its rate."""
    vouched = {"vouched": verdict.vouched, "vouched_size": verdict.vouched_size}
    summary = {"summary": verdict.summary} if verdict.whole else {}
    return asdict(verdict) | vouched | summary | {"entries_per_cpu_s": round(verdict.rate)}


def show_verdict(verdict: Verdict) -> None:
    """What was verified, and every finding that was kept."""
    what = f"entries {verdict.start + 1:,} to {verdict.size:,}" if verdict.size else "no entries: the journal is empty"
    _pairs(
        [
            ("journal", verdict.journal),
            (
                "checked",
                f"{what}; {verdict.transactions:,} transactions, {verdict.rows:,} rows, {verdict.parts:,} parts",
            ),
            ("parts", "opened with the keys" if verdict.opened else "held against their hashes; none was opened"),
            ("root", verdict.root or "not known: entries are missing"),
            *((head.name, _head_text(head.size, head.fits, head.signature_verified)) for head in verdict.heads),
            ("took", f"{verdict.seconds:.1f} s, {verdict.rate:,.0f} entries a second of processor time"),
        ]
    )
    for finding in verdict.findings:
        typer.echo(one_line(str(finding)))
    for each in verdict.settled:
        text = f"transaction {each.transaction}: by {each.who}, entry {each.entry}: {each.why}"
        typer.echo(f"{'settled':<20} {one_line(text)}")
    if verdict.whole:
        typer.echo(verdict.summary)
        return
    shown = len(verdict.findings)
    counts = ", ".join(f"{count} {kind}" for kind, count in verdict.found.items())
    typer.echo(f"NOT WHOLE: {counts}" + (f" ({shown} shown)" if shown < sum(verdict.found.values()) else ""))


def _head_text(size: int, fits: bool | None, verified: bool | None) -> str:
    words = {True: "fits", False: "DOES NOT FIT", None: "was not reached"}[fits]
    signature = {True: "signature verified", False: "signature not checked: no --verifier-key", None: ""}[verified]
    return f"{size:,} entries, {words}" + (f"; {signature}" if signature else "")


def show_entries(entries: Iterable[EntryReport], *, as_json: bool) -> None:
    """Entries as they come: JSON, one a line, or a line of columns each."""
    if as_json:
        encoder = msgspec.json.Encoder()
        for entry in entries:
            typer.echo(encoder.encode(_entry_fields(entry)).decode())
        return
    if not sys.stdout.isatty():
        typer.echo("\t".join(_ENTRY_COLUMNS))
        for entry in entries:
            typer.echo("\t".join(_cells(entry)))
        return
    widths = (9, 24, 11, 9, 16, 10, 9, 8, 19, 4, 24, 0)
    typer.echo("  ".join(name.ljust(width) for name, width in zip(_ENTRY_COLUMNS, widths, strict=True)).rstrip())
    for entry in entries:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(_cells(entry), widths, strict=True)).rstrip())


def _cells(entry: EntryReport) -> list[str]:
    cells = (
        str(entry.sequence), entry.time, entry.kind, str(entry.transaction or ""), entry.state, entry.terminal,
        str(entry.amount_minor) if entry.transaction else "", entry.currency, entry.card, entry.response, entry.reason,
        entry.detail + ("" if entry.fits_leaf else " (DAMAGED: it does not fit its leaf hash)"),
    )  # fmt: skip
    return [one_line(cell) for cell in cells]


def _entry_fields(entry: EntryReport) -> dict[str, Any]:
    shown = asdict(entry)
    del shown["parts"]
    return shown


def entry_json(entry: EntryReport, messages: dict[str, dict[str, str]]) -> dict[str, Any]:
    """One entry with its parts, and its messages where there were keys."""
    return asdict(entry) | ({"messages": messages} if messages else {})


def show_entry(entry: EntryReport, messages: dict[str, dict[str, str]]) -> None:
    """One entry with what it commits to."""
    listed = [
        ("entry", f"{entry.sequence} (index {entry.index} in the tree)"),
        ("time", entry.time),
        ("kind", entry.kind),
        ("transaction", f"{entry.transaction}: {entry.state}" if entry.transaction else "none"),
        ("terminal", f"{entry.terminal} of merchant {entry.merchant}" if entry.terminal else ""),
        ("key", entry.key),
        ("second key", entry.second_key),
        ("amount", f"{entry.amount_minor} minor units, currency {entry.currency}" if entry.currency else ""),
        ("card", entry.card),
        ("told", entry.response),
        ("reason", entry.reason),
        ("detail", entry.detail),
        ("attempts", str(entry.attempts) if entry.transaction else ""),
        ("leaf", entry.leaf + ("" if entry.fits_leaf else " (DAMAGED: the entry does not hash to it)")),
    ]
    for part in entry.parts:
        there = {True: "stored, as committed to", False: "stored, and ANOTHER", None: "not stored"}[part.fits]
        listed.append((f"{part.part} part", f"{there}; epoch key {part.key_id}"))
        listed.append(("", f"digest {part.digest}"))
        listed.append(("", f"commitment {part.commitment}"))
    for name, message in messages.items():
        listed += [(f"{name} {number}", value) for number, value in message.items()]
    _pairs([(name, value) for name, value in listed if value])


_STANDS: Final = {
    True: "in quarantine, nothing is sent for it; holdfast queue damaged",
    False: "settled by two people, nothing is sent for it",
}


def show_trace(trace: Trace) -> None:
    """A transaction's life, one step after the other."""
    _pairs(
        [
            ("transaction", f"{trace.transaction} {trace.what}".rstrip()),
            ("key", trace.key),
            *([("second key", trace.second_key)] if trace.second_key else []),
            ("terminal", f"{trace.terminal} of merchant {trace.merchant}"),
            ("amount", f"{trace.amount_minor} minor units, currency {trace.currency}"),
            ("card", trace.card),
            ("now", f"{trace.state}; owes {trace.owes}"),
            *([("damaged", f"{'; '.join(trace.damage)}: {_STANDS[trace.settled is None]}")] if trace.damage else []),
        ]
    )
    for step in trace.steps:
        typer.echo("")
        after = f"  (+{step.after_ms / 1000:,.3f} s)" if step.after_ms else ""
        damaged = "" if step.fits_leaf else "  DAMAGED: it does not fit its leaf hash"
        typer.echo(f"{step.time}{after}  entry {step.sequence}: {step.kind} -> {step.state}{damaged}")
        for name, value in (
            ("told", step.told),
            ("rule", f"{step.rule}: {step.why}" if step.rule else step.why),
            ("reason", step.reason),
            ("act", f"{step.act} by {step.who}: {step.because}" if step.act else ""),
            ("sends", str(step.attempts) if step.attempts else ""),
            ("owes", step.owes),
        ):
            if value:
                typer.echo(f"    {name.ljust(6)}  {one_line(value)}")
    if (by := trace.settled) is not None:
        typer.echo("")
        typer.echo(f"{by.time}  entry {by.entry}: settled by {one_line(by.who)}: {one_line(by.why)}")
    if trace.links:
        typer.echo("")
    for link in trace.links:
        typer.echo(f"linked: transaction {link.transaction} {one_line(link.key)}: {link.how}")


def show_balance(balance: Balance) -> None:
    """The sums, and what makes a difference."""
    typer.echo(f"{balance.journal}: {balance.size:,} entries; amounts in minor units")
    named = [each for each in ("day", "merchant", "terminal") if any(getattr(group, each) for group in balance.groups)]
    amounts = ("payments", "approved", "reversed", "ended", "told", "booked", "owed", "parked", "settled", "difference")
    _rows((*named, "currency", *amounts), [_sums(each, (*named, "currency", *amounts)) for each in balance.groups])
    if named:
        _rows(("all", *amounts), [_sums(each, ("currency", *amounts)) for each in balance.totals])
    for each in balance.differences:
        typer.echo(
            f"transaction {each.transaction} ({each.day}, terminal {one_line(each.terminal)}): "
            f"{each.difference_minor} {one_line(each.currency)}: {one_line(each.text)}"
        )
    if balance.differing > len(balance.differences):
        typer.echo(f"and {balance.differing - len(balance.differences)} more; --limit shows them")
    for sequence in balance.damaged_entries:
        typer.echo(f"entry {sequence} is DAMAGED: it does not fit its leaf hash, and is not counted")
    if balance.damaged > len(balance.damaged_entries):
        typer.echo(f"and {balance.damaged - len(balance.damaged_entries)} more damaged; --limit shows them")
    if balance.damaged:
        typer.echo(f"DOES NOT ADD UP: {balance.damaged} entries are damaged; holdfast audit verify says more")
    else:
        typer.echo("ADDS UP: told = booked + owed + parked + settled" if balance.adds_up else "DOES NOT ADD UP")


def _sums(sums: Sums, columns: Sequence[str]) -> list[object]:
    return [getattr(sums, each) for each in columns]


def _pairs(listed: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        typer.echo(f"{name.ljust(width)}  {one_line(value)}")


def _rows(columns: Sequence[str], cells: Sequence[Sequence[object]]) -> None:
    if not sys.stdout.isatty():
        for row in (columns, *cells):
            typer.echo("\t".join(one_line(str(cell)) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns)
    for row in cells:
        table.add_row(*(Text(one_line(str(cell))) for cell in row))
    Console().print(table)
