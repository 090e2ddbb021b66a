"""Where the gateway gets the time from: a monotonic clock for durations, UTC for times of record."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The time, as the conductor asks for it and hands it to the core."""

    def mono_ms(self) -> int:
        """Milliseconds from an arbitrary start; never goes back, whatever is done to the wall clock."""

    def utc_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z; steps when the wall clock is set."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def mono_ms(self) -> int:
        """Milliseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    def utc_ms(self) -> int:
        """Milliseconds of the wall clock."""
        return time.time_ns() // 1_000_000
