"""Any history of writes, restarts and clock steps leaves SQLite and the model in the same state."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.effects import Create, Limit, Update, Write
from gateway.core.events import Committed, Existing
from gateway.core.lifecycle import ABOUT_NO_TRANSACTION, FINAL, EntryKind, State
from gateway.core.transaction import Answer, Kind
from gateway.journal import batch, newest
from gateway.journal.keyring import create_keyring
from gateway.journal.port import Listing
from tests.journal.model import ModelJournal
from tests.journal.rig import TRACK, Rig, evolved, sale, sqlite_make

BATCHES = ["B000001|M|T1", "B000002|M|T1", "B000001|M|T12"]
KEYS = [f"{batch}|2|{n:06}" for batch in BATCHES for n in (1, 2)]
ALIASES = ["idem|M|T1|a", "idem|M|T1|b", f"{BATCHES[0]}|5|"]
RECENT_FEW = 5
"""Transactions that the journal under test keeps out of its lookup tables, so that some are in them and some not."""

LANES = ["A", "A\x00", "B", "商户"]
COUNTERS = ["all", "terminal"]

limits = st.lists(
    st.builds(
        Limit,
        counter=st.sampled_from(COUNTERS),
        count_max=st.none() | st.integers(0, 4),
        amount_minor_max=st.none() | st.integers(0, 300),
        age_ms_max=st.none() | st.integers(0, 2000),
        reason=st.sampled_from(["one", "two"]),
    ),
    max_size=3,
)
creates = st.builds(
    sale,
    key=st.sampled_from(KEYS),
    state=st.sampled_from(State),
    what=st.sampled_from([Kind.SALE, Kind.SALE, Kind.REVERSAL]),
    alias=st.sampled_from(["", "", *ALIASES]),
    stan=st.sampled_from([None, None, ""]),
    lane=st.sampled_from(LANES),
    amount_minor=st.integers(0, 100),
    sensitive=st.sampled_from([{}, {35: TRACK}]),
    answer=st.sampled_from([None, Answer("0210", {39: "00"})]),
    reserve=limits.map(tuple),
    horizon_ms=st.sampled_from([0, 0, 0, 1000]),
)


class JournalMachine(RuleBasedStateMachine):
    """Each rule does the same to both and compares what they answer."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(batch, "RECENT_MAX", RECENT_FEW)
        self.patch.setattr(batch, "_FORGOTTEN_AT_ONCE", 1)
        self.patch.setattr(newest, "_LET_GO_AT_ONCE", 1)
        keyring = create_keyring(self.folder / "keys")
        self.rig = Rig(sqlite_make(self.folder / "journal.db", keyring)).open()
        self.model = ModelJournal()
        self.model.now_ms = self.rig.now_ms
        self.held: dict[int, tuple[str, ...]] = {}

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()
            self.patch.undo()
            shutil.rmtree(self.folder)

    def _both(self, *groups: tuple[Create | Update, ...]) -> None:
        writes = [Write(self.rig.next_token(), group) for group in groups]
        expected = [self.model.write(each) for each in writes]
        # A conflict is answered from the state that the whole commit leaves.
        after = [
            Existing(each.token, self.model.stored[each.stored.transaction.id])
            if isinstance(each, Existing) and each.stored is not None
            else each
            for each in expected
        ]
        assert self.rig.perform(*writes) == after
        for write, event in zip(writes, expected, strict=True):
            if isinstance(event, Committed) and write.changes[0].reserve:
                self.held[event.ids[0]] = tuple({limit.counter for limit in write.changes[0].reserve})

    @rule(sales=st.lists(creates, min_size=1, max_size=8))
    def create(self, sales: list[Create]) -> None:
        for each in sales:
            each.transaction.accepted_ms = self.rig.now_ms
        self._both(*((each,) for each in sales))

    @rule(pair=st.tuples(creates, creates))
    def create_two_at_once(self, pair: tuple[Create, Create]) -> None:
        first, second = pair
        aliases = [each.transaction.alias for each in pair if each.transaction.alias]
        if first.transaction.key == second.transaction.key or len(set(aliases)) != len(aliases):
            return
        second.transaction.original = -1
        for each in pair:
            each.transaction.accepted_ms = self.rig.now_ms
        self._both((first, Create(second.kind, second.transaction, second.request, second.sensitive, second.answer)))

    def _some(self, pick: int, states: frozenset[State]) -> int | None:
        open_ones = [n for n, each in self.model.stored.items() if each.transaction.state in states]
        return open_ones[pick % len(open_ones)] if open_ones else None

    @precondition(lambda self: hasattr(self, "model") and self.model.stored)
    @rule(
        pick=st.integers(0, 50),
        state=st.sampled_from(State),
        answer=st.sampled_from([None, Answer("0230", {39: "51"})]),
        twice=st.booleans(),
    )
    def change(self, pick: int, state: State, answer: Answer | None, *, twice: bool) -> None:
        number = self._some(pick, frozenset(State) - FINAL)
        if number is None:
            return
        update = evolved(
            self.model.stored[number].transaction,
            state,
            answer=answer,
            attempts=3,
            release=self.held.pop(number, ()),
            detail="who: why",
        )
        groups: list[tuple[Create | Update, ...]] = [(update,)]
        if twice:
            groups.append((evolved(update.transaction, State.PARKED, kind=EntryKind.PARKED, resume=state),))
        self._both(*groups)

    @precondition(lambda self: hasattr(self, "model") and self.model.stored)
    @rule(pick=st.integers(0, 50), reversal=creates)
    def reverse(self, pick: int, reversal: Create) -> None:
        number = self._some(pick, frozenset({State.STORED, State.STORED_CANCELLED, State.REVERSING}))
        if number is None:
            return
        reversal.transaction.accepted_ms = self.rig.now_ms
        reversal.transaction.original = number
        moved = evolved(self.model.stored[number].transaction, State.REVERSING, position=-1)
        self._both((reversal, moved))

    @rule(step_ms=st.integers(-1500, 1500))
    def pass_time(self, step_ms: int) -> None:
        self.rig.now_ms += step_ms
        self.model.now_ms = self.rig.now_ms

    @rule(kind=st.sampled_from(sorted(ABOUT_NO_TRANSACTION)))
    def note(self, kind: EntryKind) -> None:
        assert self.rig.run(self.rig.journal.note(kind, "who: why")) == self.model.note()

    @rule()
    def reopen(self) -> None:
        self.rig.reopen()

    @rule(horizon_ms=st.sampled_from([0, 1000]))
    def look_up(self, horizon_ms: int) -> None:
        expected = tuple(self.model.find(key, horizon_ms) for key in (*KEYS, *ALIASES))
        assert self.rig.find(*KEYS, *ALIASES, horizon_ms=horizon_ms) == expected

    @rule(lane=st.sampled_from(LANES), limit=st.integers(1, 4))
    def read_heads(self, lane: str, limit: int) -> None:
        heads = self.rig.heads(lane, limit)
        assert heads == self.model.heads(heads.token, lane, limit)

    @rule(batch=st.sampled_from([*BATCHES, "B000002|M|T12"]))
    def read_batch(self, batch: str) -> None:
        read = self.rig.batch(batch)
        assert read == self.model.batch(read.token, batch)

    @rule(
        states=st.frozensets(st.sampled_from(State)) | st.just(frozenset()),
        lane=st.sampled_from(["", "", *LANES]),
        terminal=st.sampled_from(["", "T1", "T12", "T2"]),
        stan=st.sampled_from(["", "", "000001", "000002", "000004"]),
        after=st.integers(0, 9),
    )
    def list_some(self, states: frozenset[State], lane: str, terminal: str, stan: str, after: int) -> None:
        listing = Listing(states=states, lane=lane, terminal=terminal, stan=stan, after_id=after, limit=5)
        assert self.rig.run(self.rig.journal.listing(listing)) == self.model.listing(listing)

    @invariant()
    def what_is_owed_is_the_same(self) -> None:
        if not hasattr(self, "rig"):
            return
        journal = self.rig.journal
        assert self.rig.run(journal.owing_lanes()) == self.model.owing_lanes()
        assert self.rig.run(journal.in_doubt(1000)) == self.model.in_doubt()
        health = self.rig.run(journal.health())
        assert health.counts == self.model.counts()
        assert health.oldest_owed_ms == self.model.oldest_owed_ms()
        assert (health.entries, health.quarantined) == (self.model.sequence, 0)
        assert self.rig.damaged == []


JournalMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyHistoryMatchesTheModel = JournalMachine.TestCase
