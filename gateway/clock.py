"""Where the gateway gets the time from: a monotonic clock for durations, UTC for times of record."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

EARLIEST_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z: a clock before it was never set."""


class ClockWrong(Exception):
    """The wall clock cannot be right; the message says what to do."""


def refuse_wrong_clock(utc_ms: int) -> None:
    """Refuse a wall clock that was never set, as on a machine without a clock battery.

    Transaction keys carry the year (D1): a sale taken in a wrong year would not be recognised when it is retried in the
    right one, and would be booked twice.

    Raises:
        ClockWrong: it is before 2024.
    """
    if utc_ms < EARLIEST_MS:
        said = datetime.fromtimestamp(max(0, utc_ms) / 1000, UTC)
        raise ClockWrong(f"the clock says {said:%Y-%m-%d}, which cannot be: set it (for example by NTP), then start")


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
