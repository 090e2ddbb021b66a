"""The table of removed safeguards in tests/README.md, made by `python -m tests.simulation safeguards`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.simulation.safeguards import SAFEGUARDS, SEEDS_MAX, Caught, find

README: Final = Path(__file__).parents[1] / "README.md"
_HEADING: Final = "## Removed safeguards"
_ABOVE: Final = f"""{_HEADING}

A check that cannot fail is a defect. Each safeguard of the core below was taken away by a switch
(`tests/simulation/safeguards.py`), and seeds were run until one failed: what caught it, and after how many seeds of
at most {SEEDS_MAX}. Renew with `python -m tests.simulation safeguards`.

| safeguard | rule | caught by | seeds |
|---|---|---|---|
"""


def write_table(say: Callable[[str], None]) -> int:
    """Take away each safeguard, show the table, and put it into tests/README.md. Returns the exit code."""
    caught: list[Caught] = []
    for number, safeguard in enumerate(SAFEGUARDS, 1):
        caught.append(find(safeguard))
        say(f"{number} of {len(SAFEGUARDS)}: {line_of(caught[-1])}")
    table = _ABOVE + "".join(f"{line_of(each)}\n" for each in caught)
    text = README.read_text(encoding="utf-8") if README.exists() else "# Tests\n"
    README.write_text(renewed(text, table), encoding="utf-8")
    say(table)
    return 0 if all(each.failure is not None for each in caught) else 1


def renewed(text: str, table: str) -> str:
    """The text with this table in place of the one under the heading; what stands behind that one stays."""
    before, _, after = text.partition(_HEADING)
    _, _, lines = after.partition("|---|\n")
    rest = lines.partition("\n\n")[2]
    return f"{before.rstrip()}\n\n{table}" + (f"\n{rest}" if rest else "")


def line_of(caught: Caught) -> str:
    """One line of the table."""
    by = caught.failure.rule if caught.failure is not None else "NOTHING"
    return f"| {caught.safeguard.name} | {caught.safeguard.rule} | {by} | {caught.seeds} |"
