"""What an overload run shows, and whether that will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from bench.history import Defect, Finding
from bench.overload_crowd import Second, Shown

MEMORY_MIB_MAX: Final = 400.0
"""The gateway's resident memory, at any time."""
PLATEAU_GROWTH_MAX: Final = 1.15
"""The last third of the flood against the middle third; what is bounded does not grow on."""
PLATEAU_SLACK_MIB: Final = 12.0
RECOVERED_WITHIN_S: Final = 5
NORMAL_FACTOR: Final = 2.0
"""Normal again: a second's p99 within so many times the longest p99 of a second before the flood."""
NORMAL_FLOOR_MS: Final = 250.0
"""A p99 below this is normal whatever it was before: nobody at a counter notices."""
REFUSED_WITHIN_MS: Final = 5_000.0
"""The p99 of a refusal, far below any terminal's patience. What lies in sockets before the gateway is part of it."""
STOOD_IN: Final = "core.outcome.stored"
"""The gateway's counter of sales that it has approved by itself."""
OFFERED_TIMES_MIN: Final = 2.0
"""A run that offered less than so many times the capacity shows nothing. To refuse costs a good part of what to take
costs, so that a machine which the crowd shares with the gateway cannot offer many times as much."""


class Scenario(StrEnum):
    """What the acquirer does meanwhile."""

    ANSWERING = "answering"
    AWAY = "away"


@dataclass(slots=True, kw_only=True)
class Played:
    """What came out of one scenario.

    Attributes:
        capacity_per_s: sales approved a second in a closed loop.
        phases: by name, in order.
        memory_mib: the gateway's resident memory, a sample a second, by phase.
        figures: of the history checker.
        findings: of the checker, without sales that the gateway still owes the acquirer.
        owed: approved sales that were still in the gateway's queue at the end; not lost.
        counted: the gateway's counters that limits have raised.
        troubles: what went wrong beside.
    """

    scenario: Scenario
    capacity_per_s: float = 0.0
    phases: list[Shown] = field(default_factory=list)
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    lost_connections: int = 0
    unmatched: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    owed: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def phase(self, name: str) -> Shown | None:
        """A phase by its name."""
        return next((shown for shown in self.phases if shown.name == name), None)

    def offered_times(self, shown: Shown) -> float:
        """How many times the capacity was really offered."""
        return shown.sent / shown.seconds / self.capacity_per_s if shown.seconds and self.capacity_per_s else 0.0

    @property
    def normal_ms(self) -> float:
        """The longest p99 of a second before the flood."""
        normal = self.phase("normal")
        return max((s.p99_ms for s in normal.by_second if s.p99_ms is not None), default=0.0) if normal else 0.0

    def recovered_after_s(self, after: str) -> int | None:
        """Seconds after which p99 was normal and nothing was refused, and stayed so for two; None where never."""
        shown = self.phase(after)
        seconds = shown.by_second if shown is not None else []
        limit_ms = max(NORMAL_FLOOR_MS, NORMAL_FACTOR * self.normal_ms)
        good = [_is_normal(second, limit_ms) for second in seconds]
        for number in range(len(good) - 1):
            if good[number] and good[number + 1]:
                return number
        return None

    def problems(self) -> list[str]:
        """Why this scenario does not hold; empty where it does."""
        found = list(self.troubles)
        for finding in self.findings:
            if len(found) < 20:
                found.append(str(finding))
        if not self.capacity_per_s or not self.normal_ms:
            return [*found, "shows nothing: no capacity or no normal latency was measured"]
        found += self._flood_problems()
        for after in ("after the flood", "after the storm"):
            took_s = self.recovered_after_s(after)
            if took_s is None or took_s > RECOVERED_WITHIN_S:
                normal = f"{NORMAL_FACTOR:g} times the normal {self.normal_ms:.1f} ms or {NORMAL_FLOOR_MS:g} ms"
                found.append(f"{after}: p99 was not within {normal}, without refusals, within {RECOVERED_WITHIN_S} s")
        most = max((mib for samples in self.memory_mib.values() for mib in samples), default=0.0)
        if most > MEMORY_MIB_MAX:
            found.append(f"the gateway took {most:.0f} MiB, more than {MEMORY_MIB_MAX:.0f}")
        if grown := self._grown():
            found.append(grown)
        if self.scenario is Scenario.ANSWERING and (stood_in := self.counted.get(STOOD_IN, 0)):
            found.append(f"{stood_in} sales were approved without the acquirer, which answered")
        silent = sum(shown.silent for shown in self.phases)
        if silent:
            found.append(f"{silent} sales were met with silence")
        if self.lost_connections:
            found.append(f"{self.lost_connections} connections were closed on the crowd")
        if self.unmatched:
            found.append(f"{self.unmatched} answers belonged to nothing that was asked")
        return found

    def _flood_problems(self) -> list[str]:
        flood = self.phase("flood")
        if flood is None:
            return ["shows nothing: there was no flood"]
        found = []
        if (times := self.offered_times(flood)) < min(OFFERED_TIMES_MIN, flood.times):
            found.append(f"shows nothing: only {times:.1f} times the capacity could be offered")
        if not flood.refused:
            found.append("shows nothing: nothing was refused")
        if not flood.approved:
            found.append("nothing was approved in the flood")
        if flood.refused_ms[1] > REFUSED_WITHIN_MS:
            found.append(f"refusals came late: p99 {flood.refused_ms[1]:.0f} ms")
        return found

    def _grown(self) -> str:
        samples = self.memory_mib.get("flood", [])
        third = len(samples) // 3
        if third < 3:
            return ""
        middle, last = (sum(part) / third for part in (samples[third : 2 * third], samples[-third:]))
        if last <= PLATEAU_GROWTH_MAX * middle + PLATEAU_SLACK_MIB:
            return ""
        return f"memory has no plateau: {middle:.0f} MiB in the middle of the flood, {last:.0f} MiB at its end"

    def json(self) -> dict[str, Any]:
        """Everything, by name."""
        phases: dict[str, Any] = {}
        for shown in self.phases:
            told = msgspec.to_builtins(shown)
            told["offered_times"] = round(self.offered_times(shown), 2)
            told["offered_per_s"] = round(shown.sent / shown.seconds, 1) if shown.seconds else 0.0
            phases[shown.name] = told
        return {
            "held": not self.problems(),
            "problems": self.problems(),
            "capacity_per_s": round(self.capacity_per_s, 1),
            "normal_p99_ms": self.normal_ms,
            "recovered_after_s": {
                after: self.recovered_after_s(after) for after in ("after the flood", "after the storm")
            },
            "phases": phases,
            "memory_mib": {
                name: {"least": min(samples), "most": max(samples), "last": samples[-1]}
                for name, samples in self.memory_mib.items()
                if samples
            },
            "lost_connections": self.lost_connections,
            "unmatched": self.unmatched,
            "history": self.figures,
            "owed_at_the_end": self.owed,
            "counted": self.counted,
        }


def _is_normal(second: Second, limit_ms: float) -> bool:
    return second.p99_ms is not None and second.p99_ms <= limit_ms and not second.refused


def without_owed(findings: Sequence[Finding], owed: frozenset[str]) -> list[Finding]:
    """What the checker found, but for sales that wait in the queue: they are owed, not lost."""
    return [f for f in findings if not (f.defect is Defect.UNSETTLED and f.key in owed and "queue" in f.text)]
