"""A terminal's own reversal is always taken, and the books net to zero (D14, D15)."""

from __future__ import annotations

from pathlib import Path

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS
from tests.gateway.shop import comes_true, open_shop, outcome, play


def test_of_a_stored_sale_and_its_reversal_neither_reaches_the_acquirer(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            other = terminal.till.sale(1100, TEST_CARDS[1])
            assert (await terminal.ask(sale)).response == "00"
            assert (await terminal.ask(other)).response == "00"
            reversal = terminal.till.reversal(sale)
            told = await terminal.ask(reversal)
            assert (told.mti, told.response) == ("0410", "00")
            await shop.kill()
            await shop.start(online=False)
            assert outcome(await terminal.ask(reversal)) == outcome(told)
            await shop.host_returns()
            await comes_true("the other sale is booked", lambda: shop.host.net(other) == 1)
            await shop.drained()
            assert not shop.host.arrivals(sale)
            assert (await terminal.ask(sale)).response != "00", "it is not paid any more"

    play(story())


def test_the_reversal_of_an_approved_sale_goes_upstream_once_and_nets_to_zero(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(sale)).response == "00"
            reversal = terminal.till.reversal(sale)
            told = await terminal.ask(reversal)
            assert (told.mti, told.response) == ("0410", "00")
            await shop.drained()
            assert outcome(await terminal.ask(reversal)) == outcome(told)
            await shop.kill()
            await shop.start()
            assert outcome(await terminal.ask(reversal)) == outcome(told)
            await shop.drained()
            assert shop.host.acts(sale) == ["0200 booked", "0400 reversed"]
            assert shop.host.net(sale) == 0

    play(story())


def test_a_reversal_during_an_outage_is_owed_over_a_restart_and_goes_before_newer_sales(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(sale)).response == "00"
            await shop.host_leaves()
            assert (await terminal.ask(terminal.till.reversal(sale))).response == "00"
            newer = terminal.till.sale(1100, TEST_CARDS[1])
            assert (await terminal.ask(newer)).response == "00"
            await shop.kill()
            await shop.start(online=False)
            await shop.host_returns()
            await comes_true("the newer sale is booked", lambda: shop.host.net(newer) == 1)
            await shop.drained()
            acts = [event.act for event in shop.host.recent if event.business != "network"]
            assert acts == ["booked", "reversed", "booked"]
            assert shop.host.net(sale) == 0

    play(story())


def test_a_reversal_of_a_sale_in_flight_is_taken_and_follows_its_original(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=500))
            await terminal.send(sale)
            await comes_true("the acquirer has it", lambda: len(shop.host.messages) == 1)
            assert (await terminal.ask(terminal.till.reversal(sale))).response == "00"
            await shop.drained()
            assert shop.host.acts(sale) == ["0200 booked", "0400 reversed"]
            assert (await terminal.ask(sale)).response != "00"

    play(story())


def test_a_reversal_of_something_unknown_is_kept_and_forwarded_and_its_late_original_is_refused(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(terminal.till.reversal(sale))).response == "00"
            await comes_true("the reversal arrives", lambda: len(shop.host.arrivals(sale)) == 1)
            await shop.drained()
            late = await terminal.ask(sale)
            assert late.response == "12"
            assert outcome(await terminal.ask(sale)) == outcome(late)
            assert shop.host.acts(sale) == ["0400 reversal-unknown"]

    play(story())


def test_a_reversal_of_something_unknown_outlives_an_outage_and_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(terminal.till.reversal(sale))).response == "00"
            await shop.kill()
            await shop.start(online=False)
            assert (await terminal.ask(sale)).response == "12"
            await shop.host_returns()
            await comes_true("the reversal arrives", lambda: len(shop.host.arrivals(sale)) == 1)
            await shop.drained()
            assert shop.host.acts(sale) == ["0400 reversal-unknown"]

    play(story())
