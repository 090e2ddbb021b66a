"""A failing run becomes a short script that breaks the same promise; scripts are text and back."""

from __future__ import annotations

import pytest

from tests.simulation.runs import run_script, run_seed
from tests.simulation.safeguards import SAFEGUARDS, find, removed
from tests.simulation.shrink import Shrinker
from tests.simulation.steps import Ask, Flow, Pass, Script, Setup, parse_line, parse_script

_BY_NAME = {safeguard.name: safeguard for safeguard in SAFEGUARDS}


@pytest.mark.parametrize("name", ["the reversal is owed with the 68", "what was undone is not told approved"])
def test_a_failing_seed_shrinks_to_a_few_steps_that_break_the_same_promise(name: str) -> None:
    caught = find(_BY_NAME[name])
    assert caught.failure is not None
    with removed(_BY_NAME[name]):
        short = Shrinker(run_seed(caught.seeds - 1), seconds=20).shrink()
    assert short.failure is not None
    assert short.failure.rule == caught.failure.rule
    assert len(short.script.steps) <= 12, short.script.text()
    assert run_script(parse_script(short.script.text())).failure is None, "the safeguard is back"


def test_a_script_is_text_and_back() -> None:
    script = Script(Setup(host="unionpay", dice=7), (Ask(1, "0200", "00", 5, 1_200, 2, 1), Flow("ctra"), Pass(50, 0)))
    assert parse_script(f"# a remark\n\n{script.text()}") == script


@pytest.mark.parametrize("line", ["dance till=1", "pass ms=1", "pass ms=1 run=1 far=2", "pass ms=x run=1"])
def test_a_line_that_is_no_step_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_line(line)
