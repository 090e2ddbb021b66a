"""The crowd of an overload run: far more sales than the gateway can take, offered at their own pace.

It is a program of its own, so that offering costs the measured processes nothing. Sales are made ready as bytes and
patched; every terminal has one sale in flight, and there are so many of them that the load is as good as open. A
terminal that still waits when its turn comes offers nothing: what was held back so is counted, and the rate that is
reported is what was really sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec
import uvloop

from bench.overload_frames import Frames, HttpAnswers, HttpSales, IsoAnswers
from bench.overload_records import ANSWERED, ASK_AGAIN, NOTHING_STORED, SENT, Outcome, packed

HTTP_FIRST: Final = 9_000_000
"""Numbers of terminals from here on speak HTTP, each on a connection of its own."""
ANSWER_WITHIN_S: Final = 15.0
"""A sale that has no answer that long after the last one was sent was met with silence."""
_TICK_S: Final = 0.004
_TOLD_EVERY_S: Final = 1.0
_CATCH_UP_S: Final = 0.25
"""Sales that fell due while this program was busy are offered late, but not those of longer ago."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the run.

    Attributes:
        times: of the capacity; 0 for a closed loop, which measures the capacity.
        tries: how often a refused sale is sent in all; each time at once.
    """

    name: str
    seconds: float
    times: float
    tries: int = 1


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The first argument of this program, as JSON."""

    iso_port: int
    http_port: int
    connections: int
    terminals: int
    tills: int
    closed_loop: int
    http_share: float
    records: str
    phases: tuple[Phase, ...]


class Second(msgspec.Struct, kw_only=True):
    """Sales that were sent in one second of a phase. p99 of the approved ones; None where there was none."""

    approved: int
    refused: int
    p99_ms: float | None


class Shown(msgspec.Struct, kw_only=True):
    """What came of a phase.

    Attributes:
        seconds: as it was; sent: sales, each repeat anew; repeats: of those.
        held_back: fell due, and their terminals were still waiting.
        codes: answers by field 39, or "http 503".
        silent: never answered; unmatched: answers to nothing that was asked, which must not be.
        approved_ms, refused_ms: p50 and p99.
        taken_after_refusal: sales that were refused at first and approved when sent again.
    """

    name: str
    times: float
    seconds: float = 0.0
    sent: int = 0
    repeats: int = 0
    held_back: int = 0
    approved: int = 0
    refused: int = 0
    silent: int = 0
    taken_after_refusal: int = 0
    codes: dict[str, int] = msgspec.field(default_factory=dict)
    approved_ms: tuple[float, float] = (0.0, 0.0)
    refused_ms: tuple[float, float] = (0.0, 0.0)
    by_second: list[Second] = msgspec.field(default_factory=list)


class Told(msgspec.Struct, kw_only=True):
    """A line of this program's output; the last one has `phases`."""

    phase: str = ""
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    phases: list[Shown] | None = None
    capacity_per_s: float = 0.0
    lost_connections: int = 0
    unmatched: int = 0
    problem: str = ""


class Line(Protocol):
    """A connection that sales are queued on."""

    def queue(self, terminal: int, stan: int) -> None:
        """Put a sale behind what is queued."""

    def flush(self) -> None:
        """Send what is queued."""


class Tally:
    """What a phase has brought so far."""

    def __init__(self, phase: Phase) -> None:
        self.shown = Shown(name=phase.name, times=phase.times)
        self.phase = phase
        self.began = 0.0
        self.refused_ms = array("f")
        self.codes: Counter[str] = Counter()
        self._approved: list[array[float]] = []
        self._refused: Counter[int] = Counter()

    def answered(self, sent_at: float, now: float, outcome: Outcome, code: str) -> None:
        """Enter an answer under the second in which its sale was sent."""
        second = int(sent_at - self.began)
        self.codes[code] += 1
        if outcome is Outcome.APPROVED:
            while len(self._approved) <= second:
                self._approved.append(array("f"))
            self._approved[second].append((now - sent_at) * 1000)
        elif outcome is Outcome.REFUSED:
            self._refused[second] += 1
            self.refused_ms.append((now - sent_at) * 1000)

    def finished(self) -> Shown:
        """Everything, when no answer can come any more."""
        shown, everyone = self.shown, array("f")
        for each in self._approved:
            everyone.extend(each)
        shown.approved, shown.refused = len(everyone), len(self.refused_ms)
        shown.approved_ms = (_quantile(everyone, 0.5), _quantile(everyone, 0.99))
        shown.refused_ms = (_quantile(self.refused_ms, 0.5), _quantile(self.refused_ms, 0.99))
        shown.codes = dict(self.codes)
        for second in range(max(len(self._approved), max(self._refused, default=-1) + 1)):
            approved = self._approved[second] if second < len(self._approved) else array("f")
            p99_ms = _quantile(approved, 0.99) if approved else None
            shown.by_second.append(Second(approved=len(approved), refused=self._refused[second], p99_ms=p99_ms))
        return shown


