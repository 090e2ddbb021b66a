"""The table of legal changes is what the core really does: simulated outages make no change that is not in it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import pytest

from gateway.audit import lives
from gateway.core.effects import Change, Update
from gateway.core.lifecycle import ABOUT_NO_TRANSACTION, EntryKind, State
from tests.crash.amounts import TIMES
from tests.simulation.invariants import WatchedJournal
from tests.simulation.runs import run_seed

SEEDS: Final = 60 * TIMES


def test_simulated_outages_make_no_change_that_is_not_in_the_table_and_reach_most_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: Counter[tuple[int, int, int]] = Counter()
    apply = WatchedJournal._apply

    def watched(self: WatchedJournal, change: Change, first_id: int, utc_ms: int) -> int:
        row = change.transaction
        before = self.rows[row.id].transaction if isinstance(change, Update) else None
        told = (lives.NEW if before is None else before.state, change.kind, row.state)
        seen[told] += 1
        sends = (0 if before is None else before.attempts) + 1
        if change.kind is EntryKind.SENDING:
            assert row.attempts == sends, "a send is one attempt more (D9)"
        else:
            assert row.attempts < sends, "nothing but a send is an attempt"
        return apply(self, change, first_id, utc_ms)

    monkeypatch.setattr(WatchedJournal, "_apply", watched)
    first = random.randrange(1_000_000)
    for seed in range(first, first + SEEDS):
        run_seed(seed)
    unknown = [told for told in seen if lives.change(*told) not in lives.LEGAL]
    assert not unknown, f"seeds from {first}: {unknown}"
    assert len(seen) > len(lives.LEGAL) // 2, f"seeds from {first}: only {len(seen)} changes were reached"


def test_every_kind_of_entry_is_in_the_table_or_about_no_transaction() -> None:
    told = {change >> 8 & 0xFF for change in lives.LEGAL}
    assert told | lives.ALONE == set(EntryKind)
    assert not told & lives.ALONE
    assert lives.ALONE == ABOUT_NO_TRANSACTION


@pytest.mark.parametrize("before", [lives.NEW, *State])
@pytest.mark.parametrize("kind", EntryKind)
def test_what_was_booked_or_undone_is_never_asked_again(before: int, kind: EntryKind) -> None:
    """Over every state with every kind: nothing leads back to ASKING but the first entry and a repeat of it (D7)."""
    again = lives.change(before, kind, State.ASKING) in lives.LEGAL
    assert again == ((before, kind) in {(lives.NEW, EntryKind.ACCEPTED), (State.ASKING, EntryKind.SENDING)})
    if before in {State.REVERSED, State.CANCELLED, State.DECLINED}:
        booked = lives.change(before, kind, State.APPROVED) in lives.LEGAL
        assert not booked
