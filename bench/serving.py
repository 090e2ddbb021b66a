"""The simulators as programs of their own: `holdfast-bench acquirer` and `holdfast-bench terminals`."""

from __future__ import annotations

import asyncio
import math
import signal
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer
import uvloop

from bench.acquirer import Acquirer, Behaviour, Mode
from bench.terminal import Habits, History, Terminal
from protocol.iso8583.dialect import load_dialect


def address(text: str) -> tuple[str, int]:
    """Read "host:port".

    Raises:
        typer.BadParameter: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
        raise typer.BadParameter(f"{text!r} is not host:port")
    return host, int(port)


def behaviour(mode: str, *, share: float, delay_ms: int, code: str, booking: bool) -> Behaviour:
    """A behaviour as the command line names it.

    Raises:
        typer.BadParameter: there is no such mode.
    """
    if mode not in [known.value for known in Mode]:
        raise typer.BadParameter(f"one of {', '.join(known.value for known in Mode)}", param_hint="--mode")
    return Behaviour(mode=Mode(mode), share=share, delay_ms=delay_ms, code=code, booking=booking)


def _until_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _stopped_within(stopped: asyncio.Event, seconds: float | None) -> bool:
    try:
        await asyncio.wait_for(stopped.wait(), seconds)
    except TimeoutError:
        return False
    return True


def serve_acquirer(ledger: Path, listen: tuple[str, int], dialect: str, behaves: Behaviour, seed: int) -> int:
    """Serve until SIGINT or SIGTERM; a line when it begins, and one a minute."""

    async def serve() -> int:
        stopped = _until_signal()
        acquirer = Acquirer(ledger, dialect=dialect, host=listen[0], port=listen[1], seed=seed)
        try:
            await acquirer.start()
        except OSError as error:
            typer.echo(f"holdfast-bench: {error}", err=True)
            return 1
        if behaves.mode is not Mode.NORMAL:
            await acquirer.set_behaviour(behaves)
        known = len(acquirer.books)
        print(
            f"acquirer at {listen[0]}:{acquirer.port}, dialect {dialect}, {behaves.mode.value}, "
            f"ledger {ledger} with {known} transactions",
            flush=True,
        )
        while not await _stopped_within(stopped, 60):
            counts = "  ".join(f"{name} {count}" for name, count in sorted(acquirer.counts.items()))
            print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {counts or 'nothing yet'}", flush=True)
        await acquirer.stop()
        return 0

    return uvloop.run(serve())


_TELLS_EACH_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What `holdfast-bench terminals` drives. Without `first_stan`, STANs begin at the seconds of the day."""

    endpoint: tuple[str, int]
    count: int
    seconds: float
    dialect: str
    rate: float
    amount_minor_max: int
    first_stan: int | None
    seed: int
    history: Path | None


def drive_terminals(orders: Orders) -> int:
    """Drive terminals for a time; print what they were told."""
    with tempfile.TemporaryDirectory(prefix="holdfast-terminals-") as folder:
        history = History(orders.history or Path(folder) / "history.jsonl")
        try:
            uvloop.run(_drive(orders, history))
        finally:
            history.close()
        for name, count in sorted(history.counts.items()):
            print(f"{name:<16}{count:>9}")
        latencies = sorted(history.latencies_ms)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            if latencies:
                print(f"answer {name:<9}{latencies[int(share * (len(latencies) - 1))]:>9.1f} ms")
    return 0 if latencies else 1


async def _drive(orders: Orders, history: History) -> None:
    stopped = _until_signal()
    dialect = load_dialect(orders.dialect)
    habits = Habits(
        pause_s=1 / orders.rate, power_loss=0, answer_loss=0, double_send=0, amount_minor_max=orders.amount_minor_max
    )
    first_stan = orders.first_stan or int(time.time()) % 86_400 * 10 + 1
    terminals = [
        Terminal(
            dialect,
            orders.endpoint,
            history,
            terminal=f"T{number + 1:07d}",
            habits=habits,
            seed=orders.seed,
            first_stan=first_stan,
        )
        for number in range(orders.count)
    ]
    where = f"{orders.endpoint[0]}:{orders.endpoint[1]}"
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for terminal in terminals:
            group.create_task(terminal.keep_selling(stopped))
        while (left_s := (orders.seconds or math.inf) - (time.monotonic() - began_s)) > 0:
            if await _stopped_within(stopped, min(left_s, _TELLS_EACH_S)):
                break
            counts = history.counts
            if not counts["sent"] and counts["connect_failed"]:
                said = f"nobody listens at {where}; is the gateway running?"
            else:
                said = f"{counts['sent']} sent, {counts['approved']} approved, {counts['refused']} refused"
            typer.echo(f"{time.monotonic() - began_s:>6.0f} s  {said}", err=True)
        stopped.set()
        for terminal in terminals:  # what was sent wants its answer
            terminal.finish_by = time.monotonic() + (20 if history.counts["sent"] else 0)
