"""More sales at once than the journal keeps up with: refused before anything is stored, and taken when asked again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.acquirer import NORMAL, Behaviour, Mode
from bench.till import TEST_CARDS, Prepared
from gateway.conductor import JournalWait
from tests.gateway.shop import Counter, House, comes_true, open_shop, play, setup

TERMINALS = 150
WAVES = 40
ROOM = 20


def test_who_is_refused_for_overload_is_not_stored_and_the_same_sale_is_taken_later(tmp_path: Path) -> None:
    house = setup(overrides={"terminals": {"journal_wait_ms_max": 10}})

    async def story() -> None:
        async with open_shop(tmp_path, house) as shop:
            terminals = [shop.terminal(f"T{number:07}") for number in range(TERMINALS)]
            await asyncio.gather(*(terminal.connect() for terminal in terminals))
            refused: list[tuple[Counter, Prepared]] = []
            taken: list[Prepared] = []
            for _ in range(WAVES):
                sales = [terminal.till.sale(1000, TEST_CARDS[0]) for terminal in terminals]
                told = await asyncio.gather(*map(Counter.ask, terminals, sales))
                assert {each.response for each in told} <= {"00", "09"}, "so soon after the start it cannot be 96"
                for terminal, sale, each in zip(terminals, sales, told, strict=True):
                    if each.response == "00":
                        taken.append(sale)
                    else:
                        refused.append((terminal, sale))
                if refused:
                    break
            assert refused, "a wave of sales never made the journal's line longer than 10 ms"
            assert all(shop.host.acts(sale) == [] for _, sale in refused), "nothing of them was sent"
            assert await shop.stored() == len(taken)
            counters = (await shop.status())["counters"]
            assert counters["terminal.answered_in_progress"] == len(refused)
            for terminal, sale in refused:
                assert (await terminal.ask(sale)).response == "00"
            everything = [*taken, *(sale for _, sale in refused)]
            assert all(shop.host.acts(sale) == ["0200 booked"] for sale in everything)
            await comes_true("an operator hears of it", lambda: bool(shop.logged("terminal.overload")))

    play(story())


def little_room() -> House:
    """An acquirer with little room that is waited for long."""
    return setup(
        host_timeout_ms=6_000, reply_timeout_ms=8_000, longest_flight_ms=8_000, terminal_timeout_ms=20_000,
        overrides={"acquirer": {"in_flight_max": ROOM, "echo_interval_ms": 30_000}, "replay": {"window_max": 4}},
    )  # fmt: skip


def test_more_than_an_acquirer_that_answers_has_room_for_is_refused_and_never_approved_without_it(
    tmp_path: Path,
) -> None:
    """Whoever sends enough at once must not be approved by stand-in: the acquirer is there, and says who may pay."""

    async def story() -> None:
        async with open_shop(tmp_path, little_room()) as shop:
            terminals = [shop.terminal(f"T{number:07}") for number in range(TERMINALS)]
            await asyncio.gather(*(terminal.connect() for terminal in terminals))
            await shop.host.set_behaviour(Behaviour(mode=Mode.SLOW, delay_ms=1_500))
            sales = [terminal.till.sale(1000, TEST_CARDS[0]) for terminal in terminals]
            told = await asyncio.gather(*map(Counter.ask, terminals, sales))
            taken = [sale for sale, each in zip(sales, told, strict=True) if each.response == "00"]
            refused = [sale for sale, each in zip(sales, told, strict=True) if each.response == "09"]
            assert len(taken) + len(refused) == TERMINALS
            assert len(taken) >= ROOM
            assert refused, "the acquirer had room for all"
            assert all(shop.host.acts(sale) == ["0200 booked"] for sale in taken)
            assert all(shop.host.acts(sale) == [] for sale in refused)
            await shop.host.set_behaviour(NORMAL)
            for terminal, sale in zip(terminals, sales, strict=True):
                if sale in refused:
                    assert (await terminal.ask(sale)).response == "00"
            assert all(shop.host.acts(sale) == ["0200 booked"] for sale in sales)

    play(story())


def test_more_than_a_host_that_hangs_has_room_for_is_stood_in_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, little_room()) as shop:
            terminals = [shop.terminal(f"T{number:07}") for number in range(ROOM + 2)]
            await asyncio.gather(*(terminal.connect() for terminal in terminals))
            await shop.host.set_mode(Mode.SILENT)
            stuck = [terminal.till.sale(1000, TEST_CARDS[0]) for terminal in terminals[:ROOM]]
            for terminal, sale in zip(terminals, stuck, strict=False):
                await terminal.send(sale)
            await comes_true("the host has as many as it may", lambda: len(shop.host.messages) == ROOM)
            one, other = terminals[ROOM:]
            assert (await one.ask(one.till.sale(1000, TEST_CARDS[0]))).response == "09", "it may be answering yet"
            later = other.till.sale(1000, TEST_CARDS[0])

            async def stood_in() -> bool:
                return (await other.ask(later)).response == "00"

            await comes_true("what hangs is taken for an outage", stood_in)
            assert shop.host.acts(later) == []

    play(story())


# --- how long the journal lets wait ----------------------------------------------------------------------------------


def test_nothing_waits_for_an_idle_journal() -> None:
    wait = JournalWait()
    assert wait.wait_ms(1_000) == 0
    wait.handed_over(7, 1_000)
    wait.answered(7, 1_010)
    assert wait.wait_ms(5_000) == 0


def test_the_wait_is_at_least_what_the_oldest_write_has_waited() -> None:
    wait = JournalWait()
    wait.handed_over(1, 1_000)
    wait.handed_over(4, 1_300)
    assert wait.wait_ms(1_500) == 500
    wait.answered(1, 1_500)
    assert wait.wait_ms(1_500) == 200
    wait.answered(1, 1_600)  # told again: it changes nothing
    assert wait.wait_ms(1_600) == 300


def test_a_long_line_is_seen_before_anybody_has_waited_in_it() -> None:
    wait = JournalWait()
    for token in range(1, 101):
        wait.handed_over(token, 0)
    wait.answered(100, 100)  # a hundred in 100 ms: 1 ms each
    for token in range(101, 401):
        wait.handed_over(token, 200)
    assert wait.wait_ms(200) == 600, "a transaction is written behind those that wait, twice"


def test_a_small_commit_says_nothing_of_what_a_write_costs() -> None:
    """It takes as long as the disk's sync; a hundred writes together take hardly longer."""
    wait = JournalWait()
    wait.handed_over(1, 0)
    wait.answered(1, 50)
    for token in range(2, 102):
        wait.handed_over(token, 60)
    assert wait.wait_ms(60) == 0


def test_what_a_write_costs_follows_the_disk() -> None:
    wait = JournalWait()
    now_ms, token = 0, 0
    for _ in range(20):
        for _ in range(100):
            token += 1
            wait.handed_over(token, now_ms)
        now_ms += 1_000
        wait.answered(token, now_ms)
    for _ in range(100):
        token += 1
        wait.handed_over(token, now_ms)
    assert 1_900 <= wait.wait_ms(now_ms) <= 2_000, "10 ms each, a hundred of them, twice"
