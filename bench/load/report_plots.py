"""Which pictures a document gives, and the figures that stand beside each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bench.load.histogram import FormatMissing, HistogramUnreadable, LatencyRecorder
from bench.load.report_svg import Axis, Plot, Series, linear_ticks, log_ticks
from bench.load.report_words import NONE, digits, lasting, rate, size
from bench.load.results import Results, Sample

POINTS_MAX: Final = 240
"""Over time; more samples are gathered to so many."""
_KINDS: Final = ("s1", "s2", "s3", "s4", "s5")
_LEVELS: Final = ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"))


@dataclass(frozen=True, slots=True)
class Pictured:
    """A plot with a sentence, its figures in short, and all of its points."""

    plot: Plot
    said: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    all_heads: Sequence[str] = ()
    all_rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    """One value of the samples; None where a sample does not have it."""

    name: str
    of: Callable[[Sample], float | None]


def plots(results: Results) -> list[Pictured]:
    """All pictures that there are values for."""
    found: list[Pictured | None] = [_totals(results), _by_phase(results)]
    if len(results.samples) > 1:
        answers = _Line("answers", lambda sample: sample.rate_per_s)
        depth = _Line("owed", lambda sample: sample.depth if sample.depth >= 0 else None)
        p99 = _Line("p99", lambda sample: sample.p99_us or None)
        memory = _Line("memory", lambda sample: sample.resident_bytes or None)
        log = _Line("log", lambda sample: sample.log_bytes or None)
        found += [
            _over_time(results, "Rate over time", "answers a second", [answers], rate),
            _over_time(results, "Queue depth over time", "transactions owed to the acquirer", [depth], digits),
            _over_time(results, "p99 over time", "service and queue, each half second", [p99], lasting, log=True),
            _over_time(
                results,
                "Memory and log over time",
                "resident memory, and the write-ahead log on disk",
                [memory, log],
                size,
            ),
        ]
    return [one for one in found if one is not None]


def bars(results: Results) -> list[tuple[str, float, str, bool]]:
    """The rates of the figures, fastest first, with the gateway's own among them."""
    found = [
        (one.name, one.value, rate(one.value), False) for one in results.figures if one.unit == "1/s" and one.value
    ]
    if results.total is not None and results.total.rate_per_s:
        ours = results.total.rate_per_s
        found.append(("Holdfast", ours, rate(ours), True))
    return sorted(found, key=lambda one: -one[1])


