"""Comparing measurements: what got worse is found, noise is not, and what is not alike is refused."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.load.compare import Compared, CompareOptions, NotComparable, compare, differences, run
from bench.load.compare_measures import Verdict, chance_of_order, error_within
from bench.load.results import Cost, Latency, Percentiles, Phase, Results, Sample, write_results
from tests.bench.load.documents import made_fingerprint, outage_run, peers_run

TRIALS = 300


@dataclass(frozen=True)
class Gateway:
    """A made-up one; `drift` is how much its runs differ, `noise` how much half seconds do."""

    rate_per_s: float = 20_000.0
    p50_us: float = 900.0
    p99_us: float = 4_000.0
    cpu_s: float = 0.045
    drift: float = 0.02
    noise: float = 0.06


def closed_run(dice: random.Random, gateway: Gateway) -> Results:
    """A run of the scenario `closed`, 20 s long; neighbouring half seconds resemble each other."""

    def drifted(value: float, times: float = 1.0) -> float:
        return value * math.exp(dice.gauss(0, gateway.drift * times))

    rate, p99 = drifted(gateway.rate_per_s), drifted(gateway.p99_us, 2)
    samples, apart = [], 0.0
    for half in range(1, 41):
        apart = 0.4 * apart + dice.gauss(0, gateway.noise)
        samples.append(
            Sample(
                at_s=half / 2,
                rate_per_s=rate * math.exp(apart),
                p99_us=p99 * math.exp(dice.gauss(0, 2 * gateway.noise)),
                depth=0,
                resident_bytes=100_000_000,
                log_bytes=0,
            )
        )
    seen = sum(one.rate_per_s for one in samples) / len(samples)
    answered = round(seen * 20)
    times = Percentiles(
        count=answered,
        mean_us=gateway.p50_us,
        p50_us=drifted(gateway.p50_us),
        p90_us=gateway.p50_us * 2,
        p99_us=p99,
        p999_us=drifted(p99 * 3, 6),
        max_us=p99 * 20,
    )
    whole = Phase(
        name="closed",
        began_s=0.0,
        seconds=20.0,
        offered=answered,
        answered=answered,
        approved=answered,
        declined=0,
        refused=0,
        failed=0,
        rate_per_s=seen,
        latency=Latency(service=times, response=times, service_hdr="", response_hdr=""),
    )
    return Results(
        command="run",
        scenario="closed",
        began_utc="2026-03-01T12:00:00Z",
        options={"terminals": 64, "seed": dice.randrange(1000)},
        held=True,
        verdict=["It held."],
        phases=[whole],
        samples=samples,
        total=whole,
        cost=Cost(
            gateway_cpu_s_per_1000=drifted(gateway.cpu_s),
            generator_cpu_share=0.6,
            resident_max_bytes=round(drifted(100e6, 0.5)),
            disk_bytes_per_transaction=drifted(1_480.0, 0.1),
            commits=9_000,
            syncs=9_000,
            log_max_bytes=4 << 20,
        ),
        fingerprint=made_fingerprint(),
    )


def judged(before: Sequence[Results], after: Sequence[Results]) -> Compared:
    return compare(before, after, ["now"], CompareOptions([]))


def found(compared: Compared, measure: str) -> Verdict:
    (one,) = [change for change in compared.changes if change.measure == measure]
    return one.verdict


def share_regressed(seed: int, runs: int, base: Gateway, now: Gateway, measure: str | None = None) -> float:
    """In which part of the trials a regression is told: of a measure, or of any."""
    dice = random.Random(seed)
    told = 0
    for _ in range(TRIALS):
        before = [closed_run(dice, base) for _ in range(runs)]
        after = [closed_run(dice, now) for _ in range(runs)]
        compared = judged(before, after)
        told += compared.regressed if measure is None else found(compared, measure) is Verdict.REGRESSION
    return told / TRIALS


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
@pytest.mark.parametrize("drift", [0.02, 0.03])
def test_a_rate_lower_by_a_fifth_is_found_in_noise(runs: int, drift: float) -> None:
    base = Gateway(drift=drift)
    share = share_regressed(11, runs, base, replace(base, rate_per_s=base.rate_per_s * 0.8), "answers")
    assert share >= 0.97, "seed 11"


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_noise_of_2_percent_is_no_regression_of_anything(runs: int) -> None:
    share = share_regressed(12, runs, Gateway(), Gateway())
    assert share <= 0.02, "seed 12"


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_a_change_of_2_percent_is_below_what_counts(runs: int) -> None:
    worse = Gateway(rate_per_s=19_600, p50_us=918, p99_us=4_080, cpu_s=0.0459)
    share = share_regressed(13, runs, Gateway(), worse)
    assert share <= 0.1, "seed 13"


def test_with_runs_that_differ_much_5_a_side_find_a_fifth_and_raise_few_false_alarms() -> None:
    wild = Gateway(drift=0.05, noise=0.12)
    assert share_regressed(14, 5, wild, replace(wild, rate_per_s=wild.rate_per_s * 0.8), "answers") >= 0.9, "seed 14"
    assert share_regressed(15, 5, wild, wild) <= 0.03, "seed 15"


@pytest.mark.parametrize(
    ("measure", "worse"),
    [
        ("response p50", Gateway(p50_us=1_080)),
        ("response p99", Gateway(p99_us=4_800)),
        ("CPU seconds for 1,000", Gateway(cpu_s=0.054)),
    ],
)
def test_of_5_runs_a_side_times_and_costs_higher_by_a_fifth_are_found(measure: str, worse: Gateway) -> None:
    assert share_regressed(16, 5, Gateway(), worse, measure) >= 0.93, "seed 16"


def test_better_is_told_as_better_and_not_as_a_regression() -> None:
    dice = random.Random(17)
    compared = judged(
        [closed_run(dice, Gateway()) for _ in range(5)],
        [closed_run(dice, Gateway(rate_per_s=30_000, p50_us=500, cpu_s=0.03)) for _ in range(5)],
    )
    assert not compared.regressed
    for measure in ("answers", "response p50", "CPU seconds for 1,000"):
        assert found(compared, measure) is Verdict.IMPROVEMENT, "seed 17"


def test_a_change_that_noise_may_explain_is_unclear() -> None:
    dice = random.Random(18)
    base, now = closed_run(dice, Gateway(drift=0)), closed_run(dice, Gateway(drift=0, cpu_s=0.0485))
    compared = judged([base], [now])
    assert found(compared, "CPU seconds for 1,000") is Verdict.UNCLEAR
    assert not compared.regressed


def test_a_run_beside_itself_shows_no_change_at_all() -> None:
    one = closed_run(random.Random(19), Gateway())
    compared = judged([one], [one])
    assert {change.verdict for change in compared.changes} == {Verdict.SAME, Verdict.SHOWN}
    assert {change.sure for change in compared.changes} == {0.0}


def test_requests_without_an_answer_are_a_regression_from_a_thousandth() -> None:
    one = closed_run(random.Random(20), Gateway())
    assert one.total is not None
    for failed, worse in ((0.0005, False), (0.002, True)):
        total = msgspec.structs.replace(one.total, failed=round(one.total.offered * failed))
        compared = judged([one], [msgspec.structs.replace(one, total=total)])
        assert compared.regressed is worse
        assert (found(compared, "without an answer") is Verdict.REGRESSION) is worse


@pytest.mark.parametrize("how", ["refused", "declined"])
def test_turning_sales_away_is_a_regression_however_fast_it_is_done(how: str) -> None:
    dice = random.Random(19)
    base = [closed_run(dice, Gateway()) for _ in range(3)]
    faster = [closed_run(dice, Gateway(rate_per_s=30_000, p50_us=600, p99_us=2_600, cpu_s=0.03)) for _ in range(3)]
    assert not judged(base, faster).regressed
    now = []
    for one in faster:
        assert one.total is not None
        turned_away = one.total.answered // 2
        counts = {"approved": one.total.answered - turned_away, how: turned_away}
        now.append(msgspec.structs.replace(one, total=msgspec.structs.replace(one.total, **counts)))
    compared = judged(base, now)
    assert compared.regressed
    assert found(compared, how) is Verdict.REGRESSION
    assert found(judged(now, base), how) is Verdict.IMPROVEMENT


def test_runs_that_did_not_hold_are_named_with_what_they_said() -> None:
    one = closed_run(random.Random(18), Gateway())
    lost = msgspec.structs.replace(one, held=False, verdict=["10 approvals told, 9 booked: 1 lost"])
    assert "now: 1 of 3 did not hold, look there first: 10 approvals told, 9 booked: 1 lost" in (
        judged([one, one, one], [one, lost, one]).notes
    )
    notes = judged([lost], [lost]).notes
    assert any(note.startswith("base: 1 of 1 did not hold") for note in notes)
    assert any(note.startswith("now: 1 of 1 did not hold") for note in notes)
    assert not any("did not hold" in note for note in judged([one], [one]).notes)


def test_what_only_the_base_has_is_named_as_not_compared() -> None:
    base = peers_run(1)
    shown = next(one for one in base.figures if one.fraction > 0)
    missing = msgspec.structs.replace(shown, value=0.0, fraction=0.0, note="not installed")
    now = msgspec.structs.replace(base, figures=[missing if one is shown else one for one in base.figures])
    assert f"measured in the base alone, and not compared: fraction of {shown.name}" in judged([base], [now]).notes
    assert not any("base alone" in note for note in judged([base], [base]).notes)


def test_that_a_run_no_longer_holds_is_a_regression() -> None:
    one = closed_run(random.Random(21), Gateway())
    lost = msgspec.structs.replace(one, held=False)
    assert judged([one], [lost]).regressed
    assert judged([one, one, lost], [lost, lost, one]).lost_hold
    assert not judged([lost], [one]).regressed
    assert not judged([one, one, one], [one, one, lost]).lost_hold


def test_a_phase_that_answers_nothing_any_more_is_a_regression() -> None:
    base = outage_run(1, values=500)
    phases = [
        msgspec.structs.replace(one, rate_per_s=0.0) if one.name == "cut" else one
        for one in outage_run(2, values=500).phases
    ]
    compared = judged([base], [msgspec.structs.replace(base, phases=phases)])
    assert found(compared, "cut: answers") is Verdict.REGRESSION


def test_with_few_runs_the_p99_of_an_outage_is_not_judged_as_it_is_one_event() -> None:
    base = outage_run(1, values=500)

    def slowed(one: Phase) -> Phase:
        response = msgspec.structs.replace(one.latency.response, p99_us=one.latency.response.p99_us * 4)
        return msgspec.structs.replace(one, latency=msgspec.structs.replace(one.latency, response=response))

    worse = msgspec.structs.replace(base, phases=[slowed(one) if one.outage else one for one in base.phases])
    compared = judged([base], [worse])
    assert found(compared, "kill: response p99") is Verdict.UNCLEAR
    assert not compared.regressed
    assert any("one event" in note for note in compared.notes)
    assert found(judged([base] * 5, [worse] * 5), "kill: response p99") is Verdict.REGRESSION


def test_the_fractions_of_peers_are_compared() -> None:
    base = peers_run(1)
    figures = [msgspec.structs.replace(one, fraction=one.fraction * 0.7) for one in base.figures]
    compared = judged([base], [msgspec.structs.replace(base, figures=figures)])
    assert found(compared, "fraction of NATS JetStream") is Verdict.REGRESSION
    assert not any("MQTT" in change.measure for change in compared.changes)


def test_a_few_runs_that_are_alike_by_chance_do_not_make_a_small_change_sure() -> None:
    base = peers_run(1)

    def times(factor: float) -> Results:
        figures = [msgspec.structs.replace(one, fraction=one.fraction * factor) for one in base.figures]
        return msgspec.structs.replace(base, figures=figures)

    before = [times(factor) for factor in (0.999, 1.0, 1.001)]
    for factor, verdict in ((0.945, Verdict.UNCLEAR), (0.8, Verdict.REGRESSION)):
        after = [times(factor * apart) for apart in (0.999, 1.0, 1.001)]
        assert found(judged(before, after), "fraction of PostgreSQL") is verdict


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 3), (3, 3), (4, 4), (5, 2)])
def test_the_chance_of_an_order_is_what_counting_all_orders_gives(low: int, high: int) -> None:
    orders = [set(taken) for taken in itertools.combinations(range(low + high), high)]

    def wins(above: set[int]) -> int:
        return sum(a < b for b in above for a in range(low + high) if a not in above)

    for above in orders:
        exact = sum(wins(other) >= wins(above) for other in orders) / len(orders)
        below = [float(one) for one in range(low + high) if one not in above]
        assert chance_of_order(below, [float(one) for one in above]) == pytest.approx(exact)


def test_samples_that_resemble_their_neighbours_count_for_less() -> None:
    dice = random.Random(23)
    apart = [math.exp(dice.gauss(0, 0.1)) for _ in range(400)]
    in_blocks = [one for one in apart[:40] for _ in range(10)]
    assert error_within(apart) == pytest.approx(0.1 / 20, rel=0.25), "seed 23"
    assert error_within(in_blocks) > 2 * error_within(apart)
    assert error_within([1.0] * 40) == 0.0
    assert error_within([]) == 0.0


Change = Callable[[Results], Results]


def altered(**fields: Any) -> Change:
    return lambda one: msgspec.structs.replace(one, **fields)


def elsewhere(**fields: Any) -> Change:
    return lambda one: msgspec.structs.replace(one, fingerprint=msgspec.structs.replace(one.fingerprint, **fields))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (altered(scenario="stored"), "scenario: closed and stored"),
        (altered(command="peers"), "command: run and peers"),
        (altered(options={"terminals": 1000}), "option terminals: 64 and 1000"),
        (altered(options={}), "option terminals: 64 and absent"),
        (elsewhere(processor="Other 1"), "processor: Example 4000 @ 2.40GHz and Other 1"),
        (elsewhere(cores=4), "cores: 2 and 4"),
        (elsewhere(memory_bytes=16 << 30), "memory: 8 GiB and 16 GiB"),
        (elsewhere(file_system="tmpfs"), "file system: ext4 and tmpfs"),
    ],
)
def test_what_is_not_alike_is_refused_with_the_difference_unless_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, said: str
) -> None:
    one = closed_run(random.Random(24), Gateway())
    a, b = written(tmp_path, [one, change(one)])
    assert run(CompareOptions([a, b])) == 2
    assert said in capsys.readouterr().out
    assert run(CompareOptions([a, b], anyway=True)) == 0
    assert f"not alike: {said}" in capsys.readouterr().out


def test_seed_memory_to_the_byte_and_file_names_do_not_make_runs_differ() -> None:
    one = closed_run(random.Random(25), Gateway())
    other = elsewhere(memory_bytes=(8 << 30) - 100_000)(
        altered(options={"terminals": 64, "seed": -1, "json": "x"})(one)
    )
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (elsewhere(kernel="Linux 7.0 x86_64"), "kernel"),
        (elsewhere(versions={"Python": "3.12.0"}), "Python: 3.11.7, now 3.12.0"),
        (elsewhere(sync_us=900.0), "the disk synced in 152 µs, now in 900 µs"),
        (elsewhere(configuration="[a]\nb = 1\n"), "configuration differs"),
        (altered(total=None), "not measured on both sides: answers"),
    ],
)
def test_what_may_explain_a_change_is_noted(change: Change, note: str) -> None:
    one = closed_run(random.Random(26), Gateway())
    assert any(note in line for line in judged([one], [change(one)]).notes)


def written(folder: Path, runs: Sequence[Results], name: str = "run") -> list[str]:
    paths = [folder / f"{name}{number}.json" for number in range(len(runs))]
    for path, one in zip(paths, runs, strict=True):
        write_results(one, path)
    return [str(path) for path in paths]


def test_a_regression_is_exit_1_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(27)
    a, b, c = written(tmp_path, [closed_run(dice, Gateway(rate_per_s=rate, drift=0)) for rate in (20e3, 20e3, 15e3)])
    assert run(CompareOptions([a, b])) == 0
    assert capsys.readouterr().out.startswith("NO REGRESSION")
    assert run(CompareOptions([a, c])) == 1
    out = capsys.readouterr().out
    assert out.startswith("REGRESSION")
    assert "\x1b" not in out
    assert run(CompareOptions([a, b, c], as_json=True)) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["regressed"] is True
    assert [one["regressed"] for one in document["against"]] == [False, True]
    worst = document["against"][1]["changes"][0]
    assert (worst["measure"], worst["verdict"]) == ("answers", "regression")
    assert worst["percent"] == pytest.approx(-25, abs=3)


def test_the_threshold_is_the_least_change_that_counts(tmp_path: Path) -> None:
    dice = random.Random(28)
    a, b = written(tmp_path, [closed_run(dice, Gateway(rate_per_s=rate, drift=0)) for rate in (20e3, 15e3)])
    assert run(CompareOptions([a, b], threshold_percent=50)) == 0
    assert run(CompareOptions([a, b], threshold_percent=20)) == 1


def test_several_runs_a_side_are_taken_by_pattern_and_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(29)
    written(tmp_path, [closed_run(dice, Gateway()) for _ in range(5)], "old")
    written(tmp_path, [closed_run(dice, Gateway(rate_per_s=17_500)) for _ in range(5)], "new")
    options = CompareOptions([f"{tmp_path}/new*.json"], base=[f"{tmp_path}/old*.json"], as_json=True)
    assert run(options) == 1
    (side,) = json.loads(capsys.readouterr().out)["against"]
    assert side["runs"] == 5
    assert not any("only" in note for note in side["notes"])


@pytest.mark.parametrize("as_json", [True, False])
def test_input_that_cannot_be_used_is_exit_2_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    (good,) = written(tmp_path, [closed_run(random.Random(30), Gateway())])
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    (tmp_path / "deep.json").write_text('{"version":1,"a":' + 20_000 * "[" + 20_000 * "]" + "}", encoding="utf-8")
    for options, reason in (
        (CompareOptions([]), "at least two"),
        (CompareOptions([good]), "at least two"),
        (CompareOptions([], base=[good]), "name the documents"),
        (CompareOptions([good, str(tmp_path / "bad.json")]), "bad.json"),
        (CompareOptions([good, str(tmp_path / "deep.json")]), "deep.json"),
        (CompareOptions([good, str(tmp_path / "absent.json")]), "absent.json"),
        (CompareOptions([good, f"{tmp_path}/none*.json"]), "none*.json: no such file"),
    ):
        assert run(replace(options, as_json=as_json)) == 2
        out = capsys.readouterr().out
        assert reason in out
        if as_json:
            json.loads(out)


def test_runs_without_any_common_measure_cannot_be_compared() -> None:
    one = closed_run(random.Random(31), Gateway())
    bare = msgspec.structs.replace(one, total=None, phases=[], cost=None, samples=[])
    with pytest.raises(NotComparable, match="nothing was measured"):
        judged([bare], [bare])
