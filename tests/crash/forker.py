"""Starts the gateway again and again without paying for its imports: they are made once, then each gateway is forked.

A process of its own; each line that it reads starts one gateway, and is answered by that one's process id. What runs
in the fork is the command `holdfast run`, whole. Arguments: configuration, log, and a file of eight bytes that may be
there: the milliseconds by which the gateway's wall clock is off, read anew each time that it asks for the time.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from pathlib import Path

import uvloop

import gateway.app
import gateway.operations.token
from gateway.cli import main
from gateway.clock import SystemClock

_IMPORTED = (uvloop, gateway.app, gateway.operations.token)


def step_the_clock(path: Path) -> None:
    """From here on the wall clock is off by what the file says."""
    with path.open("rb") as file:
        off = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    true = SystemClock.utc_ms

    def stepped(self: SystemClock) -> int:
        return true(self) + int.from_bytes(off[:8], "little", signed=True)

    SystemClock.utc_ms = stepped  # type: ignore[method-assign]


def become_a_gateway(config: str, log: str) -> None:
    """Run the command in this process, which ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["holdfast", "run", "-c", config]
    main()


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    if Path(sys.argv[3]).exists():
        step_the_clock(Path(sys.argv[3]))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            become_a_gateway(sys.argv[1], sys.argv[2])
            os._exit(0)
        print(child, flush=True)
