"""Operators: what they may do, what is written of it, and what they are told about why something waits (D18)."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose
from gateway.core.events import Commanded, OperatorAct
from gateway.core.lifecycle import EntryKind, State
from gateway.core.link import LinkSettings
from gateway.core.transaction import Kind
from gateway.core.work import EngineSettings
from protocol.settlement import Detail
from tests.core.acquirer import DECLINES, SILENT_BOOKED, SILENT_LOST, Mood, answers
from tests.core.messages import UNIONPAY, UNIONPAY_HOST, UNIONPAY_RULES, key, reversal, sale, unionpay_key, upload
from tests.core.world import World


def parked() -> World:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(DECLINES)
    world.up()
    assert world.journal.row(key(1)).state is State.PARKED
    return world


def why(world: World, stan: int = 1) -> tuple[str, str, int | None]:
    explained = world.engine.explain(world.journal.row(key(stan)))
    return explained.blocked_by, explained.rule, explained.next_try_in_ms


def test_d18_a_release_puts_the_message_back_into_its_lane_as_a_repeat_with_who_and_why_in_the_journal() -> None:
    world = parked()
    assert world.command(OperatorAct.RELEASE, 1) == "transaction 1 is now stored"
    assert [send.message.mti for send in world.sends] == ["0220", "0221"]
    entry = next(entry for entry in world.journal.log if entry.kind is EntryKind.OPERATOR)
    assert entry.detail == "release by operator: a reason"
    world.check_settled()


def test_d18_a_cancelled_message_is_never_sent_again() -> None:
    world = parked()
    assert world.command(OperatorAct.CANCEL, 1) == "transaction 1 is now cancelled"
    assert len(world.sends) == 1
    world.check_settled()


def test_d18_an_approved_sale_is_voided_by_a_reversal() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    assert world.command(OperatorAct.VOID, 1) == "transaction 1 is now reversing"
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.REVERSAL]
    world.check_settled()


def test_d18_a_stored_sale_that_was_tried_cannot_be_cancelled_but_voided() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(answers("96"))
    world.up()
    assert "void it instead" in world.command(OperatorAct.CANCEL, 1)
    assert world.command(OperatorAct.VOID, 1) == "transaction 1 is now stored-cancelled"
    world.advance(10_000)
    assert [send.message.mti for send in world.sends] == ["0220", "0221", "0400"]
    world.check_settled()


def test_d18_what_is_being_sent_is_not_touched() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    world.ask("0200", sale(1))
    world.settle_journal()
    assert "at this moment" in world.command(OperatorAct.VOID, 1)
    world.advance(5_000)
    world.check_settled()


def test_d18_a_waiting_message_that_is_released_is_tried_at_once() -> None:
    world = World(up=False, settings=EngineSettings(backoff_min_ms=100_000))
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(answers("96"))
    world.up()
    assert world.command(OperatorAct.RELEASE, 1) == "it is tried as soon as its lane and the link allow"
    assert len(world.sends) == 2
    acts = [(entry.state, entry.detail) for entry in world.journal.log if entry.kind is EntryKind.OPERATOR]
    assert acts == [(State.STORED, "release by operator: a reason")]
    world.check_settled()


def test_d13_a_release_does_not_hurry_a_reversal_past_its_original() -> None:
    world = World()
    world.acquirer.moods.append(Mood(breaks=True, after_ms=25_000, answers=False))
    world.ask("0200", sale(1))
    world.run()
    world.command(OperatorAct.RELEASE, 1)
    world.advance(29_999)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.advance(1)
    world.check_settled()


def test_an_act_on_nothing_on_a_damaged_record_or_on_what_is_settled_is_refused_with_words() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    assert world.command(OperatorAct.VOID, 77) == "there is no transaction 77"
    assert "approved" in world.command(OperatorAct.RELEASE, 1)
    world.journal.damaged.add(1)
    assert world.command(OperatorAct.VOID, 1) == "record 1 is damaged, or its key was destroyed"
    assert world.engine.status().lanes_in_memory == 0


def test_a_terminals_reversal_is_not_voided_itself() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    world.ask("0400", reversal(sale(1), 2))
    world.run()
    own = world.journal.row(key(2, message_class="4"))
    assert world.command(OperatorAct.VOID, own.id) == "it is a terminal's reversal of transaction 1: act on that one"
    world.check_settled()


def test_a_terminals_upload_is_no_sale_that_could_be_voided() -> None:
    world = World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST)
    world.ask("0320", upload(2, Detail("000001", 1_000, UNIONPAY)))
    world.run()
    row = world.journal.row(unionpay_key(2, message_class="3"))
    assert (row.kind, row.state) == (Kind.UPLOAD, State.APPROVED)
    assert world.command(OperatorAct.VOID, row.id) == "it is a terminal's upload of its batch, there is nothing to void"
    assert not world.sends
    world.check_settled()


def test_two_operators_and_a_terminal_at_once_change_the_row_one_after_the_other() -> None:
    world = parked()
    world.step(Commanded(901, OperatorAct.RELEASE, 1, "operator", "x"))
    world.step(Commanded(902, OperatorAct.VOID, 1, "bert", "y"))
    token = world.ask("0400", reversal(sale(1), 2))
    for _ in range(20):  # every lookup before any write
        world.look_up()
        world.commit()
        world.report()
    world.run()
    world.advance(120_000)
    assert world.code(token) == "00"
    assert {901, 902} <= set(world.operator_replies)
    assert world.journal.row(key(1)).state in {State.REVERSED, State.CANCELLED}
    world.check_settled()


def test_an_operator_is_answered_once_the_journal_has_room() -> None:
    world = parked()
    world.journal.full = True
    assert world.command(OperatorAct.CANCEL, 1) == ""
    assert not world.engine.quiet
    world.journal.full = False
    world.advance(1_000)
    assert [reply.done for reply in world.operator_replies.values()] == [True]
    world.check_settled()


# explain


def test_explain_names_what_is_settled_parked_or_in_flight() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    world.ask("0200", sale(1))
    world.settle_journal()
    assert why(world) == ("the acquirer's answer, or its time limit", "D7", None)
    world.advance(5_000)
    assert why(world) == ("nothing: it is settled", "", None)
    assert why(parked()) == ("a person's decision (answer.code-51)", "D18", None)


def test_explain_names_maintenance_and_an_outage_with_the_next_probe() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    assert why(world) == ("the acquirer is away; it is tried after the next answered probe", "D19", None)
    world.acquirer.alive = False
    world.up()
    world.advance(5_000)
    assert why(world)[2] == 1_000
    world.command(OperatorAct.MAINTENANCE_ON)
    assert why(world) == ("the link is closed for maintenance", "D19", None)


def test_explain_names_the_transaction_before_it_and_the_backoff() -> None:
    world = World(up=False)
    for stan in (1, 2):
        world.ask("0200", sale(stan))
        world.run()
    world.acquirer.moods.append(Mood(after_ms=1_000, books=False, code="96"))
    world.up()
    assert why(world, 1) == ("it is being sent now", "D14", None)
    assert why(world, 2) == ("transaction 1 is before it in its lane", "D14", None)
    world.advance(1_000)
    text, rule, wait_ms = why(world, 1)
    assert (text, rule) == ("it failed before and backs off", "D9")
    assert wait_ms is not None
    assert 250 <= wait_ms <= 500


def test_explain_names_the_flight_time_of_the_original() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", sale(1))
    world.run()
    world.advance(15_000)
    assert why(world) == ("its original may still be on its way", "D13", 15_000)


def test_explain_names_a_request_in_flight_in_its_lane() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", sale(1))
    world.ask("0220", sale(2))
    world.run()
    assert why(world, 2) == ("its lane has a request in flight", "D14", None)


def test_explain_names_the_window_and_the_rate() -> None:
    world = World(up=False, settings=EngineSettings(link=LinkSettings(window_max=1)))
    for terminal in ("TERM0001", "TERM0002"):
        world.ask("0200", sale(1, terminal=terminal))
        world.run()
    world.acquirer.moods.append(SILENT_LOST)
    world.up()
    row = world.journal.row(key(1, terminal="TERM0002"))
    explained = world.engine.explain(row)
    assert (explained.blocked_by, explained.rule) == ("the window after the outage (1 lanes at once) is full", "D19")
    slow = World(up=False, settings=EngineSettings(rate_per_s=1))
    slow.ask("0200", sale(1))
    slow.run()
    slow.up()
    text, rule, wait_ms = why(slow)
    assert (text, rule) == ("the rate limit", "D19")
    assert wait_ms is not None


def test_who_cancels_a_parked_reversal_is_told_that_the_card_may_stay_charged() -> None:
    world = World()
    world.acquirer.moods += [SILENT_BOOKED, *[answers("30")] * 3]
    token = world.ask("0200", sale(1))
    world.run()
    world.advance(60_000)
    assert (world.code(token), world.journal.row(key(1)).state) == ("68", State.PARKED)
    assert "have it undone there by hand" in world.command(OperatorAct.CANCEL, 1)
    assert len(world.acquirer.booked) == 1
    assert not world.acquirer.reversed


def test_who_cancels_an_advice_that_was_never_answered_is_told_that_it_may_be_booked() -> None:
    world = World(up=False, settings=EngineSettings(attempts_max=3, backoff_max_ms=2_000))
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods += [SILENT_BOOKED, SILENT_LOST, SILENT_LOST]
    world.up()
    for _ in range(4):
        world.advance(18_000)
    assert world.journal.row(key(1)).reason.startswith("replay.attempts-")
    assert "its advice was sent 3 times and may be booked" in world.command(OperatorAct.CANCEL, 1)
    assert len(world.acquirer.booked) == 1


@pytest.mark.parametrize(
    ("moods", "said"),
    [
        ([Mood(extra=((4, "000000000001"),))], "the acquirer has said that it has booked it"),
        ([Mood(after_ms=19_000, answers=False), answers("51")], "its advice was sent 2 times and may be booked"),
        ([answers("ZZ", books=True)], "its advice was sent once and may be booked"),
    ],
    ids=["another amount", "declined behind one that is on its way", "an unheard-of code"],
)
def test_who_cancels_an_advice_that_may_be_booked_all_the_same_is_told_so(moods: list[Mood], said: str) -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend(moods)
    world.up()
    world.advance(20_000)
    assert world.journal.row(key()).state is State.PARKED
    assert said in world.command(OperatorAct.CANCEL, 1)
    assert len(world.acquirer.booked) == 1


def test_who_cancels_an_advice_that_was_declined_at_once_is_told_of_nothing_booked() -> None:
    world = parked()
    assert world.command(OperatorAct.CANCEL, 1) == "transaction 1 is now cancelled"
