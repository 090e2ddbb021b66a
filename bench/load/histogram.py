"""Latencies of a measurement: a histogram of microseconds that costs little per value and loses no thousandth.

The buckets are those of HdrHistogram for 1 us to 1 h with 3 significant digits: below 2,048 us one for each
microsecond, above 1,024 for each doubling. So recorders add up bucket by bucket, and both file formats are exact.
The formats come from the package `hdrhistogram` (extra `bench`); recording and percentiles work without it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any, Final, Self

from bench.load.results import Percentiles

LOWEST_US: Final = 1
HIGHEST_US: Final = 3_600_000_000
"""1 h; anything longer counts as this."""
DIGITS: Final = 3

_SINGLE_US: Final = 2048  # the first power of 2 that holds 2,000 steps: what 3 digits need
_HALF_BITS: Final = 10
_BITS: Final = 11
_BUCKETS: Final = ((HIGHEST_US.bit_length() - _BITS) << _HALF_BITS) + _SINGLE_US
_TICKS: Final = 5  # lines of .hgrm for each halving of the distance to 100 %, as other tools write them


class FormatMissing(Exception):
    """The package that writes the histogram formats is not installed; the message says how to get it."""


class HistogramUnreadable(Exception):
    """A text is not an encoded histogram of this range and precision."""


class LatencyRecorder:
    """Counts latencies. Not for several threads at once: each has its own, merged at the end."""

    __slots__ = ("_counts", "_largest_us", "_sum_us")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._sum_us = 0
        self._largest_us = 0

    def record(self, us: int) -> None:
        """Count one latency in microseconds; below 1 us counts as 1 us, above 1 h as 1 h."""
        if us < LOWEST_US:
            us = LOWEST_US
        elif us > HIGHEST_US:
            us = HIGHEST_US
        if us < _SINGLE_US:
            self._counts[us] += 1
        else:
            bucket = us.bit_length() - _BITS
            self._counts[(bucket << _HALF_BITS) + (us >> bucket)] += 1
        self._sum_us += us
        if us > self._largest_us:  # noqa: PLR1730 - a call costs more than all the rest
            self._largest_us = us

    def record_all(self, values: Iterable[int]) -> None:
        """Count many latencies in microseconds."""
        counts = self._counts
        total = 0
        largest = self._largest_us
        for value in values:
            us = LOWEST_US if value < LOWEST_US else min(value, HIGHEST_US) if value > _SINGLE_US else value
            if us < _SINGLE_US:
                counts[us] += 1
            else:
                bucket = us.bit_length() - _BITS
                counts[(bucket << _HALF_BITS) + (us >> bucket)] += 1
            total += us
            if us > largest:  # noqa: PLR1730
                largest = us
        self._sum_us += total
        self._largest_us = largest

    def merge(self, other: LatencyRecorder) -> None:
        """Add what another one counted; the other is not changed."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self._sum_us += other._sum_us
        self._largest_us = max(self._largest_us, other._largest_us)

    def clear(self) -> None:
        """Forget everything."""
        self._counts = [0] * _BUCKETS
        self._sum_us = 0
        self._largest_us = 0

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self._counts)

    @property
    def mean_us(self) -> float:
        """The mean; 0 of none. Exact unless it was decoded."""
        count = self.count
        return self._sum_us / count if count else 0.0

    @property
    def max_us(self) -> int:
        """The longest; 0 of none. Exact unless it was decoded."""
        return self._largest_us

    def at_quantiles(self, quantiles: Iterable[float]) -> list[int]:
        """The times that these parts of all values do not exceed, one thousandth too long at most.

        Args:
            quantiles: 0 to 1, rising.
        Returns:
            microseconds, for each quantile; all 0 of none.
        """
        count = self.count
        # A tiny bit less, so that 0.999 of 1,000 is the 999th value whatever the binary fraction makes of it.
        ranks = [max(1, math.ceil(quantile * count - 1e-6)) for quantile in quantiles]
        found: list[int] = []
        passed = 0
        for highest_us, here in self._held():
            passed += here
            while len(found) < len(ranks) and ranks[len(found)] <= passed:
                found.append(min(highest_us, self._largest_us))
            if len(found) == len(ranks):
                break
        return found + [self._largest_us] * (len(ranks) - len(found))

    def percentiles(self) -> Percentiles:
        """The figures that go into a document."""
        p50, p90, p99, p999 = self.at_quantiles((0.5, 0.9, 0.99, 0.999))
        return Percentiles(
            count=self.count,
            mean_us=round(self.mean_us, 1),
            p50_us=p50,
            p90_us=p90,
            p99_us=p99,
            p999_us=p999,
            max_us=self._largest_us,
        )

    def spectrum(self, ticks: int = _TICKS) -> list[tuple[float, int]]:
        """Quantiles and times for a plot over 1/(1-p), `ticks` for each halving of the distance to 1.

        Returns:
            (quantile, microseconds), both rising; the last is (1.0, the longest). Empty of none.
        """
        count = self.count
        if not count:
            return []
        quantiles = []
        halving = 0
        while 2**halving <= count:
            remaining = 0.5**halving
            quantiles += [1 - remaining + step * remaining / (2 * ticks) for step in range(ticks)]
            halving += 1
        quantiles.append(1.0)
        return list(zip(quantiles, self.at_quantiles(quantiles), strict=True))

    def encoded(self) -> str:
        """All of it in HdrHistogram's V2 compressed encoding, as base64.

        Raises:
            FormatMissing: the package is not installed.
        """
        text: bytes = self._copied().encode()
        return text.decode("ascii")

    @classmethod
    def decoded(cls, text: str) -> Self:
        """A recorder with what `encoded` wrote: bucket by bucket the same, mean and longest within a thousandth.

        Raises:
            FormatMissing: the package is not installed.
            HistogramUnreadable: it is something else.
        """
        library = _library()
        try:
            read = library.HdrHistogram.decode(text)
            shape = (read.lowest_trackable_value, read.highest_trackable_value, read.significant_figures)
        except Exception as error:  # the package raises whatever its parts raise
            raise HistogramUnreadable(f"not an encoded histogram: {error}") from error
        if shape != (LOWEST_US, HIGHEST_US, DIGITS):
            raise HistogramUnreadable("a histogram of another range or precision")
        made = cls()
        for index in range(min(_BUCKETS, read.counts_len)):
            if here := int(read.get_count_at_index(index)):
                lowest_us, highest_us = _bounds(index)
                made._counts[index] = here
                made._sum_us += here * ((lowest_us + highest_us + 1) // 2)
                made._largest_us = highest_us
        return made

    def hgrm(self) -> str:
        """The percentile spectrum as other tools write and plot it (`.hgrm`), in milliseconds.

        Raises:
            FormatMissing: the package is not installed.
        """
        copied = self._copied()
        out = StringIO()
        out.write(f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}\n\n")
        for tick in copied.get_percentile_iterator(_TICKS):
            level = tick.percentile_level_iterated_to / 100
            out.write(f"{tick.value_iterated_to / 1000:12.3f} {level:2.12f} {tick.total_count_to_this_value:10d}")
            out.write(f" {1 / (1 - level):14.2f}\n" if level < 1 else "\n")
        out.write(f"#[Mean    = {self.mean_us / 1000:12.3f}, StdDeviation   = {self._deviation_us() / 1000:12.3f}]\n")
        out.write(f"#[Max     = {self._largest_us / 1000:12.3f}, TotalCount     = {self.count:12d}]\n")
        out.write(f"#[Buckets = {copied.bucket_count:12d}, SubBuckets     = {copied.sub_bucket_count:12d}]\n")
        return out.getvalue()

    def _held(self) -> Iterator[tuple[int, int]]:
        """The longest time of each bucket that is not empty, and its count, in order."""
        for index, here in enumerate(self._counts):
            if here:
                yield _bounds(index)[1], here

    def _deviation_us(self) -> float:
        count, mean = self.count, self.mean_us
        spread = sum(here * (sum(_bounds(index)) / 2 - mean) ** 2 for index, here in enumerate(self._counts) if here)
        return math.sqrt(spread / count) if count else 0.0

    def _copied(self) -> Any:
        copied = _library().HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        for index, here in enumerate(self._counts):
            if here:
                copied.record_value(min(_bounds(index)[1], self._largest_us), here)
        return copied


def _bounds(index: int) -> tuple[int, int]:
    """The shortest and the longest time of a bucket."""
    bucket = max(0, (index >> _HALF_BITS) - 1)
    lowest_us = (index - (bucket << _HALF_BITS)) << bucket
    return lowest_us, lowest_us + (1 << bucket) - 1


def _library() -> Any:
    """The package, which has no types."""
    try:
        return importlib.import_module("hdrh.histogram")
    except ImportError as error:
        raise FormatMissing("hdrhistogram is not installed: .venv/bin/pip install -e '.[bench]'") from error
