"""Retries: a terminal that asks again gets the outcome of the first time, and never causes a second send (D2, D3)."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from gateway.core.acceptance import same_under_alias, with_assigned_stan
from gateway.core.answers import local_answer
from gateway.core.effects import Severity
from gateway.core.events import Found, Lookup
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from gateway.core.work import Work
from protocol.iso8583.message import Fields

JOINED_MAX: Final = 16
"""Terminals' tokens that may wait for one outcome; who comes later is told 09 and may ask again."""

FURTHER_MAX: Final = 10_000
"""Second keys that are remembered of transactions that were stored without them."""

_REVERSAL: Final = Kind.REVERSAL

_UNDONE: Final = frozenset({State.CANCELLED, State.STORED_CANCELLED, State.REVERSING, State.REVERSED})


def within_horizon(known: Transaction, request: Request, utc_ms: int) -> bool:
    """Whether a transaction of the same key is the one that is meant: only a horizon's keys come again (D1)."""
    return request.horizon_ms == 0 or utc_ms - known.accepted_ms <= request.horizon_ms


def _nobody(terminal_token: int, request: Request) -> None:
    """Before Requests is there."""
    raise AssertionError(f"nobody begins request {request.key} of {terminal_token}")


def _names_another(reversal: Fields, known: Fields) -> bool:
    """Whether two reversals under one STAN name different originals in field 90 (D2, D12)."""
    named, before = (fields.get(90, "") for fields in (reversal, known))
    return bool(named and before) and (named[1:2], named[4:10]) != (before[1:2], before[4:10])


def _same_form(stan: str, other: str) -> bool:
    """Whether both have a STAN of their terminal's, or both one that the gateway assigns: else equal ones differ."""
    return (not stan) == (not other)


def _with_next_stan(request: Request) -> Request | None:
    """The request with the next STAN that may be assigned to it, and without the one that was tried: this ends."""
    begins, _, tried = request.key.rpartition("|")
    left = tuple([stan for stan in request.assigned if stan != tried])
    return replace(request, key=f"{begins}|{left[0]}", assigned=left) if left else None


