"""Batches of terminals that settle: which one a terminal is in, and that a closed one takes nothing new (UnionPay).

A batch is closed by a transaction with a second key of its own (`closing_key`), so that the journal decides: it is
closed once, by whichever message comes first, and stays closed after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.core.answers import local_answer
from gateway.core.effects import Severity
from gateway.core.events import Found, Lookup
from gateway.core.retries import Retries
from gateway.core.settling import closing_key
from gateway.core.transaction import Answer, Request, Stored
from gateway.core.work import Work
from protocol.iso8583.rules import TerminalRules

_REMEMBERED_MAX: Final = 100_000
_STEPS: Final = tuple(2**n for n in range(16))
_LOOKS_AT_ONCE: Final = 16


class Batches:
    """Knows the batches that are open, as far as it has looked; the journal knows them all."""

    def __init__(self, work: Work, retries: Retries) -> None:
        self._work = work
        self._retries = retries
        self._open: OrderedDict[str, None] = OrderedDict()
        self._closing: dict[str, list[Callable[[], None]]] = {}
        self._looking: dict[str, list[Callable[[], None]]] = {}
        """Lanes with a request whose batch is being looked up, and the reversals that wait for that."""
        self._begun = 0
        self._begun_last: OrderedDict[str, int] = OrderedDict()
        """When closing last began, by batch: an answer of the journal that was asked for before is out of date."""

    def may_begin(self, terminal_token: int, request: Request, arrive: Callable[[int, Request], None]) -> bool:
        """Whether a new transaction may begin in the request's batch.

        If that is not known at once, the request arrives again (`arrive`) when it is, or the terminal is answered
        here: with the stored outcome of a retry, or 77 where the batch is closed (sign on first).
        """
        batch = request.batch
        waiting = self._closing.get(batch)
        if waiting is None and batch in self._open:
            return True
        again = partial(arrive, terminal_token, request)
        if waiting is not None:
            waiting.append(again)
            return False
        if (looking := self._looking.get(request.lane)) is not None:
            looking.append(again)  # in the order of arrival
            return False
        self._looking[request.lane] = []
        looked = partial(self._looked, terminal_token, request, again, self._begun)
        # By its second key first: the other one may end with another STAN than it was assigned (D1).
        keys = (request.alias, request.key) if request.alias else (request.key,)
        self._work.find((closing_key(batch), *keys), 0, looked)
        return False

    def waits_behind(self, lane: str, again: Callable[[], None]) -> bool:
        """Whether a reversal has to wait until the request before it has begun: it may be the one that it undoes."""
        if (looking := self._looking.get(lane)) is None:
            return False
        looking.append(again)
        return True

    def _looked(
        self, terminal_token: int, request: Request, again: Callable[[], None], begun: int, event: Found
    ) -> None:
        closing, *found = event.results
        own = next((result for result in found if result is not Lookup.ABSENT), Lookup.ABSENT)
        waiting = self._looking.pop(request.lane)
        if self._begun_last.get(request.batch, 0) > begun:
            again()  # it is being closed, or has been, since the journal was asked
        elif closing is Lookup.ABSENT:
            self._is_open(request.batch)
            again()
        elif own is not Lookup.ABSENT:
            self._retries.answer_existing([terminal_token], request, own if isinstance(own, Stored) else None)
        else:
            self.refuse(terminal_token, request)
        for one in waiting:
            one()

    def refuse(self, terminal_token: int, request: Request) -> None:
        """77: the batch is closed, and the next one begins with a sign-on."""
        work = self._work
        work.counts["refused.batch-closed"] += 1
        work.reply(terminal_token, local_answer(request.mti, request.fields, "77", request.rules, work.utc_ms))

    def _is_open(self, batch: str) -> None:
        self._open[batch] = None
        if len(self._open) > _REMEMBERED_MAX:
            self._open.popitem(last=False)

    def begin_closing(self, batch: str) -> bool:
        """Let nothing begin in the batch until `end_closing`; False when it is being closed already."""
        if batch in self._closing:
            return False
        self._closing[batch] = []
        self._open.pop(batch, None)
        self._begun += 1
        self._begun_last[batch] = self._begun
        if len(self._begun_last) > _REMEMBERED_MAX:
            self._begun_last.popitem(last=False)
        return True

    def end_closing(self, batch: str) -> None:
        """Whoever wanted to begin something meanwhile looks again."""
        for again in self._closing.pop(batch):
            again()

    def look_closing(self, key: str, then: Callable[[Stored | Lookup], None]) -> None:
        """Call `then` with what has closed the batch of a transaction; at once where it is known to be open."""
        batch = key.rsplit("|", 2)[0]
        if batch.startswith("B") and batch not in self._open:
            self._work.find((closing_key(batch),), 0, lambda event: then(event.results[0]))
        else:
            then(Lookup.ABSENT)

    def note_late(self, request: Request, key: str) -> None:
        """Tell a person of what is taken into a batch that is settled already: no settlement has it.

        Args:
            key: of the transaction that it is about.
        """
        if request.rules.settles:
            self.look_closing(key, partial(self.tell_late, key))

    def tell_late(self, key: str, closing: Stored | Lookup) -> None:
        """Tell a person that something about this transaction is taken, if its batch is closed."""
        if closing is Lookup.ABSENT:
            return
        self._work.alarm(
            Severity.WARNING, "taken-after-settlement",
            "an advice or a reversal came for a batch that is closed; it is taken, and no settlement has it",
            batch=key.rsplit("|", 2)[0], key=key,
        )  # fmt: skip

    # Which batch a terminal is in

    def sign_on(self, terminal_token: int, request: Request) -> None:
        """Answer a sign-on with the batch that the terminal is in: its own, or the next one that is not closed."""
        batch = request.batch
        if int(batch[1:].partition("|")[0]) == 0:
            batch = _renumbered(batch, 1, request.rules)
        self.find_open(batch, request.rules, partial(self._signed_on, terminal_token, request))

    def find_open(self, batch: str, rules: TerminalRules, then: Callable[[str], None]) -> None:
        """Call `then` with this batch, or with the next one of its terminal that is not closed."""
        if batch in self._open:
            then(batch)
        else:
            self._work.find((closing_key(batch),), 0, partial(self._seen, batch, rules, then))

    def _seen(self, batch: str, rules: TerminalRules, then: Callable[[str], None], event: Found) -> None:
        if event.results[0] is Lookup.ABSENT:
            then(batch)
        else:
            self._look(batch, rules, then, int(batch[1:].partition("|")[0]), _STEPS)

    def _look(
        self, batch: str, rules: TerminalRules, then: Callable[[str], None], closed: int, steps: tuple[int, ...]
    ) -> None:
        """Look at some batches behind a closed one; batches are closed one after another, none is left out."""
        keys = tuple(closing_key(_renumbered(batch, closed + step, rules)) for step in steps)
        self._work.find(keys, 0, partial(self._looked_ahead, batch, rules, then, closed, steps))

    def _looked_ahead(
        self,
        batch: str,
        rules: TerminalRules,
        then: Callable[[str], None],
        closed: int,
        steps: tuple[int, ...],
        event: Found,
    ) -> None:
        first_open = next((n for n, result in enumerate(event.results) if result is Lookup.ABSENT), len(steps))
        last_closed = closed + (steps[first_open - 1] if first_open else 0)
        if first_open == len(steps):
            self._look(batch, rules, then, last_closed, _STEPS)
            return
        gap = closed + steps[first_open] - last_closed
        if gap == 1:
            then(_renumbered(batch, last_closed + 1, rules))
        else:
            count = min(gap, _LOOKS_AT_ONCE)
            between = tuple(gap * (n + 1) // count for n in range(count))
            self._look(batch, rules, then, last_closed, between)

    def _signed_on(self, terminal_token: int, request: Request, batch: str) -> None:
        work = self._work
        work.counts["sign-ons"] += 1
        answer = local_answer(request.mti, request.fields, "00", request.rules, work.utc_ms)
        rules = request.rules
        if rules.batch_field in answer.fields:
            text = placed(answer.fields[rules.batch_field], rules, batch[1:].partition("|")[0])
            answer = Answer(answer.mti, {**answer.fields, rules.batch_field: text})
        work.reply(terminal_token, answer)


def placed(text: str, rules: TerminalRules, number: str) -> str:
    """A field with the batch number in its place."""
    end = rules.batch_start + rules.batch_length
    return text[: rules.batch_start] + number + text[end:]


def _renumbered(batch: str, number: int, rules: TerminalRules) -> str:
    """The terminal's batch of another number; they run from 1 and wrap (D4)."""
    digits = rules.batch_length
    return f"B{(number - 1) % (10**digits - 1) + 1:0{digits}}|{batch.partition('|')[2]}"
