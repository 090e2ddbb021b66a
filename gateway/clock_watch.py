"""Tells when the wall clock of the machine was set while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.clock import Clock

STEP_MS: Final = 5_000
"""What is told of; a clock that is slewed goes by less than a millisecond a second."""
_LOOKS_EVERY_S: Final = 1.0


class ClockWatch:
    """Compares the wall clock with the monotonic one, which nobody sets. Durations go by the latter: nothing is done.

    But entries and transaction keys carry the time of record: an auditor finds a step, and so must its reason be found.
    """

    def __init__(self, clock: Clock, report: Callable[[str, dict[str, str]], None]) -> None:
        self._clock = clock
        self._report = report
        self._ahead_ms = self._offset_ms()
        self._timer: asyncio.TimerHandle | None = None
        self.steps = 0

    def start(self) -> None:
        """Look once a second from now on."""
        self._timer = asyncio.get_running_loop().call_later(_LOOKS_EVERY_S, self._turn)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Tell of a step since the last look."""
        ahead_ms, before_ms = self._offset_ms(), self._ahead_ms
        self._ahead_ms = ahead_ms
        by_ms = ahead_ms - before_ms
        if abs(by_ms) < STEP_MS:
            return
        self.steps += 1
        text = f"the machine's clock was set {'back' if by_ms < 0 else 'forward'} by {abs(by_ms) / 1000:,.0f} s"
        more = "; an audit will tell of entries whose time goes back" if by_ms < 0 else ", or the machine stood still"
        self._report("clock.stepped", {"by_ms": str(by_ms), "text": text + more})

    def _turn(self) -> None:
        self.look()
        self.start()

    def _offset_ms(self) -> int:
        return self._clock.utc_ms() - self._clock.mono_ms()
