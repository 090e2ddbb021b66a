"""Settlement of a terminal's batch (0500), and its upload where the totals differ (0320) (UnionPay session, code 95).

No totals are kept: the journal's rows of the batch are added up. Balanced: the batch is closed in the commit before the
answer. Out of balance: the terminal is told 95, uploads what it holds, and ends the upload; the end closes the batch,
and what differs then is put into a person's hands. A closed batch is owed to the acquirer (closing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from gateway.core.acceptance import new_transaction, same_under_alias, with_alias
from gateway.core.answers import local_answer
from gateway.core.batches import Batches
from gateway.core.effects import Create, Severity
from gateway.core.events import BatchRead, Committed, Existing, Found, Lookup
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import EntryKind, State
from gateway.core.retries import Retries
from gateway.core.totals import Difference, counted, details_as_text, difference, totals_of, uploaded
from gateway.core.transaction import PARKED_FROM, Answer, Kind, Request, Stored, StoredMessage
from gateway.core.work import Work, WriteResult
from protocol.settlement import Balance, with_result

_REFUSED_KEPT_MAX: Final = 20
"""Settlements out of balance that are recorded of one batch."""

_NAMED_MAX: Final = 20
"""STANs that an alarm names."""


class Settlement:
    """Takes settlements and uploads; `freed` is called when a lane may go on."""

    def __init__(self, work: Work, retries: Retries, batches: Batches, freed: Callable[[Lane], None]) -> None:
        self._work = work
        self._retries = retries
        self._batches = batches
        self._freed = freed

    def arrive(self, terminal_token: int, request: Request) -> None:
        """A 0500 or an 0320."""
        if self._retries.settled_at_the_door(terminal_token, request):
            return
        if request.kind is Kind.UPLOAD:
            if self._batches.may_begin(terminal_token, request, self.arrive):
                self._upload(self._begin(terminal_token, request), request)
            return
        if (lane := self._work.lanes.get(request.lane)) is not None and lane.runs:
            # Its totals are not known while something of it runs; nothing is stored, so that it may ask again.
            self._work.counts["refused.settlement-busy"] += 1
            self._work.reply(terminal_token, self._local(request, "96"))
        elif self._batches.begin_closing(request.batch):
            run = self._begin(terminal_token, request)
            self._work.find((request.key, request.alias), 0, partial(self._looked, run, request))
        else:
            self._work.reply(terminal_token, self._local(request, "09"))

    def _begin(self, terminal_token: int, request: Request) -> Run:
        work = self._work
        run = Run(
            transaction=new_transaction(request, State.APPROVED, work.utc_ms),
            lane=work.lanes.of(request.lane),
            message=StoredMessage(request.mti, request.fields),
            sensitive={},
            request=request,
            waiting=[terminal_token],
            writing=True,
        )
        work.begin(run)
        return run

    # Settlement, and the end of an upload

    def _looked(self, run: Run, request: Request, event: Found) -> None:
        own, closing = event.results
        if own is not Lookup.ABSENT:
            self._answer_existing(run, request, own if isinstance(own, Stored) else None)
        elif closing is Lookup.ABSENT:
            self._work.fetch_batch(request.batch, partial(self._read, run, request))
        elif isinstance(closing, Stored) and same_under_alias(closing.transaction, request):
            self._answer(run, self._result(request, "00", Balance.BALANCED))  # closed with these very totals
            self._end(run, request)
        else:
            for terminal_token in run.waiting:
                self._batches.refuse(terminal_token, request)
            self._end(run, request)

    def _read(self, run: Run, request: Request, event: BatchRead) -> None:
        rules, approved = request.rules, self._work.host.approved_codes
        rows = counted(event.stored, rules, approved)
        if request.totals is None:
            differs = difference(rows, uploaded(event.stored, rules))
            self._close(run, request, None if event.whole and differs.none else differs)
        elif event.whole and totals_of(rows, rules) == request.totals:
            self._close(run, request, None)
        elif sum(stored.transaction.kind is Kind.SETTLEMENT for stored in event.stored) < _REFUSED_KEPT_MAX:
            self._refuse(run, request)
        else:
            # As before, and no longer recorded: a terminal must not fill the journal by asking (INV-9).
            self._answer(run, self._result(request, "95", Balance.OUT_OF_BALANCE))
            self._end(run, request)

    def _close(self, run: Run, request: Request, differs: Difference | None) -> None:
        """Close the batch; nothing begins in it any more, and it is owed to the acquirer.

        Args:
            differs: what the upload did not clear up; None where it is balanced.
        """
        work = self._work
        by = "totals" if request.totals is not None else "upload"
        owed = State.STORED if work.host.settles else State.APPROVED
        row = with_alias(run.transaction, request)
        row.response, row.advised = "00", True
        row.reason = f"settlement.{by}"
        row.state = owed
        if differs is not None:
            run.message = StoredMessage(request.mti, {**request.fields, request.rules.totals_field: differs.text})
            row.state, row.resume = State.PARKED, owed
            row.reason = f"settlement.differs{PARKED_FROM}{row.reason}"
        answer = self._result(request, "00", Balance.BALANCED)
        kind = EntryKind.TAKEN if differs is None else EntryKind.PARKED
        create = Create(kind, row, run.message, {}, answer)
        then = partial(self._closed, run, request, answer, differs)
        work.create(run, (create,), then)

    def _closed(
        self, run: Run, request: Request, answer: Answer, differs: Difference | None, event: WriteResult
    ) -> None:
        # Durable: from here a crash leaves a closed batch that is owed, and a retry gets this answer.
        if isinstance(event, Committed):
            work = self._work
            work.counts["batches.closed"] += 1
            if differs is not None:
                work.counts["batches.differ"] += 1
                self._tell(event.ids[0], request, differs)
            if run.transaction.state is State.STORED:
                run.lane.owes_more(in_order=True)
            self._answer(run, answer)
            self._end(run, request)
        else:
            self._not_created(run, request, event)

    def _tell(self, number: int, request: Request, differs: Difference) -> None:
        named = {
            name: " ".join(stans[:_NAMED_MAX])
            for name, stans in (
                ("unknown", differs.unknown), ("missing", differs.missing), ("changed", differs.changed),
            )
            if stans
        }  # fmt: skip
        self._work.alarm(
            Severity.ALARM,
            "batch-differs",
            f"a terminal's upload and the journal disagree; its settlement is parked as transaction {number}",
            batch=request.batch,
            **named,
        )

    def _refuse(self, run: Run, request: Request) -> None:
        """95: the totals differ. The batch stays open; the terminal uploads it."""
        work = self._work
        row = run.transaction
        row.state, row.response, row.reason = State.DECLINED, "95", "settlement.out-of-balance"
        answer = self._result(request, "95", Balance.OUT_OF_BALANCE)
        create = Create(EntryKind.REFUSED, row, run.message, {}, answer)
        work.counts["settlements.out-of-balance"] += 1
        work.alarm(
            Severity.WARNING, "batch-out-of-balance", "a terminal's totals differ; it is to upload its batch",
            batch=request.batch,
        )  # fmt: skip
        work.create(run, (create,), partial(self._recorded, run, request, answer))

    # Upload

    def _upload(self, run: Run, request: Request) -> None:
        """Keep what the terminal says of its transactions: their cards as hashes."""
        row = run.transaction
        row.response, row.reason = "00", "settlement.detail"
        text = details_as_text(request.details)
        run.message = StoredMessage(request.mti, {**request.fields, request.rules.totals_field: text})
        answer = self._local(request, "00")
        create = Create(EntryKind.TAKEN, row, run.message, {}, answer)
        self._work.counts["uploads"] += 1
        self._work.create(run, (create,), partial(self._recorded, run, request, answer))

    # Ends

    def _recorded(self, run: Run, request: Request, answer: Answer, event: WriteResult) -> None:
        if isinstance(event, Committed):
            self._answer(run, answer)
            self._end(run, request)
        else:
            self._not_created(run, request, event)

    def _not_created(self, run: Run, request: Request, event: WriteResult) -> None:
        if isinstance(event, Existing):
            self._answer_existing(run, request, event.stored)
        else:
            self._work.no_room()
            self._answer(run, self._local(request, "96"))
            self._end(run, request)

    def _answer_existing(self, run: Run, request: Request, stored: Stored | None) -> None:
        if stored is not None and stored.transaction.key == request.key:
            request = replace(request, alias="", alias_digest=b"")  # found by its own key: nothing else to ask
        self._retries.answer_existing(run.waiting, request, stored)
        self._end(run, request)

    def _answer(self, run: Run, answer: Answer) -> None:
        for terminal_token in run.waiting:
            self._work.reply(terminal_token, answer)

    def _end(self, run: Run, request: Request) -> None:
        self._work.end(run)
        run.writing = False
        if request.kind is Kind.SETTLEMENT:
            self._batches.end_closing(request.batch)
        self._freed(run.lane)
        self._work.go_on(run)

    def _result(self, request: Request, code: str, result: Balance) -> Answer:
        """An answer with the totals as the terminal sent them, and what they are found to be."""
        answer = self._local(request, code)
        if request.totals is None:
            return answer
        number = request.rules.totals_field
        return Answer(answer.mti, {**answer.fields, number: with_result(request.fields[number], result)})

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self._work.utc_ms)
