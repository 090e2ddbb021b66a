"""The outage run: its plan follows from the seed, its verdict from the records, and the gateway holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.history import Defect, Finding, Verdict
from bench.outage import FIVE_ZEROS, Result, cut_remark, run
from bench.scenario import Options, plan
from tests.bench.power_cut import lose_the_log_with_each_kill


def test_a_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert plan(Options(seed=1, kill=True)) == plan(Options(seed=1, kill=True))
    assert len({tuple(plan(Options(seed=seed, kill=True))) for seed in range(50)}) == 50


@pytest.mark.parametrize("seconds", [3.0, 20.0, 60.0])
def test_every_plan_has_cuts_that_end_in_time_and_kills_in_outage_and_replay(seconds: float) -> None:
    for seed in range(200):
        steps = plan(Options(seed=seed, seconds=seconds, kill=True))
        cuts = [step for step in steps if step.behaviour is not None and step.behaviour.mode is not Mode.NORMAL]
        ends = [step for step in steps if step.behaviour is not None and step.behaviour.mode is Mode.NORMAL]
        kills = [step for step in steps if step.kill_for_s is not None]
        assert len(cuts) == len(ends) >= 2
        assert cuts[0].behaviour is not None
        assert cuts[0].behaviour.mode in (Mode.AWAY, Mode.SILENT)
        assert steps[0].at_s > 0
        assert ends[-1].at_s < seconds
        assert cuts[0].at_s < kills[0].at_s < ends[0].at_s
        assert kills[-1].at_s > ends[-1].at_s
        assert all(begin.at_s < end.at_s for begin, end in zip(cuts, ends, strict=True))


def test_without_kill_nobody_is_killed() -> None:
    assert not [step for seed in range(50) for step in plan(Options(seed=seed)) if step.kill_for_s is not None]


@pytest.mark.parametrize("defect", Defect)
def test_a_single_defect_of_any_kind_is_a_broken_promise(defect: Defect) -> None:
    assert Result(Options(), Verdict(acknowledged=1, booked=1)).held
    assert not Result(Options(), Verdict()).held, "a run that sold nothing shows nothing"
    found = [Finding(defect, "M/T/1", "shown")]
    assert not Result(Options(), Verdict(acknowledged=1, booked=1, findings=found)).held
    assert not Result(Options(), Verdict(acknowledged=1, booked=1), problems=["the queue was not empty"]).held
    assert not Result(Options(), Verdict(acknowledged=1, booked=1), interrupted=True).held


def test_the_json_has_the_counts_at_its_top() -> None:
    told = Result(Options(seed=7), Verdict(acknowledged=3, booked=2)).json()
    assert told["acknowledged"] == 3
    assert told["booked"] == 2
    assert [told[defect.value] for defect in FIVE_ZEROS] == [0] * 5
    assert told["seed"] == 7


def test_a_cut_that_was_hardly_one_is_remarked_upon_and_fails_nothing() -> None:
    assert cut_remark(2, 0.1, 0.0) == "cut 2 lasted 0.1 s: tests little"
    assert cut_remark(1, 2.1, 1.9) == "cut 1 lasted 2.1 s, and the gateway was up for 0.2 s of it: tests little"
    assert not cut_remark(1, 0.5, 0.0)
    assert not cut_remark(1, 3.0, 1.0)
    result = Result(Options(), Verdict(acknowledged=1, booked=1), remarks=["cut 2 lasted 0.1 s: tests little"])
    assert result.held
    assert result.json()["remarks"] == ["cut 2 lasted 0.1 s: tests little"]


@pytest.mark.timeout(150)
def test_a_short_outage_with_kills_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    options = Options(terminals=8, seconds=5, kill=True, seed=11, keep=tmp_path / "run")
    code = run(options, report)
    shown = capsys.readouterr().out
    assert code == 0, shown
    told = json.loads(report.read_text())
    assert [told[defect.value] for defect in FIVE_ZEROS] == [0] * 5
    assert told["acknowledged"] > 20
    assert told["figures"]["restarts"] == 2
    assert "HELD" in shown
    assert all(remark in shown for remark in told["remarks"])
    assert "dials refused while the gateway was down" in shown


@pytest.mark.timeout(150)
def test_a_journal_that_loses_its_last_writes_in_a_power_cut_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The safeguard removed here is the write-ahead log itself: what was only there is gone after the kill."""
    seed = next(
        seed for seed in range(100) if plan(Options(seed=seed, seconds=5))[0].behaviour == Behaviour(mode=Mode.AWAY)
    )
    lose_the_log_with_each_kill(monkeypatch)
    report = tmp_path / "report.json"
    options = Options(terminals=20, seconds=5, kill=True, seed=seed, keep=tmp_path / "run")
    assert run(options, report) == 1
    told = json.loads(report.read_text())
    assert told["lost"] > 0 or told["problems"], told
    assert "BROKEN" in capsys.readouterr().out
