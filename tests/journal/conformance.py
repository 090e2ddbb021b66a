"""What every journal must do (gateway/journal/port.py). A driver subclasses this and gives the `rig` fixture."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.effects import Find, Limit, Write
from gateway.core.events import Committed, Existing, Lookup, OverLimit
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, Stored
from gateway.journal.draft import JournalDefect
from gateway.journal.port import Listing
from tests.journal.rig import START_MS, TRACK, Rig, evolved, sale

FLOOR = Limit("all|156", 2, None, None, "standin.count")


def loaded(rig: Rig, number: int) -> Stored:
    found = rig.load(number)
    assert isinstance(found, Stored)
    return found


class JournalConformance:
    """The suite. `rig` is open and empty; `rig.reopen()` is a clean restart."""

    def test_a_committed_write_is_read_back_as_it_was_written(self, rig: Rig) -> None:
        create = sale(sensitive={35: TRACK})
        assert rig.write(create) == Committed(rig.token, (1,))
        stored = loaded(rig, 1)
        assert stored.transaction == replace(create.transaction, id=1)
        assert (stored.request, stored.sensitive, stored.answer) == (create.request, {35: TRACK}, create.answer)

    def test_everything_committed_is_there_after_a_restart(self, rig: Rig) -> None:
        rig.write(sale("k|000001", sensitive={35: TRACK}))
        rig.write(sale("k|000002", state=State.ASKING, answer=None))
        before = [loaded(rig, 1), loaded(rig, 2)]
        rig.reopen()
        assert [loaded(rig, 1), loaded(rig, 2)] == before
        assert rig.find("k|000001") == (before[0],)
        assert rig.run(rig.journal.in_doubt(10)) == [before[1]]
        assert rig.run(rig.journal.owing_lanes()) == ["M/T"]
        assert rig.write(sale("k|000003")) == Committed(rig.token, (3,))

    def test_a_key_that_exists_changes_nothing_and_gives_the_stored_outcome(self, rig: Rig) -> None:
        rig.write(sale("k|000001"))
        stored = rig.existing(sale("k|000002"), sale("k|000001", amount_minor=1))
        assert stored == loaded(rig, 1)
        assert rig.find("k|000002") == (Lookup.ABSENT,)
        assert rig.run(rig.journal.health()).entries == 1

    def test_of_two_writes_of_one_key_in_one_commit_the_first_wins(self, rig: Rig) -> None:
        writes = [Write(rig.next_token(), (sale("k|000001", amount_minor=n),)) for n in (1, 2, 3)]
        first, *others = rig.perform(*writes)
        assert isinstance(first, Committed)
        for other in others:
            assert isinstance(other, Existing)
            assert other.stored is not None
            assert other.stored.transaction.amount_minor == 1

    def test_a_conflict_within_one_commit_shows_what_that_commit_left(self, rig: Rig) -> None:
        rig.write(sale("k|000001", state=State.ASKING, answer=None, sensitive={35: TRACK}))
        done = evolved(loaded(rig, 1).transaction, State.APPROVED, answer=Answer("0210", {39: "00"}))
        writes = [Write(rig.next_token(), (each,)) for each in (done, sale("k|000001"))]
        existing = rig.perform(*writes)[1]
        assert isinstance(existing, Existing)
        assert existing.stored == loaded(rig, 1)
        assert existing.stored is not None
        assert existing.stored.transaction.state is State.APPROVED

    def test_writes_are_answered_in_the_order_in_which_they_were_handed_over(self, rig: Rig) -> None:
        writes = [Write(rig.next_token(), (sale(f"k|{n % 700:06}"),)) for n in range(1500)]
        events = rig.perform(*writes)
        assert rig.order == [each.token for each in writes]
        assert [isinstance(each, Committed) for each in events] == [n < 700 for n in range(1500)]
        assert [each.ids for each in events if isinstance(each, Committed)] == [(n,) for n in range(1, 701)]

    def test_within_a_horizon_a_key_exists_and_beyond_it_a_new_one_is_made(self, rig: Rig) -> None:
        rig.write(sale("k|000001", horizon_ms=1000))
        rig.now_ms = START_MS + 1000
        assert isinstance(rig.write(sale("k|000001", horizon_ms=1000)), Existing)
        assert rig.find("k|000001", horizon_ms=1000) == (loaded(rig, 1),)
        rig.now_ms = START_MS + 1001
        assert rig.find("k|000001", horizon_ms=1000) == (Lookup.ABSENT,)
        assert rig.find("k|000001") == (loaded(rig, 1),)
        assert isinstance(rig.write(sale("k|000001")), Existing)
        assert isinstance(rig.write(sale("k|000001", horizon_ms=1000, accepted_ms=rig.now_ms)), Committed)
        assert rig.find("k|000001") == (loaded(rig, 2),)

    def test_a_reservation_over_its_limit_writes_nothing_and_names_the_limit(self, rig: Rig) -> None:
        rig.write(sale("k|000001", reserve=(FLOOR,)))
        rig.reopen()
        rig.write(sale("k|000002", reserve=(FLOOR,)))
        refused = rig.write(sale("k|000003", reserve=(FLOOR,)))
        assert refused == OverLimit(rig.token, "standin.count")
        assert rig.find("k|000003") == (Lookup.ABSENT,)
        settled = evolved(loaded(rig, 1).transaction, State.APPROVED, release=("all|156",), exposed=False)
        assert isinstance(rig.write(settled), Committed)
        assert isinstance(rig.write(sale("k|000003", reserve=(FLOOR,))), Committed)

    def test_amount_and_age_limits_refuse_at_their_bound_and_not_before(self, rig: Rig) -> None:
        amount = (Limit("a", None, 100, None, "amount"),)
        assert isinstance(rig.write(sale("k|000001", amount_minor=60, reserve=amount)), Committed)
        over = rig.write(sale("k|000002", amount_minor=41, reserve=amount))
        assert over == OverLimit(rig.token, "amount")
        assert isinstance(rig.write(sale("k|000003", amount_minor=40, reserve=amount)), Committed)
        age = (Limit("b", None, None, 500, "age"),)
        assert isinstance(rig.write(sale("k|000004", reserve=age)), Committed)
        rig.now_ms += 500
        assert isinstance(rig.write(sale("k|000005", reserve=age)), Committed)
        rig.now_ms += 1
        assert rig.write(sale("k|000006", reserve=age)) == OverLimit(rig.token, "age")

    def test_limits_count_what_the_same_commit_has_reserved(self, rig: Rig) -> None:
        writes = [Write(rig.next_token(), (sale(f"k|{n:06}", reserve=(FLOOR,)),)) for n in range(5)]
        events = rig.perform(*writes)
        assert [isinstance(each, Committed) for each in events] == [True, True, False, False, False]

    def test_a_refused_reservation_holds_nothing_of_its_other_counters(self, rig: Rig) -> None:
        tight = Limit("tight", 0, None, None, "tight")
        assert isinstance(rig.write(sale("k|000001", reserve=(FLOOR, tight))), OverLimit)
        for n in (2, 3):
            assert isinstance(rig.write(sale(f"k|{n:06}", reserve=(FLOOR,))), Committed)

    def test_a_lane_is_read_in_order_and_a_reversal_takes_its_own_place(self, rig: Rig) -> None:
        for n in range(1, 5):
            rig.write(sale(f"k|{n:06}"))
        first = loaded(rig, 1).transaction
        reversal = sale("r|000001", state=State.APPROVED, original=1)
        moved = evolved(first, State.REVERSING, position=-1)
        assert rig.write(reversal, moved) == Committed(rig.token, (5, 1))
        assert loaded(rig, 1).transaction.position == 6
        rig.write(sale("k|000005"))
        heads = rig.heads("M/T", 3)
        assert [each.transaction.id for each in heads.stored] == [2, 3, 4]
        assert heads.more
        rest = rig.heads("M/T", 5)
        assert [each.transaction.id for each in rest.stored] == [2, 3, 4, 1, 7]
        assert not rest.more

    def test_a_reversal_of_an_unseen_original_names_it_in_the_same_write(self, rig: Rig) -> None:
        unseen = sale("o|000001", state=State.REVERSING, answer=None)
        reversal = sale("r|000001", state=State.APPROVED, original=-1)
        assert rig.write(unseen, reversal) == Committed(rig.token, (1, 2))
        assert loaded(rig, 2).transaction.original == 1

    def test_lanes_with_nothing_owed_are_not_listed_and_lanes_do_not_mix(self, rig: Rig) -> None:
        rig.write(sale("k|000001", lane="A"))
        rig.write(sale("k|000002", lane="B", state=State.DECLINED))
        rig.write(sale("k|000003", lane="C", state=State.REVERSING))
        rig.write(sale("k|000004", lane="AA"))
        assert rig.run(rig.journal.owing_lanes()) == ["A", "AA", "C"]
        assert [each.transaction.id for each in rig.heads("A").stored] == [1]
        assert rig.heads("B").stored == ()

    def test_sensitive_parts_are_gone_with_the_commit_that_makes_a_transaction_final(self, rig: Rig) -> None:
        rig.write(sale(state=State.ASKING, answer=None, sensitive={35: TRACK}))
        assert loaded(rig, 1).sensitive == {35: TRACK}
        rig.write(evolved(loaded(rig, 1).transaction, State.DECLINED, answer=Answer("0210", {39: "51"})))
        stored = loaded(rig, 1)
        assert (stored.sensitive, stored.answer) == ({}, Answer("0210", {39: "51"}))

    def test_an_update_without_an_answer_leaves_what_the_terminal_was_told(self, rig: Rig) -> None:
        rig.write(sale())
        rig.write(evolved(loaded(rig, 1).transaction, State.STORED, kind=EntryKind.SENDING, attempts=1))
        stored = loaded(rig, 1)
        assert (stored.transaction.attempts, stored.answer) == (1, Answer("0210", {39: "00"}))

    def test_an_update_of_another_revision_stops_the_journal_and_writes_nothing(self, rig: Rig) -> None:
        rig.write(sale())
        stale = evolved(replace(loaded(rig, 1).transaction, revision=7), State.APPROVED)
        assert rig.perform(Write(rig.next_token(), (sale("k|000009"), stale))) == []
        assert isinstance(rig.failure, JournalDefect)
        rig.failure = None
        rig.reopen()
        assert loaded(rig, 1).transaction.state is State.STORED
        assert rig.find("k|000009") == (Lookup.ABSENT,)

    def test_an_update_that_would_change_an_acknowledged_amount_is_not_written(self, rig: Rig) -> None:
        rig.write(sale())
        rig.perform(Write(rig.next_token(), (evolved(loaded(rig, 1).transaction, State.APPROVED, amount_minor=1),)))
        assert isinstance(rig.failure, JournalDefect)
        rig.failure = None
        rig.reopen()
        assert loaded(rig, 1).transaction.amount_minor == 12_345

    def test_a_lookup_gives_one_result_for_each_key_in_their_order(self, rig: Rig) -> None:
        rig.write(sale("k|000001"))
        rig.write(sale("k|000002"))
        found = rig.perform(Find(rig.next_token(), ("k|000002", "none", "k|000001")))[0]
        assert found.results == (loaded(rig, 2), Lookup.ABSENT, loaded(rig, 1))  # type: ignore[union-attr]
        assert rig.load(99) is Lookup.ABSENT

    def test_a_listing_pages_through_what_fits(self, rig: Rig) -> None:
        rig.perform(*(Write(rig.next_token(), (sale(f"k|{n:06}", lane=f"L{n % 2}"),)) for n in range(1200)))
        rig.write(sale("p|000001", state=State.PARKED))
        every = Listing(states=frozenset(), limit=2000)
        assert [t.id for t in rig.run(rig.journal.listing(every))] == list(range(1, 1202))
        lane = Listing(states=frozenset({State.STORED}), lane="L1", after_id=1190, limit=3)
        assert [t.id for t in rig.run(rig.journal.listing(lane))] == [1192, 1194, 1196]
        parked = Listing(states=frozenset({State.PARKED}))
        assert [t.id for t in rig.run(rig.journal.listing(parked))] == [1201]

    def test_health_counts_by_state_without_being_told(self, rig: Rig) -> None:
        rig.write(sale("k|000001", state=State.DECLINED))
        rig.write(sale("k|000002", accepted_ms=START_MS + 5))
        rig.write(evolved(loaded(rig, 2).transaction, State.PARKED, resume=State.STORED))
        health = rig.run(rig.journal.health())
        assert {state: count for state, count in health.counts.items() if count} == {
            State.DECLINED: 1,
            State.PARKED: 1,
        }
        assert (health.writable, health.reason, health.entries, health.quarantined) == (True, "", 3, 0)
        assert health.oldest_owed_ms == START_MS + 5

    def test_closing_finishes_what_was_handed_over_and_may_be_repeated(self, rig: Rig) -> None:
        async def hand_over_and_close() -> None:
            for n in range(100):
                rig.journal.write(Write(rig.next_token(), (sale(f"k|{n:06}"),)))
            await rig.journal.close()
            await rig.journal.close()

        rig.run(hand_over_and_close())
        assert len(rig.order) == 100
        rig.open()
        assert rig.run(rig.journal.health()).entries == 100
