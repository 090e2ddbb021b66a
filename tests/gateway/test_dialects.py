"""Terminals of one dialect, an acquirer of another: what both can say arrives unchanged, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.till import TEST_CARDS
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Fields
from tests.gateway.rubbish import port_of, two_listeners
from tests.gateway.shop import comes_true, open_shop, play, saying, setup

PAIRS = [
    ("iso87-ascii", "unionpay"),
    ("unionpay", "iso87-binary"),
    ("unionpay", "iso87-ascii"),
]
RICH: Fields = {
    23: "001",
    26: "12",
    32: "00010344990",
    35: "6212345678900000003=30122201234567800",
    52: "1122334455667788",
    53: "2600000000000000",
    55: "9f2608a1b2c3d4e5f607089f2701809f100807010103a0b001019f3704deadbeef",
}
"""Fields that every shipped dialect knows, and whose packing differs between them."""


def known_to_both(fields: Fields, terminal: str, acquirer: str) -> Fields:
    """What both dialects have a place for; MACs are never handed on."""
    both = load_dialect(terminal).fields.keys() & load_dialect(acquirer).fields.keys() - {64, 128}
    return {number: value for number, value in fields.items() if number in both}


@pytest.mark.parametrize(("terminals", "acquirer"), PAIRS)
def test_every_field_that_both_dialects_know_arrives_unchanged_online_stood_in_and_reversed(
    tmp_path: Path, terminals: str, acquirer: str
) -> None:
    async def story() -> None:
        house = setup(
            terminal_dialect=terminals,
            acquirer_dialect=acquirer,
            overrides={
                "standin": {
                    "allow_chip_without_issuer": True,
                    "allow_pin_dropped": True,
                    "allow_track_dropped": True,
                }
            },
        )
        async with open_shop(tmp_path, house) as shop:
            terminal = shop.terminal()
            card = "6212345678900000003"
            assert card in TEST_CARDS

            online = saying(terminal.till.sale(123_456 % 40_000, card), RICH, terminal.till.dialect)
            told = await terminal.ask(online)
            assert told.response == "00"
            assert told.approval
            assert told.rrn
            sent = known_to_both(online.message.fields, terminals, acquirer)
            (got,) = shop.host.messages
            assert got.mti == "0200"
            assert {number: got.fields.get(number) for number in sent} == sent
            assert {told.message.fields[number] for number in (11,)} == {online.stan}
            for number in (2, 3, 4, 41, 42, 49):
                assert told.message.fields.get(number, online.message.fields[number]) == online.message.fields[number]
            assert told.message.tpdu == online.message.tpdu[:1] + online.message.tpdu[3:] + online.message.tpdu[1:3]
            assert told.message.header == online.message.header

            assert (await terminal.ask(terminal.till.reversal(online))).response == "00"
            await comes_true("the reversal arrives", lambda: shop.host.net(online) == 0)
            reversal = shop.host.messages[1]
            rules = load_dialect(acquirer).host
            owed = {n: v for n, v in sent.items() if n in rules.reversal_fields and n not in (7, 11, 38)}
            assert reversal.mti == "0400"
            assert {number: reversal.fields.get(number) for number in owed} == owed
            assert reversal.fields[38].strip() == told.approval
            if rules.original == "de90":
                assert reversal.fields[90].startswith(f"0200{online.stan}{got.fields[7]}")
            else:
                assert reversal.fields[11] == online.stan
            await shop.drained()

            await shop.host_leaves()
            stored = saying(terminal.till.sale(2000, card), RICH, terminal.till.dialect)
            stood_in = await terminal.ask(stored)
            assert stood_in.response == "00"
            await shop.kill()
            await shop.start(online=False)
            await shop.host_returns()
            await comes_true("the advice arrives", lambda: shop.host.net(stored) == 1)
            await shop.drained()
            advice = shop.host.messages[2]
            assert advice.mti == "0220"
            kept = known_to_both(stored.message.fields, terminals, acquirer)
            never_kept = {*load_dialect(terminals).terminal.sensitive_fields, *rules.advice_drop_fields}
            owed = {n: v for n, v in kept.items() if n not in never_kept}
            assert {number: advice.fields.get(number) for number in owed} == owed
            assert not {35, 36, 52, 55} & advice.fields.keys()
            assert advice.fields[38].strip() == stood_in.approval
            assert advice.fields[37] == stood_in.rrn

    play(story())


def test_one_gateway_hears_two_dialects_and_each_terminal_is_answered_in_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_listeners()
        async with open_shop(tmp_path, house) as shop:
            for number, dialect in enumerate(("unionpay", "iso87-ascii", "unionpay", "iso87-ascii")):
                counter = shop.terminal(f"T000000{number}", dialect, port_of(house, dialect))
                sale = counter.till.sale(1000 + number, TEST_CARDS[number])
                told = await counter.ask(sale)
                assert (told.response, told.mti) == ("00", "0210")
                assert shop.host.acts(sale) == ["0200 booked"]
            assert [listener["connections"] for listener in (await shop.status())["terminals"]] == [2, 2]

    play(story())
