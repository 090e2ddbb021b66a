"""kill -9 of the real gateway at random instants, under load: the history stays clean (INV-1..6).

Terminals of the bench sell all the while, over real sockets; the acquirer is there at times and away at others. After
each kill the gateway starts again on the same journal. At the end everything is healed, the queue empties, and the
bench's history checker compares what terminals were told with what the acquirer booked.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

import pytest

from bench.acquirer import Mode
from tests.crash.amounts import LIMIT_S, TIMES
from tests.crash.selling import fork, forker, is_ready, sell_while
from tests.gateway.shop import Shop

RUNS: Final = 4 * TIMES
KILLS_PER_RUN: Final = 25
ALIVE_S: Final = 0.3
"""Longest life of a gateway after it is ready; kills also fall into its start."""
MODES: Final = (Mode.NORMAL, Mode.AWAY, Mode.SILENT, Mode.DROP)
WEIGHTS: Final = (4, 4, 1, 1)

pytestmark = pytest.mark.timeout(LIMIT_S)


async def kill_again_and_again(shop: Shop, dice: random.Random) -> None:
    """Start and kill; now and then the acquirer comes or goes, and now and then the start itself is what is killed."""
    with forker(shop) as process:
        for _ in range(KILLS_PER_RUN):
            if dice.random() < 0.3:
                await shop.host.set_mode(dice.choices(MODES, WEIGHTS)[0])
            gateway = await fork(process)
            if dice.random() < 0.8:
                await is_ready(shop, gateway)
            await asyncio.sleep(dice.uniform(0, ALIVE_S))
            assert gateway.running(), f"the gateway ended by itself\n{shop.gateway.log_end()}"
            gateway.kill()


@pytest.mark.parametrize("run", range(RUNS))
def test_the_history_is_clean_after_kill_nine_at_random_instants(tmp_path: Path, run: int) -> None:
    dice = random.Random(f"kills/{run}")
    verdict = asyncio.run(sell_while(tmp_path, run, lambda shop: kill_again_and_again(shop, dice)))
    print(f"{KILLS_PER_RUN} kills: {verdict.figures()}")
    assert verdict.clean, [str(each) for each in verdict.findings[:5]]
    assert verdict.acknowledged > 2 * KILLS_PER_RUN
    assert verdict.booked > KILLS_PER_RUN
