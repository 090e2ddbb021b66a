"""Safeguards of the core that can be taken away one at a time, to show that the simulation notices (STYLE: tests).

Each switch is a context manager that patches the core (or, where the journal keeps the safeguard, the journal) and puts
it back. `find` runs seeds until one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from msgspec.structs import replace

from gateway.core import batches, engine, lanes, locating, outgoing, replay, requests, retries, reversals, standin
from gateway.core import work as work_room
from gateway.core.effects import Create, Update, Write
from gateway.core.events import Answered, Committed
from gateway.core.lifecycle import EntryKind, Obligation, State, after_reversal
from gateway.core.transaction import Answer
from tests.core.journal import MemoryJournal
from tests.simulation.invariants import WatchedJournal
from tests.simulation.runs import Failure, run_seed

SEEDS_MAX: Final = 200
Patches = list[tuple[object, str, object]]


@dataclass(frozen=True, slots=True)
class Safeguard:
    """One safeguard: its rule, what is left out, and the patches that leave it out."""

    name: str
    rule: str
    patches: Callable[[], Patches]


@dataclass(frozen=True, slots=True)
class Caught:
    """The first seed that failed without a safeguard, counted from 1; None where none did."""

    safeguard: Safeguard
    seeds: int
    failure: Failure | None


@contextmanager
def removed(safeguard: Safeguard) -> Iterator[None]:
    """The core without this safeguard."""
    with ExitStack() as stack:
        for target, name, stand_in in safeguard.patches():
            stack.enter_context(mock.patch.object(target, name, stand_in))
        yield


def find(safeguard: Safeguard, seeds_max: int = SEEDS_MAX) -> Caught:
    """Run seeds without a safeguard until one fails."""
    with removed(safeguard):
        for seed in range(seeds_max):
            if (failure := run_seed(seed).failure) is not None:
                return Caught(safeguard, seed + 1, failure)
    return Caught(safeguard, seeds_max, None)


def _unseen_keys() -> Patches:
    """A Create is carried out although its key exists; lookups find it all the same."""
    whole = MemoryJournal.commit

    def commit(self: Any, write: Write, utc_ms: int) -> object:
        found, self.by_key = self.by_key, {}
        try:
            event = whole(self, write, utc_ms)
            for key, ids in self.by_key.items():
                found.setdefault(key, []).extend(ids)
            return event
        finally:
            self.by_key = found

    return [(WatchedJournal, "commit", commit)]


def _reply_first() -> Patches:
    whole = requests.Requests._settle

    def settle(self: Any, run: Any, kind: Any, state: Any, answer: Answer, reason: str, **more: Any) -> None:
        for token in run.waiting:
            self._work.reply(token, answer)
        run.waiting.clear()
        whole(self, run, kind, state, answer, reason, **more)

    return [(requests.Requests, "_settle", settle)]


def _stand_in_reply_first() -> Patches:
    whole = requests.Requests._create_beside

    def create(self: Any, run: Any, changes: Any, then: Any) -> None:
        for token in run.waiting:
            self._work.reply(token, changes[0].answer)
        run.waiting.clear()
        whole(self, run, changes, then)

    return [(requests.Requests, "_create_beside", create)]


def _send_first() -> Patches:
    """An advice or a reversal leaves before its sending is recorded."""
    whole = work_room.Work.update

    def update(self: Any, run: Any, change: Update, then: Any) -> None:
        if change.kind is not EntryKind.SENDING:
            whole(self, run, change, then)
            return
        whole(self, run, change, lambda _: None)
        then(Committed(0, (run.transaction.id,)))

    return [(work_room.Work, "update", update)]


def _ask_first() -> Patches:
    """A request leaves before it is recorded."""

    def ask(self: Any, run: Any, request: Any) -> None:
        run.lane.busy = run
        change = Create(EntryKind.ACCEPTED, run.transaction, run.message, {}, None, (), request.horizon_ms)
        run.transaction.id = 0
        self._send(run, request, repeat=False)
        self._work.create(run, (change,), lambda event: setattr(run.transaction, "id", event.ids[0]))

    return [(requests.Requests, "_ask", ask)]


def _not_owed() -> Patches:
    whole = requests.Requests._settle

    def settle(self: Any, run: Any, kind: Any, state: State, answer: Any, reason: str, **more: Any) -> None:
        whole(self, run, kind, State.DECLINED if state is State.REVERSING else state, answer, reason, **more)

    return [(requests.Requests, "_settle", settle)]


def _not_counted() -> Patches:
    whole = replay.Replay._begin

    def begin(self: Any, lane: Any) -> None:
        if lane.heads:
            stored = lane.heads[0]
            lane.heads[0] = replace(stored, transaction=replace(stored.transaction, attempts=0))
        whole(self, lane)

    return [(replay.Replay, "_begin", begin)]


def _no_repeat_flag() -> Patches:
    def unmarked(stored: Any, host: Any, *, utc_ms: int) -> Any:
        if stored.transaction.obligation is Obligation.REVERSAL:
            return outgoing.reversal_message(stored, host, repeat=False, utc_ms=utc_ms)
        return outgoing.advice_message(stored, host, repeat=False, utc_ms=utc_ms)

    return [(replay, "outgoing", unmarked)]


def _forgotten_counters() -> Patches:
    return [(WatchedJournal, "crash", lambda self: self.counters.clear())]


def _believed() -> Patches:
    asked, replayed = requests.Requests._decide, replay.Replay._decide

    def believe(event: Any) -> Any:
        return replace(event, verified=True) if isinstance(event, Answered) else event

    return [
        (requests.Requests, "_decide", lambda self, run, request, repeat, event: asked(
            self, run, request, repeat, believe(event))),
        (replay.Replay, "_decide", lambda self, run, event: replayed(self, run, believe(event))),
    ]  # fmt: skip


def _no_turns() -> Patches:
    """Two that read the same row do not wait for each other."""

    def take_turn(self: Any, lane: Any, begin: Callable[[], None]) -> None:
        lane.holds += 1
        lane.forget_heads()
        begin()

    def end_turn(self: Any, lane: Any) -> None:
        lane.holds -= 1

    return [(lanes.Lanes, "take_turn", take_turn), (lanes.Lanes, "end_turn", end_turn)]


def _no_place() -> Patches:
    """A terminal's reversal of an approved sale keeps its original's place, before what was accepted since."""
    whole = reversals.Reversals._undo

    def undo(self: Any, run: Any, request: Any, originals: Any, live: Any) -> None:
        write = self._work.write

        def unplaced(changes: Any, then: Any) -> None:
            for change in changes:
                if change.transaction.position == -1:
                    change.transaction.position = 0
            write(changes, then)

        self._work.write = unplaced
        try:
            whole(self, run, request, originals, live)
        finally:
            del self._work.write

    return [(reversals.Reversals, "_undo", undo)]


_SAME: Final = SimpleNamespace(compare_digest=lambda _a, _b: True)

SAFEGUARDS: Final = (
    Safeguard("a retry joins what is under way", "D3", lambda: [(retries.Retries, "joined", lambda *_: False)]),
    Safeguard("a Create is conditional on its key", "INV-2", _unseen_keys),
    Safeguard("the outcome is durable before the reply", "D5, INV-1", _reply_first),
    Safeguard("a stand-in is durable before the reply", "INV-1", _stand_in_reply_first),
    Safeguard("a request is recorded before it leaves", "D5", _ask_first),
    Safeguard("a replay is recorded before it leaves", "D9", _send_first),
    Safeguard("the reversal is owed with the 68", "D11", _not_owed),
    Safeguard("one message of a lane in flight", "INV-4", lambda: [(lanes.Lane, "free", property(lambda _: True))]),
    Safeguard("nothing is replayed while its lane is held", "D14", lambda: [
        (lanes.Lane, "may_replay", property(lambda lane: lane.owing and not (lane.busy or lane.fetching
            or lane.blocked_until_ms)))]),
    Safeguard("who changes a row takes turns", "D15", _no_turns),
    Safeguard("a retry has the first one's fingerprint", "D2", lambda: [(retries, "hmac", _SAME)]),
    Safeguard("a repeat says that it is one", "D9", _no_repeat_flag),
    Safeguard("attempts are counted", "D9", _not_counted),
    Safeguard("exposure counters survive a crash", "D21", _forgotten_counters),
    Safeguard("stand-ins reserve exposure", "D21", lambda: [(standin, "_limits", lambda *_: ())]),
    Safeguard("a reversal waits for its original's flight", "D13", lambda: [
        (work_room.Work, "flight_left_ms", lambda *_: 0)]),
    Safeguard("a late approval is reversed", "D16", lambda: [
        (reversals, "after_late_answer", lambda before, **_: before.state)]),
    Safeguard("what is booked is not called reversed where that is refused", "D13", lambda: [
        (replay.Replay, "_denies_its_booking", lambda *_: False)]),
    Safeguard("a refusal counts until a person has looked", "D13", lambda: [
        (replay, "sent_before_approval", lambda _: False)]),
    Safeguard("a reversal takes its own place in the lane", "D14", _no_place),
    Safeguard("a closed batch takes nothing new", "D4", lambda: [(batches.Batches, "may_begin", lambda *_: True)]),
    Safeguard("a reversal that names no batch is given one", "D12, D15", lambda: [
        (reversals.Reversals, "locate", reversals.Reversals.arrive)]),
    Safeguard("a reversal without batch means what is under way", "D15", lambda: [
        (locating.Locating, "_newest_under_way", lambda *_: "")]),
    Safeguard("a reversal without batch never means a closed one", "D15", lambda: [
        (batches.Batches, "find_open", lambda _self, batch, _rules, then: then(batch))]),
    Safeguard("a wrong MAC proves nothing", "D12", _believed),
    Safeguard("the recovery table is applied", "D7", lambda: [(engine.Engine, "recover", lambda *_: [])]),
    Safeguard("an approval for another amount is none", "INV-5", lambda: [
        (requests, "changed_by_host", lambda *_: "")]),
    Safeguard("an unknown code proves nothing", "D7", lambda: [(requests, "may_decline", lambda _: True)]),
    Safeguard("an unknown code that comes late proves nothing", "D16", lambda: [(reversals, "may_decline", bool)]),
    Safeguard("codes that leave the debit open are reversed", "D7", lambda: [
        (requests, "_IN_DOUBT_CODES", frozenset[str]())]),
    Safeguard("what was undone is not told approved", "D15", lambda: [(retries, "_UNDONE", frozenset[State]())]),
    Safeguard("an operator does not touch what runs", "D18", lambda: [
        (work_room.Work, "under_way", lambda *_: False)]),
    Safeguard("a tried advice is not simply cancelled", "D15", lambda: [
        (reversals, "after_reversal", lambda state, _, resume=None: after_reversal(state, 0, resume))]),
)  # fmt: skip
