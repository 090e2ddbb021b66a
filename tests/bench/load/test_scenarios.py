"""Every scenario, with the real gateway, for a second or two: it holds, and its document says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.interruption import INTERRUPTED
from bench.load.histogram import LatencyRecorder
from bench.load.options import HELP, OptionsWrong, RunOptions, Scenario
from bench.load.phases import Part
from bench.load.results import Results, read_results
from bench.load.run import run, shows_nothing, verdict
from bench.load.setup import LoadSetup
from bench.load.stage import Findings, Rig
from bench.load.tally import Outcome
from bench.load.truth import Truth
from bench.usage import family

SHORT = RunOptions(terminals=12, rate=120, seconds=1.5, seed=42, backlog=600, drain_within_s=60)
# A sale that is on its way to the acquirer when that is cut off is told 68 and reversed (D11).
IN_DOUBT_MAX = 5


def _played(options: RunOptions, tmp_path: Path) -> Results:
    path = tmp_path / "results.json"
    code = run(replace(options, json_path=path))
    results = read_results(path)
    assert code == 0, results.verdict
    assert results.held
    return results


@pytest.mark.parametrize("scenario", [s for s in Scenario if s not in (Scenario.DRAIN, Scenario.CLOSED)])
def test_a_scheduled_scenario_holds_and_answers_all_that_was_due(scenario: Scenario, tmp_path: Path) -> None:
    seconds = 4.0 if scenario in (Scenario.OUTAGE, Scenario.FLAPPING) else SHORT.seconds
    results = _played(replace(SHORT, scenario=scenario, seconds=seconds), tmp_path)
    total = results.total
    assert total is not None
    in_doubt_max = IN_DOUBT_MAX if scenario in (Scenario.OUTAGE, Scenario.FLAPPING) else 0
    assert total.failed <= in_doubt_max
    assert total.answered >= 0.5 * SHORT.rate * seconds
    assert sum(p.offered for p in results.phases) == sum(p.answered for p in results.phases)
    assert total.latency.response.p50_us >= total.latency.service.p50_us > 0
    assert LatencyRecorder.decoded(total.latency.response_hdr).count == total.answered
    assert results.cost is not None
    assert results.cost.gateway_cpu_s_per_1000 > 0
    assert results.cost.disk_bytes_per_transaction > 200
    assert results.cost.commits > 0
    assert any(sample.resident_bytes > 10 << 20 for sample in results.samples)
    assert any(sample.rate_per_s > 0 for sample in results.samples)
    assert total.outage == (scenario in (Scenario.STORED, Scenario.OUTAGE, Scenario.FLAPPING))
    if scenario is Scenario.MIXED:
        assert "reversed by their terminals" in results.verdict[0]
        assert total.declined > 0
    else:
        assert total.declined <= in_doubt_max


@pytest.mark.parametrize("acquirer", ["there", "away"])
def test_a_closed_run_holds_and_its_response_times_are_its_service_times(acquirer: str, tmp_path: Path) -> None:
    options = replace(SHORT, scenario=Scenario.CLOSED, acquirer=acquirer, terminals=8, connections=2)
    total = _played(options, tmp_path).total
    assert total is not None
    assert total.answered > 50
    assert total.latency.service == total.latency.response


def test_a_backlog_drains_in_order(tmp_path: Path) -> None:
    results = _played(replace(SHORT, scenario=Scenario.DRAIN), tmp_path)
    assert results.total is not None
    assert results.total.approved == 600
    assert results.verdict[0].startswith("600 approvals told, 600 booked: 0 lost")


@pytest.mark.parametrize("scenario", [Scenario.OUTAGE, Scenario.DUPLICATES])
def test_tills_that_speak_http_hold_as_well(scenario: Scenario, tmp_path: Path) -> None:
    options = replace(SHORT, scenario=scenario, protocol="http", rate=60, seconds=3)
    total = _played(options, tmp_path).total
    assert total is not None
    assert total.declined <= (IN_DOUBT_MAX if scenario is Scenario.OUTAGE else 0)


@pytest.mark.parametrize("protocol", ["iso8583", "http"])
def test_terminals_that_speak_tls_hold_as_well(protocol: str, tmp_path: Path) -> None:
    _played(replace(SHORT, protocol=protocol, tls=True, rate=60), tmp_path)


def test_what_is_not_drained_is_counted(tmp_path: Path) -> None:
    results = _played(replace(SHORT, scenario=Scenario.STORED, drain=False), tmp_path)
    assert any("counted only" in line for line in results.verdict)
    assert "0 too few are booked or owed, 0 too many" in results.verdict[0]
    assert "out of order" not in results.verdict[0]  # nobody has looked


def test_commits_of_the_warm_up_are_not_those_of_what_is_measured(tmp_path: Path) -> None:
    one_at_a_time = replace(SHORT, scenario=Scenario.CLOSED, terminals=1, seconds=1.0, drain=False)
    results = _played(one_at_a_time, tmp_path)
    assert results.total is not None
    assert results.cost is not None
    # A terminal by itself has a commit for each sale; the gateway has some more now and then.
    assert results.cost.commits == pytest.approx(results.total.answered, rel=0.25)


@pytest.mark.parametrize("stuck", [False, True])
def test_sales_that_were_stood_in_for_are_told_where_the_acquirer_was_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    async def phase(rig: Rig, name: str, seconds: float, *, outage: bool = False, measured: bool = True) -> None:
        await as_it_is(rig, name, seconds, outage=outage, measured=measured)
        if stuck and measured:
            await rig.cut()  # behind the scenario's back
            await rig.pass_time(1.0)
            await rig.heal()

    as_it_is = Rig.phase
    monkeypatch.setattr(Rig, "phase", phase)
    results = _played(replace(SHORT, scenario=Scenario.ONLINE), tmp_path)
    assert any("in place of the acquirer" in line for line in results.verdict) is stuck


def test_kept_and_reported_are_the_configuration_and_both_spectra_but_no_key(tmp_path: Path) -> None:
    kept, page = tmp_path / "kept", tmp_path / "report.html"
    assert run(replace(SHORT, keep=kept, report_path=page, tls=True)) == 0
    assert (kept / "holdfast.toml").exists()
    assert not (kept / "keys").exists()
    assert list(kept.rglob("*.key")) == []
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert "#[Mean" in page.with_suffix(".response.hgrm").read_text(encoding="ascii")
    assert "#[Mean" in page.with_suffix(".service.hgrm").read_text(encoding="ascii")


def test_a_gateway_that_loses_its_journal_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def kill(rig: Rig) -> None:
        await rig.gateway.kill()
        for path in rig.folder.glob("journal.sqlite3*"):
            path.unlink()
        await rig.gateway.start(ready_within_s=60)

    monkeypatch.setattr(Rig, "kill", kill)
    path = tmp_path / "results.json"
    assert run(replace(SHORT, scenario=Scenario.OUTAGE, seconds=4, json_path=path)) == 1
    results = read_results(path)
    assert not results.held
    assert ": 0 lost" not in results.verdict[0]
    assert results.verdict[1].startswith("lost: terminal L")


@pytest.mark.parametrize("signals", [[signal.SIGHUP], [signal.SIGINT] * 3, [signal.SIGTERM] * 3])
def test_whatever_signals_come_nothing_is_left_behind(tmp_path: Path, signals: list[signal.Signals]) -> None:
    words = ["stored", "--terminals", "4", "--rate", "40", "--seconds", "60"]
    with subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "bench", "run", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as bench:
        assert bench.stdout is not None
        for line in bench.stdout:
            if "warm-up" in line:
                break
        started = family(bench.pid)[1:]
        assert len(started) >= 3
        for number in signals:
            bench.send_signal(number)
            time.sleep(0.2)
        rest = bench.stdout.read()
    try:
        # The last one may come when all is written and the interpreter is about to end.
        assert bench.returncode in (INTERRUPTED, -signals[-1]), rest
        assert "problem: interrupted" in rest
        assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
        assert list(tmp_path.iterdir()) == []
    finally:
        for pid in started:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


# --- verdicts ------------------------------------------------------------------------------------------------------


def _part(share: float, *, late: int = 0) -> Part:
    part = Part("online", 0.0, offered=1_000, late=late, cpu_s=share, counted_s=1.0)
    part.outcomes[0] = 1_000
    return part


def test_the_verdict_says_when_the_generator_was_the_limit() -> None:
    findings = Findings(truth=Truth())
    assert "not the limit" in verdict(SHORT, findings, _part(0.5), 0.5)[-2]
    assert "generator was the limit" in verdict(SHORT, findings, _part(0.97), 0.97)[-2]
    findings.host_share = 0.95
    assert "acquirer was the limit" in verdict(SHORT, findings, _part(0.5), 0.5)[-2]
    findings.host_share = 0.1
    assert "generator was late" in verdict(SHORT, findings, _part(0.5, late=50), 0.5)[-2]


def test_a_run_that_approved_nothing_shows_nothing_however_much_was_answered() -> None:
    part = Part("stored", 0.0, offered=1_000)
    assert "nothing was answered" in shows_nothing(part)
    part.outcomes[Outcome.REFUSED] = part.outcomes[Outcome.DECLINED] = 500
    assert "nothing was approved" in shows_nothing(part)
    part.outcomes[Outcome.APPROVED] = 1
    assert not shows_nothing(part)


def test_the_verdict_begins_with_the_truth_and_names_what_is_lost() -> None:
    truth = Truth(approvals=10, booked=9, lost=1)
    truth.example("lost", "L0000001", 7)
    lines = verdict(SHORT, Findings(truth=truth, problems=["it broke"]), None, 0.0)
    assert lines[0].startswith("10 approvals told, 9 booked: 1 lost")
    assert lines[1] == "lost: terminal L0000001, STAN 7"
    assert "problem: it broke" in lines


def test_a_run_that_broke_off_before_the_comparison_does_not_say_that_nothing_was_lost() -> None:
    findings = Findings(problems=["the gateway ended by itself"])
    assert not findings.truth.clean
    lines = verdict(SHORT, findings, _part(0.5), 0.5)
    assert "not compared" in lines[0]
    assert not any("0 lost" in line or "0 approvals" in line for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_that_a_full_disk_does_not_take_are_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    options = RunOptions(scenario=Scenario.STORED, terminals=2, rate=20, seconds=0.5, json_path=Path("/dev/full"))
    assert run(options) == 2
    out = capsys.readouterr().out
    assert "HELD" in out
    assert "could not be written" in out


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    for wrong in (
        {"protocol": "ftp"},
        {"protocol": "http", "scenario": Scenario.MIXED},
        {"protocol": "http", "connections": 2},
        {"connections": 13},
        {"rate": 0.0},
        {"acquirer": "here"},
        {"arrivals": "late"},
        {"keep": tmp_path},
        {"keep": tmp_path / "there"},
        {"keep": tmp_path / "there" / "new"},
    ):
        with pytest.raises(OptionsWrong):
            replace(SHORT, **wrong)


def test_every_option_has_its_help() -> None:
    named = {name.removesuffix("_path") for name in RunOptions.__dataclass_fields__}
    assert named == set(HELP)


def test_a_commit_delay_is_written_down_only_where_there_is_one() -> None:
    plain = LoadSetup(terminal_port=1, operations_port=2, acquirer_port=3)
    assert "commit_delay_ms" not in plain.toml()
    assert (
        '[journal]\npath = "journal.sqlite3"\nkeys = "keys"\ncommit_delay_ms = 2\n'
        in replace(plain, commit_delay_ms=2).toml()
    )
