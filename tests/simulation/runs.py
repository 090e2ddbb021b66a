"""One run from a seed or from a script, and what came of it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from tests.core.journal import Broken
from tests.simulation.driver import Simulated
from tests.simulation.generator import Generator, setup_of
from tests.simulation.invariants import KNOWN
from tests.simulation.steps import Script
from tests.simulation.trace import Trace

STEPS = 300
_TAIL_LINES = 40


@dataclass(frozen=True, slots=True)
class Failure:
    """What did not hold.

    Attributes:
        rule: the promise that broke, or where the core raised what.
        text: what was seen.
        at: how many steps had been begun.
    """

    rule: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over."""

    script: Script
    failure: Failure | None
    trace: Trace | None = field(repr=False)


def rule_of(error: Exception) -> str:
    """Which promise an exception is about."""
    if isinstance(error, Broken):
        return error.rule
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/simulation/" not in frame.filename] or list(frames)
    return f"{type(error).__name__} in {ours[-1].name}"


def run_seed(seed: int, count: int = STEPS, *, traced: bool = False) -> Outcome:
    """Make a script from a seed while it runs; `count` acts, then everything heals."""
    trace = Trace() if traced else None
    setup = setup_of(seed)
    world = Simulated(setup, trace)
    generator = Generator(seed, world)
    failure: Failure | None = None
    try:
        generator.run(count)
        world.heal()
    except Exception as error:  # noqa: BLE001 - whatever the core raises is a finding
        failure = Failure(rule_of(error), str(error), len(generator.steps))
    return Outcome(Script(setup, tuple(generator.steps)), failure, trace)


def run_script(script: Script, *, traced: bool = False, excused: frozenset[str] = frozenset(KNOWN)) -> Outcome:
    """Carry out a script; then everything heals."""
    trace = Trace() if traced else None
    world = Simulated(script.setup, trace, excused)
    begun = 0
    failure: Failure | None = None
    try:
        for step in script.steps:
            begun += 1
            world.apply(step)
        world.heal()
    except Exception as error:  # noqa: BLE001 - whatever the core raises is a finding
        failure = Failure(rule_of(error), str(error), begun)
    return Outcome(script, failure, trace)
