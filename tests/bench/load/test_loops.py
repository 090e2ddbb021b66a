"""Open and closed loops: schedules repeat, waiting counts, and a stall shows where it should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import uvloop

from bench.load.alarm import Alarm
from bench.load.business import RepeatingTerminal
from bench.load.closed_loop import ClosedLoop
from bench.load.frames import Amounts, Answer, AnswerReader, Now, SaleFrames
from bench.load.lines import Dialled, IsoLine, Patience, connect_all
from bench.load.open_loop import OpenLoop
from bench.load.schedule import Schedule
from bench.load.tally import Outcome
from bench.load.terminals import Terminal, Told
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

UNIONPAY = load_dialect("unionpay")
TENTH_NS = 100_000_000


class Held:
    """A client whose requests are answered when the test says so."""

    def __init__(self, loop: OpenLoop | ClosedLoop) -> None:
        self.sent: list[int] = []
        self._loop = loop
        self.index = loop.add(self)

    def send(self, number: int) -> None:
        self.sent.append(number)

    def answer(self) -> None:
        self._loop.acknowledged(self.index)


class Echo(asyncio.Protocol):
    """Sends back what it gets, while the gate is open; else when it opens. `lose` frames are dropped first."""

    def __init__(self, gate: asyncio.Event, lose: list[bytes]) -> None:
        self._gate, self._lose = gate, lose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._lose and self._lose.pop():
            return
        if self._gate.is_set():
            self._transport.write(data)
        else:
            task = asyncio.ensure_future(self._gate.wait())
            task.add_done_callback(lambda _: self._transport.write(data))


async def _echo_server(gate: asyncio.Event, lose: list[bytes] | None = None) -> tuple[asyncio.Server, tuple[str, int]]:
    lost = lose if lose is not None else []
    server = await asyncio.get_running_loop().create_server(lambda: Echo(gate, lost), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[:2]


class EchoTerminal(Terminal):
    """Takes any answer for an approval: its server sends everything back."""

    def answered(self, answer: Answer, frame: bytes) -> None:
        if not self.pending or answer.stan != self.pending_stan:
            self.stale += 1
            return
        self.pending = b""
        self._loop.acknowledged(self.index)


async def _echo_lines(
    loop: OpenLoop | ClosedLoop, address: tuple[str, int], count: int, broken: list[Exception]
) -> list[IsoLine]:
    """Terminals of the loop, each on a connection to an echo server."""
    dialled, reader = Dialled(address, None, 0, broken.append), AnswerReader(UNIONPAY, echo=True)
    now, amounts = Now(), Amounts()
    lines = []
    for index in range(count):
        line = IsoLine(dialled, reader)
        terminal = EchoTerminal(index, SaleFrames(UNIONPAY, index, now, amounts), loop, line)
        line.carry(terminal)
        loop.add(terminal)
        lines.append(line)
    await connect_all(lines)
    return lines


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # the loop under test has no event for this


# --- the schedule --------------------------------------------------------------------------------------------------


def _schedule(seed: int, *, poisson: bool = True) -> list[tuple[int, int]]:
    made = Schedule(1_000, 7, seed, poisson=poisson)
    return [(made.next_due_ns(), made.next_terminal()) for _ in range(500)]


def test_a_schedule_repeats_by_its_seed() -> None:
    assert _schedule(5) == _schedule(5)
    assert _schedule(5) != _schedule(6)


def test_a_schedule_offers_its_rate_and_gives_every_terminal_its_turn() -> None:
    for poisson in (True, False):
        made = _schedule(3, poisson=poisson)
        times = [at for at, _ in made]
        assert times == sorted(times)
        assert 0.8e9 / 1_000 < times[-1] / len(times) < 1.2e9 / 1_000
        for start in range(0, 490, 7):
            assert {terminal for _, terminal in made[start : start + 7]} == set(range(7))
    gaps = {b - a for (a, _), (b, _) in zip(_schedule(3, poisson=False), _schedule(3, poisson=False)[1:], strict=False)}
    assert gaps == {1_000_000}


def test_an_alarm_rings_at_its_time_and_not_when_it_was_set_to_before() -> None:
    async def ring() -> tuple[int, int]:
        rang: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        alarm = Alarm(lambda: rang.set_result(time.perf_counter_ns()))
        due = time.perf_counter_ns() + 60_000_000
        alarm.set(due - 50_000_000)
        alarm.set(due)
        at = await asyncio.wait_for(rang, 5)
        alarm.close()
        alarm.close()
        return due, at

    due, at = uvloop.run(ring())
    assert due <= at + 1_000_000  # where there is no fine timer it may ring a little early


# --- waiting -------------------------------------------------------------------------------------------------------


def test_a_request_that_is_due_while_its_client_is_busy_waits_and_its_response_time_says_so() -> None:
    async def play() -> None:
        loop = OpenLoop()
        client = Held(loop)
        loop.begin(Schedule(200, 1, 1, poisson=False))
        await _until(lambda: loop.in_flight >= 20)
        loop.pause()
        assert client.sent == [0], "one in flight"
        due = loop.in_flight
        for _ in range(due):
            client.answer()
        tally = loop.take()
        assert client.sent == list(range(due))
        assert tally.offered == tally.answered == due
        assert loop.in_flight == 0
        # all are answered at once: what was due first has waited longest, 5 ms more than the next
        waited = list(tally.response_ns)
        assert waited == sorted(waited, reverse=True)
        assert waited[0] - waited[-1] > (due - 2) * 5_000_000
        assert all(service < 50_000_000 for service in tally.service_ns[1:])

    asyncio.run(play())


def test_a_stalled_server_shows_in_the_response_times_of_all_who_were_due_but_in_few_service_times() -> None:
    async def play() -> None:
        gate = asyncio.Event()
        gate.set()
        server, address = await _echo_server(gate)
        loop, broken = OpenLoop(), list[Exception]()
        lines = await _echo_lines(loop, address, 4, broken)
        loop.begin(Schedule(400, 4, 1, poisson=False))
        await _until(lambda: sum(loop._outcomes) >= 40)
        loop.take()
        gate.clear()
        await _until(lambda: loop.in_flight >= 204)  # half a second's worth
        gate.set()
        assert await loop.stop(10) == 0
        tally = loop.take()
        for line in lines:
            line.close()
        server.close()
        assert not broken
        assert sum(one > TENTH_NS for one in tally.service_ns) <= 4
        assert sum(one > TENTH_NS for one in tally.response_ns) >= 100
        assert tally.answered >= 204

    asyncio.run(play())


def test_what_the_generator_itself_delays_is_called_its_own_lag() -> None:
    async def play() -> None:
        loop = OpenLoop()
        clients = [Held(loop) for _ in range(100)]
        loop.begin(Schedule(1_000, 100, 1, poisson=False))
        await _until(lambda: loop.in_flight >= 5)
        time.sleep(0.03)  # noqa: ASYNC251 - the loop is held up on purpose
        await _until(lambda: loop.in_flight >= 40)
        loop.pause()
        tally = loop.take()
        assert tally.lag_ns_max > 20_000_000
        assert tally.late >= 15
        assert sum(len(client.sent) for client in clients) == tally.offered

    asyncio.run(play())


def test_a_client_that_fails_takes_what_it_has_waiting_with_it_and_nothing_is_counted_twice() -> None:
    async def play() -> None:
        loop = OpenLoop()
        client, other = Held(loop), Held(loop)
        loop.begin(Schedule(500, 2, 1, poisson=False))
        await _until(lambda: loop.in_flight >= 10)
        loop.failed(client.index, "gone")
        loop.failed(client.index, "gone")
        seen = loop.in_flight
        await _until(lambda: loop.in_flight > seen)
        loop.pause()
        while loop.in_flight:
            other.answer()
        tally = loop.take()
        assert tally.offered == tally.answered + tally.failed
        assert tally.failed > 5
        assert loop.problems == [f"client {client.index}: gone"]

    asyncio.run(play())


# --- the closed loop -----------------------------------------------------------------------------------------------


def test_a_closed_loop_has_one_in_flight_for_each_client_and_times_each() -> None:
    async def play() -> None:
        gate = asyncio.Event()
        gate.set()
        server, address = await _echo_server(gate)
        loop, broken = ClosedLoop(), list[Exception]()
        lines = await _echo_lines(loop, address, 8, broken)
        result = await loop.run(0.3)
        for line in lines:
            line.close()
        server.close()
        assert not broken
        assert result.answered == len(result.service_ns) > 100
        assert result.acknowledged == [result.answered, 0, 0]
        assert (result.failed, result.left) == (0, 0)
        assert 0 < result.cpu_share < 1.5
        # N clients, each one in flight: their times add up to N times the clock's
        busy = sum(result.service_ns) / 1e9 / result.seconds
        assert 4 < busy <= 8.5

    asyncio.run(play())


def test_a_closed_loop_that_is_stopped_waits_for_what_is_in_flight() -> None:
    async def play() -> None:
        loop = ClosedLoop()
        clients = [Held(loop) for _ in range(3)]
        loop.begin()
        assert await loop.stop(0.01) == 3
        for client in clients:
            client.answer()
            assert client.sent == [0]
        assert await loop.stop(1) == 0

    asyncio.run(play())


# --- terminals -----------------------------------------------------------------------------------------------------


class Gathered:
    """A wire that keeps what is written."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)