class Retries:
    """Recognises retries of what runs, and answers retries of what is stored."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._further: OrderedDict[str, bytes] = OrderedDict()
        self.begin: Callable[[int, Request], None] = _nobody
        """Begins a request anew, with another STAN; set by Requests."""

    def with_free_stan(self, request: Request) -> Request | None:
        """A request that the gateway assigns a STAN to, with one that nothing under way has; None where all have."""
        asked: Request | None = request
        while asked is not None and self._is_of_another(asked):
            asked = _with_next_stan(asked)
        return asked

    def _is_of_another(self, request: Request) -> bool:
        if (run := self._work.running.get(request.key)) is not None and run.request is not None:
            return run.request.alias != request.alias
        replayed = self._work.replaying.get(request.key)
        return replayed is not None and replayed.transaction.alias != request.alias

    def settled_at_the_door(self, terminal_token: int, request: Request) -> bool:
        """Whether nothing new is to begin: a retry of what is under way, or one transaction too many (INV-9)."""
        work = self._work
        further = self._further.get(request.alias) if request.alias else None
        if further is not None and not hmac.compare_digest(further, request.alias_digest):
            self.reused([terminal_token], request)
            return True
        if work.under_way(request.key) and self.joined(terminal_token, request):
            return True
        if len(work.running) < work.settings.in_flight_max:
            return False
        work.counts["refused.overload"] += 1
        self._reply([terminal_token], self._local(request, "96"))
        return True

    def joined(self, terminal_token: int, request: Request) -> bool:
        """Whether the request's key is under way; then the retry waits for that outcome, or is refused (94)."""
        work = self._work
        if (run := work.running.get(request.key)) is not None and run.request is not None:
            same = hmac.compare_digest(run.request.fingerprint, request.fingerprint)
            if same and request.alias == run.request.alias:
                same = hmac.compare_digest(run.request.alias_digest, request.alias_digest)
            elif same:
                same = _same_form(run.request.stan, request.stan)
            if request.kind is _REVERSAL:
                same = same and not _names_another(request.fields, run.request.fields)
            if same and run.request.kind is request.kind:
                self._name_further(request, run.request.alias)
                work.counts["retry.joined"] += 1
                if len(run.waiting) < JOINED_MAX:
                    run.waiting.append(terminal_token)
                    work.joined += 1
                else:
                    self._reply([terminal_token], self._local(request, "09"))
            else:
                self.reused([terminal_token], request)
            return True
        if (run := work.replaying.get(request.key)) is not None and within_horizon(
            run.transaction, request, work.utc_ms
        ):
            self.answer_existing([terminal_token], request, run.stored)
            return True
        return False

    def answer_existing(self, waiting: list[int], request: Request, stored: Stored | None) -> None:
        """Answer with what the journal holds under this key; None where that record is damaged.

        What holds a STAN that was to be assigned is another transaction: the request begins anew with the next one.
        """
        if stored is None or not request.alias:
            self._answer_known(waiting, request, stored)
        elif stored.transaction.alias != request.alias:
            # Found by its own key: the alias may all the same have been used for something else.
            self._work.find((request.alias,), 0, partial(self._alias_found, waiting, request, stored))
        elif same_under_alias(stored.transaction, request):
            self._answer_known(waiting, request, stored)
        else:
            self.reused(waiting, request)

    def _alias_found(self, waiting: list[int], request: Request, stored: Stored, event: Found) -> None:
        other = event.results[0]
        if isinstance(other, Stored):
            if same_under_alias(other.transaction, request) and (
                request.assigned or (other.transaction.key == request.key and request.kind is not _REVERSAL)
            ):
                # It was assigned another STAN the first time, or its own has come again since (D1).
                self._answer_known(waiting, request, other)
            else:
                self.reused(waiting, request)
        elif other is not Lookup.ABSENT:
            self._answer_known(waiting, request, None)
        elif request.assigned:
            self._begin_with_next_stan(waiting, request)
        else:
            self._name_further(request, stored.transaction.alias)
            self._answer_known(waiting, request, stored)

    def _begin_with_next_stan(self, waiting: list[int], request: Request) -> None:
        following = _with_next_stan(request)
        if following is None:
            self.none_free(waiting, request)
            return
        for terminal_token in waiting:
            self.begin(terminal_token, following)

    def none_free(self, waiting: list[int], request: Request) -> None:
        """Every STAN that could be assigned is another's: refused, and nothing is stored."""
        self._work.counts["refused.no-free-stan"] += 1
        self._reply(waiting, self._local(request, "96"))

    def _name_further(self, request: Request, alias: str) -> None:
        """Remember a second key that is told the outcome of a transaction stored without it: it names nothing else.

        Until the process ends, and the newest so many: the transaction's row has place for one, `alias`.
        """
        if not request.alias or request.alias == alias:
            return
        self._further[request.alias] = request.alias_digest
        self._further.move_to_end(request.alias)
        if len(self._further) > FURTHER_MAX:
            self._further.popitem(last=False)

    def _answer_known(self, waiting: list[int], request: Request, stored: Stored | None) -> None:
        work = self._work
        if stored is None:
            work.alarm(
                Severity.ALARM, "retry-of-damaged-record", "a retry met a damaged record; refused", key=request.key
            )
            self._reply(waiting, self._local(request, "96"))
            return
        known = stored.transaction
        if known.kind is not Kind.UNSEEN and (
            known.kind is not request.kind
            or not hmac.compare_digest(known.fingerprint, request.fingerprint)
            or not _same_form(known.stan, request.stan)
            or (request.kind is _REVERSAL and _names_another(request.fields, stored.request.fields))
            or (request.original_id and known.original != request.original_id)
        ):
            self.reused(waiting, request)
        elif (known.resume or known.state) in _UNDONE and known.response in work.host.approved_codes:
            # It was approved and undone since: whoever asks now must not be told that it is paid (D15).
            work.counts["retry.undone-since"] += 1
            self._reply(waiting, self._local(request, "12"), known)
        elif stored.answer is not None:
            work.counts["retry.stored-outcome"] += 1
            self._reply(waiting, with_assigned_stan(stored.answer, known), known)
        elif known.kind is Kind.UNSEEN:
            # Its reversal came first: it must not be booked any more (D15).
            work.counts["retry.reversed-before"] += 1
            self._reply(waiting, self._local(request, "12"), known)
        else:
            work.counts["retry.in-progress"] += 1
            self._reply(waiting, self._local(request, "09"), known)

    def reused(self, waiting: list[int], request: Request) -> None:
        """The same key with another fingerprint: 94, an alarm, and nothing is forwarded (D2)."""
        self._work.counts["refused.key-reused"] += 1
        self._work.alarm(
            Severity.ALARM,
            "key-reused",
            "a STAN was used again with another card or amount, or as another message; refused with 94",
            key=request.key,
        )
        self._reply(waiting, self._local(request, "94"))

    def _reply(self, waiting: list[int], answer: Answer, recorded: Transaction | None = None) -> None:
        for terminal_token in waiting:
            self._work.reply(terminal_token, answer, recorded)

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self._work.utc_ms)
