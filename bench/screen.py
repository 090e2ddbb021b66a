"""What the bench shows while it works (a live table on a terminal, plain lines anywhere else), and what it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text


class Screen:
    """Phases that pass, and counts that change. Use as a context."""

    def __init__(self, title: str) -> None:
        self.console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self.live = self.console.is_terminal
        self._title = title
        self._phases: list[tuple[float, str]] = []
        self._counts: dict[str, int] = {}
        self._display: Live | None = None

    def __enter__(self) -> Self:
        if self.live:
            self._display = Live(console=self.console, refresh_per_second=4, transient=True)
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def phase(self, at_s: float, text: str) -> None:
        """Something new begins."""
        self._phases.append((at_s, text))
        if self._display is None:
            counts = "  ".join(f"{name} {count}" for name, count in self._counts.items() if count)
            print(f"{at_s:6.1f} s  {text}{f'   [{counts}]' if counts else ''}", flush=True)
        else:
            self._display.update(self._drawn())

    def counts(self, counts: Mapping[str, int]) -> None:
        """The counts as they are now."""
        self._counts = dict(counts)
        if self._display is not None:
            self._display.update(self._drawn())

    def _drawn(self) -> Group:
        phases = Table.grid(padding=(0, 2))
        for number, (at_s, text) in enumerate(self._phases[-12:], start=1):
            newest = number == min(len(self._phases), 12)
            phases.add_row(f"{at_s:6.1f} s", Text(text, style="bold" if newest else "dim"))
        counts = Table(box=None, pad_edge=False)
        for name in self._counts:
            counts.add_column(name, justify="right")
        counts.add_row(*(str(count) for count in self._counts.values()))
        return Group(Text(self._title, style="bold cyan"), phases, Text(), counts)

    def line(self, text: str = "", style: str = "") -> None:
        """A line that stays."""
        self.console.print(Text(text, style=style if self.live else ""))


def write_json(path: Path | None, document: Mapping[str, Any], *, indent: int = 2) -> None:
    """Write what a run tells to a file, if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(document, indent=indent) + "\n", encoding="utf-8")
