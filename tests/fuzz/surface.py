"""A surface: something that reads bytes of strangers. What each of them promises is checked around each input."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tests.fuzz.known import is_known

CPU_S_MAX: Final = 1.0
"""For one input of at most `size_max`. An honest one takes well under a hundredth of it."""


class Broken(AssertionError):
    """A surface did something that it promises not to do."""


@dataclass(frozen=True)
class Surface:
    """One reader of hostile bytes.

    Attributes:
        read: reads an input, catches the named exceptions and nothing else, and checks what came out.
        make_seeds: inputs that are mostly right, to begin from.
        size_max: of an input, in bytes: what the gateway itself lets through to this reader, or less.
        worst: pieces that are costly when they are repeated.
    """

    name: str
    read: Callable[[bytes], None]
    make_seeds: Callable[[], list[bytes]]
    size_max: int
    worst: tuple[bytes, ...]

    @cached_property
    def seeds(self) -> list[bytes]:
        """The seeds, made once."""
        return self.make_seeds()

    def feed(self, data: bytes) -> None:
        """Read one input.

        Raises:
            Broken: it took too long.
            Exception: whatever the reader let through; defects that are known pass.
        """
        began = time.thread_time()
        try:
            self.read(data[: self.size_max])
        except Exception as error:
            if not is_known(error):
                raise
        spent_s = time.thread_time() - began
        must(spent_s < CPU_S_MAX, f"{spent_s:.1f} s for {len(data)} bytes")


def must(holds: object, what: str) -> None:
    """Raise Broken where something does not hold."""
    if not holds:
        raise Broken(what)
