"""What came out of a soak, and how it is told: the verdict first, then figures, then how they went over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.history import Defect, Finding
from bench.screen import Screen
from bench.soak_flat import MIB, Flatness, Judgement
from bench.soak_plan import SoakOptions
from bench.soak_samples import Window

ZEROS: Final = tuple(Defect)
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_MAX: Final = 60
_SHOWN: Final = 20
_FIGURES: Final[tuple[tuple[str, Callable[[Window], float], str], ...]] = (
    ("resident memory, MiB", lambda one: (one.rss_bytes or 0) / MIB, "8.1f"),
    ("handles, idle", lambda one: one.handles or 0, "8.0f"),
    ("threads, idle", lambda one: one.threads or 0, "8.0f"),
    ("journal, MiB", lambda one: one.journal_bytes / MIB, "8.2f"),
    ("write-ahead log, MiB", lambda one: one.wal_most_bytes / MIB, "8.2f"),
    ("gateway's log, KiB", lambda one: one.log_bytes / 1024, "8.0f"),
    ("queue, most in a window", lambda one: one.queued_most, "8.0f"),
    ("settled after, s", lambda one: one.settled_s, "8.1f"),
    ("transactions in a window", lambda one: one.transactions, "8.0f"),
    ("bench's own memory, MiB", lambda one: (one.bench_rss_bytes or 0) / MIB, "8.1f"),
)


@dataclass(slots=True)
class SoakResult:
    """What came out of a soak.

    Attributes:
        counts: over all windows that were judged, by the checker's names.
        events: troubles that were made, and what the operator did, by name.
        findings, problems: what ended the soak, if anything did; failed_at_s: when.
        ended_early: by an interruption; what was run was judged all the same.
        folder: where everything recorded was kept, if it was.
    """

    options: SoakOptions
    minutes: float = 0.0
    rounds: int = 0
    checks: int = 0
    restarts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    ended_early: bool = False
    failed_at_s: float | None = None
    folder: Path | None = None

    @property
    def growing(self) -> list[Judgement]:
        """Figures that grow."""
        return [one for one in self.judgements if one.flatness is Flatness.GROWS]

    @property
    def unjudged(self) -> list[Judgement]:
        """Figures for which the soak was too short."""
        return [one for one in self.judgements if one.flatness is Flatness.TOO_SHORT]

    @property
    def shows(self) -> bool:
        """Whether there was anything to look at: a soak that sold nothing shows nothing."""
        return bool(self.windows) and self.counts["acknowledged"] > 0 and self.counts["booked"] > 0

    @property
    def held(self) -> bool:
        """Whether the gateway kept its promises, and nothing grew that must not."""
        return self.shows and not self.findings and not self.problems and not self.growing

    def figures(self) -> dict[str, dict[str, float]]:
        """First, last and most of each figure, over the windows."""
        return {
            name: {
                "first": round(of(self.windows[0]), 2),
                "last": round(of(self.windows[-1]), 2),
                "most": round(max(map(of, self.windows)), 2),
            }
            for name, of, _ in _FIGURES
            if self.windows
        }

    def json(self) -> dict[str, Any]:
        """Everything, by name."""
        found = Counter(finding.defect for finding in self.findings)
        return {
            "held": self.held,
            "ended_early": self.ended_early,
            "seed": self.options.seed,
            "minutes": round(self.minutes, 2),
            "rounds": self.rounds,
            "checks": self.checks,
            "restarts": self.restarts,
            **{name: self.counts[name] for name in ("transactions", "acknowledged", "booked", "declined", "reversed")},
            **{defect.value: found[defect] for defect in ZEROS},
            "resent": self.counts["resent"],
            "failed_at_s": self.failed_at_s,
            "findings": [str(finding) for finding in self.findings[:1000]],
            "problems": self.problems,
            "events": dict(sorted(self.events.items())),
            "judgements": [
                {"figure": one.figure, "is": one.flatness.value, "text": one.text, "tolerance": one.tolerance}
                for one in self.judgements
            ],
            "figures": self.figures(),
            "windows": [msgspec.structs.asdict(one) for one in self.windows],
        }


def sparkline(values: list[float], width: int = _SPARKS_MAX) -> str:
    """Values over time as one line of blocks, from 0; each block shows the most of its part."""
    if not values:
        return ""
    size = -(-len(values) // width)
    parts = [max(values[at : at + size]) for at in range(0, len(values), size)]
    top = max(parts)
    return "".join(_SPARKS[round(part / top * (len(_SPARKS) - 1)) if top > 0 else 0] for part in parts)


def headline(result: SoakResult) -> str:
    """The verdict in one line."""
    if result.findings or result.problems:
        at = f" after {result.failed_at_s:.1f} s" if result.failed_at_s is not None else ""
        return f"BROKEN{at}, seed {result.options.seed}"
    if not result.shows:
        return "SHOWS NOTHING: no window with a sale that was both acknowledged and booked was judged."
    if result.growing:
        return f"GROWS: {', '.join(one.figure for one in result.growing)}. No transaction went wrong."
    early = "ENDED EARLY, " if result.ended_early else ""
    flat = "everything flat"
    if result.unjudged:
        flat = f"too short to judge {', '.join(one.figure for one in result.unjudged)}"
    zeros = "nothing lost, doubled, out of order, changed or unsettled"
    return f"{early}HELD for {result.minutes:.1f} minutes: {zeros}; {flat}."


def tell(result: SoakResult, screen: Screen) -> None:
    """Print everything, the verdict first."""
    screen.line()
    screen.line(headline(result), "bold green" if result.held else "bold red")
    for problem in result.problems:
        screen.line(f"  {problem}", "red")
    for finding in result.findings[:_SHOWN]:
        screen.line(f"  {finding}", "red")
    if len(result.findings) > _SHOWN:
        screen.line(f"  ... and {len(result.findings) - _SHOWN} more", "red")
    told = result.json()
    for name in ("transactions", "acknowledged", "booked", "declined", "reversed", *(one.value for one in ZEROS)):
        screen.line(f"  {name.replace('_', ' '):<26}{told[name]:>9}")
    screen.line()
    screen.line(f"  {'in quiet windows':<26}{'first':>9}{'last':>9}{'most':>9}  over time")
    for (name, figure), (_, of, form) in zip(result.figures().items(), _FIGURES, strict=False):
        numbers = "".join(f" {figure[which]:{form}}" for which in ("first", "last", "most"))
        screen.line(f"  {name:<26}{numbers}  {sparkline([of(one) for one in result.windows])}")
    screen.line()
    for one in result.judgements:
        style = "bold red" if one.flatness is Flatness.GROWS else ""
        screen.line(f"  {one.figure:<30}{one.flatness.value}: {one.text} (tolerance: {one.tolerance})", style)
    screen.line()
    events = ", ".join(f"{name} {count}" for name, count in sorted(result.events.items()))
    screen.line(f"  rounds {result.rounds}, windows {len(result.windows)}, checks {result.checks}; {events}")
    screen.line(f"  seed {result.options.seed}")
    if result.folder is not None:
        screen.line(f"\nKept in {result.folder}: history.jsonl, ledger.jsonl, samples.jsonl, gateway.log, the journal.")
    if not result.held:
        screen.line(f"Again: {again(result.options)}")


def again(options: SoakOptions) -> str:
    """The command that makes the same troubles again."""
    return (
        f"holdfast-bench soak --minutes {options.minutes:g} --terminals {options.terminals} --tills {options.tills} "
        f"--seed {options.seed} --rate {options.sales_per_second:g} "
        f"--dialect {options.dialect} --acquirer-dialect {options.acquirer_dialect}"
    )
