"""A timer finer than the event loop's millisecond, where the system has one (timerfd of Linux)."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Any, Final

_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE: Final = 1
_SECOND_NS: Final = 1_000_000_000
_COARSE_S: Final = 0.001


class _Times(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    ]


def _library() -> Any:
    """The C library, where it has such timers; else None."""
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "timerfd_create") else None


class Alarm:
    """Calls back once at a time of `time.perf_counter_ns`, or within a millisecond of it where there is nothing finer.

    Made on the event loop's thread; `close` it.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._library = _library()
        self._coarse: asyncio.TimerHandle | None = None
        self._times = _Times()
        self._file = -1 if self._library is None else self._library.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._rang)

    def set(self, at_ns: int) -> None:
        """Ring then, and not when it was set to ring before."""
        if self._file < 0:
            self._stop_coarse()
            self._coarse = self._loop.call_later(_COARSE_S, self._callback)
            return
        self._times.at_s, self._times.at_ns = divmod(max(1, at_ns), _SECOND_NS)
        self._library.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(self._times), None)

    def close(self) -> None:
        """Ring no more. Safe to call twice."""
        self._stop_coarse()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _rang(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._callback()

    def _stop_coarse(self) -> None:
        if self._coarse is not None:
            self._coarse.cancel()
            self._coarse = None
