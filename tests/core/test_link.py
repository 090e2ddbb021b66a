"""What is believed of the acquirer: up, degraded, down, maintenance; probes; the window (D19)."""

from __future__ import annotations

from gateway.core.effects import Effect, Purpose, Send
from gateway.core.engine import Engine
from gateway.core.events import NO_ROOM, Answered, Connected, OperatorAct, Ticked, TimedOut
from gateway.core.link import LinkHealth, LinkSettings, LinkState
from gateway.core.work import EngineSettings
from tests.core.acquirer import APPROVES, SILENT_LOST
from tests.core.messages import key, sale
from tests.core.world import World

SETTINGS = LinkSettings(down_after_timeouts=3, echo_interval_ms=30_000, probe_min_ms=1_000, window_max=8)


def up(at_ms: int = 0) -> LinkHealth:
    link = LinkHealth(SETTINGS, at_ms)
    link.connection(True, at_ms)
    link.probe_sent()
    link.probe_answered(at_ms)
    return link


def test_a_link_is_down_until_a_probe_is_answered() -> None:
    link = LinkHealth(SETTINGS, 0)
    assert link.probe_due_ms() is None  # nothing connected: nothing to probe
    link.connection(True, 5)
    assert (link.state, link.usable, link.probe_due_ms()) == (LinkState.DOWN, False, 5)
    link.probe_sent()
    assert link.probe_due_ms() is None  # one at a time
    assert link.probe_answered(9) is True
    assert (link.state, link.usable) == (LinkState.UP, True)


def test_one_missing_answer_degrades_and_so_many_in_a_row_make_an_outage() -> None:
    link = up()
    link.timed_out(10)
    assert (link.state, link.usable, link.probe_due_ms()) == (LinkState.DEGRADED, True, 10)
    link.timed_out(20)
    assert link.state is LinkState.DEGRADED
    link.timed_out(30)
    assert (link.state, link.outages, link.since_ms) == (LinkState.DOWN, 1, 30)


def test_an_answer_in_between_begins_the_count_anew() -> None:
    link = up()
    link.timed_out(1)
    link.timed_out(2)
    link.answered(3)
    assert link.state is LinkState.UP
    link.timed_out(4)
    link.timed_out(5)
    assert link.usable


def test_an_answer_to_something_sent_before_does_not_end_an_outage() -> None:
    link = up()
    for at_ms in (1, 2, 3):
        link.timed_out(at_ms)
    link.answered(4)
    assert link.state is LinkState.DOWN


def test_probes_of_a_link_that_is_down_back_off_and_begin_anew_with_a_new_connection() -> None:
    link = LinkHealth(SETTINGS, 0)
    link.connection(True, 0)
    pauses = []
    for _ in range(7):
        at_ms = link.probe_due_ms()
        assert at_ms is not None
        link.probe_sent()
        link.probe_failed(at_ms)
        due_ms = link.probe_due_ms()
        assert due_ms is not None
        pauses.append(due_ms - at_ms)
    assert pauses == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    link.connection(False, 99)
    link.connection(True, 100)
    assert link.probe_due_ms() == 100


def test_a_probe_that_finds_no_room_says_nothing_of_the_acquirer_and_is_tried_again() -> None:
    world = World(settings=EngineSettings(link=SETTINGS))
    world.refused_at_link = NO_ROOM
    world.advance(120_000)
    status = world.engine.status()
    assert (status.link, status.outages, [alarm.code for alarm in world.alarms]) == (LinkState.UP, 0, ["acquirer-back"])
    world.refused_at_link = ""
    world.acquirer.alive = False
    world.advance(60_000)
    assert world.engine.status().link is LinkState.DOWN


def test_no_echo_storm_probes_that_find_no_room_are_a_pause_apart() -> None:
    link = up(0)
    for at_ms in (30_000, 31_000, 32_000):
        assert link.probe_due_ms() == at_ms
        link.probe_sent()
        assert link.probe_due_ms() is None
        link.probe_not_sent(at_ms)
    link.answered(32_500)
    assert link.probe_due_ms() == 62_500


def test_no_echo_storm_traffic_puts_off_the_probe_of_an_idle_link() -> None:
    link = up(0)
    assert link.probe_due_ms() == 30_000
    link.answered(20_000)
    assert link.probe_due_ms() == 50_000


def test_d19_the_window_is_one_after_an_outage_and_one_wider_with_each_answer_up_to_the_maximum() -> None:
    link = up()
    widths = []
    for at_ms in range(10):
        widths.append(link.window)
        link.answered(at_ms)
    assert widths == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    link.timed_out(11)
    assert link.window == 1


