"""What two sides of a comparison are measured by, and whether a change is more than noise.

A *side* is one run or several of the same thing. With three runs or more on both sides the runs themselves tell the
noise: an exact rank test (Mann-Whitney) says how likely such an order is where nothing changed, and the change must
be twice the noise. With fewer, the noise is estimated: from the half-second samples within a run, and from how much
runs differ from each other as a rule.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Final

from bench.load.report_words import digits, failed_share, lasting, rate, share, size
from bench.load.results import Phase, Results, Sample

ALPHA: Final = 0.02
"""The chance of a false alarm that is accepted for one measure."""
RANKED_RUNS: Final = 3
"""From so many runs on each side their own spread is used."""
_NOISES: Final = 2.0
"""An order of runs alone is not enough: the change is at least so many times the noise."""
_TAIL_ERROR: Final = 4.4
"""Standard error of a p99 of n values times the root of n: 2.2 where times are exponential, twice that as slow ones
come together."""
FAILED_SHARE_MORE: Final = 0.001
"""More requests without an answer, as a part of all, are a regression from here on."""
TURNED_AWAY_SHARE_MORE: Final = 0.01
"""The same of answers that are refusals or declines: they cost little, so that all other measures look better."""


class Verdict(StrEnum):
    """What became of a measure."""

    REGRESSION = "regression"  # worse by more than the threshold, and more than noise
    IMPROVEMENT = "improvement"  # better, likewise
    UNCLEAR = "unclear"  # beyond the threshold, but noise may explain it: more runs tell
    SAME = "same"
    SHOWN = "shown"  # too noisy by its nature to be judged


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is compared.

    Attributes:
        of: its value in a run, None where it was not measured.
        shown: writes a value.
        samples: values of half seconds whose variation is the noise within a run.
        usual: how much runs of the same thing differ by it as a rule: one standard deviation, as a part of the value.
        tolerance: how many times the threshold it may change.
        tail_of: how many values it is the slowest hundredth of; few say little.
        few_tell: whether fewer than `RANKED_RUNS` runs can show a change. How long a restart takes is one event in a
            run: its variation shows only between runs.
    """

    name: str
    higher_is_better: bool
    of: Callable[[Results], float | None]
    shown: Callable[[float], str]
    samples: Callable[[Results], list[float]] | None = None
    usual: float = 0.03
    tolerance: float = 1.0
    judged: bool = True
    tail_of: Callable[[Results], int] | None = None
    few_tell: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """A measure on both sides.

    Attributes:
        base, now: medians.
        percent: from base to now.
        noise_percent: one standard deviation of such a difference where nothing changed.
        sure: 0 to 1, that it moved in this direction at all.
    """

    measure: str
    higher_is_better: bool
    base: float
    now: float
    percent: float
    noise_percent: float
    sure: float
    verdict: Verdict
    base_shown: str
    now_shown: str


def measures(run: Results) -> list[Measure]:
    """All that a run of this kind can be compared by."""
    found: list[Measure] = []
    if run.total is not None:
        found += _of_phase("", lambda one: one.total, run)
    if len(run.phases) > 1:
        for key in _keys(run.phases):
            found += _of_phase(key, _phase_of(key), run)
    if run.cost is not None:
        found += _of_cost()
    for figure in run.figures:
        if figure.fraction > 0:
            found.append(
                Measure(
                    name=f"fraction of {figure.name}",
                    higher_is_better=True,
                    of=_fraction_of(figure.name),
                    shown=share,
                    usual=0.05,
                )
            )
    return found


def changed(measure: Measure, base: Sequence[Results], now: Sequence[Results], threshold: float) -> Change | None:
    """Judge one measure; None where a side does not have it.

    Args:
        threshold: the least change that counts, as a part of the value, such as 0.05.
    """
    before = [value for one in base if (value := measure.of(one)) is not None]
    after = [value for one in now if (value := measure.of(one)) is not None]
    if not before or not after:
        return None
    first, second = statistics.median(before), statistics.median(after)
    moved = _log(second) - _log(first)
    noise = _noise(measure, base, before, now, after)
    if min(len(before), len(after)) >= RANKED_RUNS:
        chance = chance_of_order(before, after) if moved > 0 else chance_of_order(after, before)
        # Few runs cannot be surer than that all of one side lie beyond all of the other.
        limit = max(ALPHA, 1 / math.comb(len(before) + len(after), len(before)) + 1e-9)
        limit = limit if abs(moved) >= _NOISES * noise else -1.0
    else:
        chance = 1 - statistics.NormalDist().cdf(abs(moved) / noise) if noise else float(moved == 0)
        limit = ALPHA if measure.few_tell else -1.0
    return Change(
        measure=measure.name,
        higher_is_better=measure.higher_is_better,
        base=first,
        now=second,
        percent=100 * (second / first - 1) if first else (0.0 if second == first else math.copysign(100.0, moved)),
        noise_percent=100 * noise,
        sure=max(0.0, 1 - chance) if moved else 0.0,
        verdict=_verdict(measure, first, second, threshold * measure.tolerance, chance <= limit),
        base_shown=measure.shown(first),
        now_shown=measure.shown(second),
    )


