"""The recorder of latencies: as right as a sorted list within a thousandth, and read by other tools."""

from __future__ import annotations

import math
import random
import re
import sys

import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped, unused-ignore]

from bench.load.histogram import HIGHEST_US, FormatMissing, HistogramUnreadable, LatencyRecorder

QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.99999, 1.0)


def drawn(seed: int, count: int) -> list[int]:
    """Times from microseconds to minutes."""
    dice = random.Random(seed)
    return [max(1, int(math.exp(dice.gauss(dice.choice((2, 7, 12)), 1.5)))) for _ in range(count)]


def of(values: list[int]) -> LatencyRecorder:
    made = LatencyRecorder()
    made.record_all(values)
    return made


@pytest.mark.parametrize("count", [1, 2, 10, 999, 1_000, 30_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_quantile_is_that_of_the_sorted_list_or_a_thousandth_longer(seed: int, count: int) -> None:
    values = drawn(seed, count)
    ordered = sorted(values)
    for quantile, found in zip(QUANTILES, of(values).at_quantiles(QUANTILES), strict=True):
        exact = ordered[max(0, math.ceil(quantile * count - 1e-6) - 1)]
        assert exact <= found <= exact * 1.001 + 1, f"seed {seed}, quantile {quantile}"


@pytest.mark.parametrize("seed", [4, 5])
def test_percentiles_have_the_exact_count_mean_and_maximum(seed: int) -> None:
    values = drawn(seed, 5_000)
    shown = of(values).percentiles()
    assert (shown.count, shown.max_us) == (5_000, max(values))
    assert shown.mean_us == pytest.approx(sum(values) / 5_000, abs=0.06), f"seed {seed}"
    assert shown.p50_us <= shown.p90_us <= shown.p99_us <= shown.p999_us <= shown.max_us


def test_of_nothing_every_figure_is_0() -> None:
    shown = LatencyRecorder().percentiles()
    assert {shown.count, shown.mean_us, shown.p50_us, shown.p999_us, shown.max_us} == {0}
    assert LatencyRecorder().spectrum() == []
    assert LatencyRecorder.decoded(LatencyRecorder().encoded()).count == 0


@pytest.mark.parametrize(("given", "kept"), [(-5, 1), (0, 1), (1, 1), (HIGHEST_US, HIGHEST_US), (10**15, HIGHEST_US)])
def test_a_time_outside_of_the_range_counts_as_the_nearest_inside(given: int, kept: int) -> None:
    one, all_at_once = LatencyRecorder(), of([given])
    one.record(given)
    for recorder in (one, all_at_once):
        assert recorder.percentiles().max_us == kept
        assert recorder.percentiles().p50_us == kept


@pytest.mark.parametrize("edge", [2**power + step for power in (10, 11, 12, 20, 31) for step in (-1, 0, 1)])
def test_at_the_edges_of_buckets_one_by_one_and_all_at_once_are_the_same(edge: int) -> None:
    one, all_at_once = LatencyRecorder(), of([edge])
    one.record(edge)
    assert one.encoded() == all_at_once.encoded()
    assert edge <= LatencyRecorder.decoded(one.encoded()).max_us <= edge * 1.001


@pytest.mark.parametrize("seed", [6, 7])
def test_parts_that_are_merged_are_the_whole(seed: int) -> None:
    values = drawn(seed, 8_000)
    whole, first, second = of(values), of(values[:3_000]), of(values[3_000:])
    before = second.encoded()
    first.merge(second)
    assert first.encoded() == whole.encoded(), f"seed {seed}"
    assert first.percentiles() == whole.percentiles()
    assert second.encoded() == before


def test_what_was_cleared_is_empty() -> None:
    recorder = of([5, 500, 50_000])
    recorder.clear()
    assert recorder.percentiles() == LatencyRecorder().percentiles()


@pytest.mark.parametrize("seed", [8, 9])
def test_the_package_reads_what_was_encoded_as_if_it_had_recorded_it_itself(seed: int) -> None:
    values = drawn(seed, 4_000)
    theirs = HdrHistogram(1, HIGHEST_US, 3)
    for value in values:
        theirs.record_value(value)
    read = HdrHistogram.decode(of(values).encoded())
    assert read.get_total_count() == 4_000
    for percentile in (0.0, 50.0, 99.0, 99.9, 100.0):
        mine, other = read.get_value_at_percentile(percentile), theirs.get_value_at_percentile(percentile)
        assert mine == other, f"seed {seed}, {percentile}"


@pytest.mark.parametrize("text", ["", "HISTFAAAAA", "no histogram at all", "{}", "ünlesbar"])
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(HistogramUnreadable):
        LatencyRecorder.decoded(text)


def test_a_histogram_of_another_precision_is_refused() -> None:
    other = HdrHistogram(1, 1_000_000, 2)
    other.record_value(17)
    with pytest.raises(HistogramUnreadable, match="another range"):
        LatencyRecorder.decoded(other.encode().decode())


@pytest.mark.parametrize("seed", [10, 11])
def test_hgrm_parses_back_to_the_same_quantiles_in_milliseconds(seed: int) -> None:
    values = drawn(seed, 6_000)
    text = of(values).hgrm()
    head, empty, *lines = text.splitlines()
    assert head.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert empty == ""
    ordered = sorted(values)
    rows = [[float(one) for one in line.split()] for line in lines if not line.startswith("#")]
    for row in rows[:-1]:
        assert len(row) == 4
        assert row[3] == pytest.approx(1 / (1 - row[1]), rel=1e-3, abs=0.01)
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    for milliseconds, _, passed, *_ in rows:
        exact = ordered[int(passed) - 1]
        assert exact <= milliseconds * 1000 + 0.5 <= exact * 1.001 + 2, f"seed {seed}"
    assert rows[-1][1:] == [1.0, 6_000.0]
    found = re.search(
        r"#\[Mean += +([\d.]+), StdDeviation += +([\d.]+)\]\n#\[Max += +([\d.]+), TotalCount += +(\d+)", text
    )
    assert found is not None
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in values) / len(values))
    assert float(found[1]) == pytest.approx(mean / 1000, rel=1e-3)
    assert float(found[2]) == pytest.approx(deviation / 1000, rel=2e-3)
    assert float(found[3]) == pytest.approx(max(values) / 1000)
    assert int(found[4]) == 6_000


def test_the_spectrum_rises_to_the_longest() -> None:
    recorder = of(drawn(12, 3_000))
    spectrum = recorder.spectrum()
    assert spectrum == sorted(spectrum)
    assert spectrum[-1] == (1.0, recorder.max_us)
    assert {0.5, 0.75} <= {level for level, _ in spectrum}


def test_without_the_package_times_are_recorded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    recorder = of([1, 2, 3])
    assert recorder.percentiles().p50_us == 2
    with pytest.raises(FormatMissing, match=r"install -e '\.\[bench\]'"):
        recorder.encoded()
