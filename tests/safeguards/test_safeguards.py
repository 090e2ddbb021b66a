"""A check that cannot fail is a defect: without any one safeguard outside the core, its check fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.safeguards.kinds import Safeguard
from tests.safeguards.table import SAFEGUARDS

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """Collects all checks once, and forks for each run."""
    command = [sys.executable, "-m", "tests.safeguards", "--serve"]
    with subprocess.Popen(  # noqa: S603 - our own child
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n", "a check is not there"
        yield started
        started.stdin.close()


@pytest.mark.interpreted
@pytest.mark.timeout(240)
@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name.replace(" ", "-"))
def test_a_removed_safeguard_is_missed(server: subprocess.Popen[str], safeguard: Safeguard) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(safeguard.name + "\n")
    server.stdin.flush()
    told: dict[str, Any] = json.loads(server.stdout.readline())
    if told["in_place"]["skipped"] and not told["in_place"]["runs"]:
        pytest.skip("this machine lacks what the check needs")
    assert not told["missed"], f"{told['missed']}\n{told['removed']['output']}"
    # and with it back, the same test holds
    assert told["in_place"]["runs"]
    assert not told["in_place"]["failed"], told["in_place"]["output"]


def test_every_removed_safeguard_stands_in_the_table() -> None:
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    for safeguard in SAFEGUARDS:
        assert f"\n| {safeguard.name} | {safeguard.rule} | " in table, "python -m tests.safeguards renews it"
