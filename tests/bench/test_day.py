"""The working day: its plan follows from the seed, its verdict can fail in every part, and the gateway holds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench.acquirer import Mode
from bench.batches import BatchVerdict
from bench.day import run, with_batches
from bench.day_plan import Act, befalls, shift
from bench.day_report import DayResult
from bench.day_shown import Seen, Shown, not_shown, surprises
from bench.history import Defect, Finding, Verdict
from bench.outage import FIVE_ZEROS
from bench.records import LedgerEvent, Owed, TerminalEvent
from bench.scenario import Options
from tests.bench.power_cut import lose_the_log_with_each_kill

DAY = Options(terminals=200, seconds=30, sales_per_second=0.8, seed=1)
SHORT = Options(terminals=6, seconds=5, sales_per_second=1.5, seed=11, dialect="unionpay", acquirer_dialect="unionpay")
CLEAN = DayResult(DAY, Verdict(acknowledged=1, booked=1), batches=BatchVerdict(batches=1))


def test_a_seed_gives_the_same_day_and_another_seed_another() -> None:
    assert [shift(DAY, n) for n in range(200)] == [shift(DAY, n) for n in range(200)]
    assert shift(DAY, 1) != shift(replace(DAY, seed=2), 1)
    assert befalls(DAY) == befalls(DAY)
    assert befalls(DAY) != befalls(replace(DAY, seed=2))


def test_a_day_has_every_kind_of_business_key_and_fault() -> None:
    shifts = [shift(DAY, n) for n in range(200)]
    turns = [turn for one in shifts for turn in one.turns]
    assert {turn.act for turn in turns} == set(Act)
    assert {one.key_code for one in shifts} == {"001", "003", "004"}
    assert any(one.first_stan > 999_980 for one in shifts)
    assert any(one.loses_totals >= 0 for one in shifts)
    assert any(one.second_batch and one.forgetful for one in shifts)
    assert any(one.second_batch and not one.forgetful for one in shifts)
    for fault in ("power_loss", "answer_loss", "twice", "wrong_mac"):
        assert any(getattr(turn.fault, fault) for turn in turns), fault
    assert all(turn.at_s <= one.ends_s for one in shifts for turn in one.turns)


@pytest.mark.parametrize("seconds", [5.0, 30.0, 120.0])
def test_every_day_has_an_outage_in_the_middle_and_kills_in_outage_replay_and_settlement(seconds: float) -> None:
    for seed in range(100):
        steps = befalls(replace(DAY, seconds=seconds, seed=seed, kill=True))
        cuts = [step for step in steps if step.behaviour is not None]
        kills = [step.at_s for step in steps if step.kill_for_s is not None]
        assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
        modes = [step.behaviour.mode for step in cuts if step.behaviour is not None]
        assert modes[:2].count(Mode.AWAY) == 1
        assert modes[2:] == [Mode.NORMAL, Mode.AWAY, Mode.NORMAL]
        assert seconds * 0.4 <= cuts[0].at_s < cuts[2].at_s <= seconds * 0.75
        assert cuts[0].at_s < kills[0] < cuts[2].at_s < kills[1] < seconds < kills[2]
        assert not [step for step in befalls(replace(DAY, seed=seed)) if step.kill_for_s is not None]


def test_each_part_of_the_verdict_can_fail() -> None:
    assert CLEAN.held
    for defect in Defect:
        found = Verdict(acknowledged=1, booked=1, findings=[Finding(defect, "M/T/000001/1", "shown")])
        assert not replace(CLEAN, verdict=found).held
    assert not replace(CLEAN, batches=BatchVerdict(batches=1, findings=["batch M/T/000001: shown"])).held
    assert not replace(CLEAN, batches=BatchVerdict()).held, "a day without a batch shows nothing"
    assert not replace(CLEAN, pans_on_wire=1).held
    assert not replace(CLEAN, problems=["the queue was not empty"]).held
    assert not replace(CLEAN, interrupted=True).held
    assert not replace(CLEAN, verdict=Verdict()).held


def test_the_json_has_the_counts_at_its_top() -> None:
    batches = BatchVerdict(batches=3, uploaded=2, findings=["one"])
    told = replace(CLEAN, batches=batches, pans_on_wire=4, mac_refused=5).json()
    assert [told[defect.value] for defect in FIVE_ZEROS] == [0] * 5
    assert (told["batches"], told["uploaded_batches"], told["unbalanced_batches"]) == (3, 2, 1)
    assert (told["pans_on_wire"], told["mac_refused"], told["seed"], told["held"]) == (4, 5, 1, False)


def test_a_day_that_lacked_something_says_what() -> None:
    names = ("out of balance", "code A0", "code 77", "parameters", "balances", "issuers' answers to chips")
    whole = Shown(
        terminals=200, seconds=30, counts=Counter(dict.fromkeys(names, 1)), tapped_bytes=1, sign_ons_asked_for=1,
        pin_blocks=1, stans_wrapped=1, uploads=1,
    )  # fmt: skip
    assert not_shown(whole) == []
    for name in names:
        assert len(not_shown(replace(whole, counts=whole.counts - Counter({name: 1})))) == 1
    lacking = (
        replace(whole, tapped_bytes=0),
        replace(whole, sign_ons_asked_for=0),
        replace(whole, pin_blocks=0),
        replace(whole, uploads=0),
        replace(whole, stans_wrapped=0),
        replace(whole, wrong_macs_left=1),
    )
    assert [len(not_shown(one)) for one in lacking] == [1] * len(lacking)


def test_what_an_upload_put_right_and_should_not_have_been_wrong_is_told() -> None:
    fine = Seen(terminal="T1", pin_key=b"k", given=b"k", loses_totals=False, uploaded=False)
    lost = Seen(terminal="T2", pin_key=b"r", given=None, loses_totals=True, uploaded=True)
    early = [LedgerEvent(at=0, act="out-of-balance", business="settlement", mti="0500", terminal="T4")]
    assert surprises([fine, lost], early, ["T4"]) == []
    assert len(surprises([fine, lost], early, [])) == 1
    assert len(surprises([replace(fine, pin_key=b"x")], [], [])) == 1
    assert len(surprises([replace(fine, uploaded=True)], [], [])) == 1


def test_the_queue_is_listed_by_the_keys_of_the_history() -> None:
    sent = TerminalEvent(
        at=0, event="sent", business="sale", terminal="T", merchant="M", stan="000001", key="M/T/000007/000001",
        mti="0200",
    )  # fmt: skip
    queue = [Owed(key="M/T/000001", state="stored"), Owed(key="M/T/000002", state="stored")]
    assert [owed.key for owed in with_batches(queue, [sent])] == ["M/T/000007/000001", "M/T/000002"]


@pytest.mark.timeout(150)
def test_a_short_day_with_kills_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    code = run(replace(SHORT, kill=True, keep=tmp_path / "run"), report)
    shown = capsys.readouterr().out
    assert code == 0, shown
    told = json.loads(report.read_text())
    assert [told[defect.value] for defect in FIVE_ZEROS] == [0] * 5
    assert (told["unbalanced_batches"], told["pans_on_wire"]) == (0, 0)
    assert told["uploaded_batches"] >= 1
    assert told["batches"] == 7
    assert told["mac_refused"] >= 1
    assert told["figures"]["restarts"] == 3
    assert "HELD" in shown


@pytest.mark.timeout(150)
def test_on_plain_lines_the_taps_find_card_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert run(replace(SHORT, seconds=3, keep=tmp_path / "run"), report, tls=False) == 1
    assert json.loads(report.read_text())["pans_on_wire"] > 0
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.timeout(150)
def test_a_journal_that_loses_its_last_writes_is_found_out_by_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The safeguard removed here is the write-ahead log: what was only there is gone after the kill."""
    lose_the_log_with_each_kill(monkeypatch)
    report = tmp_path / "report.json"
    assert run(replace(SHORT, terminals=12, kill=True, keep=tmp_path / "run"), report) == 1
    told = json.loads(report.read_text())
    assert told["lost"] + told["unsettled"] + told["unbalanced_batches"] > 0 or told["problems"], told
    assert "BROKEN" in capsys.readouterr().out
