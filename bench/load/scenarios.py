"""What happens in each scenario, in the words of a stage: phases, and an acquirer and a gateway that come and go."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bench.load.options import RunOptions, Scenario

WARM_UP_S: Final = 1.0
_FLAP_MIN_S, _FLAP_MAX_S = 0.15, 1.5


class Stage(Protocol):
    """What a scenario can do."""

    async def begin(self, rate: float) -> None:
        """Let the load begin."""

    async def phase(self, name: str, seconds: float, *, outage: bool = False, measured: bool = True) -> None:
        """Begin a phase, and let time pass."""

    async def pass_time(self, seconds: float) -> None:
        """Let more of a phase pass."""

    async def cut(self) -> None:
        """The acquirer goes away."""

    async def heal(self) -> None:
        """The acquirer comes back."""

    async def kill(self) -> None:
        """kill -9 the gateway, and start it again."""

    async def deliver(self) -> None:
        """Bring the acquirer back to a backlog, and wait until it is delivered: a phase of its own."""


async def play(stage: Stage, options: RunOptions) -> None:
    """Play a scenario to the end of its load."""
    await _PLAYS[options.scenario](stage, options)


async def _steady(stage: Stage, options: RunOptions) -> None:
    await stage.begin(options.rate)
    await stage.phase("warm-up", min(WARM_UP_S, options.seconds), measured=False)
    away = not options.there_at_first
    await stage.phase(options.scenario.value, options.seconds, outage=away)


async def _outage(stage: Stage, options: RunOptions) -> None:
    await stage.begin(options.rate)
    await stage.phase("warm-up", min(WARM_UP_S, options.seconds), measured=False)
    await stage.phase("steady", 0.25 * options.seconds)
    await stage.cut()
    await stage.phase("cut", 0.2 * options.seconds, outage=True)
    await stage.phase("killed", 0.0, outage=True)
    await stage.kill()
    await stage.pass_time(0.25 * options.seconds)
    await stage.heal()
    await stage.phase("healed", 0.3 * options.seconds)


async def _flapping(stage: Stage, options: RunOptions) -> None:
    dice = random.Random(f"flapping-{options.seed}")
    await stage.begin(options.rate)
    await stage.phase("warm-up", min(WARM_UP_S, options.seconds), measured=False)
    await stage.phase("steady", 0.2 * options.seconds)
    await stage.phase("flapping", 0.0, outage=True)
    left_s = 0.6 * options.seconds
    away = False
    while left_s > 0:
        await (stage.heal() if away else stage.cut())
        away = not away
        lasts_s = min(left_s, dice.uniform(_FLAP_MIN_S, _FLAP_MAX_S))
        left_s -= lasts_s
        await stage.pass_time(lasts_s)
    if away:
        await stage.heal()
    await stage.phase("healed", 0.2 * options.seconds)


async def _drain(stage: Stage, _: RunOptions) -> None:
    await stage.deliver()


_PLAYS: Final[dict[Scenario, Callable[[Stage, RunOptions], Awaitable[None]]]] = {
    Scenario.ONLINE: _steady,
    Scenario.STORED: _steady,
    Scenario.OUTAGE: _outage,
    Scenario.FLAPPING: _flapping,
    Scenario.DUPLICATES: _steady,
    Scenario.DRAIN: _drain,
    Scenario.MIXED: _steady,
    Scenario.CLOSED: _steady,
}
