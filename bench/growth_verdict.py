"""What a large journal costs beside a small one: the figures of a run, and whether they hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

RATIO_MAX: Final = 1.2
RESIDENT_BYTES_MAX: Final = 300_000_000
_MB: Final = 1_000_000


class Size(StrEnum):
    """Which of the two journals."""

    LARGE = "large"
    SMALL = "small"


class Callers(StrEnum):
    """Which terminals sell: ones that the journal has never seen, or ones whose sales are stored in it."""

    NEW = "new"
    KNOWN = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Resident memory in bytes, by process; `journal` is 0 where the journal has no process of its own."""

    gateway: int
    journal: int

    @classmethod
    def of(cls, family: Sequence[int]) -> Resident:
        """Of a process and its children, in this order."""
        return cls(gateway=family[0] if family else 0, journal=sum(family[1:]))

    @property
    def together(self) -> int:
        """Both processes; what they share counts twice."""
        return self.gateway + self.journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One start of a gateway, until it was stopped.

    Attributes:
        start_ms: from the spawn of the process until it was ready.
        start_cpu_s: processor time of its processes until then; other work on the machine does not change it.
        at_start, most: when it was ready, and the most of each process since.
    """

    round: int
    size: Size
    start_ms: float
    start_cpu_s: float
    at_start: Resident
    most: Resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A load on one of the gateways.

    Attributes:
        approved: sales in these seconds.
        cpu_s: processor time of the gateway's processes in these seconds.
        generator_share: of one core, what the generator took.
    """

    round: int
    size: Size
    callers: Callers
    approved: int
    seconds: float
    cpu_s: float
    generator_share: float

    @property
    def us_per_sale(self) -> float:
        """Processor time of an approved sale in microseconds; 0 where there was none."""
        return 1e6 * self.cpu_s / self.approved if self.approved else 0.0

    @property
    def rate_per_s(self) -> float:
        """Approved sales a second."""
        return self.approved / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True, kw_only=True)
class Growth:
    """What a run has shown.

    Attributes:
        transactions, beside: in the large and in the small journal before the load.
        rounds: that were asked for.
        filled_s: how long filling the large journal took.
        large_grew: sales that the load added to the large journal; the small one was put back before each round.
        problems: anything that makes the run fail, beside its limits.
    """

    transactions: int
    beside: int
    rounds: int
    filled_s: float = 0.0
    bytes_per_transaction: float = 0.0
    large_grew: int = 0
    turns: list[Turn] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def cost_us(self, size: Size, callers: Callers) -> float:
        """Median processor time of a sale in microseconds; 0 where nothing was measured."""
        return _median(turn.us_per_sale for turn in self._of(size, callers))

    def rate_per_s(self, size: Size, callers: Callers) -> float:
        """Median rate; 0 where nothing was measured."""
        return _median(turn.rate_per_s for turn in self._of(size, callers))

    def ratio(self, callers: Callers) -> float:
        """Cost with the large journal by cost with the small one, medians of all rounds; 0 where it is not known."""
        return _divided(self.cost_us(Size.LARGE, callers), self.cost_us(Size.SMALL, callers))

    def ratios(self, callers: Callers) -> list[float]:
        """The same of each round that has both turns."""
        small = {turn.round: turn.us_per_sale for turn in self._of(Size.SMALL, callers)}
        large = {turn.round: turn.us_per_sale for turn in self._of(Size.LARGE, callers)}
        return [_divided(large[number], small[number]) for number in sorted(large.keys() & small.keys())]

    def start_ms(self, size: Size) -> float:
        """Median start-up time; 0 where it was not started."""
        return _median(life.start_ms for life in self.lives if life.size is size)

    def start_cpu_s(self, size: Size) -> float:
        """Median processor time of a start; 0 where it was not started."""
        return _median(life.start_cpu_s for life in self.lives if life.size is size)

    def at_start(self, size: Size) -> Resident:
        """The most memory that a gateway had when it was ready, over its starts; each process by itself."""
        return _most(life.at_start for life in self.lives if life.size is size)

    def most(self, size: Size) -> Resident:
        """The most memory that it ever had; each process by itself, so that together they are at most that."""
        return _most(life.most for life in self.lives if life.size is size)

    def failures(self) -> list[str]:
        """Why it did not hold, one line each; empty where it held."""
        failures = list(self.problems)
        for callers in Callers:
            ratio = self.ratio(callers)
            complete = all(len(self._of(size, callers)) == self.rounds for size in Size)
            if not complete or ratio <= 0:
                failures.append(f"{callers.value} terminals: not measured in {self.rounds} rounds")
            elif ratio > RATIO_MAX:
                failures.append(f"{callers.value} terminals: a sale costs {ratio:.3f} times as much, above {RATIO_MAX}")
        for when, resident in (("at start", self.at_start(Size.LARGE)), ("at most", self.most(Size.LARGE))):
            if resident.gateway <= 0:
                failures.append(f"memory {when}: not measured")
            elif resident.together >= RESIDENT_BYTES_MAX:
                told = f"{resident.together / _MB:.0f} MB, not under {RESIDENT_BYTES_MAX // _MB}"
                failures.append(f"memory {when}: {told}")
        return failures

    @property
    def held(self) -> bool:
        """Whether all of it held."""
        return not self.failures()

    def _of(self, size: Size, callers: Callers) -> list[Turn]:
        return [turn for turn in self.turns if turn.size is size and turn.callers is callers]


