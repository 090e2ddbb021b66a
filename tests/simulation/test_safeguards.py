"""A check that cannot fail is a defect: without any one safeguard, the simulation fails."""

from __future__ import annotations

import pytest

from tests.simulation.runs import run_seed
from tests.simulation.safeguards import SAFEGUARDS, Safeguard, find
from tests.simulation.table import renewed


@pytest.mark.interpreted
@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name.replace(" ", "-"))
def test_a_removed_safeguard_is_missed(safeguard: Safeguard) -> None:
    caught = find(safeguard)
    assert caught.failure is not None, f"{caught.seeds} seeds did not notice"
    # and with it back, the same seed holds
    assert run_seed(caught.seeds - 1).failure is None


def test_renewing_the_table_leaves_what_stands_around_it() -> None:
    text = (
        "# Tests\n\nBefore.\n\n## Removed safeguards\n\nOld.\n\n| a | b |\n|---|---|\n| old | 1 |\n\n"
        "### Others\n\n| c |\n|---|\n| d |\n"
    )
    table = "## Removed safeguards\n\nNew.\n\n| a | b |\n|---|---|\n| new | 2 |\n"
    once = renewed(text, table)
    assert once == f"# Tests\n\nBefore.\n\n{table}\n### Others\n\n| c |\n|---|\n| d |\n"
    assert renewed(once, table) == once
