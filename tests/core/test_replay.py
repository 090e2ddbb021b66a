"""What is owed goes upstream: repeats, backoff, order, parking, window and rate (D8, D9, D13, D14, D18, D19, D20)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.core.effects import FetchHeads, Purpose, Send
from gateway.core.events import NO_ROOM, Connected, Heads, OperatorAct, Ticked
from gateway.core.lifecycle import EntryKind, State
from gateway.core.link import LinkSettings
from gateway.core.work import EngineSettings
from protocol.iso8583.rules import HostRules
from tests.core.acquirer import (
    BREAKS_BOOKED,
    DECLINES,
    REFUSES,
    SILENT_BOOKED,
    SILENT_LOST,
    Mood,
    answers,
)
from tests.core.messages import UNIONPAY_HOST, UNIONPAY_RULES, key, reversal, sale, unionpay_sale
from tests.core.world import World


def stored(world: World, *stans: int, terminal: str = "TERM0001") -> None:
    """Sales that stood in while the link was down."""
    for stan in stans:
        token = world.ask("0200", sale(stan, 10, terminal=terminal))
        world.run()
        assert world.code(token) == "00"


def advices(world: World) -> list[Send]:
    return [send for send in world.sends if send.purpose is Purpose.ADVICE]


def test_d8_a_stand_in_approval_is_forwarded_as_an_advice_that_carries_its_approval() -> None:
    world = World(up=False)
    stored(world, 1)
    world.up()
    (send,) = advices(world)
    answer = world.told[1].answer
    assert answer is not None
    assert send.message.mti == "0220"
    assert send.message.fields == sale(1, 10) | {n: answer.fields[n] for n in (37, 38, 39)}
    assert world.journal.row(key()).state is State.APPROVED
    world.check_settled()


def test_d8_an_authorisation_is_forwarded_as_0120() -> None:
    world = World(up=False)
    world.ask("0100", sale())
    world.run()
    world.up()
    assert advices(world)[0].message.mti == "0120"


@pytest.mark.parametrize("dialect", ["iso", "unionpay"])
@pytest.mark.parametrize("interrupted", ["timeouts", "restart", "released", "retry-later"])
def test_d8_every_repeat_of_an_advice_equals_the_first_but_for_its_mti(dialect: str, interrupted: str) -> None:
    unionpay = dialect == "unionpay"
    world = World(
        up=False, host=UNIONPAY_HOST if unionpay else None, rules=UNIONPAY_RULES if unionpay else None,
        settings=EngineSettings(attempts_max=2 if interrupted == "released" else 30),
    )  # fmt: skip
    world.ask("0200", unionpay_sale() if unionpay else sale())
    world.run()
    mood = answers("96") if interrupted == "retry-later" else SILENT_LOST
    world.acquirer.moods.extend([mood, mood])
    world.up()
    if interrupted == "restart":
        world.crash_and_restart()
    world.advance(60_000)
    if interrupted == "released":
        assert world.command(OperatorAct.RELEASE, 1) == "transaction 1 is now stored"
        world.advance(60_000)
    first, *repeats = advices(world)
    assert len(repeats) == 2
    assert all(send.message.fields == first.message.fields for send in repeats)
    assert [send.message.mti for send in repeats] == ["0220" if unionpay else "0221"] * 2
    world.check_settled()


def test_d8_field_7_is_made_fresh_in_a_repeat_only_where_the_host_wants_it() -> None:
    world = World(up=False, host=HostRules(repeat_refresh=frozenset({7})))
    stored(world, 1)
    world.acquirer.moods.append(SILENT_LOST)
    world.up()
    world.advance(60_000)
    first, repeat = advices(world)
    assert first.message.fields[7] == sale()[7]
    assert repeat.message.fields[7] == "1121120015"
    rest = {n: v for n, v in repeat.message.fields.items() if n != 7}
    assert rest == {n: v for n, v in first.message.fields.items() if n != 7}


def test_d9_a_send_is_recorded_before_it_leaves_so_that_the_next_is_a_repeat_after_a_crash_too() -> None:
    world = World(up=False)
    stored(world, 1)
    world.acquirer.moods.append(SILENT_BOOKED)
    world.up()
    world.crash_and_restart()
    assert [send.message.mti for send in advices(world)] == ["0220", "0221"]
    assert world.acquirer.net(("MERCHANT0000001|TERM0001", "000001")) == 1
    world.check_settled()


def test_d9_attempts_back_off_and_double_up_to_the_maximum() -> None:
    settings = EngineSettings(backoff_min_ms=1_000, backoff_max_ms=8_000)
    world = World(up=False, settings=settings)
    stored(world, 1)
    world.acquirer.mood = answers("96")
    world.up()
    times = [world.mono_ms]
    while len(times) < 8:
        before = len(world.sends)
        due = world.engine.next_wakeup_ms()
        assert due is not None
        world.advance(max(0, due - world.mono_ms))
        if len(world.sends) > before:
            times.append(world.mono_ms)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for pause, most in zip(pauses, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000], strict=True):
        assert most // 2 <= pause <= most  # jitter takes up to half


def test_d9_what_an_outage_held_back_is_tried_as_soon_as_it_is_over() -> None:
    world = World(up=False, settings=EngineSettings(backoff_min_ms=300_000))
    stored(world, 1)
    world.acquirer.moods.append(REFUSES)
    world.up()
    world.down()
    world.advance(1_000)
    world.up()
    assert world.journal.row(key()).state is State.APPROVED


def test_d14_a_lane_is_replayed_in_the_order_of_acceptance() -> None:
    world = World(up=False, settings=EngineSettings(heads_read_ahead=2))
    stored(world, 3, 1, 2, 5, 4)
    world.up()
    world.advance(1_000)
    assert [send.message.fields[11] for send in advices(world)] == [f"{stan:06}" for stan in (3, 1, 2, 5, 4)]
    world.check_settled()


def test_d9_an_outcome_and_the_record_of_the_next_send_are_one_commit() -> None:
    world = World(up=False)
    stored(world, 1, 2, 3)
    world.connected = True
    world.step(Connected(True))
    world.deliver()
    world.look_up()
    for number in (1, 2, 3):
        (write,) = world.writes
        changes = [(change.kind, change.transaction.id) for change in write.changes]
        assert changes == [(EntryKind.ANSWERED, number - 1)] * (number > 1) + [(EntryKind.SENDING, number)]
        assert len(advices(world)) == number - 1  # D9: nothing leaves before its record is durable
        world.commit()
        world.crash() if number == 3 else world.report()
        world.deliver()
    rows = [world.journal.row(key(stan)) for stan in (1, 2, 3)]
    assert [(row.state, row.attempts) for row in rows] == [
        (State.APPROVED, 1), (State.APPROVED, 1), (State.STORED, 1),
    ]  # fmt: skip
    world.restart()
    world.up()
    assert [send.message.mti for send in advices(world)] == ["0220", "0220", "0221"]
    world.check_settled()


def test_d14_an_advice_whose_reversal_is_owed_is_followed_by_that_and_by_nothing_newer() -> None:
    world = World(up=False)
    stored(world, 1, 2)
    world.acquirer.moods.append(BREAKS_BOOKED)
    world.up()
    world.down()
    token = world.ask("0400", reversal(sale(1, 10), 3))
    world.run()
    assert world.code(token) == "00"
    world.up()
    world.advance(60_000)
    sent = [(send.purpose, send.message.mti) for send in world.sends]
    assert sent[1:] == [(Purpose.ADVICE, "0221"), (Purpose.REVERSAL, "0400"), (Purpose.ADVICE, "0220")]
    assert [send.message.fields[11] for send in advices(world)] == ["000001", "000001", "000002"]
    world.check_settled()


def test_d19_a_lane_yields_its_place_when_the_window_closes() -> None:
    settings = EngineSettings(reply_timeout_ms=1_000, heads_read_ahead=40, link=LinkSettings(window_max=8))
    world = World(up=False, settings=settings)
    for number in range(8):
        stored(world, *range(1, 41), terminal=f"TERM{number:04}")
    world.acquirer.mood = Mood(after_ms=100)
    world.connected = True
    world.up()
    world.advance(1_000)
    world.acquirer.moods.append(SILENT_LOST)
    world.advance(1_000)
    assert world.engine.status().window == world.engine.status().replaying == 8
    # One stays away: the window is at one, and opens again with each answer of the others.
    world.advance(100, run=False)
    fewest = 8
    for _ in range(8):
        world.deliver(1)
        world.settle_journal()
        fewest = min(fewest, world.engine.status().replaying)
    assert fewest <= 5
    world.advance(60_000)
    world.check_settled()


def test_inv_9_what_is_read_ahead_is_kept_for_no_more_lanes_than_the_window_has() -> None:
    settings = EngineSettings(link=LinkSettings(window_max=4), heads_read_ahead=4)
    world = World(up=False, settings=settings)
    lanes = [f"TERM{number:04}" for number in range(20)]
    for terminal in lanes:
        stored(world, *range(1, 11), terminal=terminal)
    world.acquirer.mood = Mood(after_ms=100)
    world.connected = True
    world.up()
    most = 0
    for step in range(200):
        world.acquirer.mood = answers("96") if step % 7 == 3 else Mood(after_ms=100)
        world.advance(100)
        kept = [lane for lane in world.engine._work.lanes._lanes.values() if lane.heads]
        most = max(most, len(kept))
    assert 0 < most <= 4


def test_d20_the_lane_in_which_a_request_waits_is_replayed_before_the_others() -> None:
    world = World(up=False, settings=EngineSettings(link=LinkSettings(window_max=1), heads_read_ahead=2))
    for number in range(20):
        stored(world, 1, 2, 3, 4, terminal=f"TERM{number:04}")
    world.acquirer.mood = Mood(after_ms=100)
    world.connected = True
    world.up()
    before = len(advices(world))
    world.ask("0200", sale(5, 10, terminal="TERM0019"))
    world.advance(1_000)
    own = [send.message.fields[11] for send in world.sends[before:] if send.message.fields[41] == "TERM0019"]
    assert own == [f"{stan:06}" for stan in (1, 2, 3, 4, 5)]
    world.advance(60_000)
    world.check_settled()


def test_d9_d18_a_declined_advice_is_parked_with_an_alarm_and_does_not_block_its_lane() -> None:
    world = World(up=False)
    stored(world, 1, 2)
    world.acquirer.moods.append(DECLINES)
    world.up()
    row = world.journal.row(key(1))
    assert (row.state, row.resume, row.exposed) == (State.PARKED, State.STORED, True)
    assert row.reason.startswith("answer.code-51")
    assert [alarm.facts["id"] for alarm in world.alarms if alarm.code == "parked"] == ["1"]
    assert world.journal.row(key(2)).state is State.APPROVED
    world.check_settled()


def test_d18_a_message_out_of_attempts_is_parked() -> None:
    world = World(up=False, settings=EngineSettings(attempts_max=3))
    stored(world, 1)
    world.acquirer.mood = answers("96")
    world.up()
    for stan in (2, 3, 4):  # what the acquirer decides in between shows that the reason is the message's own
        world.acquirer.moods.append(Mood())
        world.ask("0200", sale(stan, terminal="T0000002"))
        world.advance(20_000)
        assert (world.journal.row(key()).state is State.PARKED) == (stan == 4)
    assert world.journal.row(key()).reason.startswith("replay.attempts-3")


def test_d9_an_acquirer_that_puts_everything_off_has_nothing_parked_and_gets_it_all_when_it_works_again() -> None:
    world = World(up=False, settings=EngineSettings(attempts_max=3, backoff_max_ms=8_000))
    for stan in range(1, 6):
        world.ask("0200", sale(stan, terminal=f"T000000{stan}"))
    world.run()
    world.acquirer.mood = answers("91")
    world.up()
    world.advance(300_000)
    assert len(advices(world)) > 50
    assert {row.transaction.state for row in world.journal.rows.values()} == {State.STORED}
    assert not [alarm for alarm in world.alarms if alarm.code == "parked"]
    world.acquirer.mood = Mood()
    world.advance(10_000)
    assert {row.transaction.state for row in world.journal.rows.values()} == {State.APPROVED}
    world.check_settled()


def test_d18_a_message_that_cannot_be_encoded_at_last_is_parked() -> None:
    world = World(up=False)
    stored(world, 1)
    world.refused_at_link = "unencodable: field 48"
    world.up()
    assert world.journal.row(key()).reason.startswith("replay.unencodable")
    world.check_settled()


def test_d6_an_advice_of_which_no_byte_left_is_tried_again() -> None:
    world = World(up=False)
    stored(world, 1)
    world.acquirer.moods.append(REFUSES)
    world.up()
    assert world.journal.row(key()).state is State.STORED
    world.advance(1_000)
    world.check_settled()


def test_d9_what_never_left_is_not_parked_for_it_however_often_there_is_no_room() -> None:
    world = World(settings=EngineSettings(backoff_max_ms=2_000))
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", sale())
    world.run()
    world.refused_at_link = NO_ROOM
    world.advance(15_000)
    world.advance(120_000)
    assert len(world.sends) > 32, "the request, and the reversal again and again"
    assert world.journal.row(key()).state is State.REVERSING
    world.refused_at_link = ""
    world.advance(2_000)
    assert world.journal.row(key()).state is State.REVERSED
    world.check_settled()


def test_d9_what_never_left_is_not_counted_when_what_has_left_is_given_up() -> None:
    world = World(settings=EngineSettings(backoff_max_ms=2_000, attempts_max=3))
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", sale())
    world.run()
    world.refused_at_link = NO_ROOM
    world.advance(45_000)
    assert world.journal.row(key()).attempts > 3
    world.refused_at_link = ""
    world.acquirer.moods += [SILENT_LOST] * 3
    for state in (State.REVERSING, State.REVERSING, State.PARKED):
        world.advance(18_000)
        assert world.journal.row(key()).state is state
    assert world.journal.row(key()).reason == "replay.attempts-3 < answer.none"


def test_d13_a_reversal_is_not_sent_before_its_original_cannot_arrive_any_more() -> None:
    world = World()
    world.acquirer.moods.append(BREAKS_BOOKED)  # the connection breaks at once; the request arrives 25 s later
    token = world.ask("0200", sale())
    world.run()
    assert world.code(token) == "68"
    assert world.journal.row(key()).not_before_ms == world.utc_ms + 30_000
    world.advance(29_999)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.advance(1)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.REVERSAL]
    world.check_settled()


def test_d13_it_waits_as_long_where_the_terminal_had_reversed_it_meanwhile() -> None:
    world = World()
    world.acquirer.moods.append(BREAKS_BOOKED)
    world.ask("0200", sale())
    world.settle_journal()
    world.ask("0400", reversal(sale(), 2))
    world.run()
    world.advance(29_999)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.advance(1)
    world.check_settled()


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
@pytest.mark.parametrize("restarted", [False, True])
def test_d13_a_wall_clock_that_is_set_neither_hurries_nor_holds_up_a_reversal(jump_ms: int, restarted: bool) -> None:
    world = World()
    world.acquirer.moods.append(BREAKS_BOOKED)
    world.ask("0200", sale())
    world.run()
    if restarted:
        world.crash_and_restart()
    world.jump(jump_ms)
    world.advance(29_999)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.advance(1)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.REVERSAL]
    world.check_settled()


@pytest.mark.parametrize("code", ["00", "12", "25"])
def test_d13_a_reversal_answered_done_is_done(code: str) -> None:
    world = World()
    world.acquirer.moods.extend([SILENT_LOST, Mood(extra=((39, code),))])
    world.ask("0200", sale())
    world.run()
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED
    assert world.journal.row(key()).reason.startswith(f"answer.code-{code}")


def test_d19_the_window_opens_step_by_step_after_an_outage() -> None:
    world = World(up=False, settings=EngineSettings(link=LinkSettings(window_max=8)))
    for number in range(40):
        stored(world, 1, terminal=f"TERM{number:04}")
    world.connected = True
    world.acquirer.mood = Mood(after_ms=100)
    world.up()
    widths = []
    for _ in range(200):
        widths.append(len([flight for flight in world.flights.values() if not flight.over]))
        world.advance(100)
    widths = [width for width in widths if width]
    assert widths[:4] == [1, 2, 4, 8]
    assert max(widths) == 8
    world.check_settled()


def test_d19_the_window_closes_to_one_when_an_answer_stays_away() -> None:
    world = World(up=False)
    for number in range(10):
        stored(world, 1, terminal=f"TERM{number:04}")
    world.up()
    assert world.engine.status().window > 8
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0220", sale(2))
    world.run()
    world.advance(15_000)
    assert world.engine.status().window <= 3  # one, and a step for the probe's answer or the repeat's


def test_d19_the_rate_limits_replays_to_so_many_a_second() -> None:
    world = World(up=False, settings=EngineSettings(rate_per_s=5))
    for number in range(30):
        stored(world, 1, terminal=f"TERM{number:04}")
    world.up()
    counts = []
    for _ in range(4):
        world.advance(1_000)
        counts.append(len(advices(world)))
    assert 4 <= counts[0] <= 6
    assert all(4 <= later - earlier <= 6 for earlier, later in pairwise(counts))


def test_d19_a_rate_limit_asks_for_no_wakeup_while_only_the_window_holds_back() -> None:
    world = World(up=False, settings=EngineSettings(rate_per_s=1))
    for number in range(3):
        stored(world, 1, terminal=f"TERM{number:04}")
    world.acquirer.mood = SILENT_LOST
    world.up()
    world.advance(3_000)
    assert len(advices(world)) == 1
    world.step(Ticked())
    wakeup = world.engine.next_wakeup_ms()
    assert wakeup is None or wakeup > world.mono_ms + 1_000


def test_d20_a_new_request_waits_until_the_lane_has_drained() -> None:
    world = World(up=False)
    stored(world, 1, 2)
    world.acquirer.mood = Mood(after_ms=500)
    world.up()
    token = world.ask("0200", sale(3))
    world.run()
    world.advance(2_000)
    assert world.code(token) == "00"
    assert [(send.purpose.name, send.message.fields[11]) for send in world.sends] == [
        ("ADVICE", "000001"), ("ADVICE", "000002"), ("REQUEST", "000003"),
    ]  # fmt: skip
    world.check_settled()


def test_inv_4_what_is_stored_while_heads_are_being_read_is_not_forgotten() -> None:
    world = World(up=False)
    stored(world, 1)
    world.connected = True
    world.step(Connected(True))
    world.deliver()
    fetch = world.lookups.popleft()
    assert isinstance(fetch, FetchHeads)
    stale = world.journal.heads(fetch)
    world.ask("0220", sale(2))
    world.commit()
    world.report()
    world.step(stale)
    world.run()
    assert world.journal.row(key(2)).state is State.APPROVED
    world.check_settled()


def test_a_read_that_was_overtaken_is_dropped_and_does_not_ask_for_yet_another() -> None:
    world = World(up=False)
    stored(world, 1)
    world.connected = True
    world.step(Connected(True))
    world.deliver()
    world.engine._work.link.window = 8
    stale = world.read()
    assert isinstance(stale, Heads)
    world.ask("0400", reversal(sale(7), 8))  # holds the lane: what was read ahead may be stale
    world.look_up()
    world.commit()
    world.report()
    (again,) = world.lookups
    assert isinstance(again, FetchHeads)
    world.step(stale)
    assert list(world.lookups) == [again]
    world.run()
    world.check_settled()


def test_inv_4_a_head_that_was_given_back_yields_to_one_that_was_released_before_it_meanwhile() -> None:
    world = World(up=False)
    stored(world, 1, 2)
    world.acquirer.moods.extend([DECLINES, Mood(after_ms=1_000, books=False, code="96")])
    world.up()
    assert world.journal.row(key(1)).state is State.PARKED
    world.command(OperatorAct.RELEASE, 1)  # while the second one is in flight
    world.advance(10_000)
    assert [send.message.fields[11] for send in advices(world)] == ["000001", "000002", "000001", "000002"]
    world.check_settled()


def test_a_refused_update_is_written_again_until_there_is_room_and_is_not_quiet_meanwhile() -> None:
    world = World()
    token = world.ask("0200", sale())
    world.settle_journal()
    world.journal.full = True
    world.run()
    world.advance(1_000)
    assert world.code(token) == ""
    assert not world.engine.quiet
    world.journal.full = False
    world.advance(1_000)
    assert world.code(token) == "00"
    world.check_settled()


def test_d18_a_message_at_which_the_link_breaks_each_time_is_parked_and_stops_going_first() -> None:
    world = World(settings=EngineSettings(attempts_max=6, backoff_min_ms=1_000, backoff_max_ms=20_000))
    world.acquirer.mood = Mood(arrives=False, answers=False, breaks=True)  # the host hangs up when it reads it
    world.ask("0220", sale())
    sent_ms: list[int] = []
    for _ in range(1_000):
        world.advance(100)
        if len(world.sends) > len(sent_ms):
            sent_ms += [world.mono_ms] * (len(world.sends) - len(sent_ms))
            world.down()  # and is back a moment later
            world.advance(100)
            world.up()
    assert world.journal.row(key()).state is State.PARKED
    assert world.journal.row(key()).reason.startswith("replay.attempts-6")
    assert len(sent_ms) == 6
    assert min(later - earlier for earlier, later in pairwise(sent_ms[2:])) >= 2_000, "the others first"


@pytest.mark.parametrize(("number", "value", "what"), [(4, "000000009999", "amount"), (49, "840", "currency")])
def test_inv_5_an_advice_that_is_taken_with_another_amount_is_a_persons_matter(
    number: int, value: str, what: str
) -> None:
    world = World(up=False)
    world.ask("0200", sale(5))
    world.run()
    world.acquirer.moods.append(Mood(extra=((number, value),)))
    world.up()
    row = world.journal.row(key(5))
    assert row.state is State.PARKED
    assert row.reason.startswith(f"answer.{what}-changed")
    assert "parked" in [alarm.code for alarm in world.alarms]


@pytest.mark.parametrize(("number", "value", "what"), [(4, "000000000001", "amount"), (49, "840", "currency")])
def test_inv_5_a_reversal_that_is_done_for_another_amount_is_a_persons_matter(
    number: int, value: str, what: str
) -> None:
    world = World()
    world.acquirer.moods += [SILENT_BOOKED, Mood(extra=((number, value),))]
    token = world.ask("0200", sale(5))
    world.advance(300_000)
    assert world.code(token) == "68"
    row = world.journal.row(key(5))
    assert row.state is State.PARKED, "what the acquirer has not given back, nobody would look for"
    assert row.reason.startswith(f"answer.{what}-changed")
    assert "parked" in [alarm.code for alarm in world.alarms]
