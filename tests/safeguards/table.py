"""All safeguards outside the core that are taken away, and the table of what noticed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.safeguards.files_and_logs import FILES_AND_LOGS
from tests.safeguards.gateway import GATEWAY
from tests.safeguards.journal import JOURNAL
from tests.safeguards.kinds import Safeguard
from tests.safeguards.links import LINKS
from tests.safeguards.listeners import LISTENERS
from tests.safeguards.runs import Verdict

SAFEGUARDS: Final[tuple[Safeguard, ...]] = (*JOURNAL, *LISTENERS, *LINKS, *FILES_AND_LOGS, *GATEWAY)
BY_NAME: Final = {each.name: each for each in SAFEGUARDS}
assert len(BY_NAME) == len(SAFEGUARDS), "a name stands twice"

HEAD: Final = "| safeguard | rule | caught by | runs |\n|---|---|---|---|"


def row_of(safeguard: Safeguard, verdict: Verdict) -> str:
    """A row of the table: which check noticed, and in which of its runs (a seed, a parameter)."""
    _, _, test = safeguard.check.rpartition("::")
    words = test.partition("[")[0].removeprefix("test_").replace("_", " ")
    return f"| {safeguard.name} | {safeguard.rule} | {words} | {verdict.runs} |"


def chosen(names: Iterable[str]) -> list[Safeguard]:
    """The safeguards of these names, or all where there are none."""
    return [BY_NAME[name] for name in names] or list(SAFEGUARDS)
