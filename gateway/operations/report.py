"""How transactions and states are told to operators: the JSON of the API and of `--json`, card data masked."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.core.lifecycle import OBLIGATION, Obligation, State, named
from gateway.core.transaction import Answer, Stored, StoredMessage, Transaction
from gateway.journal.port import JournalHealth
from gateway.notary.status import NotaryStatus
from gateway.operations.view import Explanation, GatewayStatus, KeysStatus
from protocol.compiled import compiled_modules
from protocol.iso8583.message import Fields
from protocol.masking import mask_pans, masked_fields

OWING = frozenset(state for state, obligation in OBLIGATION.items() if obligation is not Obligation.NONE)
"""States that a queue shows unless it is asked for others."""

_WITHHELD = frozenset({35, 36, 45, 52, 55})
"""Track data, PIN block and chip data are never shown, whatever the journal retains (INV-8)."""


class TransactionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Amounts in minor units, times ISO 8601 in UTC, `not_before` null where it may be sent at once."""

    id: int
    state: str
    obligation: str
    kind: str
    lane: str
    position: int
    terminal: str
    merchant: str
    stan: str
    amount_minor: int
    currency: str
    card: str
    attempts: int
    not_before: str | None
    accepted: str
    changed: str
    response: str
    reason: str
    original: int | None
    revision: int


class MessageReport(msgspec.Struct, frozen=True):
    """A message with its card number masked and sensitive fields withheld."""

    mti: str
    fields: dict[str, str]


class StoredReport(msgspec.Struct, frozen=True):
    """A transaction with the terminal's message and what the terminal was told (null: nothing)."""

    transaction: TransactionReport
    request: MessageReport
    answer: MessageReport | None
    retained_fields: list[int]


class QueuePage(msgspec.Struct, frozen=True):
    """A page of the queue; `next_after` continues it, null at its end."""

    transactions: list[TransactionReport]
    next_after: int | None


class ExplanationReport(msgspec.Struct, frozen=True):
    """Why a transaction stands where it stands."""

    id: int
    state: str
    blocked_by: str
    rule: str
    next_try: str | None
    text: str


class AcquirerReport(msgspec.Struct, frozen=True):
    """The link upstream."""

    name: str
    link: str
    since: str
    endpoints: dict[str, bool]
    silent: list[str]
    in_flight: int
    outages: int


class JournalReport(msgspec.Struct, frozen=True):
    """The journal's health."""

    writable: bool
    reason: str
    entries: int
    bytes_on_disk: int
    bytes_free: int
    quarantined: int
    queued: int
    mean_commit_batch: float
    settled: int = 0


class TerminalsReport(msgspec.Struct, frozen=True):
    """One listener for terminals."""

    listen: str
    connections: int
    in_flight: int


class QueueReport(msgspec.Struct, frozen=True):
    """What is owed: transactions by state and by obligation, and the age of the oldest."""

    by_state: dict[str, int]
    by_obligation: dict[str, int]
    oldest_owed_age_s: float
    lanes_owing: int
    requests_waiting: int


class SensitiveEpochsReport(msgspec.Struct, frozen=True):
    """Epochs of sensitive data: how many are open, how long the oldest has been, and who in quarantine keeps one."""

    open: int
    oldest_age_s: float
    overdue: bool
    quarantined: int | None = None


class OutletReport(msgspec.Struct, frozen=True):
    """A place that the log's heads go to: entries of the newest that it has, and why it fails."""

    name: str
    size: int
    failing: str


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """The auditor's log: whether its heads are signed, why not, and up to which entry they are."""

    state: str
    reason: str
    origin: str
    size: int
    root: str
    signed: str | None
    unsigned: int
    outlets: list[OutletReport]


class StatusReport(msgspec.Struct, frozen=True):
    """The gateway at a glance; `acquirer` and `mode` are null where it does not run and only its journal was read."""

    running: bool
    name: str
    version: str
    mode: str | None
    ready: bool
    reasons: list[str]
    uptime_s: float
    queue: QueueReport
    journal: JournalReport
    acquirer: AcquirerReport | None
    terminals: list[TerminalsReport]
    counters: dict[str, int]
    log: LogReport | None = None
    keys: SensitiveEpochsReport | None = None
    compiled_modules: int = 0


