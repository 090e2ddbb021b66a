"""Scripts that once were hard hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.runs import run_script
from tests.simulation.safeguards import SAFEGUARDS, removed
from tests.simulation.steps import parse_script

_SCRIPTS = Path(__file__).parent / "scripts"
_GUARDING = [path for path in sorted(_SCRIPTS.glob("*.txt")) if path.read_text(encoding="utf-8").startswith("# guards")]


@pytest.mark.parametrize("path", sorted(_SCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_what_once_was_hard_holds(path: Path) -> None:
    outcome = run_script(parse_script(path.read_text(encoding="utf-8")))
    assert outcome.failure is None, f"`python -m tests.simulation replay {path}` shows how: {outcome.failure}"


@pytest.mark.interpreted
@pytest.mark.parametrize("path", _GUARDING, ids=lambda path: path.stem)
def test_a_script_that_names_a_safeguard_breaks_without_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    guard = next(each for each in SAFEGUARDS if text.startswith(f"# guards: {each.name}\n"))
    with removed(guard):
        assert run_script(parse_script(text)).failure is not None
