"""Running asynchronous tests on the loops that the gateway runs on, and waiting for things with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

DEADLINE_S = 10.0
LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test function of a coroutine function; it runs once per kind of loop, and leaves no task behind."""

    def run(*args: object, loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: object) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * DEADLINE_S):
                await test(*args, **fixtures)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            handshakes = {task for task in left if "._accept_connection" in repr(task.get_coro())}
            if handshakes:  # that the other end broke off: the loop's own, and they end as soon as it hears of that
                left -= (await asyncio.wait(handshakes, timeout=DEADLINE_S))[0]
            assert not left, f"tasks left behind: {left}"

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            unhandled: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(bounded())
            assert not unhandled

    signature = inspect.signature(test)
    own = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), own], return_annotation=None
    )
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    return pytest.mark.parametrize("loop_factory", LOOPS)(run)


async def until(reached: Callable[[], bool], what: str) -> None:
    """Let the loop turn until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(f"in vain: {what}")
        await asyncio.sleep(0.001)  # lets sockets move; nothing is assumed of how long that takes


def mono_ms() -> int:
    """The link's clock."""
    return time.monotonic_ns() // 1_000_000
