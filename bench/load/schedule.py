"""When requests are due, and whose turn it is: fixed by the seed before anything is sent."""

from __future__ import annotations

import random

_SECOND_NS = 1_000_000_000


class Schedule:
    """Due times, rising, in nanoseconds from the beginning; and terminals, each in its turn.

    Terminals take turns in an order drawn once: a terminal comes again when all others have had their turn, as shops'
    terminals do on the whole.
    """

    def __init__(self, rate_per_s: float, terminals: int, seed: int, *, poisson: bool = True) -> None:
        """Begin at 0.

        Args:
            poisson: gaps are drawn (arrivals that know nothing of each other), else all are equal.
        """
        dice = random.Random(f"schedule-{seed}")
        self._gap_ns = _SECOND_NS / rate_per_s
        self._draw = dice.expovariate if poisson else None
        self._order = list(range(terminals))
        dice.shuffle(self._order)
        self._turn = 0
        self._at_ns = 0.0

    def next_due_ns(self) -> int:
        """When the next request is due."""
        self._at_ns += self._gap_ns if self._draw is None else self._draw(1.0) * self._gap_ns
        return int(self._at_ns)

    def next_terminal(self) -> int:
        """Whose it is."""
        turn = self._turn
        self._turn = turn + 1 if turn + 1 < len(self._order) else 0
        return self._order[turn]
