"""Ports of this machine for what the bench starts: nobody's, and nobody else's while they are kept.

A port that is merely found free is anybody's again as soon as it was looked at: a bench beside this one finds the
same, and so does the next call. Each port that is given out here is therefore kept bound, without listening: who
looks for one finds it taken, and a server that reuses its address (all of ours, as those of the peers) binds it and
listens. A connection to it is refused until then.
"""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from typing import Final

_PORTS: Final = range(12_000, 32_000)  # below those that the system gives to connections that go out
_TRIES: Final = 400
_KEPT_MAX: Final = 128  # descriptors; the oldest are given back: what was started on them ended long ago

_kept: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, that no connection is given by chance, and that no other call gets meanwhile.

    They are kept until this process ends, or until 128 others were given out.

    Raises:
        OSError: there are not so many.
    """
    found: dict[int, int] = {}
    for port in random.SystemRandom().sample(_PORTS, _TRIES):
        if len(found) == count:
            break
        kept = _keep(port)
        if kept is not None:
            found[port] = kept
    _kept.extend(found.values())
    while len(_kept) > _KEPT_MAX:
        os.close(_kept.popleft())
    if len(found) < count:
        raise OSError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop - 1}")
    return list(found)


def _keep(port: int) -> int | None:
    """Bind a port that nobody has, and let only those bind it, too, who reuse addresses; None where somebody has it."""
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return None
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return one.detach()
