"""What a loop has counted since it was last asked."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum


class Outcome(IntEnum):
    """What an acknowledgement says. For a server that knows no declines everything is `APPROVED`."""

    APPROVED = 0
    DECLINED = 1
    REFUSED = 2  # the server could not take it: 96, 91, a 503, an error of the store


@dataclass(slots=True)
class Tally:
    """Counts and times of a part of a run.

    Attributes:
        offered: requests that were due; of a closed loop, those that were sent.
        outcomes: answers by `Outcome`.
        failed: requests that will have no answer.
        service_ns: from write to answer, in the order of answers.
        response_ns: from due time to answer, in the same order; empty of a closed loop, where both are the same.
        lag_ns_max: the longest that the loop itself was late: a request was due, its client free, and nothing written.
        late: requests for which that was more than `open_loop.LATE_NS`.
    """

    offered: int = 0
    outcomes: list[int] = field(default_factory=lambda: [0] * len(Outcome))
    failed: int = 0
    service_ns: array[int] = field(default_factory=lambda: array("q"))
    response_ns: array[int] = field(default_factory=lambda: array("q"))
    lag_ns_max: int = 0
    late: int = 0

    @property
    def answered(self) -> int:
        """All answers."""
        return sum(self.outcomes)
