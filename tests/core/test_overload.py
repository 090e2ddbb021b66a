"""Every resource has a limit and every limit an answer (INV-9); what hostile input cannot make grow."""

from __future__ import annotations

from gateway.core.effects import Severity
from gateway.core.events import NO_ROOM, Damaged
from gateway.core.lifecycle import State
from gateway.core.work import ALARMS_PER_WINDOW, LATE_REMEMBERED_MAX, EngineSettings, Sent
from tests.core.acquirer import LATE, SILENT_LOST
from tests.core.messages import key, reversal, sale
from tests.core.world import World


def test_inv_9_above_in_flight_max_requests_and_reversals_are_refused_with_96_and_stored_nowhere() -> None:
    world = World(settings=EngineSettings(in_flight_max=2))
    world.acquirer.mood = SILENT_LOST
    first = [world.ask("0200", sale(1, terminal=f"TERM000{n}")) for n in (1, 2)]
    refused = world.ask("0200", sale(1, terminal="TERM0003"))
    reversing = world.ask("0400", reversal(sale(7, terminal="TERM0003"), 8))
    joined = world.ask("0201", sale(1, terminal="TERM0001"))
    world.run()
    assert [world.code(token) for token in (refused, reversing)] == ["96", "96"]
    assert world.engine.status().counts["refused.overload"] == 2
    world.advance(60_000)
    assert [world.code(token) for token in (*first, joined)] == ["68"] * 3
    assert len(world.journal.rows) == 2
    world.acquirer.mood = LATE
    world.advance(600_000)


def test_inv_9_d20_who_finds_the_line_of_its_lane_full_is_decided_at_once_behind_what_the_lane_owes() -> None:
    world = World(settings=EngineSettings(lane_waiting_max=2), up=False)
    world.ask("0200", sale(9))
    world.run()
    world.acquirer.moods.append(SILENT_LOST)
    world.up()
    tokens = [world.ask("0200", sale(stan)) for stan in (1, 2, 3, 4)]
    other = world.ask("0200", sale(1, terminal="TERM0002"))
    world.run()
    assert [world.code(token) for token in tokens] == ["", "", "00", "00"]
    assert world.code(other) == "00"
    assert world.journal.row(key(4)).state is State.STORED
    world.advance(3_000)
    assert [world.code(token) for token in tokens] == ["00", "00", "00", "00"]
    world.advance(60_000)
    world.check_settled()


def test_inv_9_who_sends_more_at_once_than_may_wait_behind_its_own_requests_is_refused_and_not_stood_in_for() -> None:
    world = World(settings=EngineSettings(lane_waiting_max=2))
    tokens = [world.ask("0200", sale(stan)) for stan in (1, 2, 3, 4)]
    world.commit()
    world.report()
    world.look_up()
    world.run()
    assert [world.code(token) for token in tokens] == ["00", "00", "00", "91"]
    assert [send.message.fields[11] for send in world.sends] == ["000001", "000002", "000003"]
    row = world.journal.row(key(4))
    assert (row.state, row.reason) == (State.DECLINED, "lane.busy")
    world.check_settled()


def test_inv_9_what_finds_no_room_is_declined_where_the_acquirer_answers_and_stood_in_for_where_it_hangs() -> None:
    world = World()
    world.refused_at_link = NO_ROOM
    told = world.ask("0200", sale(1))
    world.run()
    assert (world.code(told), world.journal.row(key(1)).reason) == ("91", "acquirer.full")
    assert not world.engine.overruns(1, 2, world.mono_ms)
    assert world.engine.overruns(2, 2, world.mono_ms)
    world.advance(5_001)
    assert not world.engine.overruns(2, 2, world.mono_ms)
    later = world.ask("0200", sale(2))
    world.run()
    assert (world.code(later), world.journal.row(key(2)).state) == ("00", State.STORED)


def under_way(world: World, count: int) -> None:
    """So many requests, each of another terminal."""
    for number in range(count):
        world.ask("0200", sale(1, terminal=f"TERM{number:04}"))
    world.run()


