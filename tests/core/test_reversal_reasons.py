"""A UnionPay reversal says why it is sent: as its terminal said, or as the gateway knows (D12)."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose
from tests.core.acquirer import SILENT_BOOKED, SILENT_LOST
from tests.core.messages import UNIONPAY_HOST, UNIONPAY_RULES, unionpay_sale
from tests.core.world import World


def reasons(world: World) -> set[str]:
    return {send.message.fields[39] for send in world.sends if send.purpose is Purpose.REVERSAL}


@pytest.mark.parametrize("when", ["approved", "in flight", "unknown", "tried"])
@pytest.mark.parametrize(
    ("said", "sent"), [("98", "98"), ("A0", "A0"), ("06", "06"), ("", "96"), ("9", "96"), ("\u00b2\u00b2", "96")]
)
def test_d12_a_terminals_reason_goes_upstream_as_it_gave_it(said: str, sent: str, when: str) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    if when == "in flight":
        world.acquirer.moods.append(SILENT_BOOKED)
    if when == "tried":
        world.acquirer.moods.append(SILENT_LOST)
    if when != "unknown":
        world.ask("0220" if when == "tried" else "0200", unionpay_sale())
        world.run()
    world.ask("0400", unionpay_sale() | ({39: said} if said else {}))
    world.advance(120_000)
    assert reasons(world) == {sent}
    world.check_settled()


def test_d12_a_request_without_an_answer_had_no_reply_in_time() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", unionpay_sale())
    world.advance(120_000)
    assert reasons(world) == {"98"}


def test_d12_what_a_crash_left_in_doubt_had_no_reply_in_time() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", unionpay_sale())
    world.run()
    world.crash_and_restart()
    world.advance(120_000)
    assert reasons(world) == {"98"}