def _quantile(values: array[float], quantile: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(quantile * len(ordered)))], 2) if ordered else 0.0


class Crowd:
    """All terminals and tills."""

    def __init__(self, orders: Orders, tell: Callable[[Told], None]) -> None:
        self._orders = orders
        self._tell = tell
        self._records = array("Q")
        self._stans: dict[int, int] = {}
        self._sent_at: dict[int, float] = {}
        self._tries: dict[int, int] = {}
        self._tally_of: dict[int, Tally] = {}
        self._line_of: Callable[[int], Line]
        self._free: deque[int] = deque(range(orders.terminals))
        self._free_tills: deque[int] = deque(range(HTTP_FIRST, HTTP_FIRST + orders.tills))
        self._tally = Tally(orders.phases[0])
        self._closed = False
        self._capacity = 0.0
        self._lost = self._unmatched = 0
        self._leaving = False
        self._answered = asyncio.Event()

    def write_records(self, path: Path) -> None:
        """Write down what was sent and answered. Raises: OSError."""
        with path.open("wb") as file:
            self._records.tofile(file)

    async def run(self) -> Told:
        """Connect, go through the phases, and wait for the last answers. Raises: OSError."""
        loop = asyncio.get_running_loop()
        frames, orders = Frames(), self._orders
        iso = [IsoLine(self, frames) for _ in range(orders.connections)]
        tills = {HTTP_FIRST + n: HttpLine(self, HTTP_FIRST + n) for n in range(orders.tills)}
        for line in iso:
            await loop.create_connection(lambda line=line: line, "127.0.0.1", orders.iso_port)  # type: ignore[misc]
        for till in tills.values():
            await loop.create_connection(lambda till=till: till, "127.0.0.1", orders.http_port)  # type: ignore[misc]
        self._line_of = lambda number: tills[number] if number >= HTTP_FIRST else iso[number % len(iso)]
        tallies = []
        for phase in orders.phases:
            self._tally = Tally(phase)
            tallies.append(self._tally)
            self._tell(Told(phase=phase.name, capacity_per_s=self._capacity))
            await (self._open(phase) if phase.times else self._closed_loop(phase))
        await self._until_answered()
        for tally in self._tally_of.values():
            tally.shown.silent += 1
        self._leaving = True
        return Told(
            phases=[tally.finished() for tally in tallies],
            capacity_per_s=self._capacity,
            lost_connections=self._lost,
            unmatched=self._unmatched,
        )

    # --- pace --------------------------------------------------------------------------------------------------------

    async def _closed_loop(self, phase: Phase) -> None:
        """So many terminals, each with its next sale as soon as the last one is answered; the later half counts."""
        tally, self._closed = self._tally, True
        tally.began = time.monotonic()
        await self._ticking(phase, lambda _: min(len(self._free), max(0, self._orders.closed_loop - self._waiting())))
        self._closed = False
        shown = tally.shown
        shown.seconds = time.monotonic() - tally.began
        whole = [second.approved for second in Tally.finished(tally).by_second[int(phase.seconds / 2) : -1]]
        shown.by_second.clear()
        self._capacity = sum(whole) / len(whole) if whole else tally.codes["00"] / shown.seconds
        await self._until_answered()

    async def _until_answered(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                while self._tally_of:
                    self._answered.clear()
                    await self._answered.wait()

    def _waiting(self) -> int:
        return len(self._tally_of)

    async def _open(self, phase: Phase) -> None:
        rate = phase.times * self._capacity
        tally = self._tally
        tally.began = time.monotonic()
        offered = 0

        def due(now: float) -> int:
            nonlocal offered
            count = int(rate * (now - tally.began)) - offered
            late = max(0, count - int(rate * _CATCH_UP_S) - 1)
            offered += count
            tally.shown.held_back += late
            return count - late

        await self._ticking(phase, due)
        tally.shown.seconds = time.monotonic() - tally.began

    async def _ticking(self, phase: Phase, due: Callable[[float], int]) -> None:
        until = self._tally.began + phase.seconds
        tell_at = self._tally.began + _TOLD_EVERY_S
        while (now := time.monotonic()) < until:
            self._offer(due(now), now)
            if now >= tell_at:
                tell_at += _TOLD_EVERY_S
                codes = self._tally.codes
                self._tell(Told(counts={"sent": self._tally.shown.sent, **codes}))
            await asyncio.sleep(_TICK_S)

    def _offer(self, count: int, now: float) -> None:
        """Send sales that are due, as far as there are terminals that do not wait."""
        touched: set[Line] = set()
        for terminal in self._next(count):
            self._stans[terminal] = self._stans.get(terminal, 0) + 1
            self._tries[terminal] = 1
            self._send(terminal, now, touched)
        for line in touched:
            line.flush()

    def _next(self, count: int) -> Iterator[int]:
        tills = 0 if self._closed else int(count * self._orders.http_share + time.monotonic() % 1)
        for number in range(count):
            if number < tills and self._free_tills:
                yield self._free_tills.popleft()
            elif self._free:
                yield self._free.popleft()
            else:
                self._tally.shown.held_back += 1

    def _send(self, terminal: int, now: float, touched: set[Line]) -> None:
        stan = self._stans[terminal]
        self._sent_at[terminal] = now
        self._tally_of[terminal] = self._tally
        self._tally.shown.sent += 1
        self._records.append(packed(SENT, terminal, stan, ""))
        line = self._line_of(terminal)
        line.queue(terminal, stan)
        touched.add(line)

    # --- called by connections ---------------------------------------------------------------------------------------

    def answered(self, terminal: int, stan: int, outcome: Outcome, code: str, now: float, touched: set[Line]) -> None:
        """An answer has come."""
        tally = self._tally_of.get(terminal)
        if tally is None or (stan and stan != self._stans[terminal]):
            self._unmatched += 1
            return
        stan = self._stans[terminal]
        self._records.append(packed(ANSWERED, terminal, stan, _written(outcome, code)))
        tally.answered(self._sent_at[terminal], now, outcome, code)
        del self._tally_of[terminal]
        if not self._tally_of:
            self._answered.set()
        if outcome is Outcome.REFUSED and self._tries[terminal] < self._tally.phase.tries:
            self._tries[terminal] += 1
            self._tally.shown.repeats += 1
            self._send(terminal, now, touched)
            return
        if outcome is Outcome.APPROVED and self._tries[terminal] > 1:
            tally.shown.taken_after_refusal += 1
        (self._free_tills if terminal >= HTTP_FIRST else self._free).append(terminal)
        if self._closed:
            self._stans[self._free[0]] = self._stans.get(self._free[0], 0) + 1
            self._tries[self._free[0]] = 1
            self._send(self._free.popleft(), now, touched)

    def lost(self) -> None:
        """The gateway has closed a connection."""
        self._lost += not self._leaving


def _written(outcome: Outcome, code: str) -> str:
    """The two characters that are written down of an answer."""
    if outcome is not Outcome.REFUSED:
        return code
    return ASK_AGAIN if code in {ASK_AGAIN, "http 409"} else NOTHING_STORED


class IsoLine(asyncio.Protocol):
    """A connection that many terminals share."""

    def __init__(self, crowd: Crowd, frames: Frames) -> None:
        self._crowd, self._frames = crowd, frames
        self._answers = IsoAnswers()
        self._queued: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._crowd.lost()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        now = time.monotonic()
        touched: set[Line] = set()
        for terminal, stan, code in self._answers.feed(data):
            outcome = Outcome.of_code(code)
            self._crowd.answered(terminal, stan, outcome, code, now, touched)
        for line in touched:
            line.flush()

    def queue(self, terminal: int, stan: int) -> None:
        """Put a sale behind what is queued."""
        self._queued.append(self._frames.sale(terminal, stan))

    def flush(self) -> None:
        """Send what is queued."""
        queued, self._queued = self._queued, []
        if self._transport is not None:
            self._transport.write(b"".join(queued))


class HttpLine(asyncio.Protocol):
    """A till's connection."""

    def __init__(self, crowd: Crowd, terminal: int) -> None:
        self._crowd, self._terminal = crowd, terminal
        self._sales = HttpSales(terminal)
        self._answers = HttpAnswers()
        self._queued = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._crowd.lost()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        now = time.monotonic()
        touched: set[Line] = set()
        for outcome, code in self._answers.feed(data):
            self._crowd.answered(self._terminal, 0, outcome, code, now, touched)
        for line in touched:
            line.flush()

    def queue(self, terminal: int, stan: int) -> None:  # noqa: ARG002 - a till is alone on its connection
        """Put a sale behind what is queued."""
        self._queued += self._sales.sale(stan)

    def flush(self) -> None:
        """Send what is queued."""
        queued, self._queued = self._queued, b""
        if self._transport is not None:
            self._transport.write(queued)


def main() -> None:
    """Run the crowd: one argument, its orders; a line of JSON for each thing that it tells."""

    def tell(told: Told) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()

    orders = msgspec.json.decode(sys.argv[1], type=Orders)

    async def run() -> None:
        crowd = Crowd(orders, tell)
        told = await crowd.run()
        crowd.write_records(Path(orders.records))
        tell(told)

    try:
        uvloop.run(run())
    except OSError as error:
        tell(Told(problem=f"the crowd could not connect: {error}"))


if __name__ == "__main__":
    main()
