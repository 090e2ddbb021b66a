"""Defects that fuzzing has found and that are still there, so that a run goes on behind them.

Each has a regression test with its bytes in `test_found`, which is expected to fail. Whoever mends one takes away its
row here and the mark there: the test fails strictly once it passes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Final, NamedTuple


class Known(NamedTuple):
    """A defect by what is raised and the function that raises it or lets it through."""

    error: type[Exception]
    function: str


KNOWN: Final[tuple[Known, ...]] = ()


def is_known(error: Exception, known: Iterable[Known] = KNOWN) -> bool:
    """Whether an exception is one of the defects that are listed."""
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return any(type(error) is one.error and one.function in functions for one in known)
