"""Rubbish at the terminals' port: a clear answer or a closed line, counted, nothing stored, nobody else disturbed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.acquirer import Behaviour, Mode
from bench.child import LOG_NAME
from bench.till import TEST_CARDS
from protocol.iso8583.dialect import load_dialect
from tests.gateway.rubbish import BAD, answer_to, port_of, two_listeners, with_bit
from tests.gateway.shop import DEADLINE_S, Shop, comes_true, open_shop, outcome, play

CARD = TEST_CARDS[0]
FLOOD = 300


async def counted(shop: Shop) -> dict[str, int]:
    """The listeners' counters."""
    counters = (await shop.status())["counters"]
    return {name: count for name, count in counters.items() if name.startswith("terminal.")}


def refused(counters: dict[str, int]) -> int:
    """How much was counted as bad, whatever its kind."""
    kinds = (
        "bad_framing",
        "bad_message",
        "bad_message_closed",
        "bad_mti_closed",
        "bad_request",
        "closed_frame_timeout",
    )
    return sum(counters[f"terminal.{kind}"] for kind in kinds)


def no_card_in(text: str) -> None:
    """No test card in clear, packed or in hex."""
    for pan in TEST_CARDS:
        assert pan not in text
        assert pan.encode().hex() not in text
        assert pan not in text.encode().hex()


def test_each_kind_of_bad_message_gets_30_or_a_closed_line_and_is_counted_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        house = two_listeners()
        async with open_shop(tmp_path, house) as shop:
            tills = {d: shop.terminal("T0000009", d, port_of(house, d)).till for d in ("unionpay", "iso87-ascii")}
            for bad in BAD:
                before = await counted(shop)
                sale = tills[bad.dialect].sale(1000, CARD)
                told = await answer_to(house, bad.dialect, bad.make(sale))
                after = await counted(shop)
                assert told == bad.answer, bad.name
                assert refused(after) > refused(before), bad.name
                if bad.counted:
                    name = f"terminal.{bad.counted}"
                    assert after[name] == before[name] + 1, bad.name
                    assert await shop.metric(f'holdfast_events_total{{event="{name}"}}') == after[name]
            assert await shop.stored() == 0
            assert not shop.host.messages
            lines = shop.logged("terminal.refused")
            assert lines
            assert all(line["level"] == "warning" and line["peer"] for line in lines)
            no_card_in((tmp_path / LOG_NAME).read_text())

    play(story())


def test_a_line_that_dribbles_or_stops_inside_a_frame_is_closed(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_listeners()
        async with open_shop(tmp_path, house) as shop:
            till = shop.terminal("T0000009").till
            dribbled = answer_to(house, "unionpay", till.sale(1000, CARD).frame, pause_s=0.05)
            stopped = answer_to(house, "unionpay", till.sale(1000, CARD).frame[:-1])
            length_only = answer_to(house, "unionpay", b"\x00")
            assert [*await asyncio.gather(dribbled, stopped, length_only)] == ["", "", ""]
            assert (await counted(shop))["terminal.closed_frame_timeout"] == 3
            assert await shop.stored() == 0
            no_card_in((tmp_path / LOG_NAME).read_text())

    play(story())


def test_in_the_middle_of_it_all_other_terminals_sell_as_if_nothing_were(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_listeners()
        async with open_shop(tmp_path, house) as shop:
            good = [
                shop.terminal(f"T000000{number}", dialect, port_of(house, dialect))
                for number, dialect in enumerate(["unionpay", "iso87-ascii", "unionpay", "iso87-ascii"])
            ]
            bad_tills = {d: shop.terminal("T0000009", d, port_of(house, d)).till for d in ("unionpay", "iso87-ascii")}
            await shop.host.set_behaviour(Behaviour(mode=Mode.LATE, delay_ms=400))
            sales = [counter.till.sale(1000, CARD) for counter in good]
            told = []
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(counter.ask(sale)) for counter, sale in zip(good, sales, strict=True)]
                await comes_true("the sales are in flight", lambda: len(shop.host.messages) == len(sales))
                for number in range(FLOOD):
                    bad = BAD[number % len(BAD)]
                    frame = bad.make(bad_tills[bad.dialect].sale(1000, CARD))
                    group.create_task(answer_to(house, bad.dialect, frame))
                told = [outcome(await one) for one in asked]
            assert {one.response for one in told} == {"00"}
            assert all(shop.host.acts(sale) == ["0200 booked"] for sale in sales)
            again = [outcome(await counter.ask(sale)) for counter, sale in zip(good, sales, strict=True)]
            assert again == told
            assert await shop.stored() == len(sales)
            assert refused(await counted(shop)) >= FLOOD
            assert len(shop.logged("terminal.refused")) < FLOOD / 5, "the lines about it are limited"
            no_card_in((tmp_path / LOG_NAME).read_text())

    play(story())


def test_a_bad_message_on_a_line_leaves_what_was_asked_before_it_on_that_line_answered(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_listeners()
        async with open_shop(tmp_path, house) as shop:
            terminal = shop.terminal()
            sale, after = terminal.till.sale(1000, CARD), terminal.till.sale(1100, CARD)
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=300))
            frame = sale.frame + with_bit(after, 64)
            reader, writer = await asyncio.open_connection("127.0.0.1", house.terminal_port)
            writer.write(frame)
            frames = load_dialect("unionpay").framing.reader()
            codes: dict[str, str] = {}
            async with asyncio.timeout(DEADLINE_S):
                while len(codes) < 2:
                    for answer in frames.feed(await reader.read(4096)):
                        fields = load_dialect("unionpay").codec.decode(answer).fields
                        codes[fields[11]] = fields[39]
            writer.close()
            await writer.wait_closed()
            assert codes == {sale.stan: "00", after.stan: "30"}
            assert await shop.stored() == 1

    play(story())
