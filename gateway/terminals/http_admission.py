"""Who may send now: a rate for each terminal, and a fair share of what can be under way (INV-9)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType

import msgspec


class Share(Enum):
    """Why a request may not be taken now."""

    FULL = auto()
    """The whole listener has as much under way as it can."""
    TERMINAL = auto()
    """This terminal has its share."""


class Rates:
    """A token bucket for each terminal, kept as the one time at which the bucket is full again.

    The table is bounded: the terminal that was silent for longest is forgotten, and starts with a full bucket.
    Times are monotonic milliseconds.
    """

    def __init__(self, rate_per_s: int, burst: int, terminals_max: int) -> None:
        self._interval_ms = 1000 / rate_per_s
        self._tolerance_ms = (burst - 1) * self._interval_ms
        self._terminals_max = terminals_max
        self._full_again_ms: OrderedDict[str, float] = OrderedDict()

    def spend(self, terminal: str, now_ms: int) -> int:
        """Take one request into account; returns 0, or how long to wait where there are too many."""
        table = self._full_again_ms
        full_ms = table.get(terminal, 0.0)
        if full_ms < now_ms:
            full_ms = float(now_ms)
        early_ms = full_ms - now_ms - self._tolerance_ms
        if early_ms > 0:
            return max(1, round(early_ms))
        table[terminal] = full_ms + self._interval_ms
        table.move_to_end(terminal)
        if len(table) > self._terminals_max:
            table.popitem(last=False)
        return 0

    def __len__(self) -> int:
        return len(self._full_again_ms)


class InFlight:
    """Requests under way, by terminal.

    From half of the total on, a terminal that has as much as its share (the total by the number of terminals that have
    anything under way) gets no more, so that a few busy ones never keep the others out.
    """

    def __init__(self, total_max: int, per_terminal_max: int) -> None:
        self._total_max = total_max
        self._per_terminal_max = per_terminal_max
        self._by_terminal: dict[str, int] = {}
        self.total = 0

    def enter(self, terminal: str) -> Share | None:
        """Take a place, or tell why there is none."""
        mine = self._by_terminal.get(terminal, 0)
        if self.total >= self._total_max:
            return Share.FULL
        if mine >= self._per_terminal_max:
            return Share.TERMINAL
        if mine and self.total * 2 >= self._total_max and mine * len(self._by_terminal) >= self._total_max:
            return Share.TERMINAL
        self._by_terminal[terminal] = mine + 1
        self.total += 1
        return None

    def leave(self, terminal: str) -> None:
        """Give a place back."""
        self.total -= 1
        left = self._by_terminal[terminal] - 1
        if left:
            self._by_terminal[terminal] = left
        else:
            del self._by_terminal[terminal]


class Place(msgspec.Struct, frozen=True):
    """A place for one request under way; given back once, by `leave` or at the end of a `with`.

    Attributes:
        peer: the address for which a place of the reserve was taken; None where it is one of all.
        left: told when it is given back.
    """

    terminal: str
    peer: str | None
    left: Callable[[str, str | None], None]

    def leave(self) -> None:
        """Give it back."""
        self.left(self.terminal, self.peer)

    def __enter__(self) -> None:
        """The place was taken when it was made."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()
