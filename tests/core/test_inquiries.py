"""What moves no money is asked and forgotten: never stored, never stood in for."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields
from tests.core.acquirer import REFUSES, SILENT_LOST, Mood
from tests.core.messages import UNIONPAY_HOST, UNIONPAY_RULES, unionpay, unionpay_sale
from tests.core.world import World

BALANCE: Fields = {**unionpay_sale(1), 3: "310000", 4: "000000000000", 52: "0123456789abcdef", 60: "01000001000"}
PARAMETERS: Fields = unionpay("00360", 1, f62="9f0605df")
BOTH = pytest.mark.parametrize(("mti", "fields"), [("0200", BALANCE), ("0800", PARAMETERS)])


def shop(*, up: bool = True) -> World:
    return World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES, up=up)


@BOTH
def test_it_is_handed_on_and_nothing_of_it_is_kept(mti: str, fields: Fields) -> None:
    world = shop()
    world.acquirer.moods.append(Mood(extra=((54, "1002156C000000012345"), (62, "cafe"))))
    token = world.ask(mti, fields)
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert (answer.mti, answer.fields[39], answer.fields[54], answer.fields[62]) == (
        f"{mti[:2]}10", "00", "1002156C000000012345", "cafe",
    )  # fmt: skip
    (send,) = [send for send in world.sends if send.purpose is Purpose.INQUIRY]
    assert send.message.fields.get(52) == fields.get(52), "a PIN block passes untouched"
    assert not world.journal.log
    world.check_settled()


@BOTH
@pytest.mark.parametrize("mood", [None, SILENT_LOST, REFUSES])
def test_it_is_never_stood_in_for(mti: str, fields: Fields, mood: Mood | None) -> None:
    world = shop(up=mood is not None)
    if mood is not None:
        world.acquirer.moods.append(mood)
    token = world.ask(mti, fields)
    world.advance(30_000)
    assert world.code(token) == "91"
    assert not world.journal.log


@pytest.mark.parametrize("code", ["A0", "77"])
def test_what_the_host_says_of_the_gateways_own_session_is_not_for_the_terminal(code: str) -> None:
    world = shop()
    world.acquirer.moods.append(Mood(code=code))
    token = world.ask("0200", BALANCE)
    world.run()
    assert world.code(token) == "96"


def test_inquiries_without_an_answer_never_take_the_link_down() -> None:
    world = shop()
    world.acquirer.moods.extend([SILENT_LOST] * 20)
    for stan in range(1, 21):
        world.ask("0800", PARAMETERS | {11: f"{stan:06}"})
    world.advance(30_000)
    assert world.engine.status().outages == 0


def test_a_balance_goes_beside_what_its_lane_owes() -> None:
    world = shop()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", unionpay_sale(2))
    world.run()
    token = world.ask("0200", BALANCE)
    world.run()
    assert world.code(token) == "00"
