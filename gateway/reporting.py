"""Lines about what a host did wrong: counted always, written at most once per reason and interval.

A peer that sends rubbish as fast as it can must not fill the disk with log lines (INV-9).
"""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, dict[str, str]], None]
"""Takes the name of what happened and its facts: peer, reason, field, offset. Never a value of a field."""


class RateLimitedReport:
    """Passes the first line of each kind in an interval on and counts the others.

    How many were kept back stands in the fact "suppressed" of the next line of that kind; `flush` writes the last
    of them when a flood has stopped. Times are monotonic milliseconds.
    """

    __slots__ = ("_interval_ms", "_kept_back", "_next_ms", "_report")

    def __init__(self, report: Report, interval_ms: int) -> None:
        self._report = report
        self._interval_ms = interval_ms
        self._next_ms: dict[tuple[str, str], int] = {}
        self._kept_back: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}

    def line(self, name: str, reason: str, facts: dict[str, str], now_ms: int) -> None:
        """Write a line, or keep it back. Names and reasons come from fixed sets, so memory is bounded."""
        kind = (name, reason)
        if now_ms < self._next_ms.get(kind, now_ms):
            count, _ = self._kept_back.get(kind, (0, facts))
            self._kept_back[kind] = (count + 1, facts)
            return
        count, _ = self._kept_back.pop(kind, (0, facts))
        self._write(kind, facts, count, now_ms)

    def flush(self, now_ms: int) -> None:
        """Write the latest line of each kind that was kept back for an interval. Called from a sweep."""
        due = [kind for kind in self._kept_back if now_ms >= self._next_ms[kind]]
        for kind in due:
            count, facts = self._kept_back.pop(kind)
            self._write(kind, facts, count - 1, now_ms)

    def _write(self, kind: tuple[str, str], facts: dict[str, str], suppressed: int, now_ms: int) -> None:
        self._next_ms[kind] = now_ms + self._interval_ms
        self._report(kind[0], {**facts, "reason": kind[1], "suppressed": str(suppressed)})
