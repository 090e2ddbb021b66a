"""Rounds of the closed loop against several servers by turns, so that all of them meet the same weather.

Other work on the machine, a disk that slows down, a cache that fills: whatever changes in minutes changes for
everybody, and a ratio of medians from one run stays a ratio.
"""

from __future__ import annotations

import asyncio
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bench.load.closed_loop import ClosedLoop, ClosedResult
from bench.load.peers_server import Peer, PeerBroken, hang_up
from bench.load.tally import Outcome

_T = TypeVar("_T")
_LOOKS: Final = 25
_LOOK_EVERY_S: Final = 0.02

GENERATOR_LIMIT: Final = 0.9
"""Share of a core from which on the generator may have been the limit."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """One server's figures so far.

    Attributes:
        problem: why it is not measured (any more); empty while all is well.
        missing: the problem is only that it is not installed.
        rates_per_s, p99_us, generator_cpu: one of each for a round; the rates are of what was stored.
        refused: requests that were answered with a refusal, in all rounds.
    """

    peer: Peer
    problem: str = ""
    missing: bool = False
    rates_per_s: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    generator_cpu: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def rate_per_s(self) -> float:
        """The median of its rounds; 0 where there are none."""
        return statistics.median(self.rates_per_s) if self.rates_per_s else 0.0

    @property
    def generator_was_limit(self) -> bool:
        """Whether the generator may have been slower than the server."""
        return bool(self.generator_cpu) and statistics.median(self.generator_cpu) >= GENERATOR_LIMIT

    def disclose(self, folder: Path) -> None:
        """Make the problem fit for a document: on one line, and without the place where it was measured."""
        self.problem = " ".join(self.problem.replace(str(folder), "(folder)").split())

    def note(self) -> str:
        """How it was measured, or why it was not."""
        if not self.rates_per_s:
            return self.problem or "not measured: it was interrupted before"
        low, high = min(self.rates_per_s), max(self.rates_per_s)
        cpu = statistics.median(self.generator_cpu)
        count = len(self.rates_per_s)
        told = (
            f"{self.peer.note}; {count} round{'' if count == 1 else 's'}, {low:,.0f} to {high:,.0f} a second, "
            f"p99 {statistics.median(self.p99_us) / 1000:.1f} ms, generator {cpu:.0%} of a core"
        )
        if self.refused:
            told += f"; {self.refused:,} requests refused, not counted"
        if self.generator_was_limit:
            told += ": it may have been the limit"
        return f"{told}; then: {self.problem}" if self.problem else told


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What each round sends.

    Attributes:
        clients: each with one request in flight.
        payload: what is stored under each key, where the server does not make it from a sale.
    """

    clients: int
    seconds: float
    warm_up_s: float
    payload: bytes


def p99_us(service_ns: array[int]) -> float:
    """The 99th percentile of times in nanoseconds, in microseconds; 0 of none."""
    ordered = sorted(service_ns)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000 if ordered else 0.0


async def one_round(peer: Peer, load: Load, batch: int) -> ClosedResult:
    """One round against one server, and a count afterwards.

    Raises:
        PeerBroken: a client gave up, an answer did not come, a new key passed for a known one, or what is stored is
            not what was acknowledged. A refusal is an answer, and nothing may be stored of it.
    """
    before = await peer.stored() if peer.keeps else 0
    loop = ClosedLoop()
    clients = await peer.join(loop, load.clients, batch, load.payload)
    try:
        result = await loop.run(load.seconds, warm_up_s=load.warm_up_s)
    finally:
        hang_up(clients)
    if result.failed or result.left:
        why = await _end_of(peer) or "; ".join(result.problems) or f"{result.left} requests had no answer"
        raise PeerBroken(why)
    if declined := result.acknowledged[Outcome.DECLINED]:
        raise PeerBroken(f"{declined} requests were declined")
    if peer.keeps:
        kept = sum(client.last + 1 - client.unkept for client in clients)
        if (there := await peer.stored() - before) != kept:
            raise PeerBroken(f"{kept} records were acknowledged, {there} are stored")
    return result


async def _end_of(peer: Peer) -> str:
    """How the server ended, if it does within half a second: its connections may be gone before it is."""
    for _ in range(_LOOKS):
        if told := peer.ended():
            return told
        await asyncio.sleep(_LOOK_EVERY_S)
    return ""


async def measure(
    standings: Sequence[Standing], load: Load, rounds: Iterable[int], progress: Callable[[int, Standing], None]
) -> None:
    """Measure by turns, and note it in the standings; who has a problem is left out from then on.

    Args:
        rounds: their numbers, from 1; each server sees a number once.
        progress: told before each turn which round, and whose.
    Cancellation: what was measured until then stays noted.
    """
    for number in rounds:
        for standing in rotated(standings, number - 1):
            if standing.problem:
                continue
            progress(number, standing)
            try:
                result = await one_round(standing.peer, load, number)
            except (PeerBroken, OSError) as broken:
                standing.problem = await _end_of(standing.peer) or str(broken)
                continue
            standing.rates_per_s.append(result.acknowledged[Outcome.APPROVED] / result.seconds)
            standing.refused += result.acknowledged[Outcome.REFUSED]
            standing.p99_us.append(p99_us(result.service_ns))
            standing.generator_cpu.append(result.cpu_share)


def rotated(all_of_them: Sequence[_T], number: int) -> Iterator[_T]:
    """The order of a round: forwards and backwards by turns, and each is first once in as many rounds.

    So none has its turn always when the machine is freshest, or always after the same neighbour, whose checkpoint or
    write-back it would meet.
    """
    size = len(all_of_them)
    step = -1 if number % 2 else 1
    for place in range(size):
        yield all_of_them[(number + step * place) % size]
