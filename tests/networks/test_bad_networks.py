"""Whatever the network does to terminals and acquirer, everything settles, once, in order, and as it was told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from bench.proxy import CALM, Fault, Spell, Way, Weather
from bench.till import TEST_CARDS
from protocol.iso8583.dialect import load_dialect
from tests.gateway.shop import play
from tests.networks.scene import clean, open_scene

TERMINALS: Final = range(1, 13)
SALES: Final = 4
SEED: Final = 7
GIVEN_UP_WITHIN_S: Final = 8.0
"""Three time-outs of 0.5 s make an outage, and a dial takes half a second at most."""

STORMS: Final = {
    "replies are lost, torn and late": Weather(
        drop_reply=0.1, reset_reply=0.05, reset_inside_reply=0.1, late_reply=0.15, late_ms=(300, 900)
    ),
    "connections are refused, reset and swallowed": Weather(refuse=0.3, reset=0.7, reset_within_ms=250, blackhole=0.1),
    "bytes come late, few at a time, and slowly": Weather(dribble=0.6, delay_ms=(0, 40), bytes_per_s=4000),
}
SHOWS: Final = {
    "replies are lost, torn and late": ("drop", "reset", "reset-inside", "late"),
    "connections are refused, reset and swallowed": ("refused", "reset"),
    "bytes come late, few at a time, and slowly": ("dribbled",),
}
"""What the proxies must have done at least once, or the run has shown nothing."""


@pytest.mark.parametrize("storm", STORMS)
def test_a_storm_on_both_sides_leaves_nothing_lost_doubled_or_open(tmp_path: Path, storm: str) -> None:
    async def story() -> None:
        # The bench's terminals do not dial anew while a line is silent, so that none may swallow theirs.
        near = replace(STORMS[storm], blackhole=0)
        async with open_scene(tmp_path, SEED, near=near, far=STORMS[storm]) as scene:
            # Lines that were there before the storm are cut, so that connections meet it too.
            for proxy in (scene.near, *scene.fars):
                await proxy.cut()
            await scene.sell(TERMINALS, SALES)
            clean(await scene.settled(), SEED)
            done = scene.near.counts + sum((far.counts for far in scene.fars), scene.near.counts)
            assert all(done[name] for name in SHOWS[storm]), f"seed {SEED}: {done}"

    play(story())


def test_an_acquirer_behind_a_network_that_comes_and_goes_by_schedule_is_caught_up_with(tmp_path: Path) -> None:
    async def story() -> None:
        schedule = (
            Spell(0.3, Weather(refuse=1, reset_reply=1)),
            Spell(1.0, CALM),
            Spell(1.5, Weather(drop_reply=0.5)),
            Spell(2.5, CALM),
        )
        async with open_scene(tmp_path, SEED) as scene:
            weather = asyncio.create_task(scene.fars[0].follow(schedule))
            await scene.sell(TERMINALS, 2 * SALES)
            await weather
            clean(await scene.settled(), SEED)
            counts = scene.fars[0].counts
            assert counts["reset"] + counts["drop"] > 0, f"seed {SEED}: {counts}"

    play(story())


def test_a_connection_to_the_acquirer_that_went_dark_is_given_up_for_one_that_works(tmp_path: Path) -> None:
    async def story() -> None:
        codec = load_dialect("iso87-binary").codec
        dark: list[bytes] = []

        def first_sale(way: Way, frame: bytes) -> Fault | None:
            if way is Way.REPLY and not dark and codec.decode(frame).mti == "0210":
                dark.append(frame)
                return Fault.BLACKHOLE
            return None

        async with open_scene(tmp_path, SEED, choose=first_sale, ways=2) as scene:
            terminal = scene.shop.terminal()
            assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "68"
            assert dark
            await scene.settled(heal_first=False, within_s=GIVEN_UP_WITHIN_S)

    play(story())
