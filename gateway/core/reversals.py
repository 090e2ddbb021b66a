"""Reversals that terminals send, and answers that come too late (D12, D14, D15, D16).

A lane is held from the moment its reversal arrives until the reversal is durable, so that nothing that the reversal
may cancel is started in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gateway.core.answers import local_answer
from gateway.core.effects import Change, Create, Severity, Update
from gateway.core.events import Committed, Existing, Found, LateAnswered, Lookup
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import REPLAYABLE, EntryKind, State, after_reversal
from gateway.core.requests import new_transaction, stored_message
from gateway.core.retries import Retries
from gateway.core.standin import counters_of
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from gateway.core.work import Work, WriteResult

_LATE_RETRY_MS = 200


class Reversals:
    """Takes terminals' reversals; `freed` is called when a lane may go on."""

    def __init__(self, work: Work, retries: Retries, freed: Callable[[Lane], None]) -> None:
        self._work = work
        self._retries = retries
        self._freed = freed

    def arrive(self, terminal_token: int, request: Request) -> None:
        """A terminal's reversal: always taken (D15)."""
        work = self._work
        if self._retries.joined(terminal_token, request):
            return
        if len(work.running) >= work.settings.in_flight_max:
            work.counts["refused.overload"] += 1
            work.reply(terminal_token, self._local(request, "96"))
            return
        run = Run(
            transaction=self._row(request),
            lane=work.lanes.of(request.lane),
            message=stored_message(request),
            sensitive={},
            request=request,
            waiting=[terminal_token],
            writing=True,
        )
        work.running[request.key] = run
        self._hold(run.lane)
        work.counts["reversals"] += 1
        self._look(run, request)

    def _row(self, request: Request) -> Transaction:
        row = new_transaction(request, State.APPROVED, self._work.utc_ms)
        row.response, row.reason = "00", "terminal.reversal"
        return row

    def _hold(self, lane: Lane) -> None:
        lane.holds += 1
        lane.forget_heads()

    def _unhold(self, lane: Lane) -> None:
        lane.holds -= 1
        self._freed(lane)

    def _live(self, request: Request) -> Run | None:
        """The original, if it is under way now."""
        for key in request.original_keys:
            if (run := self._work.running.get(key) or self._work.replaying.get(key)) is not None:
                return run
        return None

    def _look(self, run: Run, request: Request) -> None:
        live = self._live(request)
        if live is None:
            self._work.find(
                (request.key, *request.original_keys), request.horizon_ms, partial(self._found, run, request)
            )
        elif live.writing:
            # Its row is with the journal: see what it is afterwards. A retry of the reversal itself joins this run.
            live.deferred.append(partial(self._look, run, request))
        else:
            self._undo(run, request, live.stored, live)

    def _found(self, run: Run, request: Request, event: Found) -> None:
        own, *originals = event.results
        if not isinstance(own, Lookup):
            self._retries.answer_existing(run.waiting, request, own)
            self._forget(run, None)
        elif Lookup.DAMAGED in event.results:
            self._retries.answer_existing(run.waiting, request, None)
            self._forget(run, None)
        elif self._live(request) is not None:
            self._look(run, request)  # it has started since
        elif known := [found for found in originals if not isinstance(found, Lookup)]:
            self._undo(run, request, known[0], None)
        else:
            self._keep_unknown(run, request)

    def _undo(self, run: Run, request: Request, original: Stored, live: Run | None) -> None:
        """Take the reversal of an original that we know (D15)."""
        known = original.transaction
        if 4 in request.fields and known.amount_minor != request.amount_minor:
            self._retries.reused(run.waiting, request)
            self._forget(run, None)
            return
        run.transaction.original = known.id
        answer = self._local(request, "00")
        run.answer = answer
        state = after_reversal(known.state, known.attempts)
        changes: list[Change] = [
            Create(EntryKind.TAKEN, run.transaction, run.message, {}, answer, (), request.horizon_ms)
        ]
        changed: Transaction | None = None
        if state is not known.state:
            newly_owed = state is State.REVERSING
            changed = known.evolved(
                self._work.utc_ms,
                state,
                reason="terminal.reversal",
                # Reversal and newer sales go upstream in the order in which they were accepted (D14, INV-4).
                position=-1 if newly_owed else known.position,
                attempts=0 if newly_owed else known.attempts,
                exposed=known.exposed and state is State.STORED_CANCELLED,
            )
            kind = EntryKind.CANCELLED if state is State.CANCELLED else EntryKind.TAKEN
            changes.append(Update(kind, changed, release=() if changed.exposed else counters_of(known)))
        if live is not None:
            live.writing = True
        self._work.write(tuple(changes), partial(self._taken, run, request, live, changed))

    def _taken(
        self, run: Run, request: Request, live: Run | None, changed: Transaction | None, event: WriteResult
    ) -> None:
        work = self._work
        if isinstance(event, Committed):
            # Durable: a crash from here on leaves the original cancelled, or its reversal owed (D15).
            if live is not None and changed is not None:
                live.transaction = changed
            if changed is not None:
                work.counts[f"reversed.{changed.state.name.lower()}"] += 1
                if changed.state in REPLAYABLE:
                    run.lane.owes_more(in_order=False)
            self._forget(run, run.answer)
        elif isinstance(event, Existing):
            self._retries.answer_existing(run.waiting, request, event.stored)
            self._forget(run, None)
        else:
            work.counts["refused.journal-full"] += 1
            self._forget(run, self._local(request, "96"))
        if live is not None:
            live.writing = False
            work.go_on(live)

    def _keep_unknown(self, run: Run, request: Request) -> None:
        """The original is unknown to us: keep the reversal in its place and forward it (D15)."""
        original_key = request.original_keys[0]
        placeholder = replace(
            new_transaction(request, State.REVERSING, self._work.utc_ms),
            key=original_key,
            kind=Kind.UNSEEN,
            stan=original_key.rpartition("|")[2],
            fingerprint=b"",
            reason="terminal.reversal-of-unknown",
        )
        answer = self._local(request, "00")
        run.answer = answer
        run.transaction.original = -1
        changes = (
            Create(EntryKind.TAKEN, placeholder, run.message, {}, None, (), request.horizon_ms),
            Create(EntryKind.TAKEN, run.transaction, run.message, {}, answer, (), request.horizon_ms),
        )
        self._work.write(changes, partial(self._kept, run, request))

    def _kept(self, run: Run, request: Request, event: WriteResult) -> None:
        if isinstance(event, Existing) and event.stored and event.stored.transaction.key != request.key:
            self._look(run, request)  # the original was stored in between
            return
        if isinstance(event, Committed):
            self._work.counts["reversed.unknown"] += 1
            run.lane.owes_more(in_order=False)
        self._taken(run, request, None, None, event)

    def _forget(self, run: Run, answer: Answer | None) -> None:
        assert run.request is not None
        if answer is not None:
            for terminal_token in run.waiting:
                self._work.reply(terminal_token, answer)
        self._work.running.pop(run.request.key, None)
        run.writing = False
        self._unhold(run.lane)
        self._work.go_on(run)

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self._work.utc_ms)

    # Late answers (D16)

    def answered_late(self, event: LateAnswered) -> None:
        """An answer after its time: recorded, and never forwarded to a terminal that has one already."""
        work = self._work
        work.counts["late-answers"] += 1
        sent = work.sent_keys.pop(event.token, None)
        if sent is not None:
            self._record_late(event, *sent)

    def _record_late(self, event: LateAnswered, key: str, horizon_ms: int) -> None:
        work = self._work
        if key in work.running or key in work.replaying:
            work.after(_LATE_RETRY_MS, partial(self._record_late, event, key, horizon_ms))
            return
        work.find((key,), horizon_ms, partial(self._late_found, event, key, horizon_ms))

    def _late_found(self, event: LateAnswered, key: str, horizon_ms: int, found: Found) -> None:
        work = self._work
        result = found.results[0]
        if isinstance(result, Lookup):
            return
        if key in work.running or key in work.replaying:
            self._record_late(event, key, horizon_ms)
            return
        transaction = result.transaction
        approved = event.fields.get(39, "") in work.host.approved_codes
        unsent_reversal = transaction.state is State.REVERSING and transaction.attempts == 0
        if not approved and unsent_reversal and self._final_decline(event.fields.get(39, "")):
            state = State.DECLINED
        else:
            state = transaction.state
        if approved:
            work.alarm(
                Severity.NOTICE, "late-approval", "an approval came too late; it is reversed all the same", key=key
            )
        changed = transaction.evolved(
            work.utc_ms, state, approval=event.fields.get(38, "") if approved else transaction.approval
        )
        lane = work.lanes.of(transaction.lane)
        self._hold(lane)
        detail = f"answered {event.fields.get(39, '')} after its time"
        work.write((Update(EntryKind.LATE_ANSWER, changed, detail=detail),), lambda _: self._unhold(lane))

    @staticmethod
    def _final_decline(code: str) -> bool:
        """A decline that is sure: nothing was debited, so an unsent reversal is not owed any more (D16)."""
        return bool(code) and code not in {"09", "68", "91", "94", "96", "98", "A0"}
