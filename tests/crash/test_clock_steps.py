"""The wall clock steps by an hour, both ways, while the gateway runs and before it starts: no outcome changes.

The gateway is the real one; its SystemClock is the machine's plus a step that the test sets while it runs (forker.py).
Sales are made, stood in, retried and reversed all the while, and the history checker judges them as ever: an answer
that changes between retries, a second charge, an order that breaks or an obligation that is never met would show.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

import pytest

from bench.acquirer import Mode
from tests.crash.amounts import LIMIT_S, TIMES
from tests.crash.selling import CLOCK_NAME, fork, forker, is_ready, sell_while
from tests.gateway.shop import Shop

RUNS: Final = TIMES
LIVES: Final = 3
STEPS_PER_LIFE: Final = 8
HOUR_MS: Final = 3_600_000
BETWEEN_STEPS_S: Final = 0.3

pytestmark = pytest.mark.timeout(LIMIT_S)


def step(shop: Shop, off_ms: int) -> None:
    """Set the clock of the running gateway, and of those that are forked later."""
    with (shop.folder / CLOCK_NAME).open("r+b") as file:  # in place: the gateway has it mapped
        file.write(off_ms.to_bytes(8, "little", signed=True))


async def step_again_and_again(shop: Shop, dice: random.Random) -> None:
    """Step the clock by an hour forth and back, with the acquirer there or away; a life ends with kill -9."""
    with forker(shop) as process:
        for _ in range(LIVES):
            gateway = await fork(process)
            await is_ready(shop, gateway)
            for _ in range(STEPS_PER_LIFE):
                await shop.host.set_mode(dice.choice([Mode.NORMAL, Mode.AWAY]))
                step(shop, dice.choice([-HOUR_MS, 0, HOUR_MS]))
                await asyncio.sleep(dice.uniform(0, BETWEEN_STEPS_S))
            assert gateway.running(), f"the gateway ended by itself\n{shop.gateway.log_end()}"
            gateway.kill()


@pytest.mark.parametrize("run", range(RUNS))
def test_no_outcome_changes_when_the_wall_clock_steps_by_an_hour(tmp_path: Path, run: int) -> None:
    (tmp_path / CLOCK_NAME).write_bytes(bytes(8))
    dice = random.Random(f"clock/{run}")
    verdict = asyncio.run(sell_while(tmp_path, run, lambda shop: step_again_and_again(shop, dice)))
    print(f"{LIVES * STEPS_PER_LIFE} steps: {verdict.figures()}")
    assert verdict.clean, [str(each) for each in verdict.findings[:5]]
    assert verdict.acknowledged > 100
