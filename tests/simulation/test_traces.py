"""One seed gives one trace, byte for byte; a script says everything that a run was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.runs import run_script, run_seed
from tests.simulation.steps import parse_script
from tests.simulation.tills import CARDS

SEEDS = 20
_ROOT = Path(__file__).parents[2]
_SHOW = "import sys; from tests.simulation.test_traces import digests; print(*digests())"


def digests() -> list[str]:
    """The trace hashes of the first seeds."""
    traces = [run_seed(seed, traced=True).trace for seed in range(SEEDS)]
    return [trace.digest for trace in traces if trace is not None]


def test_a_seed_gives_the_same_trace_in_every_process_whatever_the_hash_seed() -> None:
    here = digests()
    assert len(set(here)) == SEEDS
    for hash_seed in ("1", "2"):
        said = subprocess.run(  # noqa: S603 - our own interpreter and our own words
            [sys.executable, "-c", _SHOW],
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == here


def test_a_seed_gives_the_same_trace_twice_in_one_process() -> None:
    assert digests() == digests()


@pytest.mark.parametrize("seed", range(8))
def test_a_script_replays_without_its_generator_as_it_was_made(seed: int) -> None:
    made = run_seed(seed, traced=True)
    again = parse_script(made.script.text())
    assert again == made.script
    assert made.trace is not None
    replayed = run_script(again, traced=True).trace
    assert replayed is not None
    assert _without_steps(replayed.lines) == _without_steps(made.trace.lines)


def _without_steps(lines: list[str]) -> list[str]:
    """A flow's letters are known only when it is over: its heading differs."""
    return [line for line in lines if not line.startswith("== flow")]


@pytest.mark.parametrize("seed", range(8))
def test_a_trace_shows_no_card_number(seed: int) -> None:
    trace = run_seed(seed, traced=True).trace
    assert trace is not None
    text = "\n".join(trace.lines)
    assert not any(card in text for card in CARDS)
    assert " at 0x" not in text
    assert not re.search(r"b'[^']", text)
