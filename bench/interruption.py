"""How a run of the bench ends that somebody interrupts: what was measured until then is still judged and told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from bench.child import GatewayBroken

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COUNTS_EVERY_S: Final = 0.25
_T = TypeVar("_T")


async def until_signal(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do work that Ctrl-C and SIGTERM cancel, once: stopping the servers, which follows, is bounded in time."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    wished = False

    def end() -> None:
        nonlocal wished
        if not wished:
            wished = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        return await work()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def through_phases(
    phases: Coroutine[Any, Any, None],
    show_counts: Callable[[], None],
    end: Callable[[], Awaitable[None]],
    problems: list[str],
) -> bool:
    """Run the phases of a play to their end, or until it is interrupted; counts are shown meanwhile.

    Args:
        end: stops everything that was started; called in any case.
        problems: is told where the gateway was broken.
    Returns:
        Whether it was interrupted.
    """
    loop = asyncio.get_running_loop()
    playing = loop.create_task(phases)
    counting = loop.create_task(_show_always(show_counts))
    for number in SIGNALS:
        loop.add_signal_handler(number, playing.cancel)
    try:
        await asyncio.wait({playing})
        interrupted = playing.cancelled()
        if not interrupted and (problem := playing.exception()) is not None:
            if not isinstance(problem, GatewayBroken):
                raise problem
            problems.append(str(problem))
    finally:
        await end()
        counting.cancel()
        await asyncio.wait({counting})
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return interrupted


async def _show_always(show_counts: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_COUNTS_EVERY_S)
        show_counts()