def iso_utc(utc_ms: int) -> str:
    """A time of record as 2026-01-31T23:59:59.999Z."""
    text = datetime.fromtimestamp(utc_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def state_named(name: str) -> State | None:
    """The state of that name; None for none."""
    return next((state for state in State if named(state) == name), None)


def transaction_report(row: Transaction) -> TransactionReport:
    """One row for operators."""
    return TransactionReport(
        id=row.id,
        state=named(row.state),
        obligation=named(row.obligation),
        kind=row.kind.name.lower(),
        lane=row.lane,
        position=row.position or row.id,
        terminal=row.terminal,
        merchant=row.merchant,
        stan=row.sent_stan,
        amount_minor=row.amount_minor,
        currency=row.currency,
        card=mask_pans(row.card_mask),
        attempts=row.attempts,
        not_before=iso_utc(row.not_before_ms) if row.not_before_ms else None,
        accepted=iso_utc(row.accepted_ms),
        changed=iso_utc(row.changed_ms),
        response=row.response,
        reason=row.reason,
        original=row.original or None,
        revision=row.revision,
    )


def queue_page(rows: list[Transaction], limit: int) -> QueuePage:
    """Rows as a page of at most `limit`."""
    following = rows[-1].id if len(rows) >= limit else None
    return QueuePage([transaction_report(row) for row in rows], following)


def stored_report(stored: Stored) -> StoredReport:
    """A transaction with its messages, masked."""
    card = stored.request.fields.get(2, "")
    return StoredReport(
        transaction_report(stored.transaction),
        _message_report(stored.request, card),
        None if stored.answer is None else _message_report(stored.answer, card),
        sorted(stored.sensitive),
    )


def explanation_report(explanation: Explanation) -> ExplanationReport:
    """An explanation with its state named and its time in UTC."""
    return ExplanationReport(
        explanation.id,
        named(explanation.state),
        explanation.blocked_by,
        explanation.rule,
        None if explanation.next_try_ms is None else iso_utc(explanation.next_try_ms),
        explanation.text,
    )


def status_report(status: GatewayStatus, ready: bool, reasons: tuple[str, ...]) -> StatusReport:
    """The status of a running gateway."""
    acquirer = status.acquirer
    return StatusReport(
        running=True,
        name=status.name,
        version=status.version,
        mode=status.mode.value,
        ready=ready,
        reasons=list(reasons),
        uptime_s=status.uptime_ms / 1000,
        queue=queue_report(status.journal, status.taken_ms, status.lanes_owing, status.requests_waiting),
        journal=journal_report(status.journal),
        acquirer=AcquirerReport(
            acquirer.name,
            acquirer.link.value,
            iso_utc(acquirer.since_ms),
            {endpoint.address: endpoint.connected for endpoint in acquirer.endpoints},
            [endpoint.address for endpoint in acquirer.endpoints if endpoint.silent],
            acquirer.in_flight,
            acquirer.outages,
        ),
        terminals=[TerminalsReport(one.listen, one.connections, one.in_flight) for one in status.terminals],
        counters=dict(status.counters),
        log=None if status.log is None else log_report(status.log),
        keys=None if status.keys is None else _sensitive_epochs(status.keys),
        compiled_modules=compiled_modules(),
    )


def _sensitive_epochs(keys: KeysStatus) -> SensitiveEpochsReport:
    return SensitiveEpochsReport(
        keys.sensitive_epochs_open,
        keys.sensitive_epoch_age_ms / 1000,
        keys.sensitive_epoch_overdue,
        keys.sensitive_quarantined or None,
    )


def log_report(log: NotaryStatus) -> LogReport:
    """How the auditor's log is signed and published."""
    return LogReport(
        state=log.state.value,
        reason=log.reason,
        origin=log.origin,
        size=log.size,
        root=log.root,
        signed=iso_utc(log.signed_ms) if log.signed_ms else None,
        unsigned=log.unsigned,
        outlets=[OutletReport(outlet.name, outlet.size, outlet.failing) for outlet in log.outlets],
    )


def queue_report(health: JournalHealth, taken_ms: int, lanes_owing: int, requests_waiting: int) -> QueueReport:
    """What is owed, from the journal's own counts: nothing is scanned."""
    by_obligation = {named(obligation): 0 for obligation in Obligation if obligation is not Obligation.NONE}
    for state in OWING:
        by_obligation[named(OBLIGATION[state])] += health.counts.get(state, 0)
    age_ms = taken_ms - health.oldest_owed_ms if health.oldest_owed_ms else 0
    return QueueReport(
        {named(state): health.counts.get(state, 0) for state in State},
        by_obligation,
        max(age_ms, 0) / 1000,
        lanes_owing,
        requests_waiting,
    )


def journal_report(health: JournalHealth) -> JournalReport:
    """The journal's health; batch size is the mean since it was opened."""
    return JournalReport(
        health.writable,
        health.reason,
        health.entries,
        health.bytes_on_disk,
        health.bytes_free,
        health.quarantined,
        health.queued,
        round(health.writes / health.commits, 2) if health.commits else 0.0,
        health.settled,
    )


def _message_report(message: StoredMessage | Answer, card: str) -> MessageReport:
    return MessageReport(message.mti, _shown(message.fields, card))


def _shown(fields: Fields, card: str) -> dict[str, str]:
    return {
        str(number): "(withheld)" if number in _WITHHELD else value
        for number, value in sorted(masked_fields(fields, (card,)).items())
    }
