"""Whatever happens, the promises hold after every step, and everything is settled once it has healed."""

from __future__ import annotations

import pytest

from tests.crash.amounts import TIMES
from tests.simulation.runs import STEPS, run_seed

SEEDS = 2_000 * TIMES
CHUNK = 50


@pytest.mark.parametrize("first_seed", range(0, SEEDS, CHUNK))
def test_the_promises_hold_whatever_happens_and_everything_settles_once_it_has_healed(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + CHUNK):
        outcome = run_seed(seed)
        assert outcome.failure is None, (
            f"seed {seed}: {outcome.failure}; `python -m tests.simulation run --seeds {seed}` shrinks it"
        )
        assert len(outcome.script.steps) >= STEPS
