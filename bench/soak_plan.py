"""What befalls a soak: rounds of trouble, each drawn from the seed and its own number.

A round is a span of traffic in which the acquirer, both networks, the process, the operator and the terminals each have
troubles of their own, side by side. After it comes a healing window. In the middle of a soak the gateway lives through
many rounds without a restart (the long watch): only a process that lives long can show that it does not grow.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.acquirer import NORMAL, Behaviour, Mode
from bench.proxy import CALM, Weather

HEALING_S: Final = 8.0
"""About how long the window between two rounds is: settling, then a quiet look."""
WATCH: Final = (0.25, 0.85)
"""The part of the rounds in which nothing is killed or restarted."""
_TROUBLE_S: Final = (5.0, 40.0)
_STORING: Final = frozenset({Mode.AWAY, Mode.SILENT, Mode.BLACKHOLE})
"""Sales are stood in for meanwhile."""
_REFUSING: Final = Behaviour(mode=Mode.CODE, share=0.3, code="30")
_REPLIES_LOST: Final = Weather(
    drop_reply=0.1, reset_reply=0.03, reset_inside_reply=0.05, late_reply=0.1, late_ms=(300, 900)
)
_LINES_RESET: Final = Weather(refuse=0.3, reset=0.7, reset_within_ms=800)
_NEAR: Final = {
    "terminals' answers are lost, torn and late": _REPLIES_LOST,
    "terminals' connections are refused and reset": _LINES_RESET,
    "terminals' bytes come late and few at a time": Weather(dribble=0.6, delay_ms=(0, 40), bytes_per_s=4000),
    "terminals reach nobody": Weather(refuse=1, reset=1, reset_within_ms=50),
}
_FAR: Final = {
    "the acquirer's answers are lost, torn and late": _REPLIES_LOST,
    "connections upstream are refused, reset and swallowed": Weather(
        refuse=0.3, reset=0.7, reset_within_ms=800, blackhole=0.1
    ),
    "bytes upstream come late and few at a time": Weather(
        dribble=0.6, dribble_bytes=40, delay_ms=(0, 60), bytes_per_s=20_000
    ),
    "the acquirer cannot be reached": Weather(refuse=1, reset=1, reset_within_ms=50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """What to run.

    Attributes:
        minutes: of troubles and healing together; the last window may run over it.
        terminals, tills: callers that speak ISO 8583, and JSON over HTTP.
        sales_per_second: of each of them, on average, while it is answered.
        keep: folder for everything that was recorded; None for one that is removed when the run is clean.
    """

    minutes: float = 5.0
    terminals: int = 12
    tills: int = 4
    seed: int = 0
    dialect: str = "unionpay"
    acquirer_dialect: str = "iso87-binary"
    sales_per_second: float = 2.0
    keep: Path | None = None

    @property
    def trouble_s(self) -> float:
        """Length of the traffic of a round."""
        return min(_TROUBLE_S[1], max(_TROUBLE_S[0], self.minutes * 60 * 0.08))

    @property
    def rounds(self) -> int:
        """About how many rounds there will be."""
        return max(1, round(self.minutes * 60 / (self.trouble_s + HEALING_S)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens, `at_s` seconds after the traffic of its round began. What is None stays as it is.

    Attributes:
        counted: the name under which it is counted; empty for the end of something.
        near, far: weather between terminals and gateway, and between gateway and acquirer.
        kill_for_s: kill -9, and start again after so long.
        restart: SIGTERM, and start again.
        maintenance: on or off, by the operator's command.
        leave_for_s, leave_share: so many of the callers are switched off, and come back after so long.
    """

    at_s: float
    text: str
    counted: str = ""
    behaviour: Behaviour | None = None
    near: Weather | None = None
    far: Weather | None = None
    kill_for_s: float | None = None
    restart: bool = False
    maintenance: bool | None = None
    leave_for_s: float = 0.0
    leave_share: float = 0.0


def on_watch(options: SoakOptions, number: int) -> bool:
    """Whether the gateway lives through round `number` (from 0) without a restart. Short soaks have no watch."""
    return options.rounds >= 8 and WATCH[0] <= number / options.rounds < WATCH[1]