def test_inv_9_as_many_as_the_acquirer_has_room_for_are_enough_for_as_long_as_it_answers() -> None:
    world = World()
    assert not world.engine.overruns(2, 3, world.mono_ms)
    assert world.engine.overruns(3, 3, world.mono_ms), "before any of them is with the acquirer"
    world.acquirer.mood = SILENT_LOST
    under_way(world, 3)
    assert world.engine.overruns(3, 3, world.mono_ms)
    assert not world.engine.overruns(2, 3, world.mono_ms)
    assert not world.engine.overruns(3, 0, world.mono_ms), "a link without any room says NotSent"


def test_inv_9_what_finds_no_room_with_a_host_that_hangs_is_an_outage_and_no_overload() -> None:
    world = World()
    world.acquirer.mood = SILENT_LOST
    under_way(world, 3)
    assert world.engine.overruns(3, 3, world.mono_ms)
    world.advance(5_000)
    assert world.engine.overruns(3, 3, world.mono_ms)
    world.advance(1)
    assert not world.engine.overruns(3, 3, world.mono_ms)


def test_inv_9_a_host_hangs_from_when_it_has_all_that_it_may_have_and_not_from_one_message_before() -> None:
    world = World()
    world.acquirer.mood = SILENT_LOST
    under_way(world, 1)
    world.advance(10_000)
    assert not world.engine.overruns(1, 2, world.mono_ms)
    assert world.engine.overruns(2, 2, world.mono_ms)
    assert not world.engine.overruns(1, 2, world.mono_ms)
    world.advance(3_000)
    assert world.engine.overruns(2, 2, world.mono_ms)


def test_inv_9_with_the_acquirer_away_there_is_always_room_to_stand_in() -> None:
    assert not World(up=False).engine.overruns(3, 3, 0)


def test_inv_9_what_is_replayed_takes_room_from_the_acquirer_and_who_waits_for_a_lane_takes_none() -> None:
    world = World(up=False)
    under_way(world, 1)
    world.acquirer.mood = SILENT_LOST
    world.up()
    assert world.engine.status().replaying == 1
    assert world.engine.overruns(2, 3, world.mono_ms)
    world.ask("0200", sale(2, terminal="TERM0000"))
    world.run()
    assert world.engine.status().waiting == 1
    assert not world.engine.overruns(2, 3, world.mono_ms), "one of the two waits"
    assert not world.engine.overruns(1, 1, world.mono_ms), "one is always let in beside what is replayed"
    assert world.engine.overruns(2, 1, world.mono_ms)
    world.ask("0200", sale(2, terminal="TERM0000"))
    world.run()
    assert not world.engine.overruns(3, 3, world.mono_ms), "a retry that joins is no transaction of its own"


def test_inv_9_a_full_journal_refuses_what_is_new_with_96_and_loses_nothing_that_was_acknowledged() -> None:
    world = World(up=False)
    kept = world.ask("0200", sale(1))
    world.run()
    world.journal.full = True
    refused = [world.ask("0200", sale(2)), world.ask("0220", sale(3)), world.ask("0400", reversal(sale(1), 4))]
    world.run()
    unknown = world.ask("0400", reversal(sale(5), 6))
    world.run()
    assert [world.code(token) for token in (*refused, unknown)] == ["96"] * 4
    world.up()
    world.advance(10_000)
    assert not world.sends  # nothing is sent that could not be recorded
    world.journal.full = False
    world.advance(10_000)
    assert world.code(kept) == "00"
    assert world.journal.row(key(1)).state is State.APPROVED
    world.check_settled()


def test_inv_9_a_person_is_told_of_a_full_journal_once_a_minute_and_not_of_each_refusal() -> None:
    world = World(up=False)
    world.journal.full = True
    for stan in range(1, 30):
        world.ask("0200", sale(stan))
        world.run()
    assert [(each.code, each.severity) for each in world.alarms] == [("journal-full", Severity.ALARM)]
    assert "96" in world.alarms[0].text
    world.advance(60_000)
    world.ask("0200", sale(30))
    world.run()
    assert [each.code for each in world.alarms] == ["journal-full"] * 2
    assert world.engine.status().counts["refused.journal-full"] == 30


