"""Whether figures stay flat: judged on quiet windows alone, like with like, or not judged where there is too little.

Within one life of the process the median of the first quarter of its windows, after a warm-up, stands against that of
the last quarter. More than the tolerance is growth only if it goes on in the second half: a cache that fills up once is
a plateau. Restarts begin anew: a life is compared with itself alone. Files outlive restarts, and are judged over the
whole soak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise
from statistics import median
from typing import Final

from bench.soak_samples import Window

WARM_UP_S: Final = 120.0
LIFE_MIN_S: Final = 600.0
"""A life that was watched for a shorter time, after its warm-up, says nothing about memory."""
WINDOWS_MIN: Final = 8
MEMORY_SHARE: Final = 0.10
MEMORY_BYTES: Final = 8 << 20
HANDLES_MORE: Final = 2
THREADS_MORE: Final = 6
"""The interpreter's pool for what blocks gets its threads when they are first needed, and keeps them."""
PER_TRANSACTION_SHARE: Final = 0.5
"""Rounds differ in what they cost: a stored sale or a reversal has more entries than one that was approved at once."""
LOG_FACTOR: Final = 3.0
LOG_BYTES: Final = 64 << 10
WAL_MOST_BYTES: Final = 64 << 20
MIB: Final = 1 << 20


