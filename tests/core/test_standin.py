"""The stand-in policy: each reason by name, limits in the commit, exposure released once (D10, D21)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.events import OperatorAct
from gateway.core.lifecycle import EntryKind, State
from gateway.core.standin import Exposure, Policy, Refusal, StandIn, StandInMode, decide
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import TerminalRules
from tests.core.acquirer import APPROVES, DECLINES
from tests.core.messages import MASTERCARD, UNIONPAY, VISA, key, reversal, sale
from tests.core.world import HASHING, World

NONE = Exposure()
OPEN = Policy(overall=NONE, terminal=NONE, card=NONE)
TRACK = {35: f"{VISA}=30121010000000000"}
CHIP = {55: "9f2608" + "00" * 8}
PIN = {52: "0123456789abcdef"}
TRACK_DROPPED = replace(OPEN, allow_track_dropped=True)


def refused(fields: Fields, policy: Policy, rules: TerminalRules | None = None) -> str:
    world = World(up=False, policy=policy, rules=rules)
    token = world.ask("0200", fields)
    world.run()
    row = world.journal.rows[1].transaction
    assert world.code(token) == ("00" if row.state is State.STORED else "91")
    assert row.exposed is (row.state is State.STORED)
    return row.reason


def without_card() -> Fields:
    return {n: v for n, v in sale().items() if n != 2}


@pytest.mark.parametrize(
    ("reason", "fields", "policy"),
    [
        ("standin.off", sale(), replace(OPEN, mode=StandInMode.OFF)),
        ("standin.dry-run-would-approve", sale(), replace(OPEN, mode=StandInMode.DRY_RUN)),
        ("standin.processing-code", sale() | {3: "200000"}, OPEN),
        ("standin.processing-code", sale() | {3: "010000"}, OPEN),
        ("standin.currency", sale() | {49: "840"}, OPEN),
        ("standin.floor-limit", sale(1, 5_001), OPEN),
        ("standin.no-amount", sale(1, 0), OPEN),
        ("standin.entry-mode", sale(), replace(OPEN, entry_modes=frozenset({"05"}))),
        ("standin.no-card-number", without_card(), OPEN),
        ("standin.hot-card", sale(), replace(OPEN, hot_cards=frozenset({HASHING.card(VISA)}))),
        ("standin.bin-range", sale(), replace(OPEN, bin_ranges=(("510000", "559999"), ("62", "62")))),
        ("standin.card-expired", sale() | {14: "2510"}, OPEN),
        ("standin.card-expired", sale() | {14: "3012", 35: f"{VISA}=25101010000000000"}, TRACK_DROPPED),
        ("standin.card-expired", sale() | {55: "5f2403251031"}, OPEN),
        ("standin.card-expired", sale() | {55: f"5712{VISA}d2510101000000000000"}, OPEN),
        ("standin.cards-differ", sale() | {35: f"{MASTERCARD}=29122010000012345678"}, OPEN),
        ("standin.chip-needs-issuer", sale() | CHIP, OPEN),
        ("standin.pin-not-storable", sale() | PIN, OPEN),
        ("standin.track-not-storable", sale() | TRACK, OPEN),
        ("standin.overall", sale(), replace(OPEN, overall=Exposure(count_max=0))),
        ("standin.terminal", sale(), replace(OPEN, terminal=Exposure(total_minor_max=999))),
        ("standin.card", sale(), replace(OPEN, card=Exposure(count_max=0))),
    ],
)
def test_d21_every_refusal_is_recorded_with_its_reason(reason: str, fields: Fields, policy: Policy) -> None:
    assert refused(fields, policy) == reason


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        (sale(1, 5_000), OPEN),
        (sale(), replace(OPEN, entry_modes=frozenset({"01"}))),
        (sale(), replace(OPEN, bin_ranges=(("411111", "411111"),))),
        (sale() | {14: "2511"}, OPEN),
        (sale() | {14: "2510"}, replace(OPEN, allow_expired=True)),
        (sale() | {14: "0000"}, OPEN),
        (sale() | {14: "2413"}, OPEN),
        (sale() | {14: "9912"}, OPEN),
        (sale() | {35: f"{VISA}=25111010000000000"}, TRACK_DROPPED),
        (sale() | {35: f"{VISA}=00001010000000000"}, TRACK_DROPPED),
        (sale() | CHIP, replace(OPEN, allow_chip_without_issuer=True)),
        (sale() | PIN, replace(OPEN, allow_pin_dropped=True)),
        (sale() | {52: "0" * 16}, OPEN),
        (sale() | TRACK, replace(OPEN, allow_track_dropped=True)),
        (sale(), replace(OPEN, terminal=Exposure(count_max=1, total_minor_max=1_000))),
    ],
)
def test_d21_what_the_policy_permits_stands_in(fields: Fields, policy: Policy) -> None:
    assert refused(fields, policy) == "standin.approved"


def test_d21_a_card_is_valid_until_its_month_is_over_everywhere() -> None:
    month_over = datetime(2025, 12, 1, tzinfo=UTC)
    request = World().request("0200", sale() | {14: "2511"})
    for hours, expected in ((0, StandIn), (11, StandIn), (12, Refusal), (24 * 31, Refusal)):
        utc_ms = int((month_over + timedelta(hours=hours)).timestamp() * 1000)
        assert isinstance(decide(request, OPEN, utc_ms), expected), hours


@pytest.mark.parametrize("utc_ms", [0, 253_402_300_800_000 + 86_400_000, -(10**15)])
def test_d21_a_clock_that_is_set_to_no_time_at_all_breaks_nothing(utc_ms: int) -> None:
    assert isinstance(decide(World().request("0200", sale() | {14: "2511"}), OPEN, utc_ms), StandIn)


def test_d10_a_track_that_the_journal_may_keep_needs_no_permission_to_be_dropped() -> None:
    rules = TerminalRules(retained_sensitive_fields=frozenset({35}))
    assert refused(sale() | TRACK, OPEN, rules) == "standin.approved"


def test_d10_the_advice_of_a_sale_with_a_pin_goes_without_its_pin_block() -> None:
    world = World(up=False, policy=replace(OPEN, allow_pin_dropped=True))
    world.ask("0200", sale() | PIN)
    world.run()
    world.up()
    assert 52 not in world.sends[0].message.fields


def test_d10_the_advice_of_a_track_only_sale_carries_the_card_number() -> None:
    world = World(up=False, policy=replace(OPEN, allow_track_dropped=True))
    world.ask("0200", without_card() | TRACK)
    world.run()
    world.up()
    assert world.sends[0].message.fields[2] == VISA
    assert 35 not in world.sends[0].message.fields


def test_d21_a_dry_run_says_what_it_would_have_refused_too() -> None:
    world = World(policy=OPEN)
    request = world.request("0200", sale(1, 5_001))
    assert decide(request, replace(OPEN, mode=StandInMode.DRY_RUN), world.utc_ms) == Refusal("standin.floor-limit")
    assert isinstance(decide(world.request("0200", sale()), OPEN, world.utc_ms), StandIn)


def test_d21_advices_are_not_the_policys_matter() -> None:
    world = World()
    assert decide(world.request("0220", sale()), OPEN, world.utc_ms) == Refusal("standin.kind")


def test_d21_a_stand_in_approval_has_an_approval_code_and_a_reference_that_a_retry_gets_again() -> None:
    world = World(up=False)
    token = world.ask("0200", sale())
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert len(answer.fields[38]) == 6
    assert answer.fields[37] == "532512000001"  # 2025, day 325, 12 o'clock, STAN
    assert world.journal.row(key()).approval == answer.fields[38]


@pytest.mark.parametrize(
    ("policy", "reason", "others"),
    [
        (replace(OPEN, terminal=Exposure(count_max=2)), "standin.terminal", sale(9, 10, terminal="TERM0002")),
        (replace(OPEN, card=Exposure(count_max=2)), "standin.card", sale(9, 10, card=MASTERCARD)),
        (replace(OPEN, terminal=Exposure(total_minor_max=25)), "standin.terminal", sale(9, 5)),
    ],
)
def test_d21_limits_refuse_what_goes_above_and_nothing_else(policy: Policy, reason: str, others: Fields) -> None:
    world = World(up=False, policy=policy)
    tokens = [world.ask("0200", sale(stan, 10)) for stan in (1, 2, 3)]
    world.run()
    assert [world.code(token) for token in tokens] == ["00", "00", "91"]
    assert world.journal.row(key(3)).reason == reason
    other = world.ask("0200", others)
    world.run()
    assert world.code(other) == "00"
    world.journal.check_counters()


def test_d21_what_has_been_stored_for_too_long_stops_further_stand_ins() -> None:
    world = World(up=False, policy=replace(OPEN, terminal=Exposure(age_ms_max=60_000)))
    first = world.ask("0200", sale(1, 10))
    world.run()
    world.advance(60_001)
    second = world.ask("0200", sale(2, 10))
    world.run()
    assert (world.code(first), world.code(second)) == ("00", "91")
    world.up()
    world.down()
    third = world.ask("0200", sale(3, 10))
    world.run()
    assert world.code(third) == "00"


def test_d21_a_refused_reservation_of_a_request_that_was_not_sent_is_told_91_and_kept_with_its_reason() -> None:
    world = World(policy=replace(OPEN, card=Exposure(count_max=0)))
    token = world.ask("0200", sale())
    world.down()
    world.run()
    assert world.code(token) == "91"
    assert world.journal.row(key()).reason == "standin.card"
    assert [entry.kind for entry in world.journal.log] == [EntryKind.ACCEPTED, EntryKind.NOT_SENT]


def taken(world: World) -> None:
    world.up()


def cancelled_by_the_terminal(world: World) -> None:
    world.ask("0400", reversal(sale(1), 2))
    world.run()


def parked_and_cancelled(world: World) -> None:
    world.acquirer.moods.append(DECLINES)
    world.up()
    assert world.journal.row(key(1)).exposed
    world.command(OperatorAct.CANCEL, 1)


def parked_and_voided(world: World) -> None:
    world.acquirer.moods.append(DECLINES)
    world.up()
    world.command(OperatorAct.VOID, 1)
    world.advance(60_000)


def parked_released_and_taken(world: World) -> None:
    world.acquirer.moods.append(DECLINES)
    world.up()
    world.command(OperatorAct.RELEASE, 1)
    world.advance(60_000)


def parked_and_reversed_by_the_terminal(world: World) -> None:
    world.acquirer.moods.append(DECLINES)
    world.up()
    world.ask("0400", reversal(sale(1), 2))
    world.advance(60_000)


def voided_unsent(world: World) -> None:
    world.command(OperatorAct.VOID, 1)


def crashed_and_taken(world: World) -> None:
    world.crash_and_restart(up=False)
    taken(world)


@pytest.mark.parametrize(
    "ending",
    [
        taken, cancelled_by_the_terminal, parked_and_cancelled, parked_and_voided, parked_released_and_taken,
        parked_and_reversed_by_the_terminal, voided_unsent, crashed_and_taken,
    ],
)  # fmt: skip
def test_d21_exposure_is_given_back_exactly_once_however_it_ends(ending: Callable[[World], None]) -> None:
    world = World(up=False, policy=replace(OPEN, terminal=Exposure(count_max=1)))
    world.ask("0200", sale(1))
    world.run()
    assert {state.count for state in world.journal.counters.values()} == {1}
    ending(world)
    assert {state.count for state in world.journal.counters.values()} == {0}
    assert {state.amount_minor for state in world.journal.counters.values()} == {0}
    world.journal.check_counters()
    world.acquirer.mood = APPROVES
    world.down()
    again = world.ask("0200", sale(9, 10))
    world.run()
    assert world.code(again) == "00"


def test_inv_8_no_reason_and_no_alarm_holds_a_card_number() -> None:
    world = World(up=False)
    world.ask("0200", sale(1, 10, card=UNIONPAY))
    world.run()
    world.ask("0200", sale(1, 11, card=UNIONPAY))
    world.acquirer.moods.append(DECLINES)
    world.up()
    assert world.alarms
    assert UNIONPAY not in repr(world.alarms) + repr([row.transaction for row in world.journal.rows.values()])
