"""A request's way: commit, send, outcome, reply (D3, D5-D8, D10, D11, D17, D20, INV-1, INV-5)."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose, Reply, Send, Write
from gateway.core.events import Connected, Requested
from gateway.core.lifecycle import EntryKind, State
from gateway.core.link import LinkState
from gateway.core.work import EngineSettings
from protocol.iso8583.message import Message
from protocol.iso8583.rules import HostRules, TerminalRules
from tests.core.acquirer import (
    APPROVES,
    DECLINES,
    REFUSES,
    SILENT_BOOKED,
    SILENT_LOST,
    Mood,
    answers,
)
from tests.core.messages import VISA, key, sale, unionpay_sale
from tests.core.world import World


def test_d5_nothing_is_sent_before_the_commit_and_nothing_is_told_before_the_outcome_is_durable() -> None:
    world = World()
    effects = world.step(Requested(900, world.request("0200", sale())))
    assert [type(effect) for effect in effects] == [Write]
    world.writes.clear()
    world = World()
    token = world.ask("0200", sale())
    assert not world.sends
    world.commit()
    assert not world.sends
    world.report()
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST]
    world.deliver()
    assert world.code(token) == ""
    world.commit()
    assert world.code(token) == ""
    world.report()
    assert world.code(token) == "00"
    assert world.journal.row(key()).state is State.APPROVED
    world.check_settled()


def test_d17_the_acquirer_is_given_the_configured_time() -> None:
    world = World(settings=EngineSettings(reply_timeout_ms=7_000))
    world.ask("0200", sale())
    world.run()
    assert world.sends[0].timeout_ms == 7_000


def test_inv_5_the_request_goes_upstream_as_the_terminal_sent_it() -> None:
    world = World()
    world.ask("0200", sale() | {35: f"{VISA}=3012", 52: "aa" * 8, 64: "bb" * 8})
    world.run()
    message = world.sends[0].message
    assert message.mti == "0200"
    assert message.fields == sale() | {35: f"{VISA}=3012", 52: "aa" * 8}  # its MAC is the terminal's own (D10)


def test_d3_a_repeat_that_we_see_first_goes_upstream_as_a_first_send() -> None:
    world = World()
    token = world.ask("0201", sale())
    world.run()
    assert world.sends[0].message.mti == "0200"
    answer = world.told[token].answer
    assert answer is not None
    assert answer.mti == "0210"


def test_d10_sensitive_data_reaches_the_journal_only_where_the_profile_retains_it() -> None:
    fields = sale() | {35: f"{VISA}=3012", 55: "9f2608" + "00" * 8}
    world = World()
    world.ask("0200", fields)
    world.commit()
    assert world.journal.stored(key()).sensitive == {}
    keeps = World(rules=TerminalRules(retained_sensitive_fields=frozenset({35})))
    keeps.ask("0200", fields)
    keeps.commit()
    assert keeps.journal.stored(key()).sensitive == {35: f"{VISA}=3012"}
    keeps.run()
    assert keeps.journal.stored(key()).sensitive == {}  # final: unrecoverable (INV-8)


def test_a_decline_is_told_as_the_acquirer_said_it() -> None:
    world = World()
    world.acquirer.mood = DECLINES
    token = world.ask("0200", sale())
    world.run()
    assert world.code(token) == "51"
    assert world.journal.row(key()).state is State.DECLINED
    world.check_settled()


def test_d6_a_request_of_which_no_byte_left_stands_in() -> None:
    world = World()
    world.acquirer.moods.append(REFUSES)
    token = world.ask("0200", sale())
    world.settle_journal()
    world.deliver()
    world.settle_journal()
    assert world.code(token) == "00"
    assert [entry.kind for entry in world.journal.log][:2] == [EntryKind.ACCEPTED, EntryKind.NOT_SENT]
    world.run()
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.ADVICE]
    world.check_settled()


def test_d6_a_link_that_goes_down_between_commit_and_send_means_not_sent() -> None:
    world = World()
    token = world.ask("0200", sale())
    world.down()
    world.run()
    assert world.code(token) == "00"
    assert world.journal.row(key()).state is State.STORED
    assert not world.sends
    world.up()
    world.check_settled()


def test_d6_not_sent_and_not_allowed_to_stand_in_is_told_91() -> None:
    world = World()
    world.acquirer.moods.append(REFUSES)
    token = world.ask("0200", sale(1, 999_999))
    world.run()
    assert world.code(token) == "91"
    assert world.journal.row(key()).reason == "standin.floor-limit"
    world.check_settled()


@pytest.mark.parametrize("mood", [SILENT_BOOKED, SILENT_LOST])
def test_d7_d11_a_request_in_doubt_is_reversed_and_the_debt_is_in_the_write_that_the_answer_follows(mood: Mood) -> None:
    world = World()
    world.acquirer.moods.append(mood)
    token = world.ask("0200", sale())
    world.run()
    world.advance(15_000, run=False)
    world.deliver()
    assert world.code(token) == ""
    (write,) = world.writes
    (change,) = write.changes
    assert change.transaction.state is State.REVERSING
    assert change.answer is not None
    assert change.answer.fields[39] == "68"
    world.run()
    assert world.code(token) == "68"
    world.advance(60_000)
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.REVERSAL]
    assert world.journal.row(key()).state is State.REVERSED
    world.check_settled()


def test_d7_a_host_that_is_certified_for_repeats_is_asked_once_more() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([SILENT_BOOKED, APPROVES])
    token = world.ask("0200", sale())
    world.run()
    world.advance(15_000)
    assert [send.message.mti for send in world.sends] == ["0200", "0201"]
    assert world.sends[0].message.fields == world.sends[1].message.fields
    assert world.code(token) == "00"
    world.check_settled()


def test_d7_a_repeat_that_is_not_answered_either_is_reversed() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([SILENT_BOOKED, SILENT_LOST])
    token = world.ask("0200", sale())
    world.run()
    world.advance(120_000)
    assert [send.message.mti for send in world.sends] == ["0200", "0201", "0400"]
    assert world.code(token) == "68"
    world.check_settled()


def test_d7_a_repeat_that_could_not_be_sent_leaves_the_request_in_doubt() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([SILENT_BOOKED, REFUSES])
    token = world.ask("0200", sale())
    world.run()
    world.advance(120_000)
    assert world.code(token) == "68"
    assert world.acquirer.net((world.sends[0].message.fields[42] + "|TERM0001", "000001")) == 0
    world.check_settled()


def test_inv_5_an_approval_of_another_amount_is_reversed_with_an_alarm() -> None:
    world = World()
    world.acquirer.moods.append(Mood(extra=((4, "000000000999"),)))
    token = world.ask("0200", sale())
    world.run()
    assert world.code(token) == "68"
    assert world.alarms[-1].code == "answer-changed"
    assert world.journal.row(key()).approval == "H00001"  # the reversal names it (D12)
    world.advance(1_000)
    assert world.sends[-1].message.fields[38] == "H00001"
    world.check_settled()


def test_an_answer_without_a_code_leaves_the_request_in_doubt() -> None:
    world = World()
    world.acquirer.moods.append(answers("", books=True))
    token = world.ask("0200", sale())
    world.run()
    assert world.code(token) == "68"
    world.check_settled()


def test_d3_the_terminals_own_identity_stands_in_every_answer() -> None:
    world = World()
    world.acquirer.moods.append(Mood(extra=((41, "OTHER001"), (64, "ff" * 8), (63, "note"))))
    token = world.ask("0200", sale())
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert answer.mti == "0210"
    assert answer.fields[41] == "TERM0001"
    assert answer.fields[63] == "note"
    assert 64 not in answer.fields


def test_a_message_that_the_host_cannot_encode_is_declined_with_30_and_nothing_is_owed() -> None:
    world = World(unencodable=lambda _: "field 48 is too long")
    world.down()
    token = world.ask("0200", sale())
    advice = world.ask("0220", sale(2))
    world.run()
    assert world.code(token) == "30"
    assert world.code(advice) == "30"
    assert world.journal.row(key()).reason == "request.unencodable"
    world.check_settled()


def test_whether_an_advice_can_be_encoded_is_asked_of_what_will_be_sent_and_not_of_what_is_dropped() -> None:
    seen: list[set[int]] = []

    def unencodable(message: Message) -> str:
        seen.append(set(message.fields))
        return ""

    world = World(up=False, unencodable=unencodable)
    world.ask("0220", sale() | {35: f"{VISA}=3012"})
    world.run()
    assert seen
    assert all(35 not in numbers for numbers in seen)


def test_d18_a_terminals_advice_is_told_00_once_it_is_durable_and_goes_upstream_after() -> None:
    world = World()
    token = world.ask("0220", sale())
    assert world.code(token) == ""
    world.commit()
    assert not world.sends
    world.report()
    assert world.code(token) == "00"
    world.run()
    assert [(send.purpose, send.message.mti) for send in world.sends] == [(Purpose.ADVICE, "0220")]
    world.check_settled()


def test_network_messages_are_answered_here_and_stored_nowhere() -> None:
    world = World(up=False)
    token = world.ask("0800", {11: "000001", 41: "TERM0001", 70: "301"})
    assert world.code(token) == "00"
    assert not world.journal.log


def test_inv_4_a_request_does_not_overtake_a_stand_in_that_is_being_written() -> None:
    world = World(up=False)
    first = world.ask("0200", sale(1))
    world.connected = True
    world.step(Connected(True))
    world.deliver()  # the probe is answered while the first is with the disk
    assert world.engine.status().link is LinkState.UP
    second = world.ask("0200", sale(2))
    world.run()
    assert world.code(first) == "00"
    assert world.code(second) == "00"
    assert [send.purpose for send in world.sends] == [Purpose.ADVICE, Purpose.REQUEST]
    world.check_settled()


def test_d20_a_request_waits_for_its_lane_and_goes_next() -> None:
    world = World()
    first, second, third = (world.ask("0200", sale(stan)) for stan in (1, 2, 3))
    world.settle_journal()
    assert world.engine.status().waiting == 2
    world.run()
    assert [world.code(token) for token in (first, second, third)] == ["00"] * 3
    assert [send.message.fields[11] for send in world.sends] == ["000001", "000002", "000003"]
    world.check_settled()


def test_d20_a_request_that_has_waited_long_enough_stands_in_behind_what_the_lane_owes() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    first = world.ask("0200", sale(1))
    second = world.ask("0200", sale(2))
    world.run()
    world.advance(2_999)
    assert world.code(second) == ""
    world.advance(1)
    assert world.code(second) == "00"
    assert world.journal.row(key(2)).state is State.STORED
    world.advance(60_000)
    assert world.code(first) == "68"
    assert [send.purpose for send in world.sends] == [Purpose.REQUEST, Purpose.REVERSAL, Purpose.ADVICE]
    world.check_settled()


def test_d20_who_waits_for_a_lane_stands_in_at_once_when_the_link_goes_down() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", sale(1))
    second = world.ask("0200", sale(2))
    world.run()
    world.down()
    world.run()
    assert world.code(second) == "00"
    assert world.engine.status().waiting == 0


def test_d20_other_lanes_do_not_wait() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", sale(1))
    other = world.ask("0200", sale(1, terminal="TERM0002"))
    world.run()
    assert world.code(other) == "00"


def test_a_unionpay_sale_is_asked_with_its_batch_number() -> None:
    world = World()
    world.ask("0200", unionpay_sale())
    world.run()
    assert world.sends[0].message.fields[60] == "22000001000"


def test_every_reply_is_one_effect_of_the_step_that_hears_of_the_commit() -> None:
    world = World(up=False)
    world.ask("0200", sale())
    event = world.journal.commit(world.writes.popleft(), world.utc_ms)
    effects = world.step(event)
    assert [type(effect) for effect in effects] == [Reply]
    assert not any(isinstance(effect, Send) for effect in effects)