class Flatness(StrEnum):
    """What can be said of a figure."""

    FLAT = "flat"
    GROWS = "grows"
    TOO_SHORT = "too short to say"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of one figure, why, and within which tolerance."""

    figure: str
    flatness: Flatness
    text: str
    tolerance: str


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter; at least one value in each."""
    size = max(1, len(values) // 4)
    return median(values[:size]), median(values[-size:])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Median of the slopes of all pairs (Theil and Sen): outliers do not bend it. 0 for fewer than two points."""
    step = max(1, len(points) // 200)  # of hundreds of windows a part will do
    thin = points[::step]
    slopes = [
        (second[1] - first[1]) / (second[0] - first[0])
        for number, first in enumerate(thin)
        for second in thin[number + 1 :]
        if second[0] > first[0]
    ]
    return median(slopes) if slopes else 0.0


def lives(windows: Sequence[Window]) -> list[list[Window]]:
    """The windows of each life of the process."""
    return [list(group) for _, group in groupby(windows, key=lambda window: window.life)]


def growth(points: Sequence[tuple[float, float]], tolerance: float) -> tuple[bool, float, float]:
    """Whether points (time, value) grow by more than a tolerance and go on growing; first and last quarter's median."""
    first, last = quarters([value for _, value in points])
    half = points[len(points) // 2 :]
    goes_on = slope(half) * (points[-1][0] - points[0][0])
    return last - first > tolerance and goes_on > tolerance / 2, first, last


def judge_memory(windows: Sequence[Window], name: str = "resident memory") -> Judgement:
    """The gateway's memory in the longest life that has enough windows; every such life must be flat."""
    tolerance = f"+{MEMORY_SHARE:.0%} or {MEMORY_BYTES // MIB} MiB, whichever is more, within one life"
    said = ""
    for life in lives(windows):
        warm = [one for one in life if one.life_s >= WARM_UP_S and one.rss_bytes is not None]
        if len(warm) < WINDOWS_MIN or warm[-1].life_s - warm[0].life_s < LIFE_MIN_S:
            continue
        points = [(one.life_s, float(one.rss_bytes or 0)) for one in warm]
        grows, first, last = growth(points, max(MEMORY_BYTES, MEMORY_SHARE * quarters([v for _, v in points])[0]))
        per_hour = slope(points) * 3600 / MIB
        watched = f"{len(warm)} windows and {(warm[-1].life_s - warm[0].life_s) / 60:.0f} minutes"
        said = (
            f"{first / MIB:.1f} MiB in the first quarter, {last / MIB:.1f} MiB in the last, "
            f"{per_hour:+.1f} MiB an hour over {watched} of life {life[0].life}"
        )
        if grows:
            return Judgement(name, Flatness.GROWS, said, tolerance)
    if said:
        return Judgement(name, Flatness.FLAT, said, tolerance)
    needs = f"a judgement needs one life of {(WARM_UP_S + LIFE_MIN_S) / 60:.0f} minutes: about --minutes 25"
    return Judgement(name, Flatness.TOO_SHORT, needs, tolerance)


def _judge_count(windows: Sequence[Window], name: str, count: Callable[[Window], int | None], more: int) -> Judgement:
    """A count that must be the same in every quiet window of a life, but for `more`."""
    tolerance = f"+{more} within one life"
    shown, least, most = False, 0, 0
    for life in lives(windows):
        values = [value for one in life if (value := count(one)) is not None]
        if len(values) < 2:
            continue
        if not shown or values[-1] - values[0] > most - least:
            least, most = values[0], values[-1]
        shown = True
        # Idle handles that went up for good: more in the last window than in the first, and never back since the half.
        if min(values[len(values) // 2 :]) - values[0] > more:
            text = f"{values[0]} in the first quiet window of life {life[0].life}, {values[-1]} in the last"
            return Judgement(name, Flatness.GROWS, text, tolerance)
    if not shown:
        return Judgement(name, Flatness.TOO_SHORT, "no life had two quiet windows", tolerance)
    return Judgement(name, Flatness.FLAT, f"at most from {least} to {most} in quiet windows of one life", tolerance)


def judge_handles(windows: Sequence[Window]) -> Judgement:
    """Open file descriptors when idle."""
    return _judge_count(windows, "handles", lambda one: one.handles, HANDLES_MORE)


def judge_threads(windows: Sequence[Window]) -> Judgement:
    """Threads when idle."""
    return _judge_count(windows, "threads", lambda one: one.threads, THREADS_MORE)


def judge_journal(windows: Sequence[Window]) -> Judgement:
    """Bytes of the journal per transaction: first quarter of the soak against the last, its first window left out."""
    name, tolerance = "journal bytes per transaction", f"within {PER_TRANSACTION_SHARE:.0%}, as rounds differ"
    grown = [(after.journal_bytes - before.journal_bytes, after.transactions) for before, after in pairwise(windows)]
    if len(grown) < WINDOWS_MIN:
        return Judgement(name, Flatness.TOO_SHORT, f"a judgement needs {WINDOWS_MIN + 1} windows", tolerance)
    size = len(grown) // 4
    first, last = (
        sum(taken for taken, _ in part) / max(1, sum(sold for _, sold in part))
        for part in (grown[:size], grown[-size:])
    )
    text = f"{first:.0f} in the first quarter, {last:.0f} in the last"
    grows = last > first * (1 + PER_TRANSACTION_SHARE)
    return Judgement(name, Flatness.GROWS if grows else Flatness.FLAT, text, tolerance)


def judge_wal(windows: Sequence[Window]) -> Judgement:
    """The write-ahead log: bounded, however long it goes on."""
    name, tolerance = "write-ahead log", f"at most {WAL_MOST_BYTES // MIB} MiB"
    if not windows:
        return Judgement(name, Flatness.TOO_SHORT, "no window", tolerance)
    most = max(one.wal_most_bytes for one in windows)
    flatness = Flatness.GROWS if most > WAL_MOST_BYTES else Flatness.FLAT
    return Judgement(name, flatness, f"{most / MIB:.1f} MiB at most", tolerance)


def judge_log(windows: Sequence[Window]) -> Judgement:
    """The gateway's log: it may write of every trouble, but not more and more of the same."""
    name, tolerance = "gateway's log per window", f"{LOG_FACTOR:g} times as much and {LOG_BYTES // 1024} KiB more"
    written = [float(after.log_bytes - before.log_bytes) for before, after in pairwise(windows)]
    if len(written) < WINDOWS_MIN:
        return Judgement(name, Flatness.TOO_SHORT, f"a judgement needs {WINDOWS_MIN + 1} windows", tolerance)
    first, last = quarters(written)
    text = f"{first / 1024:.0f} KiB in the first quarter, {last / 1024:.0f} KiB in the last"
    grows = last > first * LOG_FACTOR + LOG_BYTES
    return Judgement(name, Flatness.GROWS if grows else Flatness.FLAT, text, tolerance)


def judge_all(windows: Sequence[Window]) -> list[Judgement]:
    """Every figure, in the order in which they are shown."""
    return [
        judge_memory(windows),
        judge_handles(windows),
        judge_threads(windows),
        judge_journal(windows),
        judge_wal(windows),
        judge_log(windows),
    ]
