"""Answers that come after their time: recorded, told to nobody, and what they change (D8, D13, D16)."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.core.effects import Purpose
from gateway.core.events import OperatorAct
from gateway.core.lifecycle import EntryKind, State
from gateway.core.work import EngineSettings
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import HostRules
from tests.core.acquirer import (
    APPROVES,
    BREAKS_BOOKED,
    LATE,
    LATE_DECLINE,
    SILENT_BOOKED,
    SILENT_LOST,
    Acquirer,
    Mood,
)
from tests.core.messages import (
    MERCHANT,
    key,
    reversal,
    sale,
)
from tests.core.world import World

LANE = f"{MERCHANT}|TERM0001"


def purposes(world: World) -> list[Purpose]:
    return [send.purpose for send in world.sends]


def reversals(world: World) -> list[Fields]:
    return [send.message.fields for send in world.sends if send.purpose is Purpose.REVERSAL]


def test_d16_a_late_approval_is_recorded_and_reversed_all_the_same_and_told_to_nobody() -> None:
    world = World()
    world.acquirer.moods.append(LATE)
    token = world.ask("0200", sale())
    world.run()
    world.advance(20_000)
    assert world.code(token) == "68"
    assert world.journal.log[-1].kind is EntryKind.LATE_ANSWER
    assert world.journal.log[-1].detail == "answered 00 after its time"
    assert world.journal.row(key()).approval == "H00001"
    world.advance(60_000)
    assert reversals(world)[0][38] == "H00001"  # D12: field 38 if known
    world.check_settled()


def test_d16_a_late_decline_ends_the_reversal_while_it_is_unsent() -> None:
    world = World()
    world.acquirer.moods.append(LATE_DECLINE)
    world.ask("0200", sale())
    world.run()
    world.advance(20_000)
    assert world.journal.row(key()).state is State.DECLINED
    token = world.ask("0200", sale(2))
    world.run()
    assert world.code(token) == "00"  # its lane is free at once
    assert purposes(world) == [Purpose.REQUEST, Purpose.REQUEST]
    world.check_settled()


def test_d8_a_late_approval_does_not_change_a_reversal_that_was_sent() -> None:
    world = World(settings=EngineSettings(longest_flight_ms=15_000))
    world.acquirer.moods.extend([Mood(after_ms=15_200), SILENT_LOST])
    world.ask("0200", sale())
    world.run()
    world.advance(60_000)
    assert world.engine.status().counts["late-answers"] == 1
    first, second = reversals(world)
    assert first == second
    world.check_settled()


def test_d16_a_late_decline_does_not_end_a_reversal_that_was_sent() -> None:
    world = World(settings=EngineSettings(longest_flight_ms=15_000))
    world.acquirer.moods.extend([Mood(after_ms=16_000, books=False, code="51"), SILENT_LOST])
    world.ask("0200", sale())
    world.run()
    world.advance(16_000)
    assert world.journal.row(key()).state is State.REVERSING
    world.advance(60_000)
    assert len(reversals(world)) == 2
    world.check_settled()


@pytest.mark.parametrize("code", ["09", "68", "91", "94", "96", "98", "A0", "A2", "B1", "  ", ""])
def test_d16_a_late_answer_that_is_no_sure_decline_leaves_the_reversal_owed(code: str) -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=20_000, books=True, code=code))
    world.ask("0200", sale())
    world.run()
    world.advance(20_000)
    assert world.journal.row(key()).state is State.REVERSING
    world.advance(60_000)
    world.check_settled()


def test_d16_a_late_answer_to_the_first_send_proves_nothing_once_the_request_was_repeated() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([Mood(after_ms=20_000, books=False, code="51"), BREAKS_BOOKED])
    world.ask("0200", sale())
    world.run()
    world.advance(20_000)
    assert world.journal.row(key()).state is State.REVERSING
    world.advance(60_000)
    world.check_settled()


class _DecidesEachByItself(Acquirer):
    """It declines the repeat of a request, and books the first when that comes."""

    def arrive(self, purpose: Purpose, message: Message, mood: Mood) -> Fields:
        if message.mti != "0201":
            return super().arrive(purpose, message, mood)
        return {**{n: message.fields[n] for n in (3, 4, 11, 41, 42)}, 39: "51"}


def test_d16_a_late_approval_of_the_first_send_is_reversed_also_where_the_repeat_was_declined() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer = _DecidesEachByItself(moods=deque([LATE]))
    token = world.ask("0200", sale())
    world.run()
    world.advance(15_000)
    assert (world.code(token), world.journal.row(key()).state) == ("51", State.DECLINED)
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED
    assert world.sends[-1].message.mti == "0400", "its first reversal"
    world.check_settled()


def test_d16_a_late_answer_that_comes_while_the_outcome_is_being_written_waits_for_it() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=15_001))
    world.ask("0200", sale())
    world.run()
    world.advance(15_001, run=False)
    world.deliver()
    world.run()
    world.advance(1_000)
    assert world.journal.log[-1].kind is EntryKind.LATE_ANSWER
    world.advance(60_000)
    world.check_settled()


def test_d16_a_late_answer_after_the_terminals_own_reversal_changes_the_row_after_it() -> None:
    world = World()
    world.acquirer.moods.append(LATE)
    world.ask("0200", sale(1))
    world.run()
    world.advance(15_000)
    world.ask("0400", reversal(sale(1), 2))
    world.advance(5_000, run=False)
    world.deliver()  # the late answer, while the reversal is looked for
    world.run()
    world.advance(60_000)
    world.check_settled()


def test_d13_a_late_approval_after_the_host_knew_of_no_original_is_reversed_once_more() -> None:
    world = World(settings=EngineSettings(longest_flight_ms=15_000))
    world.acquirer.moods.append(Mood(after_ms=18_000))  # longer on its way than we were told is possible
    world.ask("0200", sale())
    world.run()
    world.advance(16_000)
    assert world.journal.row(key()).reason == "answer.code-25 < answer.none"
    world.advance(60_000)
    assert [send.message.mti for send in world.sends] == ["0200", "0400", "0401"]
    assert world.acquirer.net((LANE, "000001")) == 0


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_d13_what_is_refused_again_after_a_late_approval_is_parked_for_it_is_booked(lost: int) -> None:
    world = World(settings=EngineSettings(longest_flight_ms=15_000), host=HostRules(reason_field=39))
    world.acquirer.remembers = True
    world.acquirer.moods.extend([Mood(after_ms=18_000), APPROVES, *[SILENT_LOST] * lost])
    world.ask("0200", sale())
    world.run()
    world.advance(600_000)
    row = world.journal.row(key())
    assert world.acquirer.net((LANE, "000001")) == 1
    assert (row.state, row.booked) == (State.PARKED, True)
    assert row.reason == "answer.code-25 < answer.none < answer.code-25"
    assert {fields[39] for fields in reversals(world)} == {"98"}  # D8: each repeat says why as the first one did
    assert len(reversals(world)) == lost + 2
    world.command(OperatorAct.RELEASE, 1)
    world.advance(600_000)
    assert world.journal.row(key()).state is State.REVERSED, "somebody has looked"
    assert {fields[39] for fields in reversals(world)} == {"98"}


@pytest.mark.parametrize("code", ["12", "25"])
@pytest.mark.parametrize("lost", [0, 1])
def test_d13_what_is_refused_after_a_late_approval_is_parked_where_it_was_sent_before(lost: int, code: str) -> None:
    """The first reversal overtook its original, and its answer was lost: the repeat gets the answer of then."""
    world = World(settings=EngineSettings(longest_flight_ms=15_000), host=HostRules(reason_field=39))
    world.acquirer.remembers = True
    world.acquirer.unknown = code
    world.acquirer.moods.extend([Mood(after_ms=18_000), SILENT_BOOKED, *[SILENT_LOST] * lost])
    world.ask("0200", sale())
    world.run()
    world.advance(600_000)
    row = world.journal.row(key())
    assert world.acquirer.net((LANE, "000001")) == 1
    assert (row.state, row.booked) == (State.PARKED, True)
    assert row.reason == f"answer.code-{code} < answer.none < answer.none"
    assert {fields[39] for fields in reversals(world)} == {"98"}  # D8
    assert len(reversals(world)) == lost + 2
    world.command(OperatorAct.RELEASE, 1)
    world.advance(600_000)
    assert world.journal.row(key()).state is State.REVERSED, "somebody has looked"
    assert {fields[39] for fields in reversals(world)} == {"98"}


@pytest.mark.parametrize("act", [OperatorAct.RELEASE, OperatorAct.CANCEL])
def test_d13_what_is_refused_after_an_approval_that_came_later_than_its_reversal_was_given_up(act: OperatorAct) -> None:
    """The reversals overtook their original, and had no answer: a repeat gets the answer of then."""
    settings = EngineSettings(longest_flight_ms=15_000, attempts_max=2)
    world = World(settings=settings, host=HostRules(reason_field=39))
    world.acquirer.remembers = True
    world.acquirer.moods.extend([Mood(after_ms=50_000), SILENT_BOOKED, SILENT_BOOKED])
    world.ask("0200", sale())
    world.run()
    world.advance(47_000)
    assert world.journal.row(key()).reason == "replay.attempts-2 < answer.none"
    if act is OperatorAct.CANCEL:
        world.command(act, 1)
    world.advance(10_000)
    if act is OperatorAct.RELEASE:
        assert world.alarms[-1].text == "an approval came too late; it is parked, and a person decides"
        world.command(act, 1)
    world.advance(60_000)
    row = world.journal.row(key())
    assert world.acquirer.net((LANE, "000001")) == 1
    assert (row.state, row.booked) == (State.PARKED, True), row.reason


def test_an_answer_to_something_unknown_is_counted_and_nothing_else() -> None:
    world = World()
    world.acquirer.moods.append(LATE)
    world.ask("0220", sale())  # an advice's late answer is no news: it is repeated
    world.run()
    world.advance(60_000)
    assert world.engine.status().counts["late-answers"] == 1
    world.check_settled()
