"""A simulator that closes its port hangs up on whoever was accepted, in whatever turn of the loop that was."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from bench.acquirer import Acquirer
from bench.proxy import Proxy
from bench.tap import Tap, Watch

CALLERS: Final = 10
TURNS: Final = 8
DEADLINE_S: Final = 5.0

Simulator = Acquirer | Proxy | Tap
Made = Callable[[Path, int], Simulator]
Run = Callable[[Coroutine[Any, Any, int]], int]

MADE: Final[dict[str, Made]] = {
    "acquirer": lambda folder, _: Acquirer(folder / "ledger.jsonl"),
    "proxy": lambda _, target: Proxy(("127.0.0.1", target), seed=1),
    "tap": lambda _, target: Tap(Watch(()), ("127.0.0.1", target)),
}


@contextlib.asynccontextmanager
async def target() -> AsyncIterator[int]:
    """The port of somebody who answers nothing."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.sleep(0.01)  # the deaf see their lines end


def hung_up_on(caller: socket.socket) -> bool:
    caller.settimeout(DEADLINE_S)
    with caller:
        try:
            return caller.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", range(TURNS))
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_nobody_who_was_accepted_is_left_waiting(tmp_path: Path, made: Made, turns: int, run: Run) -> None:
    async def hung_up() -> int:
        async with target() as port:
            simulator = made(tmp_path, port)
            await simulator.start()
            callers = [socket.create_connection((simulator.host, simulator.port)) for _ in range(CALLERS)]
            for _ in range(turns):
                await asyncio.sleep(0)
            await simulator.stop()
            return sum([await asyncio.to_thread(hung_up_on, caller) for caller in callers])

    assert run(hung_up()) == CALLERS