def figures(growth: Growth) -> dict[str, Any]:
    """All of it, for a file: costs in microseconds, memory in bytes, times in the unit of their names."""
    return {
        "held": growth.held,
        "failures": growth.failures(),
        "limits": {"ratio": RATIO_MAX, "resident_bytes": RESIDENT_BYTES_MAX},
        "transactions": growth.transactions,
        "beside": growth.beside,
        "large_grew": growth.large_grew,
        "filled_s": round(growth.filled_s, 1),
        "filled_s_per_million": round(filled_s_per_million(growth), 1),
        "bytes_per_transaction": round(growth.bytes_per_transaction, 1),
        "cost": {callers.value: _cost(growth, callers) for callers in Callers},
        "memory": {
            size.value: {"at_start": _bytes(growth.at_start(size)), "most": _bytes(growth.most(size))} for size in Size
        },
        "start_ms": {size.value: round(growth.start_ms(size), 1) for size in Size},
        "start_cpu_s": {size.value: round(growth.start_cpu_s(size), 2) for size in Size},
        "turns": [_turn(turn) for turn in growth.turns],
        "lives": [_life(life) for life in growth.lives],
    }


def lines(growth: Growth) -> list[str]:
    """What is said of it: the verdict first, then each limit, then the rounds."""
    told = ["HELD" if growth.held else "DID NOT HOLD", *(f"  {failure}" for failure in growth.failures()), ""]
    for callers in Callers:
        ratios = growth.ratios(callers)
        spread = f"; rounds {min(ratios):.3f} to {max(ratios):.3f}" if ratios else ""
        large, small = (growth.cost_us(size, callers) for size in (Size.LARGE, Size.SMALL))
        told.append(
            f"cost of a sale, {callers.value + ' terminals:':<17} {growth.ratio(callers):.3f} times "
            f"({large:.1f} us beside {small:.1f}{spread}), limit {RATIO_MAX}"
        )
    limit = f", limit {RESIDENT_BYTES_MAX // _MB} MB"
    for size, stored in ((Size.LARGE, growth.transactions), (Size.SMALL, growth.beside)):
        for when, resident in (("at start", growth.at_start(size)), ("at most", growth.most(size))):
            apart = f"gateway {resident.gateway / _MB:.1f}, journal {resident.journal / _MB:.1f}"
            told.append(
                f"memory with {stored:,}, {when}: {resident.together / _MB:.1f} MB ({apart})"
                f"{limit if size is Size.LARGE else ''}"
            )
    per_million = f"{filled_s_per_million(growth):,.0f} s for each million"
    grew = f"{growth.transactions:,}, and {growth.large_grew:,} more by the load"
    starts = f"{growth.start_ms(Size.LARGE):,.0f} ms beside {growth.start_ms(Size.SMALL):,.0f}"
    start_cpu = f"{growth.start_cpu_s(Size.LARGE):.2f} s beside {growth.start_cpu_s(Size.SMALL):.2f}"
    return [
        *told,
        f"start-up: {starts}; processor time {start_cpu}",
        f"filling: {growth.filled_s:,.0f} s, {per_million}; {growth.bytes_per_transaction:,.0f} bytes a transaction",
        f"journals: {grew}; {growth.beside:,}, put back before each round",
        "",
        *_table(growth),
    ]


def filled_s_per_million(growth: Growth) -> float:
    """Seconds to store a million in the large journal."""
    return _divided(1e6 * growth.filled_s, growth.transactions)


def _table(growth: Growth) -> list[str]:
    table = [
        f"{'round':>5}  {'terminals':<9}{'large us':>10}{'small us':>10}{'ratio':>8}{'large /s':>11}{'small /s':>11}"
    ]
    by_turn = {(turn.round, turn.callers, turn.size): turn for turn in growth.turns}
    for number in sorted({turn.round for turn in growth.turns}):
        for callers in Callers:
            large, small = (by_turn.get((number, callers, size)) for size in (Size.LARGE, Size.SMALL))
            if large is None or small is None:
                continue
            ratio = _divided(large.us_per_sale, small.us_per_sale)
            table.append(
                f"{number:>5}  {callers.value:<9}{large.us_per_sale:>10.1f}{small.us_per_sale:>10.1f}{ratio:>8.3f}"
                f"{large.rate_per_s:>11,.0f}{small.rate_per_s:>11,.0f}"
            )
    return table


def _cost(growth: Growth, callers: Callers) -> dict[str, Any]:
    return {
        "ratio": round(growth.ratio(callers), 4),
        "ratios": [round(ratio, 4) for ratio in growth.ratios(callers)],
        "us_per_sale": {size.value: round(growth.cost_us(size, callers), 2) for size in Size},
        "rate_per_s": {size.value: round(growth.rate_per_s(size, callers), 1) for size in Size},
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "round": turn.round,
        "size": turn.size.value,
        "terminals": turn.callers.value,
        "approved": turn.approved,
        "seconds": round(turn.seconds, 3),
        "cpu_s": round(turn.cpu_s, 3),
        "us_per_sale": round(turn.us_per_sale, 2),
        "rate_per_s": round(turn.rate_per_s, 1),
        "generator_share": round(turn.generator_share, 3),
    }


def _life(life: Life) -> dict[str, Any]:
    return {
        "round": life.round,
        "size": life.size.value,
        "start_ms": round(life.start_ms, 1),
        "start_cpu_s": round(life.start_cpu_s, 2),
        "at_start": _bytes(life.at_start),
        "most": _bytes(life.most),
    }


def _bytes(resident: Resident) -> dict[str, int]:
    return {"gateway": resident.gateway, "journal": resident.journal, "together": resident.together}


def _most(all_of_them: Iterable[Resident]) -> Resident:
    each = list(all_of_them)
    return Resident(
        gateway=max((one.gateway for one in each), default=0), journal=max((one.journal for one in each), default=0)
    )


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else 0.0


def _divided(value: float, by: float) -> float:
    return value / by if by else 0.0
