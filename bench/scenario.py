"""What happens in an outage run: the cuts and kills of a seed.

Everything random follows from the seed: which cuts, when they begin and end, when the gateway is killed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from bench.acquirer import NORMAL, Behaviour, Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run.

    Attributes:
        seconds: of traffic; finishing and draining come on top.
        sales_per_second: of each terminal, on average, while it is answered.
        keep: folder for everything that was recorded; None for one that is removed when the run is clean.
    """

    terminals: int = 50
    seconds: float = 20.0
    kill: bool = False
    seed: int = 0
    dialect: str = "unionpay"
    acquirer_dialect: str = "iso87-binary"
    sales_per_second: float = 4.0
    keep: Path | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens `at_s` seconds after the traffic began. `cut` is the number of the cut that begins."""

    at_s: float
    text: str
    behaviour: Behaviour | None = None
    kill_for_s: float | None = None
    cut: int = 0


def plan(options: Options) -> list[Step]:
    """The cuts and kills of a seed, in order of time."""
    dice = random.Random(f"plan/{options.seed}")
    span = options.seconds
    cuts = 2 if span < 10 else dice.randint(2, 4)
    slot = span * 0.75 / cuts
    steps: list[Step] = []
    for number in range(cuts):
        begin = span * 0.12 + number * slot + dice.uniform(0, slot * 0.2)
        end = begin + slot * dice.uniform(0.35, 0.65)
        behaviour = _cut(dice, first=number == 0)
        steps.append(Step(begin, f"cut {number + 1} of {cuts}: {_words(behaviour)}", behaviour, cut=number + 1))
        steps.append(Step(end, "the acquirer is back: replay", NORMAL))
        if options.kill and number == 0:
            at = dice.uniform(begin + 0.2 * (end - begin), end)
            steps.append(Step(at, "kill -9 of the gateway in the outage", kill_for_s=dice.uniform(0.1, 1.0)))
        if options.kill and number == cuts - 1:
            at = end + dice.uniform(0.05, 1.0)
            steps.append(Step(at, "kill -9 of the gateway in the replay", kill_for_s=dice.uniform(0.1, 1.0)))
        elif options.kill and number == 1:
            at = begin + dice.uniform(-0.5, 0.5)
            steps.append(Step(at, "kill -9 of the gateway as the cut begins", kill_for_s=dice.uniform(0.1, 1.0)))
    return sorted(steps, key=lambda step: step.at_s)


def _cut(dice: random.Random, *, first: bool) -> Behaviour:
    modes = [Mode.AWAY, Mode.SILENT] if first else [Mode.AWAY, Mode.SILENT, Mode.BLACKHOLE, Mode.DROP, Mode.LATE]
    mode = dice.choice(modes)
    if mode is Mode.DROP:
        return Behaviour(mode=mode, share=dice.choice([0.2, 0.5, 1.0]))
    if mode is Mode.LATE:
        return Behaviour(mode=mode, share=0.5, delay_ms=dice.choice([1500, 2300]))
    return Behaviour(mode=mode)


def _words(behaviour: Behaviour) -> str:
    share = f" ({behaviour.share:.0%} of messages)" if behaviour.share < 1 else ""
    return {
        Mode.AWAY: "the acquirer is away",
        Mode.SILENT: "the acquirer books and stays silent",
        Mode.BLACKHOLE: "the acquirer reads and does nothing",
        Mode.DROP: "the acquirer books and drops the connection",
        Mode.LATE: f"the acquirer answers after {behaviour.delay_ms} ms",
    }[behaviour.mode] + share