def failures(base: Sequence[Results], now: Sequence[Results]) -> list[Change]:
    """Requests without an answer, and answers that turn away: parts of all, judged by what no run of the base had."""
    found = (
        _share_of("without an answer", failed_share, FAILED_SHARE_MORE, base, now),
        _share_of("refused", lambda one: _part(one.refused, one), TURNED_AWAY_SHARE_MORE, base, now),
        _share_of("declined", lambda one: _part(one.declined, one), TURNED_AWAY_SHARE_MORE, base, now),
    )
    return [one for one in found if one is not None]


def _part(count: int, phase: Phase) -> float:
    return count / phase.answered if phase.answered else 0.0


def _share_of(
    name: str, share_of: Callable[[Phase], float], more: float, base: Sequence[Results], now: Sequence[Results]
) -> Change | None:
    before = [share_of(one.total) for one in base if one.total is not None]
    after = [share_of(one.total) for one in now if one.total is not None]
    if not before or not after:
        return None
    first, second = statistics.median(before), statistics.median(after)
    worse = second > max(before) + more
    better = first > max(after) + more
    return Change(
        measure=name,
        higher_is_better=False,
        base=first,
        now=second,
        percent=100 * (second - first),
        noise_percent=100 * more,
        sure=1.0 if worse or better else 0.0,
        verdict=Verdict.REGRESSION if worse else Verdict.IMPROVEMENT if better else Verdict.SAME,
        base_shown=f"{100 * first:.3g} %",
        now_shown=f"{100 * second:.3g} %",
    )


def chance_of_order(low: Sequence[float], high: Sequence[float]) -> float:
    """How likely `high` is so far above `low` where both are the same: exact, one-sided, ties count half against it."""
    above = sum(1.0 if b > a else 0.5 if b == a else 0.0 for a in low for b in high)
    ways = _orders(len(low), len(high))
    return sum(count for wins, count in ways.items() if wins >= math.floor(above)) / sum(ways.values())


@cache
def _orders(low: int, high: int) -> Counter[int]:
    """In how many orders of so many values each number of pairs has the higher one above."""
    if low == 0 or high == 0:
        return Counter({0: 1})
    # The largest is one of `high`, and above all of `low`; or it is one of `low`, and above nothing of `high`.
    ways = Counter({wins + low: count for wins, count in _orders(low, high - 1).items()})
    ways.update(_orders(low - 1, high))
    return ways


def _verdict(measure: Measure, base: float, now: float, threshold: float, sure: bool) -> Verdict:
    if not measure.judged:
        return Verdict.SHOWN
    # As a factor in either direction, so that twice as much and half as much weigh the same.
    factor = math.exp(abs(_log(now) - _log(base)))
    if factor < 1 + threshold:
        return Verdict.SAME
    if not sure:
        return Verdict.UNCLEAR
    return Verdict.IMPROVEMENT if (now > base) is measure.higher_is_better else Verdict.REGRESSION


def _noise(
    measure: Measure, base: Sequence[Results], before: Sequence[float], now: Sequence[Results], after: Sequence[float]
) -> float:
    """One standard deviation of the difference between both sides' values, as a part of them."""
    if min(len(before), len(after)) >= RANKED_RUNS:
        free = [(statistics.variance(map(_log, side)), len(side) - 1) for side in (before, after)]
        # What is usual counts like two values more: a few runs are alike by chance now and then.
        free.append((measure.usual**2, 2))
        variance = sum(one * weight for one, weight in free) / sum(weight for _, weight in free)
        # 1.25: a median of few values varies so much more than their mean.
        return 1.25 * math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    return math.hypot(_noise_of_few(measure, base, before), _noise_of_few(measure, now, after))


def _noise_of_few(measure: Measure, runs: Sequence[Results], values: Sequence[float]) -> float:
    within = statistics.fmean(error_within(measure.samples(one)) for one in runs) if measure.samples else 0.0
    if measure.tail_of:
        within = math.hypot(
            within, _TAIL_ERROR / math.sqrt(statistics.fmean(max(1, measure.tail_of(one)) for one in runs))
        )
    between = max(measure.usual, statistics.stdev(map(_log, values)) if len(values) > 1 else 0.0)
    return math.hypot(within, between) / math.sqrt(len(values))


