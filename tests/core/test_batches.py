"""A sign-on tells the terminal its batch: its own, or the first that is not closed (UnionPay session, D4)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.transaction import Request
from protocol.settlement import Totals
from tests.core.messages import MERCHANT, UNIONPAY_HOST, UNIONPAY_RULES, settlement, unionpay, unionpay_sale
from tests.core.world import World


def signed_on(world: World, batch: str) -> str:
    """The batch that the answer to a sign-on names."""
    token = world.ask("0800", unionpay("00003", 1, batch=batch))
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert answer.fields[39] == "00"
    assert answer.fields[60][:2] + answer.fields[60][8:] == "00003"
    return answer.fields[60][2:8]


def close(world: World, *batches: int) -> None:
    for number in batches:
        token = world.ask("0500", settlement(1, Totals(), batch=f"{number:06}"))
        world.run()
        assert world.code(token) == "00"


def test_a_terminal_keeps_the_batch_that_it_names_as_long_as_that_is_open() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    assert signed_on(world, "000726") == "000726"
    assert signed_on(world, "000000") == "000001"


@pytest.mark.parametrize("closed", [1, 2, 3, 15, 16, 17, 40])
def test_after_closed_batches_comes_the_first_that_is_not(closed: int) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    close(world, *range(1, closed + 1))
    assert signed_on(world, "000001") == f"{closed + 1:06}"
    assert signed_on(world, f"{closed:06}") == f"{closed + 1:06}"
    world.crash_and_restart()
    assert signed_on(world, "000001") == f"{closed + 1:06}"


def test_batch_numbers_wrap() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    close(world, 999_999, 1)
    assert signed_on(world, "999999") == "000002"


def test_a_sign_on_says_nothing_of_whether_a_batch_is_open() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.ask("0800", unionpay("00003", 1))
    found = world.read()
    close(world, 1)
    world.step(found)
    world.run()
    token = world.ask("0200", unionpay_sale(2))
    world.run()
    assert world.code(token) == "77"


def test_stans_wrap_within_a_batch() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    for stan in (999_998, 999_999, 1, 2):
        token = world.ask("0200", unionpay_sale(stan))
        world.run()
        assert world.code(token) == "00"
    assert len(world.acquirer.booked) == 4


def test_an_echo_and_a_sign_off_are_answered_without_looking() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    for number in ("00301", "00002"):
        token = world.ask("0820", unionpay(number, 1))
        assert world.code(token) == "00"


def by_http(world: World, alias: str, *stans: int, named: bool = False) -> Request:
    """A sale with an Idempotency-Key: with the first STAN (`named`), or with none, and those that may be assigned."""
    request = world.request("0200", unionpay_sale(stans[0]))
    request = replace(request, alias=f"idem|{MERCHANT}|TERM0001|{alias}", alias_digest=alias.encode() * 32)
    if named:
        return request
    without = {number: value for number, value in request.fields.items() if number != 11}
    return replace(request, stan="", fields=without, assigned=tuple([f"{stan:06}" for stan in stans]))


@pytest.mark.parametrize("restarted", [False, True])
def test_inv_6_a_retry_in_a_closed_batch_is_found_whichever_stan_it_was_assigned(*, restarted: bool) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.ask("0200", unionpay_sale(1))
    world.run()  # the batch is known to be open
    holder = world.ask("0200", unionpay_sale(500_001))
    first = world.hear(by_http(world, "k", 500_001, 500_002))  # its first STAN is the other's, who runs
    world.journal.short = True
    world.commit()
    world.journal.short = False
    world.run()
    assert [world.code(token) for token in (holder, first)] == ["96", "00"], "the other's is not kept"
    closing = world.ask("0500", settlement(3, Totals(2_000, 2)))
    world.run()
    assert world.code(closing) == "00"
    if restarted:
        world.crash_and_restart()
    again = world.hear(by_http(world, "k", 500_001, 500_002))
    new = world.hear(by_http(world, "l", 500_001, 500_003))
    world.run()
    assert world.told[again].answer == world.told[first].answer
    assert world.code(new) == "77"
    world.check_settled()


@pytest.mark.parametrize("damaged", [False, True])
def test_d2_a_second_key_that_names_another_transaction_is_told_so_in_a_closed_batch_too(*, damaged: bool) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    first = world.hear(by_http(world, "k", 1, named=True))
    world.run()
    close_with = world.ask("0500", settlement(3, Totals(1_000, 1)))
    world.run()
    assert [world.code(token) for token in (first, close_with)] == ["00", "00"]
    if damaged:
        world.journal.damaged.add(1)
    other = world.hear(replace(by_http(world, "k", 2, named=True), alias_digest=b"2" * 32))
    world.run()
    assert world.code(other) == ("96" if damaged else "94")
