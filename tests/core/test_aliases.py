"""A second key to the same transaction, and STANs that the gateway assigns (D1, D2)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.transaction import Request
from protocol.iso8583.rules import Period, TerminalRules
from tests.core.acquirer import SILENT_LOST
from tests.core.messages import MERCHANT, sale
from tests.core.world import World


def asked(
    world: World, alias: str, digest: bytes, *, stan: int = 1, amount: int = 1_000, assign: bool = False
) -> Request:
    """A sale that came with an Idempotency-Key; with `assign` it has no STAN of its own."""
    request = replace(
        world.request("0200", sale(stan, amount)), alias=f"idem|{MERCHANT}|TERM0001|{alias}", alias_digest=digest * 32
    )
    if assign:
        fields = {number: value for number, value in request.fields.items() if number != 11}
        request = replace(request, stan="", fields=fields, key=f"H|{MERCHANT}|TERM0001|2|{750_000 + ord(alias):06}")
    return request


@pytest.mark.parametrize("up", [True, False], ids=["online", "standing in"])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_d1_the_same_alias_with_the_same_content_gets_the_stored_answer(
    up: bool, restarted: bool, assign: bool
) -> None:
    world = World(up=up)
    first = world.hear(asked(world, "a", b"1", assign=assign))
    world.run()
    assert world.code(first) == "00"
    if restarted:
        world.crash_and_restart(up=up)
    again = world.hear(asked(world, "a", b"1", assign=assign))
    world.run()
    assert world.told[again].answer == world.told[first].answer
    world.up()
    world.run()
    world.check_settled()


@pytest.mark.parametrize("change", [{"stan": 2}, {"amount": 999}, {"digest": b"2"}, {"stan": 2, "digest": b"2"}])
@pytest.mark.parametrize("joins", [False, True], ids=["afterwards", "while it runs"])
def test_d2_the_same_alias_with_other_content_is_answered_94_and_nothing_is_forwarded(
    change: dict[str, int | bytes], joins: bool
) -> None:
    world = World()
    first = world.hear(asked(world, "a", b"1"))
    if not joins:
        world.run()
    wanted = {"digest": b"1", **change}
    if "stan" in change and "digest" not in change:
        wanted["digest"] = b"3"  # another STAN is another body
    again = world.hear(asked(world, "a", **wanted))  # type: ignore[arg-type]  # a table of keyword arguments
    world.run()
    assert (world.code(first), world.code(again)) == ("00", "94")
    assert len([send for send in world.sends if send.message.mti == "0200"]) == 1
    world.check_settled()


@pytest.mark.parametrize("restarted", [False, True])
def test_d2_a_retry_under_the_alias_of_another_transaction_is_answered_94(*, restarted: bool) -> None:
    world = World()
    for alias, stan in (("a", 1), ("b", 2)):
        world.hear(asked(world, alias, alias.encode(), stan=stan))
        world.run()
    without = world.ask("0200", sale(3))
    world.run()
    if restarted:
        world.crash_and_restart(up=True)
    for stan, alias in ((1, "b"), (2, "a"), (3, "a")):
        for digest in (b"a", b"b"):
            again = world.hear(asked(world, alias, digest, stan=stan))
            world.run()
            assert world.code(again) == "94"
    assert world.code(without) == "00"
    assert len([send for send in world.sends if send.message.mti == "0200"]) == 3
    world.check_settled()


def test_d2_a_retry_whose_alias_is_damaged_is_told_neither_yes_nor_no() -> None:
    world = World()
    for alias, stan in (("a", 1), ("b", 2)):
        world.hear(asked(world, alias, alias.encode(), stan=stan))
        world.run()
    world.journal.damaged.add(world.journal.by_key[f"idem|{MERCHANT}|TERM0001|b"][-1])
    again = world.hear(asked(world, "b", b"b", stan=1))
    world.run()
    assert world.code(again) == "96"


def test_d1_a_transaction_that_came_without_alias_is_found_with_one() -> None:
    world = World()
    first = world.ask("0200", sale())
    world.run()
    again = world.hear(asked(world, "a", b"1"))
    world.run()
    assert world.told[again].answer == world.told[first].answer
    assert len([send for send in world.sends if send.message.mti == "0200"]) == 1


def assigned(world: World, alias: str, *candidates: int, digest: bytes = b"1") -> Request:
    """A sale without a STAN, as the HTTP listener hands it over: with those that may be assigned to it."""
    stans = tuple([f"{each:06}" for each in candidates])
    request = asked(world, alias, digest, stan=candidates[0])
    fields = {number: value for number, value in request.fields.items() if number != 11}
    return replace(request, stan="", fields=fields, assigned=stans)


def test_d1_whoever_is_told_an_outcome_under_a_further_key_is_told_94_for_something_else_under_it() -> None:
    for first_alias in ("", "a"):
        world = World()
        first = world.hear(asked(world, first_alias, b"1")) if first_alias else world.ask("0200", sale())
        world.run()
        again = world.hear(asked(world, "k", b"1"))
        world.run()
        assert world.told[again].answer == world.told[first].answer
        once_more = world.hear(asked(world, "k", b"1"))
        other = world.hear(asked(world, "k", b"2", stan=777))
        without = world.hear(assigned(world, "k", 500_001, 500_002, digest=b"3"))
        world.run()
        assert [world.code(each) for each in (once_more, other, without)] == ["00", "94", "94"]
        assert len([send for send in world.sends if send.message.mti == "0200"]) == 1
        world.check_settled()


def test_d1_a_further_key_of_a_sale_that_is_under_way_is_remembered_as_well() -> None:
    world = World()
    first = world.ask("0200", sale())
    joined = world.hear(asked(world, "k", b"1"))
    world.run()
    other = world.hear(asked(world, "k", b"2", stan=777))
    world.run()
    assert [world.code(each) for each in (first, joined, other)] == ["00", "00", "94"]
    world.check_settled()


@pytest.mark.parametrize("up", [True, False], ids=["online", "standing in"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("restarted", [False, True])
def test_d1_an_assigned_stan_is_one_that_nobody_else_has(up: bool, together: bool, restarted: bool) -> None:
    world = World(up=up)

    def settle() -> None:
        if not together:
            world.run()

    own = world.ask("0200", sale(500_001))
    settle()
    told = world.hear(assigned(world, "k", 500_001, 500_002))
    settle()
    other = world.hear(assigned(world, "l", 500_001, 500_002, 500_003, digest=b"2"))
    world.run()
    if restarted:
        world.crash_and_restart(up=up)
    again = [
        world.hear(assigned(world, "k", 500_001, 500_002)),
        world.hear(assigned(world, "l", 500_001, 500_002, 500_003, digest=b"2")),
    ]
    world.run()
    assert [world.code(each) for each in (own, told, other)] == ["00", "00", "00"]
    stans = [world.told[each].answer.fields[11] for each in (told, other)]  # type: ignore[union-attr]
    assert stans == ["500002", "500003"]
    assert [world.told[each].answer.fields[11] for each in again] == stans  # type: ignore[union-attr]
    world.up()
    world.run()
    sent = [send.message.fields[11] for send in world.sends if send.message.mti in ("0200", "0220")]
    assert sorted(sent) == ["500001", "500002", "500003"]
    world.check_settled()


def test_d1_where_every_stan_that_may_be_assigned_is_taken_the_sale_is_refused_and_nothing_is_stored() -> None:
    world = World()
    for stan in (500_001, 500_002):
        world.ask("0200", sale(stan))
    world.run()
    told = world.hear(assigned(world, "k", 500_001, 500_002))
    world.run()
    assert world.code(told) == "96"
    assert len(world.sends) == 2
    world.check_settled()


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "at once"])
def test_d2_a_terminal_that_uses_an_assigned_stan_itself_is_answered_94(*, together: bool) -> None:
    world = World()
    told = world.hear(assigned(world, "k", 500_001, 500_002))
    if not together:
        world.run()
    own = world.ask("0200", sale(500_001))  # the same card and amount: another sale all the same
    world.run()
    assert (world.code(told), world.code(own)) == ("00", "94")
    assert len([send for send in world.sends if send.message.mti == "0200"]) == 1
    world.check_settled()


def test_d1_a_stan_that_the_gateway_assigns_is_told_and_goes_upstream_and_is_the_same_in_its_reversal() -> None:
    world = World(up=False)
    told = world.hear(asked(world, "a", b"1", assign=True))
    world.run()
    answer = world.told[told].answer
    assert answer is not None
    assert len(answer.fields[11]) == 6
    world.up()
    world.run()
    assert [send.message.fields[11] for send in world.sends if send.message.mti == "0220"] == [answer.fields[11]]
    world.check_settled()


@pytest.mark.timeout(10)  # of what is asked for again and again without end
@pytest.mark.parametrize("up", [True, False], ids=["online", "standing in"])
@pytest.mark.parametrize("together", [False, True], ids=["stored", "in flight"])
@pytest.mark.parametrize(
    ("taken", "candidates", "told"),
    [
        ((500_001,), (500_001, 500_001, 500_002), "500002"),
        ((500_001,), (500_001, 500_001), ""),
        ((500_001, 500_002), (500_001, 500_002, 500_001, 500_003), "500003"),
        ((500_001, 500_002), (500_001, 500_002, 500_001), ""),
    ],
)
def test_d1_candidates_that_repeat_are_tried_once_each(
    up: bool, together: bool, taken: tuple[int, ...], candidates: tuple[int, ...], told: str
) -> None:
    world = World(up=up)
    for stan in taken:
        world.ask("0200", sale(stan))
        if not together:
            world.run()
    for _ in range(2):
        token = world.hear(assigned(world, "k", *candidates))
        world.run()
        answer = world.told[token].answer
        assert answer is not None
        assert (answer.fields[39], answer.fields.get(11, "")) == (("00", told) if told else ("96", ""))
    assert len(world.journal.rows) == len(taken) + bool(told)
    world.up()
    world.run()
    world.check_settled()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("together", [False, True], ids=["stored", "in flight"])
def test_d1_a_key_that_ends_with_none_of_its_candidates_goes_on_with_them(*, together: bool) -> None:
    world = World()
    world.ask("0200", sale(500_001))
    if not together:
        world.run()
    odd = replace(assigned(world, "k", 500_001, 500_002), assigned=("500002", "500003"))
    token = world.hear(odd)
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert (answer.fields[39], answer.fields[11]) == ("00", "500002")
    world.check_settled()


def test_d8_field_37_of_each_assigned_sale_has_its_own_stan_and_is_the_same_wherever_it_is_told() -> None:
    world = World(up=False)
    asks = [assigned(world, alias, 500_000 + number, digest=b"%d" % number) for number, alias in enumerate("abc")]
    first = []
    for request in asks:
        first.append(world.hear(request))
        world.run()
    world.crash_and_restart(up=False)
    again = []
    for request in asks:
        again.append(world.hear(request))
        world.run()
    world.acquirer.moods.extend([SILENT_LOST])
    world.up()
    world.advance(60_000)
    later = [world.hear(request) for request in asks]
    world.run()
    day_and_hour = "532512"  # 2025-11-21 12:00
    wanted = [f"{day_and_hour}{500_000 + number}" for number in range(3)]
    for tokens in (first, again, later):
        answers = [world.told[token].answer for token in tokens]
        assert [answer and (answer.fields[37], answer.fields[11]) for answer in answers] == [
            (reference, reference[-6:]) for reference in wanted
        ]
    sent = [send.message for send in world.sends]
    assert [message.mti for message in sent] == ["0220", "0221", "0220", "0220"]
    assert [message.fields[37] for message in sent] == [wanted[0], *wanted]
    assert all(message.fields[37].endswith(message.fields[11]) for message in sent)
    assert len({message.fields[38] for message in sent}) == 3
    world.check_settled()


def test_d8_field_37_is_of_the_stan_that_was_free_at_last() -> None:
    world = World(up=False)
    world.ask("0200", sale(500_001))
    world.run()
    token = world.hear(assigned(world, "k", 500_001, 500_002))
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert answer.fields[37].endswith("500002")
    world.up()
    world.run()
    references = [send.message.fields[37][-6:] for send in world.sends]
    assert references == [send.message.fields[11] for send in world.sends] == ["500001", "500002"]
    world.check_settled()


@pytest.mark.parametrize("restarted", [False, True])
def test_d3_a_retry_under_its_alias_gets_its_own_outcome_though_its_stan_has_come_again_since(
    *, restarted: bool
) -> None:
    world = World(rules=TerminalRules(period=Period.HORIZON))
    first = world.hear(asked(world, "a", b"a"))
    world.run()
    world.advance(25 * 3_600_000)
    world.hear(asked(world, "b", b"b", amount=2_000))
    world.run()
    if restarted:
        world.crash_and_restart(up=True)
    again = world.hear(asked(world, "a", b"a"))
    world.run()
    assert world.told[again].answer == world.told[first].answer
    assert len([send for send in world.sends if send.message.mti == "0200"]) == 2
