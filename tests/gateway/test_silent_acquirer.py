"""Whoever is told no was not charged, whatever the acquirer did without saying so (D7, D11, D13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS
from tests.gateway.shop import comes_true, open_shop, outcome, play


def test_a_sale_that_the_acquirer_books_in_silence_is_told_no_and_reversed(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            shop.host.next_messages(Behaviour(mode=Mode.SILENT))
            told = await terminal.ask(sale)
            assert told.response == "68"
            await comes_true("the reversal arrives", lambda: len(shop.host.arrivals(sale)) == 2)
            await shop.drained()
            assert shop.host.acts(sale) == ["0200 booked", "0400 reversed"]
            assert shop.host.net(sale) == 0
            assert outcome(await terminal.ask(sale)) == outcome(told)
            assert len(shop.host.arrivals(sale)) == 2

    play(story())


@pytest.mark.parametrize("booked", [True, False], ids=["it was booked", "it never arrived"])
def test_a_gateway_killed_while_an_answer_is_awaited_reverses_after_its_restart_and_tells_the_retry_no(
    tmp_path: Path, booked: bool
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            shop.host.next_messages(Behaviour(mode=Mode.SILENT if booked else Mode.BLACKHOLE))
            await terminal.send(sale)
            await comes_true("the acquirer has it", lambda: len(shop.host.arrivals(sale)) == 1)
            await shop.kill()
            await shop.start()
            assert shop.logged("recovering")
            told = await terminal.ask(sale)
            assert told.response == "68"
            await comes_true("the reversal arrives", lambda: len(shop.host.arrivals(sale)) == 2)
            await shop.drained()
            reversal = "0400 reversed" if booked else "0400 reversal-unknown"
            assert shop.host.acts(sale) == ["0200 booked" if booked else "0200 ignored", reversal]
            assert shop.host.net(sale) == 0
            assert outcome(await terminal.ask(sale)) == outcome(told)
            assert len(shop.host.arrivals(sale)) == 2

    play(story())


def test_a_reversal_that_is_owed_survives_kill_9_and_an_absent_acquirer(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            shop.host.next_messages(Behaviour(mode=Mode.DROP))
            assert (await terminal.ask(sale)).response == "68"
            await shop.host.set_mode(Mode.AWAY)
            await shop.kill()
            await shop.start(online=False)
            assert shop.host.net(sale) == 1
            await shop.host_returns()
            await comes_true("the reversal arrives", lambda: shop.host.net(sale) == 0)
            await shop.drained()
            assert [event.act for event in shop.host.arrivals(sale) if event.act == "reversed"] == ["reversed"]

    play(story())


def test_an_approval_that_comes_too_late_is_reversed_and_never_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=1100))
            told = await terminal.ask(sale)
            assert told.response == "68"
            await shop.drained()
            assert shop.host.acts(sale) == ["0200 booked", "0400 reversed"]
            assert await shop.metric('holdfast_events_total{event="acquirer.late_answered"}') == 1
            assert outcome(await terminal.ask(sale)) == outcome(told)

    play(story())
