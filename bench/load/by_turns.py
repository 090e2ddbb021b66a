"""Measuring several servers by turns, from a folder to an exit status: what `limits` and `peers` have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import uvloop

from bench.interruption import INTERRUPTED, undisturbed, until_signal
from bench.load.peers_proof import prove
from bench.load.peers_rounds import Standing
from bench.load.peers_server import PeerBroken, PeerMissing, measuring_folder
from bench.load.results import UNWRITTEN, Results, write_results, written
from bench.own_process import open_files
from bench.screen import Screen


class Measured(Protocol):
    """What came of it, also where it was interrupted."""

    interrupted: bool


_M = TypeVar("_M", bound=Measured)


def run_by_turns(
    title: str,
    parent: Path | None,
    json_path: Path | None,
    measured: Callable[[Path, Screen], Awaitable[_M]],
    report: Callable[[_M, datetime], Results],
) -> int:
    """Measure in a temporary folder, print, and write the document.

    Args:
        parent: of the folder; None for the system's.
    Returns:
        0; 1 where something was broken; 2 where the document could not be written;
        130 after Ctrl-C, with what was measured until then.
    """
    began = datetime.now(UTC)
    open_files()
    with contextlib.ExitStack() as afterwards:
        with measuring_folder(parent) as folder, Screen(title) as screen:
            came_of_it = uvloop.run(until_signal(lambda: measured(folder, screen)))
            afterwards.enter_context(undisturbed())
        results = report(came_of_it, began)
        show(results, screen)
        kept = json_path is None or written(lambda: write_results(results, json_path))
    if came_of_it.interrupted:
        return INTERRUPTED
    if not results.held:
        return 1
    return 0 if kept else UNWRITTEN


async def start_standing(standing: Standing, payload: bytes) -> None:
    """Start one server; one that keeps records proves that it stores, once, what it acknowledges.

    What is wrong is noted in the standing.
    """
    try:
        await standing.peer.start()
        if standing.peer.keeps:
            await prove(standing.peer, payload)
    except PeerMissing as missing:
        standing.problem, standing.missing = str(missing), True
    except (PeerBroken, OSError) as broken:
        standing.problem = str(broken)


def show(results: Results, screen: Screen) -> None:
    """Print the verdict, then each figure, Holdfast's rate as a fraction of it, and how it was measured."""
    for number, line in enumerate(results.verdict):
        screen.line(line, "bold" if not number else "")
    screen.line()
    width = max(len(figure.name) for figure in results.figures)
    screen.line(f"  {'':<{width}} {'':>16} {'Holdfast is':>12}")
    for figure in results.figures:
        value = f"{figure.value:>11,.0f} {figure.unit:<4}" if figure.value else f"{'-':>11}     "
        share = f"{figure.fraction:>10.3f} x" if figure.fraction else f"{'':>12}"
        screen.line(f"  {figure.name:<{width}} {value} {share}")
        screen.line(f"      {figure.note}", "dim")