def error_within(samples: Sequence[float]) -> float:
    """The standard error of the mean of samples in a row, as a part of it; neighbours that resemble count for less."""
    logs = [_log(one) for one in samples if one > 0]
    if len(logs) < 4:
        return 0.0
    mean = statistics.fmean(logs)
    apart = [one - mean for one in logs]
    square = sum(one * one for one in apart)
    if square == 0:
        return 0.0
    alike = sum(a * b for a, b in pairwise(apart)) / square
    alike = min(0.9, max(0.0, alike))
    return math.sqrt(square / (len(logs) - 1) / len(logs) * (1 + alike) / (1 - alike))


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))


def _phase_of(key: str) -> Callable[[Results], Phase | None]:
    return lambda run: _keys(run.phases).get(key)


def _fraction_of(name: str) -> Callable[[Results], float | None]:
    return lambda run: next((one.fraction or None for one in run.figures if one.name == name), None)


def _of_phase(key: str, phase: Callable[[Results], Phase | None], run: Results) -> list[Measure]:
    """Rate and times of a phase of `run`; `key` is empty for all phases as one."""
    one = phase(run)
    steady = one is not None and not one.outage and not (one is run.total and any(p.outage for p in run.phases))
    name = f"{key}: " if key else ""

    def response(field: str) -> Callable[[Results], float | None]:
        def of(run: Results) -> float | None:
            one = phase(run)
            return getattr(one.latency.response, field) if one is not None and one.latency.response.count else None

        return of

    def rated(run: Results) -> float | None:
        one = phase(run)
        return None if one is None else one.rate_per_s

    def half_seconds(value: Callable[[Sample], float]) -> Callable[[Results], list[float]]:
        def of(run: Results) -> list[float]:
            return _steadied(run, phase(run), value)

        return of

    def answered(run: Results) -> int:
        one = phase(run)
        return 0 if one is None else one.latency.response.count

    p99s = half_seconds(lambda one: one.p99_us)
    return [
        Measure(f"{name}answers", True, rated, rate, half_seconds(lambda one: one.rate_per_s)),
        Measure(f"{name}response p50", False, response("p50_us"), lasting, usual=0.04, tolerance=1.5),
        Measure(
            name=f"{name}response p99",
            higher_is_better=False,
            of=response("p99_us"),
            shown=lasting,
            samples=p99s,
            usual=0.06,
            tolerance=2.0,
            tail_of=answered,
            few_tell=steady,
        ),
        Measure(f"{name}response p99.9", False, response("p999_us"), lasting, p99s, usual=0.15, judged=False),
    ]


def _of_cost() -> list[Measure]:
    def cpu(run: Results) -> float | None:
        return run.cost.gateway_cpu_s_per_1000 or None if run.cost else None

    def memory(run: Results) -> float | None:
        return run.cost.resident_max_bytes or None if run.cost else None

    def disk(run: Results) -> float | None:
        return run.cost.disk_bytes_per_transaction if run.cost and run.cost.disk_bytes_per_transaction > 0 else None

    def syncs(run: Results) -> float | None:
        if run.cost is None or run.total is None or run.cost.syncs <= 0 or not run.total.answered:
            return None
        return 1000 * run.cost.syncs / run.total.answered

    return [
        Measure("CPU seconds for 1,000", False, cpu, digits, usual=0.04),
        Measure("memory, most", False, memory, size, usual=0.04, tolerance=2.0),
        Measure("disk for one", False, disk, size, usual=0.01),
        Measure("syncs for 1,000", False, syncs, digits, usual=0.1, judged=False),
    ]


def _keys(phases: Sequence[Phase]) -> dict[str, Phase]:
    """Phases by name; of several with one name the second is `name 2`."""
    seen: Counter[str] = Counter()
    found = {}
    for one in phases:
        seen[one.name] += 1
        found[one.name if seen[one.name] == 1 else f"{one.name} {seen[one.name]}"] = one
    return found


def _steadied(run: Results, phase: Phase | None, value: Callable[[Sample], float]) -> list[float]:
    """Values of a phase's half seconds as parts of their median; of all phases, each by its own."""
    if phase is None:
        return []
    parts = run.phases if phase is run.total and run.phases else [phase]
    found: list[float] = []
    for part in parts:
        # Without the first and the last one, which belong to the neighbours, too.
        within = [value(one) for one in run.samples if part.began_s < one.at_s <= part.began_s + part.seconds][1:-1]
        positive = [one for one in within if one > 0]
        if positive:
            middle = statistics.median(positive)
            found += [one / middle for one in positive]
    return found
