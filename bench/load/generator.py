"""The generator as its parent sees it: a child process that is told what to send and hands over what it has counted."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bench.load.worker import LENGTH, Beat, Order, WorkerSettings
from bench.own_process import end_child, start_module

_READY_WITHIN_S: Final = 60.0
_OBEY_WITHIN_S: Final = 30.0
_STOP_WITHIN_S: Final = 10.0


class GeneratorBroken(Exception):
    """The generator did not do what it was started for; the message says what it said."""


class Generator:
    """The child. `heard` takes every beat, on the event loop's thread."""

    def __init__(self, settings: WorkerSettings, heard: Callable[[Beat], None]) -> None:
        self.settings = settings
        self._heard = heard
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Future[Beat]] = {}

    @property
    def pid(self) -> int:
        """The child's process id. Raises: GeneratorBroken."""
        if self._child is None:
            raise GeneratorBroken("the generator was not started")
        return self._child.pid

    async def start(self) -> None:
        """Start the child and wait until its terminals are connected. Raises: GeneratorBroken."""
        self._child = await start_module("bench.load.worker", self.settings, answer_bytes_max=1 << 24)
        ready = self._awaited("ready")
        self._reading = asyncio.get_running_loop().create_task(self._read(self._child))
        await self._answer(ready, _READY_WITHIN_S)

    async def begin(self, rate: float = 0.0) -> Beat:
        """Let requests fall due at this rate, or a closed loop go. Raises: GeneratorBroken."""
        return await self._obeyed(Order(act="begin", rate=rate))

    async def mark(self, phase: int) -> Beat:
        """Count what comes from now on as of another phase. Raises: GeneratorBroken."""
        return await self._obeyed(Order(act="mark", phase=phase))

    async def pause(self) -> Beat:
        """Let nothing fall due any more. Raises: GeneratorBroken."""
        return await self._obeyed(Order(act="pause"))

    async def stop(self, within_s: float) -> Beat:
        """Let nothing fall due and wait for what was; the beat says what is left. Raises: GeneratorBroken."""
        return await self._obeyed(Order(act="stop", within_s=within_s), within_s)

    async def told(self, path: Path) -> dict[str, bytes]:
        """What every terminal was told, by STAN from 1 (`terminals.Told`). Raises: GeneratorBroken, OSError."""
        await self._obeyed(Order(act="save", path=str(path)))
        return read_told(path)

    async def close(self) -> None:
        """End the child. Safe to call twice."""
        child, self._child = self._child, None
        await end_child(child, _STOP_WITHIN_S)
        if self._reading is not None:
            await self._reading
            self._reading = None

    async def _obeyed(self, order: Order, longer_s: float = 0.0) -> Beat:
        if self._child is None or self._child.stdin is None or self._child.returncode is not None:
            raise GeneratorBroken("the generator has ended by itself")
        answer = self._awaited(order.act)
        self._child.stdin.write(msgspec.json.encode(order) + b"\n")
        return await self._answer(answer, _OBEY_WITHIN_S + longer_s)

    def _awaited(self, act: str) -> asyncio.Future[Beat]:
        answer: asyncio.Future[Beat] = asyncio.get_running_loop().create_future()
        self._answers[act] = answer
        return answer

    async def _answer(self, answer: asyncio.Future[Beat], within_s: float) -> Beat:
        try:
            return await asyncio.wait_for(answer, within_s)
        except TimeoutError:
            raise GeneratorBroken(f"the generator did not answer within {within_s:g} s") from None

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        decoder = msgspec.msgpack.Decoder(Beat)
        try:
            while True:
                (size,) = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))
                beat = decoder.decode(await child.stdout.readexactly(size))
                self._heard(beat)
                answer = self._answers.pop(beat.answer_to, None)
                if answer is not None and not answer.done():
                    answer.set_result(beat)
        except asyncio.IncompleteReadError:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(GeneratorBroken("the generator has ended by itself"))
            self._answers.clear()


def read_told(path: Path) -> dict[str, bytes]:
    """What every terminal was told, out of a file that the generator has written. Raises: OSError."""
    return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, bytes])


def times_us(raw: bytes) -> list[int]:
    """Times of a beat in microseconds."""
    times = array("q")
    times.frombytes(raw)
    return [time // 1000 for time in times]
