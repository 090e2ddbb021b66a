"""N clients, each with one request in flight, as fast as the server lets them: the maximum rate, whoever the server is.

The loop knows no protocol. A client writes a request when it is told to and says when the acknowledgement is there; the
loop notes the times. The gateway and everything that it is compared with are driven by this same loop.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from bench.load.tally import Outcome, Tally

__all__ = ["Client", "ClosedLoop", "ClosedResult", "Outcome"]

_LEFT_WITHIN_S: Final = 10.0
_PROBLEMS_MAX: Final = 5


class Client(Protocol):
    """One connection's worth of work, or one terminal of several on a connection."""

    def send(self, number: int) -> None:
        """Write request `number` of this client: 0, 1, 2 ... Do not wait.

        When its acknowledgement is read, the client calls `acknowledged` of the loop with the index that `add` gave;
        if that will never come, it calls `failed`. Several clients that share a connection may gather what they are
        told to send and write it at the end of the same turn of the event loop.
        """


@dataclass(slots=True, kw_only=True)
class ClosedResult:
    """What came of it.

    Attributes:
        seconds: measured, without the warm-up.
        acknowledged: in these seconds, by outcome: approved, declined, refused.
        failed: clients that gave up.
        left: requests that had no answer some seconds after the end.
        service_ns: from write to acknowledgement, of those in `acknowledged`, in the order of arrival.
        cpu_share: of one core, what this process took: near 1.0 the generator was the limit.
    """

    seconds: float
    acknowledged: list[int]
    failed: int
    left: int
    service_ns: array[int] = field(repr=False)
    cpu_share: float
    problems: list[str]

    @property
    def answered(self) -> int:
        """All acknowledgements of the measured seconds."""
        return sum(self.acknowledged)

    @property
    def rate_per_s(self) -> float:
        """Acknowledgements a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0


class ClosedLoop:
    """The loop. Add the clients, connected; then `run`, or `begin`, `take` and `stop`. On the event loop's thread."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self._begun_ns = array("q")
        self._numbers: list[int] = []
        self._busy: list[bool] = []
        self._in_flight = 0
        self._running = False
        self._tally = Tally()
        self._times = self._tally.service_ns
        self._outcomes = self._tally.outcomes
        self._idle = asyncio.Event()
        self._clock = time.perf_counter_ns
        self.failed_clients = 0
        self.problems: list[str] = []

    @property
    def clients(self) -> Sequence[Client]:
        """Those that were added, by index."""
        return self._clients

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return self._in_flight

    def add(self, client: Client) -> int:
        """Take a client in; returns the index by which it reports."""
        self._clients.append(client)
        self._begun_ns.append(0)
        self._numbers.append(0)
        self._busy.append(False)
        return len(self._clients) - 1

    # --- called by clients -----------------------------------------------------------------------------------------

    def acknowledged(self, index: int, outcome: int = Outcome.APPROVED) -> None:
        """The answer to the client's request is there; the next one is sent before this returns."""
        now = self._clock()
        self._outcomes[outcome] += 1
        self._times.append(now - self._begun_ns[index])
        if self._running:
            number = self._numbers[index]
            self._numbers[index] = number + 1
            self._begun_ns[index] = now
            self._clients[index].send(number)
        else:
            self._ended(index)

    def failed(self, index: int, why: str) -> None:
        """The client's request will have no answer; it sends no more."""
        self._tally.failed += 1
        self.failed_clients += 1
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(f"client {index}: {why}")
        if self._busy[index]:
            self._ended(index)

    def _ended(self, index: int) -> None:
        self._busy[index] = False
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    # --- called by whoever runs it ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have every client send."""
        self._running = True
        self._in_flight = len(self._clients)
        self._idle.clear()
        for index, client in enumerate(self._clients):
            self._busy[index] = True
            self._begun_ns[index] = self._clock()
            number = self._numbers[index]
            self._numbers[index] = number + 1
            client.send(number)

    def take(self) -> Tally:
        """What was counted since the last call; counting begins anew."""
        tally, self._tally = self._tally, Tally()
        tally.offered = tally.answered + tally.failed
        self._times, self._outcomes = self._tally.service_ns, self._tally.outcomes
        return tally

    async def stop(self, within_s: float = _LEFT_WITHIN_S) -> int:
        """Send nothing more and wait for what is in flight; returns how many have no answer."""
        self._running = False
        if self._in_flight:
            await self._until_idle(within_s)
        return self._in_flight

    async def run(self, seconds: float, *, warm_up_s: float = 0.5) -> ClosedResult:
        """Send for `warm_up_s` plus `seconds`; only what is acknowledged in the latter counts.

        Cancellation: no further request is sent; what is in flight is not waited for.
        """
        try:
            self.begin()
            await self._until_idle(warm_up_s)
            self.take()
            began, cpu = self._clock(), time.process_time()
            await self._until_idle(seconds)
            took_s = (self._clock() - began) / 1e9
            cpu_share = (time.process_time() - cpu) / took_s
            tally = self.take()
        finally:
            self._running = False
        left = await self.stop()
        return ClosedResult(
            seconds=took_s,
            acknowledged=tally.outcomes,
            failed=self.failed_clients,
            left=left,
            service_ns=tally.service_ns,
            cpu_share=cpu_share,
            problems=self.problems,
        )

    async def _until_idle(self, within_s: float) -> None:
        """Let time pass, or until nothing is in flight."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return
