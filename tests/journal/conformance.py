"""What every journal must do (gateway/journal/port.py). A driver subclasses this and gives the `rig` fixture."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.effects import Create, FetchBatch, Find, Limit, Load, Write
from gateway.core.events import Committed, Existing, Lookup, OverLimit
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, Kind, Stored
from gateway.journal.draft import JournalDefect
from gateway.journal.port import BATCH_TRANSACTIONS_MAX, Listing
from protocol.transparency.tree import EMPTY_ROOT
from tests.journal.rig import START_MS, TRACK, Rig, evolved, sale

BATCH = "B000001|M|T"
OTHERS_AND_ONE = [
    BATCH, "B000002|M|T", BATCH, "B000001|M|T1", "B00000|M|T", "B000001|N|T", BATCH, "D20260101|M|T", "B000001|M", BATCH
]  # fmt: skip
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

    @pytest.mark.parametrize("change", [{"alias": "idem|M|T|two"}, {"alias": ""}, {"alias_digest": b"b" * 16}])
    def test_an_update_that_would_change_a_second_key_is_not_written(self, rig: Rig, change: dict[str, Any]) -> None:
        rig.write(sale("k|000001", alias="idem|M|T|one"))
        update = evolved(loaded(rig, 1).transaction, State.APPROVED)
        rig.perform(Write(rig.next_token(), (replace(update, transaction=replace(update.transaction, **change)),)))
        assert isinstance(rig.failure, JournalDefect)
        rig.failure = None
        rig.reopen()
        assert loaded(rig, 1).transaction.state is State.STORED
        assert rig.find("idem|M|T|one", "idem|M|T|two") == (loaded(rig, 1), Lookup.ABSENT)

    def test_entries_about_no_transaction_are_counted_and_are_nobodys(self, rig: Rig) -> None:
        assert rig.run(rig.journal.note(EntryKind.MAINTENANCE, "opened by ann: new router")) == 1
        assert rig.write(sale("B000001|M|T|2|000001", sensitive={35: TRACK})) == Committed(rig.token, (2,))
        assert rig.run(rig.journal.note(EntryKind.KEY, "")) == 3
        assert isinstance(rig.write(sale("k|000002", state=State.ASKING, answer=None)), Committed)
        for _ in range(2):
            assert rig.load(1) is rig.load(3) is Lookup.ABSENT
            assert rig.find("B000001|M|T|2|000001", "") == (loaded(rig, 2), Lookup.ABSENT)
            assert rig.listed() == rig.listed(terminal="T") == [2, 4]
            assert rig.batch("B000001|M|T").stored == (loaded(rig, 2),)
            assert [each.transaction.id for each in rig.heads("M/T").stored] == [2]
            assert [each.transaction.id for each in rig.run(rig.journal.in_doubt(10))] == [4]
            health = rig.run(rig.journal.health())
            assert (health.entries, sum(health.counts.values())) == (4, 2)
            rig.reopen()
        assert rig.damaged == []

    def test_the_head_of_the_log_moves_with_each_commit_and_stays_over_a_restart(self, rig: Rig) -> None:
        heads = [rig.journal.log_head()]
        assert heads == [(0, EMPTY_ROOT)]
        rig.write(sale("k|000001"))
        heads.append(rig.journal.log_head())
        rig.existing(sale("k|000001"))
        assert rig.journal.log_head() == heads[-1], "nothing was logged"
        rig.write(evolved(loaded(rig, 1).transaction, State.APPROVED), sale("k|000002"))
        heads.append(rig.journal.log_head())
        rig.run(rig.journal.note(EntryKind.DISCLOSED, "1"))
        heads.append(rig.journal.log_head())
        assert [size for size, _ in heads] == [0, 1, 3, 4]
        assert len({root for _, root in heads}) == 4
        rig.reopen()
        assert rig.journal.log_head() == heads[-1]

    def test_a_lookup_gives_one_result_for_each_key_in_their_order(self, rig: Rig) -> None:
        rig.write(sale("k|000001"))
        rig.write(sale("k|000002"))
        found = rig.perform(Find(rig.next_token(), ("k|000002", "none", "k|000001")))[0]
        assert found.results == (loaded(rig, 2), Lookup.ABSENT, loaded(rig, 1))  # type: ignore[union-attr]
        assert rig.load(99) is Lookup.ABSENT

    def test_a_read_by_id_with_a_key_gives_the_transaction_of_both_also_where_the_key_has_come_again(
        self, rig: Rig
    ) -> None:
        rig.write(sale("H|M|T|2|000001", horizon_ms=1000))
        rig.now_ms += 1001
        rig.write(sale("H|M|T|2|000001", horizon_ms=1000, accepted_ms=rig.now_ms))
        rig.write(sale("H|M|T|2|000002", alias="idem|M|T|one"))
        for _ in range(2):
            assert [loaded(rig, n) == rig.load(n, "H|M|T|2|000001") for n in (1, 2)] == [True, True]
            assert rig.load(3, "H|M|T|2|000002") == loaded(rig, 3)
            wrong = [(3, "H|M|T|2|000001"), (1, "H|M|T|2|000002"), (3, "idem|M|T|one"), (99, "H|M|T|2|000001")]
            assert [rig.load(number, key) for number, key in wrong] == [Lookup.ABSENT] * 4
            rig.reopen()

    def test_a_transaction_is_found_by_both_its_keys_and_is_one_row(self, rig: Rig) -> None:
        rig.write(sale("k|000001", alias="idem|M|T|one"))
        rig.write(sale("k|000002"))
        for _ in range(2):
            found = rig.find("k|000001", "idem|M|T|one", "idem|M|T|two")
            assert found == (loaded(rig, 1), loaded(rig, 1), Lookup.ABSENT)
            assert loaded(rig, 1).transaction.alias_digest == b"a" * 16
            assert rig.listed() == [1, 2]
            rig.reopen()
        assert rig.damaged == []

    def test_neither_of_two_keys_is_given_again(self, rig: Rig) -> None:
        first = rig.write(sale("k|000001", alias="idem|M|T|one"))
        assert isinstance(first, Committed)
        for _ in range(2):
            for again in (
                sale("k|000001", alias="idem|M|T|two"),
                sale("k|000002", alias="idem|M|T|one"),
                sale("k|000003", alias="k|000001"),
                sale("idem|M|T|one"),
            ):
                event = rig.write(again)
                assert isinstance(event, Existing)
                assert event.stored == loaded(rig, 1)
            rig.reopen()
        assert rig.find("idem|M|T|two", "k|000002", "k|000003") == (Lookup.ABSENT,) * 3

    def test_neither_of_two_keys_is_given_again_in_one_commit(self, rig: Rig) -> None:
        events = rig.perform(
            *(
                Write(rig.next_token(), (each,))
                for each in (
                    sale("k|000001", alias="idem|M|T|one"),
                    sale("k|000002", alias="idem|M|T|one"),
                    sale("idem|M|T|one"),
                    sale("k|000003", alias="idem|M|T|three"),
                )
            )
        )
        assert [type(event) for event in events] == [Committed, Existing, Existing, Committed]
        assert [event.stored for event in events if isinstance(event, Existing)] == [loaded(rig, 1)] * 2

    def test_a_second_key_outlasts_the_horizon_of_the_first(self, rig: Rig) -> None:
        rig.write(sale("H|M|T|2|000001", alias="idem|M|T|one", horizon_ms=1000))
        rig.now_ms += 1001
        rig.write(sale("H|M|T|2|000001", alias="idem|M|T|two", horizon_ms=1000, accepted_ms=rig.now_ms))
        for _ in range(2):
            found = rig.find("H|M|T|2|000001", "idem|M|T|one", "idem|M|T|two")
            assert [each.transaction.id for each in found] == [2, 1, 2]
            rig.reopen()
        event = rig.write(sale("H|M|T|2|000002", alias="idem|M|T|one", horizon_ms=1000))
        assert isinstance(event, Existing)
        assert event.stored == loaded(rig, 1)

    def test_a_second_key_never_changes(self, rig: Rig) -> None:
        rig.write(sale("k|000001", alias="idem|M|T|one"))
        rig.write(evolved(loaded(rig, 1).transaction, State.APPROVED))
        kept = loaded(rig, 1).transaction
        assert (kept.alias, kept.alias_digest) == ("idem|M|T|one", b"a" * 16)

    def test_a_listing_pages_through_what_fits(self, rig: Rig) -> None:
        rig.perform(*(Write(rig.next_token(), (sale(f"k|{n:06}", lane=f"L{n % 2}"),)) for n in range(1200)))
        rig.write(sale("p|000001", state=State.PARKED))
        every = Listing(states=frozenset(), limit=2000)
        assert [t.id for t in rig.run(rig.journal.listing(every))] == list(range(1, 1202))
        lane = Listing(states=frozenset({State.STORED}), lane="L1", after_id=1190, limit=3)
        assert [t.id for t in rig.run(rig.journal.listing(lane))] == [1192, 1194, 1196]
        parked = Listing(states=frozenset({State.PARKED}))
        assert [t.id for t in rig.run(rig.journal.listing(parked))] == [1201]

    def test_a_batch_is_read_oldest_first_and_nothing_of_other_batches_or_terminals(self, rig: Rig) -> None:
        for number, batch in enumerate(OTHERS_AND_ONE, 1):
            rig.write(sale(f"{batch}|2|{number:06}", sensitive={35: TRACK}))
        wanted = [n for n, batch in enumerate(OTHERS_AND_ONE, 1) if batch == BATCH]
        read = rig.batch(BATCH)
        assert (read.stored, read.whole) == (tuple(loaded(rig, n) for n in wanted), True)
        assert (rig.batch("B000009|M|T").stored, rig.batch("B000009|M|T").whole) == ((), True)

    def test_a_batch_has_every_kind_and_state_by_first_keys_alone(self, rig: Rig) -> None:
        rig.write(
            sale(f"{BATCH}|2|000001", state=State.DECLINED, alias="idem|M|T|000003"),
            sale(f"{BATCH}|4|000001", what=Kind.REVERSAL, alias=f"{BATCH}|5|"),
            sale("B000099|M|T|4|000002", alias=f"{BATCH}|9|"),
        )
        for _ in range(2):
            assert [each.transaction.id for each in rig.batch(BATCH).stored] == [1, 2]
            assert rig.batch("idem|M|T").stored == ()
            rig.reopen()
        rig.settle()
        assert rig.damaged == []

    def test_a_batch_shows_every_write_answered_before_however_long_ago_its_transactions_were_made(
        self, rig: Rig
    ) -> None:
        for n in range(1, 4):
            rig.write(sale(f"{BATCH}|2|{n:06}", state=State.ASKING, answer=None))
            assert len(rig.batch(BATCH).stored) == n
        rig.reopen()
        rig.write(sale(f"{BATCH}|2|000004"))
        rig.write(evolved(loaded(rig, 2).transaction, State.APPROVED, answer=Answer("0210", {39: "00"})))
        read = rig.batch(BATCH)
        assert [each.transaction.id for each in read.stored] == [1, 2, 3, 4]
        assert read.stored[1] == loaded(rig, 2)
        rig.reopen()
        assert rig.batch(BATCH).stored == read.stored

    def test_the_newest_of_a_lane_that_names_a_batch_is_found_before_and_after_a_restart(self, rig: Rig) -> None:
        assert rig.newest("M|T") is Lookup.ABSENT

        def one(key: str, **more: Any) -> Create:
            return sale(key, lane="|".join(key.split("|")[1:3]), **more)

        rig.write(one("B000001|M|T|2|000001"))
        rig.write(one("B000002|M|T|2|000001"))
        rig.write(one("B000003|M|OTHER|2|000001"), one("B000004|N|T|2|000001"))
        rig.write(
            one("D20260101|M|T|2|000002"),
            one("D20260101|M|T|2|000003", alias="B000005|M|T|5|"),
        )
        for _ in range(2):
            assert rig.newest("M|T") == loaded(rig, 2)
            assert rig.newest("M|OTHER").transaction.key.startswith("B000003")
            assert rig.newest("N|T").transaction.key.startswith("B000004")
            assert rig.newest("N|OTHER") is Lookup.ABSENT
            rig.reopen()

    def test_a_key_made_anew_beyond_its_horizon_is_twice_in_its_batch(self, rig: Rig) -> None:
        rig.write(sale("H|M|T|2|000001", horizon_ms=1000))
        rig.now_ms += 1001
        rig.write(sale("H|M|T|2|000001", horizon_ms=1000, accepted_ms=rig.now_ms))
        for _ in range(2):
            assert [each.transaction.id for each in rig.batch("H|M|T").stored] == [1, 2]
            assert rig.listed(terminal="T") == [1, 2]
            rig.reopen()

    def test_a_batch_of_more_than_is_read_at_once_is_not_whole(self, rig: Rig) -> None:
        sales = (Write(rig.next_token(), (sale(f"{BATCH}|2|{n:06}"),)) for n in range(BATCH_TRANSACTIONS_MAX))
        rig.perform(*sales)
        read = rig.batch(BATCH)
        assert (len(read.stored), read.whole) == (BATCH_TRANSACTIONS_MAX, True)
        rig.write(sale(f"{BATCH}|4|000001"))
        more = rig.batch(BATCH)
        assert (more.stored == read.stored, more.whole) == (True, False)

    def test_batches_and_lookups_asked_for_at_once_are_each_answered(self, rig: Rig) -> None:
        for n in range(1, 9):
            rig.write(sale(f"B{n:06}|M|T|2|000001"))
        batches = [FetchBatch(rig.next_token(), f"B{n:06}|M|T") for n in range(1, 9)]
        lookups = [Load(rig.next_token(), n) for n in range(1, 9)]
        events = rig.perform(*batches, *lookups)  # each by its token
        assert [each.stored for each in events[:8]] == [(loaded(rig, n),) for n in range(1, 9)]  # type: ignore[union-attr]
        assert [each.results for each in events[8:]] == [(loaded(rig, n),) for n in range(1, 9)]  # type: ignore[union-attr]

    def test_a_listing_by_terminal_and_stan_pages_through_old_and_new_alike(self, rig: Rig) -> None:
        def more(first: int, last: int) -> None:
            numbers = range(first, last)
            keys = (f"B{n:06}|M|T{n % 2}|2|{n % 3:06}" for n in numbers)
            rig.perform(*(Write(rig.next_token(), (sale(key),)) for key in keys))

        more(1, 1201)
        rig.reopen()
        more(1201, 2401)
        odd = [n for n in range(1, 2401) if n % 2]
        stan = [n for n in odd if n % 3 == 2]
        assert rig.listed(terminal="T1") == odd
        assert rig.listed(terminal="T1", stan="000002") == stan
        assert rig.listed(terminal="T1", after_id=1195, limit=6) == [1197, 1199, 1201, 1203, 1205, 1207]
        assert rig.listed(terminal="T1", stan="000002", after_id=1193, limit=3) == [1193 + 6 * n for n in (1, 2, 3)]
        assert rig.listed(terminal="T1", stan="000002", after_id=2399) == []
        assert rig.listed(terminal="T2") == rig.listed(terminal="T1", stan="000009") == []
        assert rig.listed(stan="000002", terminal="T1", states=frozenset({State.STORED})) == stan
        assert rig.listed(terminal="T1", states=frozenset({State.PARKED})) == []

    def test_a_listing_by_stan_goes_by_the_one_that_the_gateway_assigned_where_the_terminal_gave_none(
        self, rig: Rig
    ) -> None:
        rig.write(sale("H|M|T|2|750001", stan=""))
        rig.write(sale("H|M|T|2|750002", stan="", alias="idem|M|T|x"))
        for _ in range(2):
            assert rig.listed(terminal="T", stan=loaded(rig, 2).transaction.sent_stan) == [2]
            assert rig.listed(terminal="T") == [1, 2]
            rig.reopen()

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
