"""Makes a failing script short: leaves steps out (delta debugging), then makes what is left plain, in bounded time.

A shorter script counts only if the same promise breaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Final

from tests.simulation.runs import Failure, Outcome, run_script
from tests.simulation.steps import Flow, Moods, Pass, Script, Setup, Step

_PLAIN: Final = {"amount": (1_000, 100), "card": (0,), "wrong": (0,), "ms": (0, 1_000), "kept": (0,), "keep": (0,),
    "after": (0,), "group": (1,), "run": (1,), "alive": (1,), "code": ("00",), "mti": ("0200",), "first": (0,),
    "count": (1,), "name": ("approve",)}  # fmt: skip


class Shrinker:
    """Shrinks one script within `seconds`; `tell` is called now and then with a line for whoever waits."""

    def __init__(
        self, outcome: Outcome, *, seconds: float = 60.0, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        assert outcome.failure is not None
        self.script = outcome.script
        self.failure: Failure = outcome.failure
        self.runs = 0
        self._until = time.monotonic() + seconds
        self._tell = tell
        self._told = time.monotonic()

    def shrink(self) -> Outcome:
        """The shortest script found, with what breaks in it."""
        self._try(replace(self.script, steps=self.script.steps[: self.failure.at]))
        before = None
        while before != self.script and not self._late:
            before = self.script
            self._leave_out()
            self._simplify()
        return run_script(self.script, traced=True)

    @property
    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _try(self, script: Script) -> bool:
        """Keep a script if it breaks the same promise."""
        if script == self.script:
            return False
        self.runs += 1
        failure = run_script(script).failure
        if time.monotonic() - self._told > 2:
            self._told = time.monotonic()
            self._tell(f"shrinking: {len(self.script.steps)} steps after {self.runs} runs")
        if failure is None or failure.rule != self.failure.rule:
            return False
        self.script, self.failure = script, failure
        return True

    def _leave_out(self) -> None:
        size = max(1, len(self.script.steps) // 2)
        while size and not self._late:
            start = len(self.script.steps)
            while start > 0 and not self._late:
                start = max(0, start - size)
                steps = self.script.steps
                self._try(replace(self.script, steps=steps[:start] + steps[start + size :]))
            size //= 2

    def _simplify(self) -> None:
        for place in range(len(self.script.steps) - 1, -1, -1):
            done = False
            while not done and not self._late and place < len(self.script.steps):
                steps = self.script.steps
                done = not any(
                    self._try(replace(self.script, steps=(*steps[:place], step, *steps[place + 1 :])))
                    for step in plainer(steps[place])
                )
        plain = Setup()
        for field in fields(Setup):
            if field.name not in {"host", "tills"}:
                value = getattr(plain, field.name)
                self._try(replace(self.script, setup=replace(self.script.setup, **{field.name: value})))


def plainer(step: Step) -> Iterator[Step]:
    """Plainer steps that might do as well."""
    if isinstance(step, Flow):
        yield Pass(0, 1)
        for place in range(len(step.ways)):
            if len(step.ways) > 1:
                yield Flow(step.ways[:place] + step.ways[place + 1 :])
        for place, way in enumerate(step.ways):
            if (easy := {"R": "r", "z": "a", "x": "e"}.get(way)) is not None:
                yield Flow(step.ways[:place] + easy + step.ways[place + 1 :])
    elif isinstance(step, Moods) and "," in step.names:
        names = step.names.split(",")
        for place in range(len(names)):
            yield Moods(",".join(names[:place] + names[place + 1 :]))
    for field in fields(step):
        value = getattr(step, field.name)
        options = _PLAIN.get(field.name, ())
        for plain in options[: options.index(value)] if value in options else options:
            yield replace(step, **{field.name: plain})  # type: ignore[arg-type]
