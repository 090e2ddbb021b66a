"""The phases of a run: what the generator counted in each, added up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench.load.generator import times_us
from bench.load.histogram import LatencyRecorder
from bench.load.results import Latency, Phase
from bench.load.tally import Outcome
from bench.load.worker import Beat


@dataclass(slots=True)
class Part:
    """One phase, while it is being counted.

    Attributes:
        measured: whether it belongs to the total; a warm-up and a drain do not.
        cpu_share: of one core, the generator's.
    """

    name: str
    began_s: float
    outage: bool = False
    measured: bool = True
    seconds: float = 0.0
    offered: int = 0
    outcomes: list[int] = field(default_factory=lambda: [0] * len(Outcome))
    failed: int = 0
    late: int = 0
    lag_ns_max: int = 0
    cpu_s: float = 0.0
    counted_s: float = 0.0
    service: LatencyRecorder = field(default_factory=LatencyRecorder)
    response: LatencyRecorder = field(default_factory=LatencyRecorder)

    @property
    def answered(self) -> int:
        """All answers."""
        return sum(self.outcomes)

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.counted_s if self.counted_s > 0 else 0.0

    def add(self, beat: Beat) -> tuple[int, int]:
        """Enter a beat; returns its answers and the 99th percentile of their response times in microseconds."""
        service = times_us(beat.service)
        response = times_us(beat.response) if beat.response else service
        self.service.record_all(service)
        self.response.record_all(response)
        self.offered += beat.offered
        self.outcomes = [mine + theirs for mine, theirs in zip(self.outcomes, beat.outcomes, strict=True)]
        self.failed += beat.failed
        self.late += beat.late
        self.lag_ns_max = max(self.lag_ns_max, beat.lag_ns_max)
        self.cpu_s += beat.cpu_s
        self.counted_s += beat.seconds
        response.sort()
        return len(response), response[int(0.99 * len(response))] if response else 0

    def merge(self, other: Part) -> None:
        """Add another phase."""
        self.seconds += other.seconds
        self.offered += other.offered
        self.outcomes = [mine + theirs for mine, theirs in zip(self.outcomes, other.outcomes, strict=True)]
        self.failed += other.failed
        self.late += other.late
        self.lag_ns_max = max(self.lag_ns_max, other.lag_ns_max)
        self.service.merge(other.service)
        self.response.merge(other.response)

    def result(self) -> Phase:
        """As it stands in the document."""
        approved, declined, refused = self.outcomes
        return Phase(
            name=self.name,
            began_s=round(self.began_s, 3),
            seconds=round(self.seconds, 3),
            outage=self.outage,
            offered=self.offered,
            answered=self.answered,
            approved=approved,
            declined=declined,
            refused=refused,
            failed=self.failed,
            rate_per_s=round(self.answered / self.seconds, 1) if self.seconds else 0.0,
            latency=Latency(
                service=self.service.percentiles(),
                response=self.response.percentiles(),
                service_hdr=self.service.encoded(),
                response_hdr=self.response.encoded(),
            ),
        )


class Parts:
    """The phases of a run, one after the other."""

    def __init__(self) -> None:
        self.all: list[Part] = []
        self._began = time.monotonic()
        self._since = self._began

    @property
    def at_s(self) -> float:
        """Seconds of the run so far."""
        return time.monotonic() - self._began

    def begin(self, name: str, *, outage: bool = False, measured: bool = True) -> int:
        """End the present phase and begin another; returns its number."""
        self.end()
        self._since = time.monotonic()
        self.all.append(Part(name, self.at_s, outage, measured))
        return len(self.all) - 1

    def end(self) -> None:
        """End the present phase. Safe to call twice."""
        if self.all and not self.all[-1].seconds:
            self.all[-1].seconds = time.monotonic() - self._since

    def total(self) -> Part | None:
        """All that is measured as one; None where nothing is."""
        measured = [part for part in self.all if part.measured]
        if not measured:
            return None
        total = Part("total", measured[0].began_s, any(part.outage for part in measured))
        for part in measured:
            total.merge(part)
        return total
