"""How a simulator closes its port."""

from __future__ import annotations

import asyncio
from typing import Final

_TURNS: Final = 2
"""What was accepted in this turn of the loop has its connection after so many."""


async def close_port(server: asyncio.Server) -> None:
    """Accept nobody any more, and leave nothing half open.

    The standard loop makes the connection of what it has accepted a turn later. Where the server is closed meanwhile,
    it drops that connection without closing it: whoever dialled waits, until the garbage collector comes by.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    server.close()
