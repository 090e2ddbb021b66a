"""Parts of the bench that have a process of their own: told by lines on their standard input, ended by its end."""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import Any

import msgspec


async def start_module(
    module: str, settings: Any, *, answer_bytes_max: int = 1 << 16, session: bool = True
) -> asyncio.subprocess.Process:
    """Run a module of the bench with its settings as JSON; its input and output are pipes.

    Args:
        answer_bytes_max: the longest line or record of its output.
        session: whether it has a session of its own, so that Ctrl-C does not reach it.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        msgspec.json.encode(settings).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=answer_bytes_max,
        start_new_session=session,
    )


async def end_child(child: asyncio.subprocess.Process | None, within_s: float) -> None:
    """Close the input of a child, which then ends by itself; kill it if it does not in time. Nothing of None."""
    if child is None or child.stdin is None:
        return
    child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), within_s)
    except TimeoutError:
        child.kill()
        await child.wait()


def open_files() -> None:
    """As many connections as the system allows, here and in processes that are started from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
