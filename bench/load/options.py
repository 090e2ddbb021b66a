"""What `holdfast-bench run` can be told, with the words that its help says of each."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final


class Scenario(StrEnum):
    """What happens in a run."""

    ONLINE = "online"
    STORED = "stored"
    OUTAGE = "outage"
    FLAPPING = "flapping"
    DUPLICATES = "duplicates"
    DRAIN = "drain"
    MIXED = "mixed"
    CLOSED = "closed"


SCENARIOS: Final = {
    Scenario.ONLINE: "through to the acquirer and back",
    Scenario.STORED: "the acquirer is away from the start: everything is stored",
    Scenario.OUTAGE: "steady, cut, kill -9 of the gateway, heal, drain",
    Scenario.FLAPPING: "the acquirer comes and goes",
    Scenario.DUPLICATES: "every transaction is sent again 1 to 5 times, and all answers must agree",
    Scenario.DRAIN: "a backlog is stored beforehand; the acquirer comes back",
    Scenario.MIXED: "sales, declines, reversals, voids and balance inquiries",
    Scenario.CLOSED: "every terminal one in flight, as fast as it goes: the maximum",
}

_SCHEDULED: Final = frozenset(Scenario) - {Scenario.CLOSED, Scenario.DRAIN}
ONLY_FOR: Final = {
    "rate": _SCHEDULED,
    "arrivals": _SCHEDULED,
    "seconds": frozenset(Scenario) - {Scenario.DRAIN},
    "acquirer": frozenset({Scenario.CLOSED}),
    "backlog": frozenset({Scenario.DRAIN}),
}
"""Options that make no difference but in these scenarios: given elsewhere, they are a mistake."""

HELP: Final = {
    "scenario": "; ".join(f"{name}: {what}" for name, what in SCENARIOS.items()),
    "terminals": "Terminals, each with one request in flight; one that is due while its terminal is busy waits.",
    "rate": "Requests a second that fall due, on a schedule that does not wait for answers. Not for closed and drain.",
    "seconds": "Seconds of load, without warm-up and drain.",
    "protocol": "iso8583 or http.",
    "tls": "Terminals speak TLS.",
    "commit_delay_ms": "Added to every commit of the gateway, for a disk that syncs slower than this one.",
    "seed": "Repeats the schedule and all that is drawn; drawn and printed where not given.",
    "json": "Also write the results to this file.",
    "report": "Also write a report for people to this file: one HTML page that needs nothing else.",
    "keep": "Keep everything recorded in this new folder.",
    "dialect": "The dialect of the terminals: a shipped name, or the path of a dialect file.",
    "connections": "Terminals share so many connections, as behind a concentrator; 0 for one each. iso8583 only.",
    "acquirer": "closed only: whether the acquirer is there or away.",
    "backlog": "drain only: sales stored beforehand.",
    "arrivals": "poisson: arrivals know nothing of each other; even: all gaps are equal.",
    "drain": "Afterwards wait until all is booked at the acquirer, and check every approval there; "
    "without it the gateway's queue is counted and that is all.",
    "drain_within_s": "How long the queue may take to become empty.",
}
"""Help text of each option, by name."""


def drawn(seed: int | None) -> int:
    """The seed that was given, or one that is drawn now."""
    return secrets.randbelow(1_000_000) if seed is None else seed


def not_new(folder: Path) -> str:
    """Why something cannot be kept in this new folder; empty where it can. Asked before hours of measuring."""
    if folder.is_dir():
        return "the folder is not empty" if any(folder.iterdir()) else ""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    return "" if os.access(nearest, os.W_OK) else f"{nearest} cannot be written to"


class OptionsWrong(ValueError):
    """Options do not go together; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options, with defaults.

    Raises:
        OptionsWrong: they do not go together.
    """

    scenario: Scenario = Scenario.ONLINE
    terminals: int = 64
    rate: float = 1_000.0
    seconds: float = 20.0
    protocol: str = "iso8583"
    tls: bool = False
    commit_delay_ms: float = 0.0
    seed: int = 0
    json_path: Path | None = None
    report_path: Path | None = None
    keep: Path | None = None
    dialect: str = "unionpay"
    connections: int = 0
    acquirer: str = "away"
    backlog: int = 100_000
    arrivals: str = "poisson"
    drain: bool = True
    drain_within_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        mistakes = []
        if self.protocol not in ("iso8583", "http"):
            mistakes.append("--protocol is iso8583 or http")
        if self.acquirer not in ("there", "away"):
            mistakes.append("--acquirer is there or away")
        if self.arrivals not in ("poisson", "even"):
            mistakes.append("--arrivals is poisson or even")
        if self.protocol == "http" and self.scenario is Scenario.MIXED:
            mistakes.append("mixed is for --protocol iso8583")
        if self.connections and (self.protocol == "http" or self.connections > self.terminals):
            mistakes.append("--connections is for iso8583, and not more than --terminals")
        if self.keep is not None and (problem := not_new(self.keep)):
            mistakes.append(f"--keep: {problem}")
        if self.rate <= 0 or self.seconds <= 0 or self.terminals <= 0 or self.backlog <= 0:
            mistakes.append("--rate, --seconds, --terminals and --backlog are above 0")
        if mistakes:
            raise OptionsWrong("; ".join(mistakes))

    @property
    def closed(self) -> bool:
        """Whether nothing is scheduled."""
        return self.scenario is Scenario.CLOSED

    @property
    def there_at_first(self) -> bool:
        """Whether the acquirer is there when the load begins."""
        if self.scenario is Scenario.CLOSED:
            return self.acquirer == "there"
        return self.scenario not in (Scenario.STORED, Scenario.DRAIN)

    def told(self) -> dict[str, str | int | float | bool]:
        """All that makes a difference, for the results."""
        told: dict[str, str | int | float | bool] = {
            "scenario": self.scenario.value,
            "terminals": self.terminals,
            "seconds": self.seconds,
            "protocol": self.protocol,
            "tls": self.tls,
            "commit_delay_ms": self.commit_delay_ms,
            "seed": self.seed,
            "dialect": self.dialect,
            "connections": self.connections,
        }
        if self.closed:
            told["acquirer"] = self.acquirer
        elif self.scenario is Scenario.DRAIN:
            told["backlog"] = self.backlog
        else:
            told["rate"] = self.rate
            told["arrivals"] = self.arrivals
        return told
