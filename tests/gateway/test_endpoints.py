"""Several endpoints of one acquirer: the next is asked only if no byte went to the one before (D6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.ports import free_ports
from bench.till import TEST_CARDS
from tests.gateway.shop import Host, House, comes_true, open_shop, outcome, play, setup


def two_endpoints() -> House:
    """A configuration whose acquirer has a second address; the shop's host listens on the first."""
    house = setup()
    endpoints = [f"127.0.0.1:{house.acquirer_port}", *(f"127.0.0.1:{port}" for port in free_ports(1))]
    return setup(
        terminal_port=house.terminal_port,
        operations_port=house.operations_port,
        acquirer_port=house.acquirer_port,
        overrides={"acquirer": {"endpoints": endpoints}},
    )


def second_host(folder: Path, house: House, first: Host) -> Host:
    """The acquirer's other machine: it keeps the same books."""
    port = int(str(house.overrides["acquirer"]["endpoints"][1]).split(":")[1])  # type: ignore[index]
    second = Host(folder / "second.jsonl", dialect=house.acquirer_dialect, port=port)
    second.books = first.books
    return second


def test_while_the_first_endpoint_refuses_connections_the_second_is_asked_and_nothing_stands_in(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        house = two_endpoints()
        async with open_shop(tmp_path, house, start=False) as shop:
            second = second_host(tmp_path, house, shop.host)
            try:
                await shop.host.set_mode(Mode.AWAY)
                await second.start()
                await shop.start()
                terminal = shop.terminal()
                sale = terminal.till.sale(1000, TEST_CARDS[0])
                assert (await terminal.ask(sale)).response == "00"
                assert second.acts(sale) == ["0200 booked"]
                status = await shop.status()
                assert status["mode"] == "online"
                assert list(status["acquirer"]["endpoints"].values()) == [False, True]
                assert status["counters"].get("core.outcome.stored", 0) == 0

                await shop.host_returns()
                await comes_true("the first is connected", lambda: shop.host.counts["connections"] == 1)
                next_sale = terminal.till.sale(1100, TEST_CARDS[0])
                assert (await terminal.ask(next_sale)).response == "00"
                assert shop.host.acts(next_sale) == ["0200 booked"], "the first is preferred"
            finally:
                await second.stop()

    play(story())


@pytest.mark.parametrize("mode", [Mode.SILENT, Mode.BLACKHOLE, Mode.DROP])
def test_a_request_that_the_first_endpoint_may_have_seen_never_goes_to_the_second(tmp_path: Path, mode: Mode) -> None:
    async def story() -> None:
        house = two_endpoints()
        async with open_shop(tmp_path, house, start=False) as shop:
            second = second_host(tmp_path, house, shop.host)
            try:
                await second.start()
                await shop.start()
                await comes_true("both are connected", lambda: second.counts["connections"] == 1)
                await comes_true("the first is connected", lambda: shop.host.counts["connections"] == 1)
                terminal = shop.terminal()
                sale = terminal.till.sale(1000, TEST_CARDS[0])
                shop.host.next_messages(Behaviour(mode=mode))
                told = outcome(await terminal.ask(sale))
                assert told.response == "68"
                await shop.drained()
                assert outcome(await terminal.ask(sale)) == told
                assert [message.mti for message in shop.host.messages if message.mti[1] == "2"] == ["0200"]
                assert not [message for message in second.messages if message.mti[1] == "2"]
                assert shop.host.net(sale) == 0
                reversals = [*shop.host.arrivals(sale), *second.arrivals(sale)]
                assert [event.mti for event in reversals if event.business == "reversal"] == ["0400"]
            finally:
                await second.stop()

    play(story())


def test_when_the_first_endpoint_goes_away_new_sales_go_to_the_second_without_standing_in(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_endpoints()
        async with open_shop(tmp_path, house, start=False) as shop:
            second = second_host(tmp_path, house, shop.host)
            try:
                await second.start()
                await shop.start()
                await comes_true("both are connected", lambda: second.counts["connections"] == 1)
                terminal = shop.terminal()
                first_sale = terminal.till.sale(1000, TEST_CARDS[0])
                assert (await terminal.ask(first_sale)).response == "00"
                await shop.host.set_mode(Mode.AWAY)

                async def first_is_gone() -> bool:
                    return not next(iter((await shop.status())["acquirer"]["endpoints"].values()))

                await comes_true("the first is gone", first_is_gone)
                sale = terminal.till.sale(1100, TEST_CARDS[0])
                assert (await terminal.ask(sale)).response == "00"
                assert second.acts(sale) == ["0200 booked"]
                assert (await shop.status())["acquirer"]["outages"] == 0
            finally:
                await second.stop()

    play(story())


def test_an_endpoint_that_answers_nothing_but_echo_tests_makes_way_for_the_second(tmp_path: Path) -> None:
    async def story() -> None:
        house = two_endpoints()
        async with open_shop(tmp_path, house, start=False) as shop:
            second = second_host(tmp_path, house, shop.host)
            try:
                await second.start()
                await shop.start()
                await comes_true("both are connected", lambda: second.counts["connections"] == 1)
                await comes_true("the first is connected", lambda: shop.host.counts["connections"] == 1)
                await shop.host.set_mode(Mode.SILENT)
                for number in range(1, 9):
                    counter = shop.terminal(f"T{number:07}")
                    await counter.ask(counter.till.sale(1000, TEST_CARDS[0]))
                await shop.link_is("up")
                await shop.drained()
                sale = counter.till.sale(1100, TEST_CARDS[0])
                assert (await counter.ask(sale)).response == "00"
                assert second.acts(sale) == ["0200 booked"], "it was asked, and nothing stood in for it"
                assert len([message for message in shop.host.messages if message.mti[1] == "2"]) <= 3
            finally:
                await second.stop()

    play(story())
