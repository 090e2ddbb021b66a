"""How a run of the bench ends that somebody interrupts: what was measured until then is still judged and told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from bench.child import GatewayBroken

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COUNTS_EVERY_S: Final = 0.25
_T = TypeVar("_T")


async def until_signal(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do work that a signal cancels, once: stopping the servers, which follows, is bounded in time."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    wished = False

    def end() -> None:
        nonlocal wished
        if not wished:
            wished = True
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        return await work()
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def patience() -> None:
    """Another signal, while everything is being stopped: that takes seconds and must not be cut short."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal cut short what follows the event loop: results are written, and folders are taken away."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
