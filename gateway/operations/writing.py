"""Lines to a descriptor that may be full, closed, or read by nobody: whoever writes them never waits and never fails.

Lines go through a bounded queue to one daemon thread. What finds no room there, or cannot be written, is dropped and
counted; the next line that can be written is preceded by one that tells how many were lost.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TextIO

LINES_MAX: Final = 10_000
"""Lines that wait for the thread at most."""

BYTES_MAX: Final = 4 * 1024 * 1024
"""What these lines take at most."""


class Output(Protocol):
    """Where the thread writes."""

    def write(self, text: str) -> None:
        """Write all of it; may block. Raises OSError or ValueError."""
        ...


class DescriptorOutput:
    """A duplicate of a descriptor, unbuffered: nothing is left for the interpreter to flush when it exits."""

    def __init__(self, descriptor: int) -> None:
        """Raises OSError where it is closed."""
        self._descriptor = os.dup(descriptor)
        self._torn = False

    def write(self, text: str) -> None:
        """See Output.write. After a line that was cut short, the next begins on a line of its own."""
        left = memoryview((f"\n{text}" if self._torn else text).encode("utf-8", "backslashreplace"))
        while left:
            try:
                written = os.write(self._descriptor, left)
            except BlockingIOError:  # somebody has made our standard error non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
                continue
            left = left[written:]
            self._torn = bool(left)


class StreamOutput:
    """A text stream of Python's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """See Output.write."""
        self._stream.write(text)
        self._stream.flush()


class LineWriter:
    """The queue and its thread. `write` may be called on any thread, also while it is called already on the same."""

    def __init__(
        self,
        output: Output | None,
        lost: Callable[[int], str],
        *,
        lines_max: int = LINES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """
        Args:
            output: None drops everything: there is nowhere to write.
            lost: the line that tells how many were lost.
        """
        self._output = output
        self._lost = lost
        self._lines_max = lines_max
        self._bytes_max = bytes_max
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0
        self._writing = self._closed = False
        self._changed = threading.Condition()  # its lock may be taken again by a finalizer that logs
        if output is not None:
            threading.Thread(target=self._write_on, name="log writer", daemon=True).start()

    @property
    def dropped(self) -> int:
        """How many lines were lost and not told of yet."""
        return self._dropped

    def write(self, line: str) -> None:
        """Queue a line, without its end, or drop it. Never blocks, never raises."""
        with self._changed:
            full = len(self._lines) >= self._lines_max or self._bytes + len(line) > self._bytes_max
            if self._output is None or self._closed or full:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def drop(self) -> None:
        """Count a line that could not even be made."""
        with self._changed:
            self._dropped += 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything has been written or dropped, at most `timeout_s`; whether it has."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._lines or self._writing:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def close(self) -> None:
        """Take no more lines; the thread ends once it has written what it has."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _write_on(self) -> None:
        while (line := self._next()) is not None:
            dropped = self._dropped
            try:
                self._write(line, dropped)
            except Exception:  # noqa: BLE001 - whatever it is, it must not end the thread
                dropped = -1
            with self._changed:
                self._dropped -= dropped
                self._writing = False
                self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            while not self._lines:
                if self._closed:
                    return None
                self._changed.wait()
            line = self._lines.popleft()
            self._bytes -= len(line)
            self._writing = True
            return line

    def _write(self, line: str, dropped: int) -> None:
        if self._output is not None:
            self._output.write(f"{self._lost(dropped)}\n{line}\n" if dropped else f"{line}\n")
