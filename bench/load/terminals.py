"""The terminals of a load: what each asks next, what it was told, and when it asks again. Transport is in lines.

A terminal has one request in flight. Whatever happens to its connection or to the gateway, it asks the same again, byte
by byte, until it is told something: so everything that was due has one outcome in the end, and `told` has it.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Final, Protocol

from bench.load.frames import STAN_MAX, Answer, SaleFrames
from bench.load.tally import Outcome

APPROVED: Final = frozenset({b"00", b"08", b"10", b"11", b"16"})
REFUSED: Final = frozenset({b"91", b"96", b"98", b"09", b"06"})


class Told(IntEnum):
    """What a terminal knows of one of its STANs; `told[stan - 1]` of a terminal."""

    APPROVED = 1
    DECLINED = 2
    REFUSED = 3
    UNKNOWN = 4  # it gave up asking: booked or not, both are right
    REVERSED = 5  # approved, and its reversal as well
    NOTHING = 6  # approved, but it moves no money


class Reports(Protocol):
    """The loop, as its clients see it."""

    def acknowledged(self, index: int, outcome: int = Outcome.APPROVED) -> None:
        """The answer to the client's request is there."""

    def failed(self, index: int, why: str) -> None:
        """The client's request will have no answer."""


class Wire(Protocol):
    """A connection that a terminal writes to; what is written while it is away is lost."""

    def write(self, frame: bytes) -> None:
        """Send. Does nothing while there is no connection: the terminal asks again when there is one."""


def outcome_of(code: bytes) -> Outcome:
    """What a code of field 39 means to the counts."""
    if code in APPROVED:
        return Outcome.APPROVED
    return Outcome.REFUSED if code in REFUSED else Outcome.DECLINED


class Terminal:
    """Sells, and nothing else.

    Attributes:
        told: by STAN, from the first that it used.
        pending: the frame that awaits its answer; empty for none.
        sent_at: when it was last written, monotonic seconds.
        resent, stale, disagreed: frames sent again; answers that nobody awaited; answers to a retry that differ from
            the first.
    """

    def __init__(self, index: int, frames: SaleFrames, loop: Reports, wire: Wire, first_stan: int = 1) -> None:
        self.index = index
        self.frames = frames
        self.told = bytearray()
        self.pending = b""
        self.pending_stan = b""
        self.sent_at = 0.0
        self.resent = self.stale = self.disagreed = 0
        self._loop = loop
        self._wire = wire
        self._stan = first_stan - 1

    def send(self, number: int) -> None:  # noqa: ARG002 - the STAN is the terminal's own
        """The next request."""
        self.sell()

    def sell(self, *, declined: bool = False) -> None:
        """A sale with the next STAN."""
        if stan := self.next_stan():
            self.ask(self.frames.frame(stan, declined=declined), stan)

    def next_stan(self) -> int:
        """The next STAN; 0 where they are used up, and the terminal with them."""
        self._stan += 1
        if self._stan > STAN_MAX:
            self._loop.failed(self.index, "its STANs are used up: take more terminals")
            return 0
        return self._stan

    def ask(self, frame: bytes, stan: int) -> None:
        """Send a frame that is to be answered."""
        self.pending = frame
        self.pending_stan = self.frames.wire_stan(stan)
        self.sent_at = time.monotonic()
        self._wire.write(frame)

    def ask_again(self) -> None:
        """The same frame once more: its answer did not come, or the connection was lost."""
        self.resent += 1
        self.sent_at = time.monotonic()
        self._wire.write(self.pending)

    def give_up(self) -> None:
        """Ask no more; nobody knows what became of it."""
        if self.pending:
            self.pending = b""
            self.note(Told.UNKNOWN)

    def answered(self, answer: Answer, frame: bytes) -> None:  # noqa: ARG002 - others look at all of it
        """An answer for this terminal."""
        if not self.pending or answer.stan != self.pending_stan:
            self.stale += 1
            return
        self.pending = b""
        outcome = outcome_of(answer.code)
        self.note(Told(outcome + 1))
        self._loop.acknowledged(self.index, outcome)

    def note(self, told: Told) -> None:
        """Write down what was told of the newest STAN."""
        self.told.append(told)