def test_inv_9_what_was_refused_can_be_sent_again_when_there_is_room() -> None:
    world = World()
    world.journal.full = True
    first = world.ask("0200", sale(1))
    world.run()
    world.journal.full = False
    again = world.ask("0201", sale(1))
    world.run()
    assert (world.code(first), world.code(again)) == ("96", "00")
    world.check_settled()


def test_inv_9_a_reversal_that_meets_a_full_journal_while_its_original_is_in_flight_lets_it_go_on() -> None:
    world = World()
    original = world.ask("0200", sale(1))
    world.settle_journal()
    world.journal.full = True
    refused = world.ask("0400", reversal(sale(1), 2))
    world.settle_journal()
    world.journal.full = False
    world.run()
    assert (world.code(refused), world.code(original)) == ("96", "00")
    world.check_settled()


def test_inv_9_no_lane_counter_or_key_stays_in_memory_once_everything_is_settled() -> None:
    world = World()
    for number in range(300):
        fields = sale(1, 10, terminal=f"T{number:07}")
        world.ask("0200", fields)
        world.ask("0400", reversal(fields, 2))
        world.ask("0200", fields | {4: "000000000011"})
    world.run()
    world.advance(60_000)
    status = world.engine.status()
    assert (status.lanes_in_memory, status.in_flight, status.replaying) == (0, 0, 0)
    assert len(status.counts) < 40
    assert not world.engine._work.unanswered
    assert not world.engine._work._writes


def test_inv_9_alarms_of_one_kind_are_limited_and_the_rest_is_counted() -> None:
    world = World()
    for number in range(ALARMS_PER_WINDOW + 50):
        world.step(Damaged(number, "hash"))
    assert len([alarm for alarm in world.alarms if alarm.code == "record-damaged"]) == ALARMS_PER_WINDOW
    assert world.engine.status().counts["alarms-silenced"] == 50
    assert world.engine.status().counts["alarm.record-damaged"] == ALARMS_PER_WINDOW + 50
    world.advance(60_000)
    world.step(Damaged(1, "hash"))
    assert len([alarm for alarm in world.alarms if alarm.code == "record-damaged"]) == ALARMS_PER_WINDOW + 1


def test_inv_9_late_answers_are_waited_for_up_to_a_limit() -> None:
    work = World().engine._work
    for token in range(LATE_REMEMBERED_MAX + 10):
        work.remember_unanswered(token, Sent("key", 0, "lane"))
    assert len(work.unanswered) == LATE_REMEMBERED_MAX
    assert 9 not in work.unanswered


def test_inv_4_there_are_never_two_lanes_of_one_name() -> None:
    world = World(up=False)
    refused = world.ask("0200", sale(1, 999_999))  # over the floor limit: nothing is owed for it
    stored = world.ask("0200", sale(2))
    world.commit()
    world.report(1)
    assert world.code(refused) == "91"
    lane = world.engine._work.lanes.get("MERCHANT0000001|TERM0001")
    assert lane is not None  # the second one is still being written
    world.run()
    assert world.code(stored) == "00"
    assert world.engine._work.lanes.get("MERCHANT0000001|TERM0001") is lane
    world.up()
    world.check_settled()


def test_inv_4_a_lane_is_not_forgotten_while_a_request_of_it_is_looked_up() -> None:
    world = World()
    first = world.ask("0200", sale(1))
    world.commit()
    world.report()
    second = world.ask("0200", sale(2))  # its lane is busy: it is looked up first
    world.deliver()
    world.commit()
    world.report()
    assert world.code(first) == "00"
    world.acquirer.moods.append(SILENT_LOST)
    third = world.ask("0200", sale(3))
    world.commit()
    world.report()
    world.look_up()
    world.run()
    assert [send.message.fields[11] for send in world.sends] == ["000001", "000003"]
    world.advance(3_000)
    assert world.code(second) == "00"
    world.advance(60_000)
    assert world.code(third) == "68"
    world.check_settled()


def test_a_damaged_record_is_told_with_its_place_in_the_journal() -> None:
    world = World()
    world.step(Damaged(42, "tag"))
    assert world.alarms[-1].facts == {"sequence": "42"}