def round_steps(options: SoakOptions, number: int) -> list[Step]:
    """The troubles of round `number` (from 0), in order of time. They follow from the seed and the number alone."""
    dice = random.Random(f"soak/{options.seed}/{number}")
    span = options.trouble_s
    steps = _acquirer(dice, span)
    steps += _network(dice, span)
    if not on_watch(options, number):
        steps += _process(dice, span, certain=number == 0)
    if dice.random() < 0.25:
        begin, end = _part(dice, span)
        steps.append(Step(at_s=begin, text="the operator begins maintenance", counted="maintenance", maintenance=True))
        steps.append(Step(at_s=end, text="the operator ends maintenance", maintenance=False))
    if dice.random() < 0.5:
        begin, end = _part(dice, span)
        share = dice.choice((0.3, 0.6, 1.0))
        text = f"{share:.0%} of the callers are switched off for a while"
        gone = end - begin
        steps.append(Step(at_s=begin, text=text, counted="callers left", leave_for_s=gone, leave_share=share))
    return sorted(steps, key=lambda step: step.at_s)


def _part(dice: random.Random, span: float) -> tuple[float, float]:
    """A part of a round: begin and end."""
    begin = dice.uniform(0.05, 0.6) * span
    return begin, min(0.97 * span, begin + dice.uniform(0.15, 0.4) * span)


def _acquirer(dice: random.Random, span: float) -> list[Step]:
    """One or two cuts of the acquirer, one after the other."""
    steps = []
    cuts = dice.choice((1, 1, 2))
    slot = span * 0.9 / cuts
    for cut in range(cuts):
        begin = cut * slot + dice.uniform(0.05, 0.3) * slot
        end = begin + dice.uniform(0.3, 0.63) * slot
        text, behaviour = _behaviour(dice)
        steps.append(Step(at_s=begin, text=text, counted=f"acquirer {behaviour.mode}", behaviour=behaviour))
        if behaviour.mode in _STORING and dice.random() < 0.4:  # what was stored meets an acquirer that refuses it
            text = "the acquirer is back, and refuses a third with 30"
            steps.append(Step(at_s=end, text=text, counted="refused replays", behaviour=_REFUSING))
            end += 0.05 * slot
        steps.append(Step(at_s=end, text="the acquirer is well again", behaviour=NORMAL))
    return steps


def _behaviour(dice: random.Random) -> tuple[str, Behaviour]:
    mode = dice.choice([mode for mode in Mode if mode is not Mode.NORMAL])
    share = dice.choice((0.2, 0.5, 1.0))
    if mode is Mode.DROP:
        return f"the acquirer books {share:.0%} and drops the connection", Behaviour(mode=mode, share=share)
    if mode is Mode.LATE:
        delay_ms = dice.choice((1500, 2300))
        return f"the acquirer answers half after {delay_ms} ms", Behaviour(mode=mode, share=0.5, delay_ms=delay_ms)
    if mode is Mode.SLOW:
        delay_ms = dice.choice((300, 800))
        return f"the acquirer takes {delay_ms} ms for each", Behaviour(mode=mode, delay_ms=delay_ms)
    if mode is Mode.CODE:
        code, booking = dice.choice((("91", True), ("96", False), ("96", True), ("30", False)))
        booked = "and books all the same" if booking else "and books nothing"
        text = f"the acquirer answers {code} to {share:.0%} {booked}"
        return text, Behaviour(mode=mode, share=share, code=code, booking=booking)
    words = {
        Mode.AWAY: "the acquirer is away",
        Mode.SILENT: "the acquirer books and stays silent",
        Mode.BLACKHOLE: "the acquirer is a black hole",
    }
    return words[mode], Behaviour(mode=mode)


def _network(dice: random.Random, span: float) -> list[Step]:
    """Bad weather on one side, on both or on none."""
    steps = []
    if dice.random() < 0.6:
        begin, end = _part(dice, span)
        text = dice.choice(tuple(_NEAR))
        steps.append(Step(at_s=begin, text=text, counted="network of terminals", near=_NEAR[text]))
        steps.append(Step(at_s=end, text="terminals' network is well again", near=CALM))
    if dice.random() < 0.6:
        begin, end = _part(dice, span)
        text = dice.choice(tuple(_FAR))
        steps.append(Step(at_s=begin, text=text, counted="network upstream", far=_FAR[text]))
        steps.append(Step(at_s=end, text="the network upstream is well again", far=CALM))
    return steps


def _process(dice: random.Random, span: float, *, certain: bool) -> list[Step]:
    """A kill, a clean restart, two of them, or nothing."""
    steps = []
    for chance in (1.0 if certain else 0.75, 0.25):
        if dice.random() >= chance:
            continue
        at_s = dice.uniform(0.1, 0.95) * span
        if certain or dice.random() < 0.65:
            down_s = dice.uniform(0.1, 1.0)
            steps.append(Step(at_s=at_s, text="kill -9 of the gateway", counted="kills", kill_for_s=down_s))
        else:
            steps.append(Step(at_s=at_s, text="a clean restart", counted="clean restarts", restart=True))
        certain = False
    return steps
