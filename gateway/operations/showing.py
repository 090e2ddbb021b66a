"""Shows reports to a person: tables on a terminal, plain lines and tab-separated rows elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gateway.one_line import one_line
from gateway.operations.report import (
    ExplanationReport,
    LogReport,
    MessageReport,
    StatusReport,
    StoredReport,
    TransactionReport,
)

if TYPE_CHECKING:
    from gateway.operations.settlements import DamagedRecord

_COLUMNS = (
    "id", "state", "kind", "terminal", "stan", "amount (minor)", "currency", "card", "attempts", "accepted", "reason",
)  # fmt: skip


def show_status(status: StatusReport) -> None:
    """The gateway at a glance."""
    queue, journal = status.queue, status.journal
    pairs = [("gateway", f"{status.name} {status.version}")]
    if status.acquirer is None:
        pairs.append(("running", f"no: {'; '.join(status.reasons)}; this was read from its journal"))
    else:
        acquirer = status.acquirer
        up = [address for address, connected in acquirer.endpoints.items() if connected]
        pairs += [
            ("mode", status.mode or ""),
            ("ready", "yes" if status.ready else f"no: {'; '.join(status.reasons)}"),
            ("up for", f"{status.uptime_s:.0f} s"),
            ("code", f"compiled, {status.compiled_modules} modules" if status.compiled_modules else "interpreted"),
            ("acquirer", f"{acquirer.name}: link {acquirer.link} since {acquirer.since}"),
            ("endpoints", f"{len(up)} of {len(acquirer.endpoints)} connected {' '.join(up)}".rstrip()),
        ]
        if acquirer.silent:
            pairs.append(("silent", f"{' '.join(acquirer.silent)}: others go first until an answer comes from there"))
        pairs += [
            ("terminals", f"{one.listen}: {one.connections} connections, {one.in_flight} in flight")
            for one in status.terminals
        ]
    owed = ", ".join(f"{count} {name}" for name, count in queue.by_obligation.items() if count)
    pairs += [
        ("owed", f"{owed}; oldest {queue.oldest_owed_age_s:.0f} s" if owed else "nothing"),
        ("transactions", ", ".join(f"{count} {name}" for name, count in queue.by_state.items() if count) or "none"),
        ("journal", f"{journal.entries} entries, {journal.bytes_on_disk} bytes, {journal.bytes_free} bytes free"),
        ("writable", "yes" if journal.writable else f"NO: {journal.reason}"),
    ]
    if journal.quarantined:
        kept = status.keys.quarantined if status.keys is not None else None
        more = f"; the sensitive data of transaction {kept} is kept, and its epoch's key" if kept else ""
        beside = f", {journal.settled} more settled" if journal.settled else ""
        pairs.append(("quarantine", f"{journal.quarantined} damaged records{beside}{more}"))
    elif journal.settled:
        pairs.append(("quarantine", f"nothing open; {journal.settled} damaged records settled"))
    if status.log is not None:
        pairs += _log_pairs(status.log)
    _pairs(pairs)


def _log_pairs(log: LogReport) -> list[tuple[str, str]]:
    """How the auditor's log is signed and published."""
    signed = f"{log.size} entries signed, {log.unsigned} since" if log.size else "no head signed yet"
    pairs = [("log", f"{log.origin}: {log.state}, {signed}" if not log.reason else f"NOT SIGNED: {log.reason}")]
    return pairs + [
        (
            "published",
            f"{outlet.name}: {outlet.size} entries" + (f"; FAILS: {outlet.failing}" if outlet.failing else ""),
        )
        for outlet in log.outlets
    ]


def show_queue(rows: Sequence[TransactionReport], next_after: int | None) -> None:
    """A page of the queue."""
    _rows(
        _COLUMNS,
        [
            (
                row.id, row.state, row.kind, row.terminal, row.stan, row.amount_minor, row.currency, row.card,
                row.attempts, row.accepted, row.reason,
            )
            for row in rows
        ],
    )  # fmt: skip
    if next_after is not None:
        print(f"more: --after {next_after}", file=sys.stderr)


def show_damaged(records: Sequence[DamagedRecord], next_after: int | None) -> None:
    """A page of the quarantine."""
    _rows(
        ("id", "damage", "since", "settled"),
        [
            (
                one.id,
                ", ".join(one.damage),
                one.since,
                f"{one.settled} in entry {one.settled_in}" if one.settled else "",
            )
            for one in records
        ],
    )
    if next_after is not None:
        print(f"more: --after {next_after}", file=sys.stderr)


def show_transaction(stored: StoredReport) -> None:
    """One transaction with its messages."""
    row = stored.transaction
    pairs = [
        ("id", str(row.id)),
        ("state", f"{row.state} (owes {row.obligation})"),
        ("kind", row.kind),
        ("lane", f"{row.lane}, place {row.position}"),
        ("terminal", f"{row.terminal} of merchant {row.merchant}, STAN {row.stan}"),
        ("amount", f"{row.amount_minor} minor units, currency {row.currency}"),
        ("card", row.card),
        ("accepted", row.accepted),
        ("changed", f"{row.changed}, revision {row.revision}"),
        ("attempts", f"{row.attempts}" + (f", not before {row.not_before}" if row.not_before else "")),
        ("told", row.response or "nothing yet"),
        ("reason", row.reason),
    ]
    if row.original is not None:
        pairs.append(("original", str(row.original)))
    pairs += _message("request", stored.request)
    if stored.answer is not None:
        pairs += _message("answer", stored.answer)
    _pairs([(name, value) for name, value in pairs if value])


def show_explanation(explanation: ExplanationReport) -> None:
    """What blocks a transaction."""
    pairs = [
        ("id", str(explanation.id)),
        ("state", explanation.state),
        ("blocked by", explanation.blocked_by or "nothing"),
        ("rule", explanation.rule),
        ("next try", explanation.next_try or "none planned"),
        ("", explanation.text),
    ]
    _pairs([(name, value) for name, value in pairs if value])


def _message(name: str, message: MessageReport) -> list[tuple[str, str]]:
    return [
        (f"{name} MTI", message.mti),
        *((f"{name} {number}", value) for number, value in message.fields.items()),
    ]


def _pairs(pairs: Iterable[tuple[str, str]]) -> None:
    listed = list(pairs)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"{name.ljust(width)}  {one_line(value)}")


def _rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for row in rows:
            print("\t".join(one_line(str(cell)) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(one_line(str(cell))) for cell in row))
    Console().print(table)