def gathered(samples: Sequence[Sample], most: int = POINTS_MAX) -> list[Sample]:
    """At most so many samples: the mean of the rates, the worst of everything else."""
    if len(samples) <= most:
        return list(samples)
    cuts = [number * len(samples) // most for number in range(most + 1)]
    return [_one_of(samples[a:b]) for a, b in pairwise(cuts)]


def _one_of(samples: Sequence[Sample]) -> Sample:
    return Sample(
        at_s=samples[-1].at_s,
        rate_per_s=sum(one.rate_per_s for one in samples) / len(samples),
        p99_us=max(one.p99_us for one in samples),
        depth=max(one.depth for one in samples),
        resident_bytes=max(one.resident_bytes for one in samples),
        log_bytes=max(one.log_bytes for one in samples),
    )


def _totals(results: Results) -> Pictured | None:
    if results.total is None:
        return None
    latency = results.total.latency
    lines = [("response time", latency.response_hdr), ("service time", latency.service_hdr)]
    said = "How long all but the slowest part took; to the right of 99.9 % is one request of a thousand."
    return _spectrum("Percentiles of time", said, lines)


def _by_phase(results: Results) -> Pictured | None:
    if len(results.phases) < 2:
        return None
    lines = [(one.name, one.latency.response_hdr) for one in results.phases[: len(_KINDS)]]
    left = len(results.phases) - len(lines)
    more = f" The first {len(lines)} of {len(results.phases)} phases." if left else ""
    return _spectrum("Response time by phase", f"The same, for each part of the run.{more}", lines)


def _spectrum(title: str, said: str, encoded: Sequence[tuple[str, str]]) -> Pictured | None:
    """Time over 1/(1-p), both logarithmic; None where no line has values."""
    read = [(name, kind, _read(text)) for (name, text), kind in zip(encoded, _KINDS, strict=False)]
    lines = [(name, kind, one) for name, kind, one in read if one is not None and one.count]
    if not lines:
        return None
    spectra = [(name, kind, one.spectrum()) for name, kind, one in lines]
    counts = {name: one.count for name, _, one in lines}
    series = []
    for name, kind, spectrum in spectra:
        ends = float(counts[name])
        points = [(1 / (1 - level) if level < 1 else ends, float(max(us, 1))) for level, us in spectrum]
        # The fastest tenth says little, and would take half of a logarithmic scale.
        points = [(x, us) for x, us in points if 1.1 <= x <= ends]
        series.append(Series(name, kind, points))
    times = [us for one in series for _, us in one.points if us is not None]
    levels = [(10.0**power, _level(power)) for power in range(8)]
    most = float(max(10, *counts.values()))
    ticks = log_ticks(min(times), max(times), lasting)
    plot = Plot(
        title=title,
        described="; ".join(f"{name}: {_in_words(one)}" for name, _, one in lines),
        x=Axis("part of the requests", 1.0, most, [one for one in levels if one[0] <= most], _shown_level, log=True),
        y=Axis("time", ticks[0][0], max(ticks[-1][0], *times), ticks, lasting, log=True),
        series=series,
    )
    rows = [_columns(name, one) for name, _, one in lines]
    heads = ("", "count", "mean", *(label for _, label in _LEVELS), "longest")
    if len(lines) <= 2:  # then they fit beside the plot as columns
        heads, rows = (
            (heads[0], *counts),
            [(head, *(row[column] for row in rows)) for column, head in enumerate(heads) if column],
        )
    else:
        picked = (0, 3, 5, 6, 8)
        heads, rows = tuple(heads[column] for column in picked), [tuple(row[c] for c in picked) for row in rows]
    every = [(_shown_level(x), *(_at(one.points, x) for one in series)) for x, _ in series[0].points]
    return Pictured(plot, said, heads, rows, ("Part", *counts), every)


def _over_time(
    results: Results, title: str, unit: str, lines: Sequence[_Line], shown: Callable[[float], str], *, log: bool = False
) -> Pictured | None:
    """Values of the samples over the seconds of the run; None where there are none."""
    samples = gathered(results.samples)
    series = [
        Series(one.name, kind, [(sample.at_s, one.of(sample)) for sample in samples], filled=not log and number == 0)
        for number, (one, kind) in enumerate(zip(lines, _KINDS, strict=False))
    ]
    series = [one for one in series if any(y is not None for _, y in one.points)]
    values = [y for one in series for _, y in one.points if y is not None]
    if not values:
        return None
    y_ticks = log_ticks(min(values), max(values), shown) if log else _linear(max(values), shown)
    end = max([samples[-1].at_s, *(phase.began_s + phase.seconds for phase in results.phases)])
    x_ticks = [one for one in linear_ticks(end, lambda s: f"{s:g}", 8) if one[0] <= end]
    shaded = [(one.began_s, one.began_s + one.seconds, one.name) for one in results.phases if one.outage]
    marks = [(one.began_s, one.name) for one in results.phases if not one.outage] if len(results.phases) > 1 else []
    low, high = (y_ticks[0][0], y_ticks[-1][0]) if log else (0.0, y_ticks[-1][0])
    heads, rows = _rows_over_time(results, [line for line in lines if _has(line, results)], shown)
    plot = Plot(
        title=title,
        described=f"{unit}. " + "; ".join(f"{row[0]}: {', '.join(row[1:])}" for row in rows),
        x=Axis("seconds", 0.0, end, x_ticks, lambda s: f"{s:.1f} s"),
        y=Axis(unit, low, high, y_ticks, shown, log=log),
        series=series,
        shaded=shaded,
        marks=marks,
    )
    names = [one.name for one in series]
    every = [
        (f"{s.at_s:.1f} s", *(_or_none(line.of(s), shown) for line in lines if line.name in names)) for s in samples
    ]
    return Pictured(plot, "", heads, rows, ("At", *names), every)


def _rows_over_time(
    results: Results, lines: Sequence[_Line], shown: Callable[[float], str]
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """A row for each phase: least, median and most of one line, or median and most of several."""
    samples = results.samples
    phases = [(one.name, one.began_s, one.began_s + one.seconds) for one in results.phases]
    rows = []
    for name, began_s, ended_s in phases or [("all", 0.0, samples[-1].at_s)]:
        cells: list[str] = []
        for line in lines:
            within = (line.of(one) for one in samples if began_s < one.at_s <= ended_s)
            values = sorted(value for value in within if value is not None)
            figures = [values[0], values[len(values) // 2], values[-1]] if values else [None] * 3
            cells += [_or_none(one, shown) for one in (figures if len(lines) == 1 else figures[1:])]
        rows.append((name, *cells))
    if len(lines) == 1:
        return ("Phase", "least", "median", "most"), rows
    return ("Phase", *(f"{line.name}, {what}" for line in lines for what in ("median", "most"))), rows


def _columns(name: str, one: LatencyRecorder) -> tuple[str, ...]:
    """A line's figures; a level beyond what so few values can tell has a dash."""
    values = one.at_quantiles([level for level, _ in _LEVELS])
    known = [
        lasting(us) if level <= 1 - 1 / one.count else NONE for us, (level, _) in zip(values, _LEVELS, strict=True)
    ]
    return (name, f"{one.count:,}", lasting(one.mean_us), *known, lasting(one.max_us))


def _linear(high: float, shown: Callable[[float], str]) -> list[tuple[float, str]]:
    """Ticks of round values, also of bytes, which are round by 1,024."""
    if shown is not size:
        return linear_ticks(high, shown)
    unit = 1.0
    while high / unit >= 1024:
        unit *= 1024
    return [(value * unit, size(value * unit)) for value, _ in linear_ticks(high / unit, shown)]


def _has(line: _Line, results: Results) -> bool:
    return any(line.of(sample) is not None for sample in results.samples)


def _or_none(value: float | None, shown: Callable[[float], str]) -> str:
    return NONE if value is None else shown(value)


def _at(points: Sequence[tuple[float, float | None]], x: float) -> str:
    return next((_or_none(y, lasting) for at, y in reversed(points) if at <= x), NONE)


def _level(power: int) -> str:
    """The part that 1/(1-p) of ten to this power stands for."""
    return "0 %" if power == 0 else "90 %" if power == 1 else f"99{'.' if power > 2 else ''}{'9' * (power - 2)} %"


def _shown_level(x: float) -> str:
    return f"{100 * (1 - 1 / x):.6g} %"


def _in_words(one: LatencyRecorder) -> str:
    p50, p99, p999 = one.at_quantiles((0.5, 0.99, 0.999))
    return f"half within {lasting(p50)}, 99 % within {lasting(p99)}, 99.9 % within {lasting(p999)}"


def _read(text: str) -> LatencyRecorder | None:
    if not text:
        return None
    try:
        return LatencyRecorder.decoded(text)
    except (FormatMissing, HistogramUnreadable):
        return None