def _answered(terminal: Terminal, reader: AnswerReader, code: str, approval: str = "123456") -> None:
    """Answer what a terminal awaits, as the gateway does."""
    asked = UNIONPAY.codec.decode(terminal.pending[2:])
    fields = {n: asked.fields[n] for n in (3, 4, 11, 41, 42)} | {37: "000000000001", 38: approval, 39: code}
    frame = UNIONPAY.framing.wrap(UNIONPAY.codec.encode(Message("0210", fields, asked.tpdu, asked.header)))
    terminal.answered(reader.read(frame), frame)


def test_a_lost_request_is_asked_again_byte_by_byte_until_it_is_told_something() -> None:
    async def play() -> None:
        gate = asyncio.Event()
        gate.set()
        server, address = await _echo_server(gate, lose=[b"x"])
        loop = ClosedLoop()
        dialled = Dialled(address, None, 0, list[Exception]().append)
        line = IsoLine(dialled, AnswerReader(UNIONPAY, echo=True))
        terminal = EchoTerminal(0, SaleFrames(UNIONPAY, 0, Now(), Amounts()), loop, line)
        line.carry(terminal)
        loop.add(terminal)
        await connect_all([line])
        patience = Patience([line], 0.05)
        patience.start()
        loop.begin()
        await _until(lambda: sum(loop._outcomes) >= 1)
        await loop.stop(5)
        patience.stop()
        line.close()
        server.close()
        assert terminal.resent == 1

    asyncio.run(play())


