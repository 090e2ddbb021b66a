"""No image of this process's memory on a disk: it holds keys, and card data that may lie nowhere in clear (INV-8)."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Final

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_LINUX: Final = sys.platform.startswith("linux")
_SWAPS: Final = Path("/proc/swaps")


def refuse_core_dumps() -> bool:
    """Have the kernel write no core file, whatever the limits of the process and the system's collector say.

    Two ways, because neither is enough alone: a limit of 0 does not hold where the system hands cores to a program
    (core(5)), and "not dumpable" is Linux's only. That also keeps other programs of the same user from reading this
    process's memory (ptrace(2)), and gives its files in /proc to root. A child that is started does not inherit it:
    each process calls this for itself.

    Returns:
        Whether it holds; False on a system that offers neither.
    """
    limited = False
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - there is none on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        limited = True
    if not _LINUX:
        return limited
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return core_dumps_refused()


def core_dumps_refused() -> bool:
    """Whether the kernel will write no core file of this process; False where that cannot be seen."""
    return _LINUX and int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) == 0


def memory_remarks(swaps: Path = _SWAPS) -> list[str]:
    """What is worth a look about where memory may be written to; `swaps` is where the kernel lists its swap."""
    remarks = []
    if not core_dumps_refused():
        remarks.append(
            "core dumps: this system cannot be kept from writing this process's memory into a file when it crashes; "
            "switch that off (ulimit -c 0, LimitCORE=0)"
        )
    with contextlib.suppress(OSError):
        devices = [line.split()[0] for line in swaps.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        plain = [device for device in devices if not device.startswith(("/dev/zram", "/dev/dm-", "/dev/mapper/"))]
        if plain:
            remarks.append(
                f"swap: {', '.join(plain)} is not encrypted as far as can be seen, and memory with keys and card data "
                f"may be written to it: encrypt it, or keep the gateway out of it (MemorySwapMax=0)"
            )
    return remarks
