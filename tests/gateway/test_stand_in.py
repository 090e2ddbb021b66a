"""Sales that were approved while the acquirer was away are booked once and in order (D8, D19)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS, Prepared
from tests.gateway.shop import Outcome, comes_true, open_shop, outcome, play, setup


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_stand_in_sales_outlive_the_gateway_and_are_booked_once_in_the_order_of_each_terminal(
    tmp_path: Path, how: str
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminals = [shop.terminal(f"T000000{number}") for number in (1, 2, 3)]
            await shop.host_leaves()
            sold: list[tuple[int, Prepared, Outcome]] = []
            for turn in range(4):
                for number, terminal in enumerate(terminals):
                    sale = terminal.till.sale(1000 + 10 * turn + number, TEST_CARDS[turn])
                    sold.append((number, sale, outcome(await terminal.ask(sale))))
            assert {told.response for _, _, told in sold} == {"00"}
            assert all(told.approval and told.rrn for _, _, told in sold)
            number, sale, told = sold[3]
            assert outcome(await terminals[number].ask(sale)) == told

            await shop.end(how)
            await shop.start(online=False)
            for number, sale, told in sold:
                assert outcome(await terminals[number].ask(sale)) == told
            assert not shop.host.messages

            await shop.host_returns()
            await comes_true("all are booked", lambda: all(shop.host.net(sale) == 1 for _, sale, _ in sold))
            await shop.drained()
            for number, sale, told in sold:
                assert shop.host.acts(sale) == ["0220 booked"]
                assert outcome(await terminals[number].ask(sale)) == told
            for number in range(len(terminals)):
                made = [sale.key for of, sale, _ in sold if of == number]
                assert [event.key for event in shop.host.recent if event.key in made] == made
            assert len(shop.host.messages) == len(sold)

    play(story())


def test_an_advice_that_was_under_way_when_the_gateway_was_killed_is_sent_again_as_a_repeat_and_booked_once(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            newer = terminal.till.sale(1100, TEST_CARDS[1])
            told = outcome(await terminal.ask(sale))
            await terminal.ask(newer)
            await shop.host.set_mode(Mode.SILENT)
            await comes_true("the advice arrives", lambda: shop.host.net(sale) == 1)
            await shop.kill()
            await shop.host_returns()
            await shop.start(online=False)
            await shop.drained()
            assert shop.host.acts(sale) == ["0220 booked", "0221 duplicate"]
            assert shop.host.acts(newer) == ["0220 booked"]
            first, again = shop.host.arrivals(sale)
            assert first.digest == again.digest, "a repeat says what the first said (D8)"
            assert outcome(await terminal.ask(sale)) == told

    play(story())


def test_a_sale_that_the_policy_refuses_is_told_91_and_never_sent(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, setup(floor_limit_minor=2_000)) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            dear = terminal.till.sale(2_001, TEST_CARDS[0])
            assert (await terminal.ask(dear)).response == "91"
            await shop.kill()
            await shop.start(online=False)
            assert (await terminal.ask(dear)).response == "91"
            await shop.host_returns()
            await shop.link_is("up")
            assert (await terminal.ask(dear)).response == "91", "a new sale has a new STAN"
            fresh = terminal.till.sale(2_001, TEST_CARDS[0])
            assert (await terminal.ask(fresh)).response == "00"
            assert not shop.host.arrivals(dear)

    play(story())


def test_a_new_sale_never_overtakes_what_its_terminal_has_stored(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            stored = [terminal.till.sale(1000 + number, TEST_CARDS[number]) for number in range(3)]
            for sale in stored:
                assert (await terminal.ask(sale)).response == "00"
            await shop.host.set_behaviour(Behaviour(mode=Mode.LATE, delay_ms=150))
            await shop.link_is("up")
            newest = terminal.till.sale(2000, TEST_CARDS[3])
            assert (await terminal.ask(newest)).response == "00"
            await shop.drained()
            keys = [sale.key for sale in [*stored, newest]]
            assert [event.key for event in shop.host.recent if event.key in keys] == keys
            assert shop.host.net(newest) == 1

    play(story())
