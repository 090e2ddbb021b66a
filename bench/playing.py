"""What plays of a shop have in common (outage, day, soak): from a folder to an exit status, and what is counted."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvloop

from bench.child import Gateway
from bench.screen import Screen, write_json
from bench.terminal import History


class Played(Protocol):
    """What came out of a play; `folder` is where everything recorded was kept, if it was."""

    folder: Path | None

    @property
    def held(self) -> bool:
        """Whether the gateway kept its promises."""

    def json(self) -> dict[str, Any]:
        """Everything, by name."""


_P = TypeVar("_P", bound=Played)


def run_play(
    screen: Screen,
    prefix: str,
    keep: Path | None,
    json_path: Path | None,
    play: Callable[[Path], Awaitable[_P]],
    tell: Callable[[_P, Screen], None],
) -> int:
    """Play once in a folder, write and print what came out, and give the exit status: 0 where it held, else 1.

    Args:
        prefix: of the folder's name where `keep` names none; such a one is kept only where the play did not hold.
        play: called on the event loop that it runs on.
    """
    folder = keep or Path(tempfile.mkdtemp(prefix=prefix))
    folder.mkdir(parents=True, exist_ok=True)

    async def played() -> _P:
        return await play(folder)

    with screen:
        result = uvloop.run(played())
    if result.held and keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        result.folder = folder
    write_json(json_path, result.json(), indent=1)
    tell(result, screen)
    return 0 if result.held else 1


async def finish_all(tasks: Sequence[asyncio.Task[None]], within_s: float) -> None:
    """Wait until callers have come to their ends, and end those that take longer; raises what one of them has met."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=within_s)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
    for task in tasks:
        if not task.cancelled() and (problem := task.exception()) is not None:
            raise problem


def add_traffic(figures: dict[str, float], history: History, gateway: Gateway, transactions: int) -> None:
    """Add rates, latencies and counts of terminals and gateway, by name; `traffic_s` is there where it was reached."""
    for name in ("sent", "timed_out", "disconnected", "connect_failed", "unmatched", "gave_up"):
        figures[name] = history.counts[name]
    if traffic_s := figures.get("traffic_s"):
        figures["transactions_per_s"] = round(transactions / traffic_s, 1)
    latencies = sorted(history.latencies_ms)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        if latencies:
            place = min(len(latencies) - 1, int(share * len(latencies)))
            figures[f"answer_{name}_ms"] = round(latencies[place], 1)
    figures["restarts"] = max(0, gateway.starts - 1)
    if gateway.start_ms:
        figures["start_max_ms"] = round(max(gateway.start_ms), 0)


def by_code(history: History) -> dict[str, int]:
    """Answers to sales and reversals by DE 39."""
    counts = sorted(history.counts.items())
    return {name.removeprefix("code "): n for name, n in counts if name.startswith("code ")}
