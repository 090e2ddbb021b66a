"""Checks of a whole gateway against the acquirer's ledger that nobody had, until a safeguard was taken away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from bench.acquirer import NORMAL, Behaviour, Mode
from bench.till import TEST_CARDS
from tests.gateway.shop import Counter, play
from tests.safeguards.one_process import one_process

ROOM: Final = 4
TERMINALS: Final = 16
_LATER_MS: Final = 25 * 3_600_000
"""A day and an hour: the STAN means another sale by then (D1)."""


@pytest.mark.parametrize("retried", ["under another STAN", "when its STAN means another sale"])
def test_a_retry_with_its_idempotency_key_is_never_a_second_charge(tmp_path: Path, retried: str) -> None:
    """By its first key the retry is a new sale; only its Idempotency-Key says that it is not (D1)."""

    async def story() -> None:
        async with one_process(tmp_path) as shop:
            assert await shop.post("once", "000001", 1_200) == 200
            if retried == "under another STAN":
                told, stan = 422, "000002"
            else:
                told, stan = 200, "000001"
                shop.clock.ahead_ms = _LATER_MS
            status = await shop.post("once", stan, 1_200)
            assert [event.stan for event in shop.charges()] == ["000001"], "the ledger has a second charge"
            assert status == told
            assert len(shop.host.messages) == 1, "the acquirer was asked again"
            assert await shop.post("another", "000003", 1_200) == 200
            assert [event.stan for event in shop.charges()] == ["000001", "000003"], "another key is another sale"

    play(story())


def test_what_an_acquirer_that_answers_has_no_room_for_is_refused_and_never_approved_without_it(tmp_path: Path) -> None:
    """Whoever sends enough at once must not be approved by stand-in: the acquirer is there, and says who may pay."""
    little = {"acquirer": {"in_flight_max": ROOM, "echo_interval_ms": 30_000}, "replay": {"window_max": 2}}
    patient = {"host_timeout_ms": 6_000, "reply_timeout_ms": 8_000, "longest_flight_ms": 8_000}

    async def story() -> None:
        async with one_process(tmp_path, little, terminal_timeout_ms=20_000, **patient) as shop:
            terminals = [shop.terminal(f"T{number:07}") for number in range(TERMINALS)]
            await asyncio.gather(*(terminal.connect() for terminal in terminals))
            await shop.host.set_behaviour(Behaviour(mode=Mode.SLOW, delay_ms=700))
            sales = [terminal.till.sale(1000, TEST_CARDS[0]) for terminal in terminals]
            told = await asyncio.gather(*map(Counter.ask, terminals, sales))
            approved = [sale for sale, each in zip(sales, told, strict=True) if each.response == "00"]
            unasked = [sale.key for sale in approved if shop.host.acts(sale)[:1] != ["0200 booked"]]
            assert not unasked, "approved without asking an acquirer that answers"
            assert len(approved) >= ROOM
            refused = {each.response for each in told} - {"00"}
            assert refused == {"09"}, "so soon after the start it cannot be 96, and nothing is declined for good"
            await shop.host.set_behaviour(NORMAL)
            for terminal, sale in zip(terminals, sales, strict=True):
                if sale not in approved:
                    assert (await terminal.ask(sale)).response == "00"
            assert all(shop.host.acts(sale) == ["0200 booked"] for sale in sales)
            for terminal in terminals:
                terminal.hang_up()

    play(story())
