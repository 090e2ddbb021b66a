"""A STAN used again with another card or amount is refused, and a person is told (D2)."""

from __future__ import annotations

from pathlib import Path

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS
from tests.gateway.shop import comes_true, open_shop, outcome, play

AMOUNT = 1250
CARD = TEST_CARDS[0]


def test_a_retry_with_another_amount_or_card_gets_94_raises_an_alarm_and_forwards_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal, second_line = shop.terminal(), shop.terminal()
            first = terminal.till.sale(AMOUNT, CARD)
            others = [
                terminal.till.sale(99_900, CARD, stan=first.stan),
                terminal.till.sale(AMOUNT, TEST_CARDS[1], stan=first.stan),
            ]

            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=400))
            await terminal.send(first)
            await comes_true("the acquirer has it", lambda: len(shop.host.messages) == 1)
            for other in others:
                assert (await second_line.ask(other)).response == "94", "while the first is in flight"
            told = await terminal.ask(first)
            for other in others:
                assert (await terminal.ask(other)).response == "94", "after the first"
            # Lines are written beside the payments, so that one of the last moment may go with a power cut.
            await comes_true("the alarms are in the log", lambda: len(shop.logged("key-reused")) == 2 * len(others))
            await shop.kill()
            await shop.start()
            for other in others:
                assert (await terminal.ask(other)).response == "94", "after a restart"

            await comes_true("all alarms are in the log", lambda: len(shop.logged("key-reused")) == 3 * len(others))
            alarms = shop.logged("key-reused")
            assert all(alarm["level"] == "error" and first.stan in alarm["key"] for alarm in alarms)
            assert shop.host.acts(first) == ["0200 booked"]
            assert len(shop.host.messages) == 1
            assert outcome(await terminal.ask(first)) == outcome(told)
            assert await shop.stored() == 1

    play(story())


def test_a_stan_of_a_stored_sale_used_again_is_refused_and_the_stored_sale_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            stored = terminal.till.sale(AMOUNT, CARD)
            assert (await terminal.ask(stored)).response == "00"
            other = terminal.till.sale(AMOUNT + 1, CARD, stan=stored.stan)
            assert (await terminal.ask(other)).response == "94"
            await shop.host_returns()
            await comes_true("the stored sale is booked", lambda: shop.host.net(stored) == 1)
            (event,) = shop.host.arrivals(stored)
            assert event.amount_minor == AMOUNT

    play(story())
