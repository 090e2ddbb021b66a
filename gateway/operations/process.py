"""What the gateway needs of its process: descriptors, and an end that comes."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from typing import Final

from gateway.config.models import Config

FILES_BESIDE_CONNECTIONS: Final = 64
"""Descriptors that the gateway keeps free for the journal, the acquirer's lines, operators and the interpreter."""


def open_standard_files() -> None:
    """Put the null device where a standard descriptor is closed.

    Otherwise the next file to be opened, such as the journal, would be what others take for standard error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one


def raise_file_limit() -> int:
    """Raise the limit of open files as far as we may; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def file_remarks(config: Config, limit: int) -> Iterator[str]:
    """What is worth a look where the listeners admit more connections than files may be open."""
    wanted = sum(terminals.connections_max for terminals in config.terminals) + FILES_BESIDE_CONNECTIONS
    if limit != resource.RLIM_INFINITY and wanted > limit:
        yield (
            f"terminals.connections_max: the listeners together admit connections for {wanted} open files, this "
            f"process may have {limit}: more would shut out operators and the acquirer; a higher limit "
            f"(LimitNOFILE, ulimit -n), or fewer connections"
        )


def end_within(timeout_s: float, code: int) -> None:
    """End this process at the latest then, whatever still hangs: a thread on a dead disk, a peer, a log."""
    timer = threading.Timer(timeout_s, os._exit, (code,))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no more threads: then only the orderly way is left
        timer.start()
