"""A shop that sells all the while something is done to its gateway, judged by the bench's history checker.

The gateway is the real one, `holdfast run`; that it starts from a fork saves its imports each time (forker.py).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.acquirer import NORMAL
from bench.child import LOG_NAME
from bench.history import Verdict, check
from bench.records import LedgerEvent, TerminalEvent, read_lines
from bench.terminal import Habits, History, Terminal
from protocol.iso8583.dialect import load_dialect
from tests.crash.tracing import ROOT
from tests.gateway.shop import Shop, open_shop, setup

TERMINALS: Final = 16
HASTY: Final = Habits(pause_s=0.02, answer_timeout_s=0.6, tries=2, connect_pause_s=0.02)
PATIENT: Final = replace(HASTY, answer_timeout_s=4.0, tries=8)
FINISH_WITHIN_S: Final = 30.0
DRAIN_WITHIN_S: Final = 40.0
CLOCK_NAME: Final = "clock-step"
"""Has the milliseconds by which the wall clock of forked gateways is off, eight bytes little-endian."""


class Forked:
    """A gateway that the forker has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)

    def running(self) -> bool:
        """Whether it is still there."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        select.select([self._descriptor], [], [])
        os.close(self._descriptor)


@contextmanager
def forker(shop: Shop) -> Iterator[subprocess.Popen[str]]:
    """The process that starts gateways."""
    files = (shop.gateway.config, shop.folder / LOG_NAME, shop.folder / CLOCK_NAME)
    with subprocess.Popen(  # noqa: S603 - our own child
        [sys.executable, "-m", "tests.crash.forker", *map(str, files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


async def fork(process: subprocess.Popen[str]) -> Forked:
    """Start one more gateway."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return Forked(int(await asyncio.to_thread(process.stdout.readline)))


async def is_ready(shop: Shop, gateway: Forked) -> None:
    """Wait until it is open for business."""
    async with asyncio.timeout(20):
        while not await shop.gateway.ready():
            assert gateway.running(), f"the gateway ended by itself\n{shop.gateway.log_end()}"
            await asyncio.sleep(0.01)


async def finish(selling: list[asyncio.Task[None]], terminals: list[Terminal], stop: asyncio.Event) -> None:
    """Let terminals end what they have begun."""
    stop.set()
    for terminal in terminals:
        terminal.finish_by = time.monotonic() + FINISH_WITHIN_S
    await asyncio.wait_for(asyncio.gather(*selling), FINISH_WITHIN_S + 10)


async def sell_while(folder: Path, seed: int, disturb: Callable[[Shop], Awaitable[None]]) -> Verdict:
    """Sell while `disturb` starts and ends gateways; then heal everything, empty the queue, and judge."""
    async with open_shop(folder, setup()) as shop:
        assert await shop.gateway.stop() == 0  # the journal is made; from here on gateways are forked
        history, stop = History(folder / "history.jsonl"), asyncio.Event()
        dialect, endpoint = load_dialect(shop.setup.terminal_dialect), ("127.0.0.1", shop.setup.terminal_port)
        terminals = [
            Terminal(
                dialect,
                endpoint,
                history,
                terminal=f"T{number:07}",
                habits=PATIENT if number % 4 else HASTY,
                seed=seed,
            )
            for number in range(1, TERMINALS + 1)
        ]
        selling = [asyncio.create_task(each.keep_selling(stop)) for each in terminals]
        try:
            await disturb(shop)
            await shop.host.set_behaviour(NORMAL)
            await shop.gateway.start()
            await finish(selling, terminals, stop)
        finally:
            for task in selling:
                task.cancel()
            await asyncio.gather(*selling, return_exceptions=True)
        assert await shop.gateway.drained(DRAIN_WITHIN_S) == 0
        owed = await shop.gateway.queue()
        assert await shop.gateway.stop() == 0
        await shop.host.stop()
        history.close()
        ledger = read_lines(folder / "ledger.jsonl", LedgerEvent)
        return check(read_lines(history.path, TerminalEvent), ledger, owed)
