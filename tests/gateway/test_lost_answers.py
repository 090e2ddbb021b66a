"""A retry never becomes a second charge, and hears what was said the first time (D3, INV-2, INV-6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS
from tests.gateway.shop import Outcome, comes_true, open_shop, outcome, play


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_sale_whose_answer_was_lost_is_booked_once_and_told_the_same_before_during_and_after_a_restart(
    tmp_path: Path, how: str
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1250, TEST_CARDS[0])
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=300))
            await terminal.send(sale)
            await comes_true("the acquirer has booked", lambda: shop.host.net(sale) == 1)
            terminal.hang_up()

            while_asked = await terminal.ask(sale)
            terminal.hang_up()
            before = await terminal.ask(sale)
            await shop.end(how)
            with pytest.raises(ConnectionRefusedError):
                await terminal.ask(sale)
            await shop.start()
            after = await terminal.ask(sale)

            assert outcome(before).response == "00"
            assert outcome(before).approval
            assert outcome(before).rrn
            assert outcome(while_asked) == outcome(before) == outcome(after)
            assert shop.host.acts(sale) == ["0200 booked"]
            assert await shop.stored() == 1

    play(story())


def test_a_declined_sale_stays_declined_over_a_restart_and_is_asked_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1051, TEST_CARDS[0])
            before = await terminal.ask(sale)
            await shop.kill()
            await shop.start()
            after = await terminal.ask(sale)
            assert outcome(before).response == "51"
            assert outcome(before) == outcome(after)
            assert shop.host.acts(sale) == ["0200 declined"]

    play(story())


def test_a_burst_of_retries_while_the_answer_is_awaited_reaches_the_acquirer_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=300))
            counters = [shop.terminal() for _ in range(6)]
            sale = counters[0].till.sale(1250, TEST_CARDS[0])
            for counter in counters:
                await counter.connect()
            told: list[Outcome] = []
            for counter in counters[:-1]:
                for _ in range(2):
                    await counter.send(sale)
            told.append(outcome(await counters[-1].ask(sale)))
            told.append(outcome(await counters[0].ask(sale)))
            assert told[0] == told[1]
            assert told[0].response == "00"
            assert shop.host.acts(sale) == ["0200 booked"]

    play(story())
