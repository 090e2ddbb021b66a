"""Hosts that say otherwise than they were asked, and terminals that leave things out (INV-5, INV-8, D12, D15, D21)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.answers import relayed_answer
from gateway.core.effects import Purpose
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.lifecycle import State
from gateway.core.parts import BadRequest
from gateway.core.requests import changed_by_host
from gateway.core.standin import Policy
from gateway.core.transaction import Kind
from protocol.iso8583.message import Fields, Message
from protocol.settlement import Totals
from tests.core.acquirer import SILENT_BOOKED, Mood
from tests.core.messages import (
    ISO,
    MASTERCARD,
    UNIONPAY_HOST,
    UNIONPAY_RULES,
    VISA,
    sale,
    settlement,
    unionpay_key,
    unionpay_sale,
)
from tests.core.world import World

HASHING = KeyedHash(bytes(32))
NOW = 1_763_726_400_000
TRACK = f"{VISA}=30121011234567890123"


def test_inv_8_track_and_pin_that_a_host_echoes_are_neither_kept_nor_given_to_whoever_retries() -> None:
    host = {11: "000001", 35: TRACK, 36: TRACK, 39: "00", 52: "0123456789abcdef", 64: "00" * 8}
    answer = relayed_answer("0200", sale(), host, ISO)
    assert not {35, 36, 52, 64} & answer.fields.keys()


@pytest.mark.parametrize(
    ("chip", "kept"), [("910a00112233445566778899", True), (f"5711{VISA}d30121011234567890f", False), ("91", False)]
)
def test_inv_8_chip_data_of_an_answer_is_handed_on_unless_it_holds_a_track(chip: str, kept: bool) -> None:
    assert (55 in relayed_answer("0200", sale(), {39: "00", 55: chip}, ISO).fields) is kept


def test_inv_5_a_terminal_never_sees_another_card_amount_or_currency_than_its_own() -> None:
    host = {2: MASTERCARD, 3: "200000", 4: "000000000001", 39: "00", 49: "840"}
    asked: Fields = {number: value for number, value in sale().items() if number != 2}
    answer = relayed_answer("0200", asked, host, ISO)
    assert 2 not in answer.fields
    assert (answer.fields[3], answer.fields[4], answer.fields[49]) == ("000000", "000000001000", "156")


@pytest.mark.parametrize(("said", "what"), [({2: MASTERCARD}, "card"), ({49: "840"}, "currency"), ({4: "1"}, "amount")])
def test_inv_5_an_approval_of_something_else_is_noticed(said: Fields, what: str) -> None:
    request = request_from(Message("0200", sale()), ISO, HASHING, NOW)
    assert changed_by_host(request.fields, request.currency, request.pan, {39: "00", **said}) == what
    agrees = {39: "00", 2: VISA, 4: "000000001000", 49: "156"}
    assert changed_by_host(request.fields, request.currency, request.pan, agrees) == ""


def unnamed(stan: int = 1) -> Fields:
    """A reversal as D12 has it: 60.1 alone."""
    return {**unionpay_sale(stan), 39: "98", 60: "22"}


@pytest.mark.parametrize("how", ["running", "stored", "restarted", "settled"])
def test_d12_a_reversal_that_does_not_name_its_batch_means_the_one_its_terminal_is_in(how: str) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES, up=how != "stored")
    world.ask("0200", unionpay_sale(9, batch="000007"))
    world.run()
    world.ask("0200", unionpay_sale(batch="000008"))
    if how != "running":
        world.run()
    if how == "restarted":
        world.crash_and_restart()
    if how == "settled":
        world.ask("0500", settlement(2, Totals(1_000, 1), batch="000008"))
        world.run()
    token = world.ask("0400", unnamed())
    world.run()
    again = world.ask("0400", unnamed())
    world.advance(60_000)
    if not world.connected:
        world.up()
        world.advance(60_000)
    assert (world.code(token), world.code(again)) == ("00", "00")
    assert world.journal.row(unionpay_key(9, batch="000007")).state is State.APPROVED
    assert world.journal.row(unionpay_key(1, batch="000008", message_class="4")).kind is Kind.REVERSAL
    undone = State.CANCELLED if how == "stored" else State.REVERSED
    assert world.journal.row(unionpay_key(1, batch="000008")).state is undone


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("mti", "batch"), [("0200", "000009"), ("0100", "000009"), ("0220", "000009"), ("0220", "000008")]
)
def test_d15_what_comes_after_its_reversal_without_batch_is_not_booked_though_a_batch_was_closed_before(
    mti: str, batch: str, restarts: bool
) -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    world.ask("0200", unionpay_sale(batch="000008"))
    world.run()
    world.ask("0500", settlement(2, Totals(1_000, 1), batch="000008"))
    world.run()
    if restarts:
        world.crash_and_restart()
    token = world.ask("0400", unnamed(7))
    world.run()
    late = world.ask(mti, unionpay_sale(7, batch=batch))
    again = world.ask("0400", unnamed(7))
    world.advance(60_000)
    assert (world.code(token), world.code(late), world.code(again)) == ("00", "12", "00")
    assert [send.message.mti for send in world.sends] == ["0200", "0500", "0400"]
    assert world.journal.row(unionpay_key(7, batch="000009", message_class="4")).kind is Kind.REVERSAL
    world.check_settled()


def test_d12_a_reversal_without_batch_of_a_terminal_that_nobody_knows_is_kept_and_forwarded() -> None:
    world = World(host=UNIONPAY_HOST, rules=UNIONPAY_RULES)
    token = world.ask("0400", unnamed())
    world.run()
    assert world.code(token) == "00"
    assert [send.message.mti for send in world.sends] == ["0400"]


def test_d1_where_batches_are_settled_a_sale_must_name_its_batch() -> None:
    for mti in ("0200", "0100", "0220"):
        with pytest.raises(BadRequest, match="field 60 must name the batch"):
            request_from(Message(mti, unionpay_sale() | {60: "22"}), UNIONPAY_RULES, HASHING, NOW)


@pytest.mark.parametrize("business", ["030000", "000000"])
def test_d12_of_an_authorisation_and_a_sale_under_one_stan_the_one_of_the_same_business_is_reversed(
    business: str,
) -> None:
    both = Policy(processing_codes=frozenset({"00", "03"}))
    world = World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST, policy=both, up=False)
    authorisation = {**unionpay_sale(), 3: "030000", 60: "10000001000"}
    for mti, fields in (("0100", authorisation), ("0200", unionpay_sale()), ("0400", {**unionpay_sale(), 3: business})):
        world.ask(mti, fields)
        world.run()
    states = {row.transaction.kind: row.transaction.state for row in world.journal.rows.values()}
    undone, kept = Kind.SALE, Kind.AUTHORISATION
    if business == "030000":
        undone, kept = kept, undone
    assert (states[undone], states[kept]) == (State.CANCELLED, State.STORED)


def one_stan_twice(mood: Mood, *, replayed: bool = False) -> World:
    """An authorisation of 1.00 that was refused, and a sale of 2.00 under its STAN that is with the acquirer now."""
    world = World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST, up=False)
    world.ask("0100", {**unionpay_sale(5, 100), 3: "030000", 60: "10000001000"})
    world.run()
    assert world.journal.row(unionpay_key(5, message_class="1")).state is State.DECLINED
    world.acquirer.moods.append(mood)
    if not replayed:
        world.up()
    world.ask("0200", unionpay_sale(5, 200))
    world.run()
    if replayed:
        world.up()
    assert len(world.flights) == 1
    return world


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("mood", [Mood(after_ms=1_000), SILENT_BOOKED])
def test_d15_a_reversal_that_names_another_business_reverses_what_it_can_mean_also_while_that_is_in_flight(
    mood: Mood, replayed: bool
) -> None:
    world = one_stan_twice(mood, replayed=replayed)
    token = world.ask("0400", {**unionpay_sale(5, 200), 3: "030000"})
    world.run()
    cancelled = State.STORED_CANCELLED if replayed else State.ASKING_CANCELLED
    assert (world.code(token), world.journal.row(unionpay_key(5)).state) == ("00", cancelled)
    world.advance(1_000)
    if mood.answers:
        assert Purpose.REVERSAL in [send.purpose for send in world.sends]
    world.advance(120_000)
    assert world.journal.row(unionpay_key(5)).state is State.REVERSED
    world.check_settled()


@pytest.mark.parametrize("replayed", [False, True])
def test_d15_a_reversal_that_read_its_original_before_that_was_answered_reads_it_anew(replayed: bool) -> None:
    world = one_stan_twice(Mood(after_ms=1_000), replayed=replayed)
    token = world.ask("0400", {**unionpay_sale(5, 200), 3: "030000"})
    stale = world.read()
    world.advance(1_000, run=False)
    world.deliver()
    world.commit()
    world.report()
    assert world.journal.row(unionpay_key(5)).state is State.APPROVED
    world.step(stale)
    world.run()
    assert (world.code(token), world.journal.row(unionpay_key(5)).state) == ("00", State.REVERSED)
    world.check_settled()


@pytest.mark.parametrize("business", ["000000", "030000"])
def test_d15_what_is_in_flight_under_the_same_stan_with_another_amount_does_not_refuse_a_reversal(
    business: str,
) -> None:
    world = one_stan_twice(Mood(after_ms=1_000))
    token = world.ask("0400", {**unionpay_sale(5, 100), 3: business})
    world.run()
    assert world.code(token) == "00"
    world.advance(1_000)
    row = world.journal.row(unionpay_key(5, message_class="4"))
    assert row.original == world.journal.row(unionpay_key(5, message_class="1")).id
    assert world.journal.row(unionpay_key(5)).state is State.APPROVED
    world.exempt.add(row.original)  # the ledger knows one of a STAN, and it is the sale
    world.check_settled()


@pytest.mark.parametrize("code", ["200000", "010000"])
def test_d21_a_refund_or_cash_advice_is_asked_and_never_approved_unseen(code: str) -> None:
    refund = {**unionpay_sale(), 3: code, 4: "999999999999"}
    away = World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST, up=False)
    token = away.ask("0220", refund)
    away.run()
    assert away.code(token) == "91"
    there = World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST)
    token = there.ask("0220", refund)
    there.run()
    assert there.code(token) == "00"
    assert [send.message.mti for send in there.sends] == ["0220"]


def test_a_message_without_merchant_is_answered_30_because_its_lane_would_be_another() -> None:
    with pytest.raises(BadRequest, match="field 42") as refused:
        request_from(Message("0400", {n: v for n, v in sale().items() if n != 42}), ISO, HASHING, NOW)
    assert refused.value.code == "30"


def test_rules_of_a_dialect_can_let_every_advice_tell_of_something_done() -> None:
    rules = replace(ISO, asked_advices=frozenset())
    request = request_from(Message("0220", {**sale(), 3: "200000"}), rules, HASHING, NOW)
    assert request.kind is Kind.ADVICE
