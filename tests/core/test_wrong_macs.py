"""An answer of the acquirer whose MAC is wrong proves nothing, whatever it says (D7, D12)."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose
from gateway.core.lifecycle import State
from tests.core.acquirer import WRONG_MAC_BOOKED, WRONG_MAC_LOST, Mood
from tests.core.messages import UNIONPAY_HOST, UNIONPAY_RULES, unionpay_key, unionpay_sale
from tests.core.world import World


@pytest.mark.parametrize("mood", [WRONG_MAC_BOOKED, WRONG_MAC_LOST])
def test_d12_a_request_is_told_68_and_reversed_with_reason_a0(mood: Mood) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.acquirer.moods.append(mood)
    token = world.ask("0200", unionpay_sale())
    world.run()
    assert world.code(token) == "68"
    (send,) = [send for send in world.sends if send.purpose is Purpose.REVERSAL]
    assert send.message.fields[39] == "A0"
    assert world.journal.row(unionpay_key(1)).state is State.REVERSED
    world.check_settled()


def test_an_advice_and_a_reversal_are_owed_until_an_answer_with_a_right_mac() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.acquirer.moods.append(WRONG_MAC_BOOKED)
    world.ask("0220", unionpay_sale())
    world.run()
    assert world.journal.row(unionpay_key(1)).state is State.STORED
    world.acquirer.moods.extend([Mood(code="94"), Mood(code="00", verified=False)])
    world.advance(60_000)
    assert world.journal.row(unionpay_key(1)).state is State.APPROVED
    world.ask("0400", unionpay_sale() | {39: "98"})
    world.run()
    assert world.journal.row(unionpay_key(1)).state is State.REVERSING
    world.advance(60_000)
    assert world.journal.row(unionpay_key(1)).state is State.REVERSED
    world.check_settled()


def test_an_inquiry_is_answered_96() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.acquirer.moods.append(WRONG_MAC_BOOKED)
    token = world.ask("0200", unionpay_sale() | {3: "310000"})
    world.run()
    assert world.code(token) == "96"
