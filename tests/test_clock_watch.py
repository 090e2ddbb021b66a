"""Whoever runs the gateway is told when the clock of the machine was set."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.clock_watch import ClockWatch


@dataclass
class SetClock:
    """A clock that goes on with `passes` and is set with `off_ms`."""

    now_ms: int = 5_000
    off_ms: int = 1_800_000_000_000

    def mono_ms(self) -> int:
        return self.now_ms

    def utc_ms(self) -> int:
        return self.now_ms + self.off_ms


@pytest.mark.parametrize(("by_ms", "said"), [(-3_600_000, "back by 3,600 s"), (86_400_000, "forward by 86,400 s")])
def test_a_step_of_the_clock_is_told_once_and_counted(by_ms: int, said: str) -> None:
    clock, told = SetClock(), list[tuple[str, dict[str, str]]]()
    watch = ClockWatch(clock, lambda name, facts: told.append((name, facts)))
    clock.now_ms += 1_000
    watch.look()
    assert (told, watch.steps) == ([], 0)
    clock.off_ms += by_ms
    watch.look()
    watch.look()
    ((name, facts),) = told
    assert (name, facts["by_ms"], watch.steps) == ("clock.stepped", str(by_ms), 1)
    assert said in facts["text"]


def test_a_clock_that_is_slewed_is_not_told_of() -> None:
    clock, told = SetClock(), list[str]()
    watch = ClockWatch(clock, lambda name, _: told.append(name))
    for _ in range(3600):
        clock.now_ms += 1_000
        clock.off_ms += 1
        watch.look()
    assert not told