def test_maintenance_is_left_only_by_a_person_and_then_by_an_answered_probe() -> None:
    link = up()
    link.maintenance(True, 1)
    link.probe_sent()
    assert link.probe_answered(2) is False
    link.timed_out(3)
    link.connection(False, 4)
    link.connection(True, 5)
    assert (link.state, link.usable, link.probe_due_ms()) == (LinkState.MAINTENANCE, False, None)
    link.maintenance(False, 6)
    assert (link.state, link.probe_due_ms()) == (LinkState.DOWN, 6)
    link.probe_sent()
    link.probe_answered(7)
    assert link.state is LinkState.UP


def test_closing_a_maintenance_that_is_not_open_disturbs_nothing() -> None:
    link = up()
    link.maintenance(False, 1)
    assert (link.state, link.outages) == (LinkState.UP, 0)


def test_an_outage_is_told_once_and_its_end_too() -> None:
    world = World(settings=EngineSettings(link=SETTINGS))
    world.acquirer.mood = SILENT_LOST
    world.acquirer.alive = False
    for stan in range(1, 6):
        world.ask("0200", sale(stan, terminal=f"TERM000{stan}"))
    world.run()
    world.advance(16_000)
    assert world.engine.status().link is LinkState.DOWN
    world.acquirer.alive = True
    world.acquirer.mood = APPROVES
    world.advance(30_000)
    assert world.engine.status().link is LinkState.UP
    assert [alarm.code for alarm in world.alarms] == ["acquirer-back", "acquirer-away", "acquirer-back"]


def test_a_host_that_answers_nothing_but_echo_tests_is_away_and_sales_stand_in() -> None:
    world = World(settings=EngineSettings(link=SETTINGS))
    world.acquirer.mood = SILENT_LOST
    tokens = []
    for number in range(1, 301):
        tokens.append(world.ask("0200", sale(1, card=f"4{number:015}", terminal=f"T{number:07}")))
        world.advance(2_000)
    world.advance(60_000)
    told = [world.code(token) for token in tokens]
    assert set(told) == {"00", "68"}
    assert told.count("68") <= 30  # those before it was noticed, and one with each trial
    assert world.engine.status().outages == 1
    world.acquirer.mood = APPROVES
    world.advance(900_000)
    assert world.engine.status().link is LinkState.UP
    assert [alarm.code for alarm in world.alarms] == ["acquirer-back", "acquirer-away", "acquirer-back"]
    world.check_settled()


def test_after_an_outage_of_transactions_one_request_at_a_time_is_tried_until_one_is_answered() -> None:
    world = World(settings=EngineSettings(link=SETTINGS))
    world.acquirer.mood = SILENT_LOST
    for number in range(1, 4):
        world.ask("0200", sale(1, terminal=f"T{number:07}"))
    world.advance(16_000)
    assert world.engine.status().link is LinkState.DEGRADED
    first, second = (world.ask("0200", sale(1, terminal=f"T{number:07}")) for number in (4, 5))
    world.settle_journal()
    assert (world.code(first), world.code(second)) == ("", "00")
    world.advance(15_000)
    assert (world.code(first), world.engine.status().link) == ("68", LinkState.DOWN)
    world.acquirer.mood = APPROVES
    world.advance(60_000)
    assert world.engine.status().link is LinkState.UP
    world.check_settled()


def test_while_the_link_is_down_nothing_but_probes_goes_upstream() -> None:
    world = World()
    world.down()
    token = world.ask("0200", sale())
    world.advance(3_600_000)
    assert world.code(token) == "00"
    assert not world.sends


def test_maintenance_lets_what_is_in_flight_end_and_sends_nothing_new() -> None:
    world = World()
    first = world.ask("0200", sale(1))
    world.settle_journal()
    assert world.command(OperatorAct.MAINTENANCE_ON) == "the link is closed; new sales stand in"
    second = world.ask("0200", sale(2))
    world.run()
    assert (world.code(first), world.code(second)) == ("00", "00")
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.command(OperatorAct.MAINTENANCE_OFF)
    world.run()
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.ADVICE]
    assert world.journal.row(key(2)).state.name == "APPROVED"
    world.check_settled()


def test_a_probe_is_an_echo_of_the_host_and_each_has_a_stan_of_its_own() -> None:
    world = World(up=False)
    engine: Engine = world.engine

    def probe(effects: list[Effect]) -> Send:
        (send,) = [effect for effect in effects if isinstance(effect, Send)]
        assert (send.purpose, send.message.mti, send.message.fields[70]) == (Purpose.PROBE, "0800", "301")
        assert send.timeout_ms == 5_000
        return send

    first = probe(engine.step(Connected(True), world.mono_ms, world.utc_ms))
    engine.step(TimedOut(first.token), world.mono_ms, world.utc_ms)
    second = probe(engine.step(Ticked(), world.mono_ms + 1_000, world.utc_ms))
    assert first.message.fields[11] != second.message.fields[11]
    engine.step(Answered(second.token, "0810", {}), world.mono_ms + 1_000, world.utc_ms)
    assert engine.status().link is LinkState.UP
