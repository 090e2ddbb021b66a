"""What a slow-clients run shows: how long honest sales took with and without the crowd, and whether that will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bench.slow_crowd import Spoken
from bench.slow_honest import Tally

RATIO_LIMIT: Final = 2.0
"""The p99 with the crowd must be less than this many times the p99 without."""
HELD_SHARE_MIN: Final = 0.8
"""With fewer of its sockets held open, on average, the crowd was not there: such a run shows nothing."""
QUANTILES: Final = {"p50_ms": 0.5, "p99_ms": 0.99, "p99.9_ms": 0.999}


class Who(StrEnum):
    """The honest ones, by what they speak."""

    TERMINALS = "terminals"
    TILLS = "tills"


class Condition(StrEnum):
    """What was going on when a sale was made."""

    QUIET = "quiet"
    SLOW = "slow"
    CHANGING = "changing"  # the crowd came or went; not compared, but an honest sale may not fail then either


class Scenario(StrEnum):
    """What the listeners admit."""

    ADMITTED = "admitted"  # the whole crowd
    BEYOND = "beyond"  # of one address as many as by default; the honest ones come from another


@dataclass(slots=True)
class Shown:
    """What came out of one scenario.

    Attributes:
        sockets: hostile ones that were to be held open on each listener.
        held: hostile connections that the gateway held, by listener: a sample a second while all were there.
        counted: the gateway's counters of refused and closed connections, less what they were before.
        crowd_closed: hostile connections that the gateway closed, by listener and manner.
        memory_mib: the gateway's resident memory: "before", "most" and "after" the crowd.
        left_open: connections beyond the honest ones that the gateway still held at the end, by listener.
        troubles: what went wrong beside.
    """

    scenario: Scenario
    sockets: int
    admitted_max: int
    tallies: dict[tuple[Who, Condition], Tally] = field(
        default_factory=lambda: {(who, condition): Tally() for who in Who for condition in Condition}
    )
    held: dict[Spoken, list[int]] = field(default_factory=lambda: {spoken: [] for spoken in Spoken})
    counted: dict[str, int] = field(default_factory=dict)
    crowd_opened: int = 0
    crowd_closed: dict[str, int] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)
    left_open: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def ratio(self, who: Who, quantile: float) -> float | None:
        """How many times longer a sale took with the crowd; None where one of both was never measured."""
        quiet, slow = (
            at_quantile(self.tallies[who, condition].latencies_ms, quantile)
            for condition in (Condition.QUIET, Condition.SLOW)
        )
        return slow / quiet if slow is not None and quiet else None

    @property
    def failed(self) -> Counter[str]:
        """Honest sales that failed, under any condition, by reason."""
        total: Counter[str] = Counter()
        for (who, condition), tally in self.tallies.items():
            for reason, count in tally.failed.items():
                total[f"{who} ({condition}): {reason}"] += count
        return total

    @property
    def answered_share(self) -> float:
        """The part of the honest sales that was approved, 0 to 1."""
        sales = sum(tally.sales for tally in self.tallies.values())
        return 1 - self.failed.total() / sales if sales else 0.0

    def problems(self) -> list[str]:
        """Why this scenario does not hold; empty where it does."""
        found = list(self.troubles)
        for who in Who:
            ratio = self.ratio(who, 0.99)
            if ratio is None:
                found.append(f"the {who} sold nothing that could be compared")
            elif ratio >= RATIO_LIMIT:
                found.append(f"the p99 of the {who} is {ratio:.2f} times as long with the crowd")
        found += [f"{count} honest sales failed: {reason}" for reason, count in self.failed.items()]
        for spoken, samples in self.held.items():
            held = sum(samples) / len(samples) if samples else 0.0
            if held < HELD_SHARE_MIN * min(self.sockets, self.admitted_max):
                found.append(f"shows nothing: only {held:.0f} hostile sockets were held on the {spoken} listener")
        if self.scenario is Scenario.BEYOND and self.sockets > self.admitted_max:
            if not self.counted.get("connections_refused_address"):
                found.append("shows nothing: no hostile socket was refused")
            over = max((max(samples, default=0) for samples in self.held.values()), default=0)
            if over > self.admitted_max:
                found.append(f"{over} sockets of one address were held, the limit is {self.admitted_max}")
        found += [f"{count} connections were left on {name}" for name, count in self.left_open.items() if count]
        return found

    def json(self) -> dict[str, Any]:
        """Everything, by name."""
        return {
            "scenario": self.scenario,
            "sockets_per_listener": self.sockets,
            "held": not self.problems(),
            "problems": self.problems(),
            "answered_share": self.answered_share,
            "failed": dict(self.failed),
            "honest": {
                who.value: {
                    **{condition.value: self._figures(who, condition) for condition in Condition},
                    "ratio": {name: _rounded(self.ratio(who, quantile)) for name, quantile in QUANTILES.items()},
                }
                for who in Who
            },
            "hostile_held": {spoken.value: spread(samples) for spoken, samples in self.held.items()},
            "gateway_counted": self.counted,
            "hostile_opened": self.crowd_opened,
            "hostile_closed": self.crowd_closed,
            "memory_mib": self.memory_mib,
            "left_open": self.left_open,
        }

    def _figures(self, who: Who, condition: Condition) -> dict[str, float | None]:
        tally = self.tallies[who, condition]
        quantiles = {name: _rounded(at_quantile(tally.latencies_ms, quantile)) for name, quantile in QUANTILES.items()}
        return {"sales": tally.sales, "failed": tally.failed.total(), **quantiles}


def at_quantile(values: Iterable[float], quantile: float) -> float | None:
    """The value that this part of the values does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else None


def spread(samples: list[int]) -> dict[str, int]:
    """Least, mean and most; all 0 of none."""
    if not samples:
        return {"least": 0, "mean": 0, "most": 0}
    return {"least": min(samples), "mean": round(sum(samples) / len(samples)), "most": max(samples)}


def risen(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Counters of connections that listeners refused or closed, by how much they rose; names without their room."""
    rises = {}
    for name, count in sorted(after.items()):
        short = name.removeprefix("terminal.")
        told = short.startswith(("closed_", "connections_")) or short == "problem_body_timeout"
        if name != short and told and (rise := count - before.get(name, 0)):
            rises[short] = rise
    return rises


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
