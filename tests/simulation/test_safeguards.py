"""A check that cannot fail is a defect: without any one safeguard, the simulation fails."""

from __future__ import annotations

import pytest

from tests.simulation.runs import run_seed
from tests.simulation.safeguards import SAFEGUARDS, Safeguard, find


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name.replace(" ", "-"))
def test_a_removed_safeguard_is_missed(safeguard: Safeguard) -> None:
    caught = find(safeguard)
    assert caught.failure is not None, f"{caught.seeds} seeds did not notice"
    # and with it back, the same seed holds
    assert run_seed(caught.seeds - 1).failure is None
