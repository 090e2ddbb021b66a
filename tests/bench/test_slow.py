"""The slow-clients run: it works end to end, and its verdict says no where it must."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path

import pytest

from bench.slow import SlowOptions, report, run
from bench.slow_crowd import HALF_CLOSED_SHARE, HELD, Manner, Orders, Script, Spoken, manners
from bench.slow_honest import Tally
from bench.slow_verdict import Condition, Scenario, Shown, Who, at_quantile, risen
from protocol.iso8583.dialect import load_dialect


def shown(*, slow_ms: float = 10.0, held: int = 100, scenario: Scenario = Scenario.ADMITTED) -> Shown:
    """What a run of 100 sockets may have shown: every quiet sale took 10 ms, every other one `slow_ms`."""
    made = Shown(scenario, 100, 50 if scenario is Scenario.BEYOND else 200)
    for (_, condition), tally in made.tallies.items():
        took_ms = slow_ms if condition is Condition.SLOW else 10.0
        tally.latencies_ms = array("d", [took_ms] * 200)
    made.held = {spoken: [held, held] for spoken in Spoken}
    return made


def test_a_run_that_keeps_its_latency_and_fails_no_sale_holds() -> None:
    assert shown(slow_ms=19.9).problems() == []
    assert shown(slow_ms=19.9).answered_share == 1.0


@pytest.mark.parametrize("who", Who)
def test_a_p99_of_twice_as_long_is_a_no_for_terminals_and_for_tills(who: Who) -> None:
    told = shown()
    told.tallies[who, Condition.SLOW].latencies_ms = array("d", [10.0] * 190 + [20.0] * 10)
    assert told.problems() == [f"the p99 of the {who} is 2.00 times as long with the crowd"]


@pytest.mark.parametrize("condition", Condition)
def test_a_single_honest_sale_that_fails_is_a_no_whenever_it_was(condition: Condition) -> None:
    told = shown()
    told.tallies[Who.TILLS, condition].failed["answered 503"] += 1
    assert told.problems() == [f"1 honest sales failed: tills ({condition}): answered 503"]
    assert told.answered_share < 1


def test_a_run_in_which_nothing_was_sold_or_no_crowd_was_there_shows_nothing() -> None:
    nothing = Shown(Scenario.ADMITTED, 100, 200)
    assert nothing.answered_share == 0
    assert len(nothing.problems()) == len(Who) + len(Spoken)
    assert all("shows nothing" in problem for problem in shown(held=79).problems())
    assert len(shown(held=79).problems()) == len(Spoken)


def test_more_than_one_address_may_have_must_be_refused() -> None:
    told = shown(scenario=Scenario.BEYOND, held=50)
    assert told.problems() == ["shows nothing: no hostile socket was refused"]
    told.counted = {"connections_refused_address": 50}
    assert told.problems() == []
    told.held[Spoken.HTTP] = [51]
    assert told.problems() == ["51 sockets of one address were held, the limit is 50"]


def test_connections_that_are_left_and_trouble_of_any_kind_are_a_no() -> None:
    told = shown()
    told.left_open = {"http": 3, "iso8583": 0}
    told.troubles = ["interrupted"]
    assert told.problems() == ["interrupted", "3 connections were left on http"]
    assert not report(SlowOptions(), [shown(), told])["held"]
    assert report(SlowOptions(), [shown()])["held"]


def test_the_mix_follows_from_the_seed_and_has_every_manner() -> None:
    assert manners(600, random.Random(1)) == manners(600, random.Random(1))
    assert manners(600, random.Random(1)) != manners(600, random.Random(2))
    mix = manners(600, random.Random(1))
    assert [mix.count(manner) for manner in HELD] == [100] * len(HELD)
    assert mix.count(Manner.HALF_CLOSED) == round(600 * HALF_CLOSED_SHARE)


@pytest.mark.parametrize("spoken", Spoken)
def test_what_is_sent_first_is_never_a_whole_message_but_of_those_that_ask(spoken: Spoken) -> None:
    script, dice = Script(spoken, load_dialect(Orders(1, 2, 3, 4).dialect), 1), random.Random(1)
    for manner in Manner:
        sent = script.opening(manner, dice)
        if manner is Manner.DEAF:
            assert sent.startswith(script.question)
        else:
            assert script.message.startswith(sent)
            assert len(sent) < len(script.message)
    assert 0 < len(script.opening(Manner.HALF_HEADER, dice)) < script.header_bytes
    assert len(script.opening(Manner.HALF_BODY, dice)) > script.header_bytes
    dribbled = b"".join(script.after(Manner.DRIBBLE, second) for second in range(20))
    assert dribbled == script.message[:20]


def test_quantiles_and_rises_are_what_they_say() -> None:
    assert at_quantile([], 0.5) is None
    assert at_quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert at_quantile([float(number) for number in range(100)], 0.99) == 99.0
    before = {"terminal.closed_idle": 1, "terminal.requests": 1}
    after = {"terminal.closed_idle": 4, "terminal.requests": 9, "terminal.closed_frame_timeout": 0, "core.closed_x": 2}
    assert risen(after, before) == {"closed_idle": 3}
    assert Tally().sales == 0


@pytest.mark.timeout(120)
def test_a_small_run_works_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "slow.json"
    code = run(SlowOptions(sockets=40, seconds=2, rounds=1, seed=3, callers=4, beyond=True), path)
    text = capsys.readouterr().out
    told = json.loads(path.read_text())
    assert code == (0 if told["held"] else 1)
    assert list(told["scenarios"]) == ["admitted", "beyond"]
    for scenario in told["scenarios"].values():
        # How long a sale takes is this machine's affair while other tests run on it.
        assert [problem for problem in scenario["problems"] if "times as long" not in problem] == []
        assert scenario["answered_share"] == 1.0
        for who in Who:
            assert set(scenario["honest"][who]) == {"quiet", "slow", "changing", "ratio"}
            assert scenario["honest"][who]["slow"]["sales"] > 10
            assert scenario["honest"][who]["ratio"]["p99_ms"] > 0
        assert scenario["memory_mib"].keys() == {"before", "most", "after"}
        assert scenario["left_open"] == {"iso8583": 0, "http": 0}
    assert told["scenarios"]["admitted"]["hostile_held"]["http"]["mean"] >= 32
    assert told["scenarios"]["beyond"]["hostile_held"]["iso8583"]["most"] <= 20
    assert told["scenarios"]["beyond"]["gateway_counted"]["connections_refused_address"] > 0
    assert "honest sales approved at once: 100.000%" in text


def test_more_sockets_than_files_may_be_open_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(SlowOptions(sockets=10_000_000)) == 2
    assert "open files are needed" in capsys.readouterr().err