def test_what_a_terminal_was_told_is_written_down_by_stan() -> None:
    loop, reader = _quiet_loop(), AnswerReader(UNIONPAY)
    terminal = Terminal(0, SaleFrames(UNIONPAY, 0, Now(), Amounts()), loop, Gathered())
    loop.add(terminal)
    for code in ("00", "51", "96"):
        terminal.send(0)
        _answered(terminal, reader, code)
    terminal.send(0)
    terminal.give_up()
    assert list(terminal.told) == [Told.APPROVED, Told.DECLINED, Told.REFUSED, Told.UNKNOWN]


def _quiet_loop() -> ClosedLoop:
    async def made() -> ClosedLoop:
        return ClosedLoop()

    return asyncio.run(made())


def test_a_retry_that_is_told_something_else_is_found() -> None:
    for approval, disagreed in (("123456", 0), ("654321", 1)):
        loop, reader, wire = _quiet_loop(), AnswerReader(UNIONPAY), Gathered()
        terminal = RepeatingTerminal(0, SaleFrames(UNIONPAY, 0, Now(), Amounts()), loop, wire, seed=1)
        loop.add(terminal)
        terminal.send(0)
        copies = len(wire.frames)
        for _ in range(copies):
            _answered(terminal, reader, "00")
        assert list(terminal.told) == [Told.APPROVED]
        terminal.send(1)
        assert len(set(wire.frames)) == 1, "the same bytes"
        _answered(terminal, reader, "00", approval)
        assert terminal.disagreed == disagreed
        assert list(terminal.told) == [Told.APPROVED]
        assert loop.take().outcomes[Outcome.APPROVED] == 2
