"""Runs a program under the shim, and reads what the shim has logged."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crash.amounts import tool

ROOT: Final = Path(__file__).parents[2]
_HEAD: Final = struct.Struct("<ciqI")


@dataclass(frozen=True, slots=True)
class Event:
    """One record of a trace; shim.c says what each operation has in its fields."""

    operation: str
    descriptor: int
    number: int
    content: bytes

    @property
    def path(self) -> str:
        """The path of an open or unlink."""
        return self.content.decode()


def compile_shim(folder: Path) -> Path:
    """Make the library that is preloaded; skips where there is no compiler."""
    library = folder / "shim.so"
    if not library.exists():
        subprocess.run(  # noqa: S603 - a fixed command
            [tool("gcc", "gcc libc6-dev"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
             "-o", str(library), str(Path(__file__).with_name("shim.c")), "-ldl"],
            check=True,
        )  # fmt: skip
    return library


@dataclass(frozen=True, slots=True)
class Tracer:
    """Runs programs one after the other, all into one trace.

    Attributes:
        library: the shim.
        under: the folder that is traced.
        trace: the file that the trace is appended to; not in that folder.
    """

    library: Path
    under: Path
    trace: Path

    def environment(self, die_at_sync: int = 0) -> dict[str, str]:
        """What a traced process is started with."""
        more = {"LD_PRELOAD": str(self.library), "CRASH_UNDER": str(self.under), "CRASH_TRACE": str(self.trace)}
        if die_at_sync:
            more["CRASH_DIE_AT_SYNC"] = str(die_at_sync)
        return {**os.environ, **more}

    def run(self, *arguments: str, die_at_sync: int = 0) -> int:
        """Run a module of Python to its end; its exit status, negative where a signal ended it."""
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(  # noqa: S603 - our own child
            command, check=False, cwd=ROOT, env=self.environment(die_at_sync)
        ).returncode

    def events(self) -> Sequence[Event]:
        """The whole trace."""
        content = self.trace.read_bytes()
        events: list[Event] = []
        at = 0
        while at < len(content):
            operation, descriptor, number, length = _HEAD.unpack_from(content, at)
            at += _HEAD.size
            events.append(Event(operation.decode(), descriptor, number, content[at : at + length]))
            at += length
        assert at == len(content), "the trace ends within a record"
        return events
