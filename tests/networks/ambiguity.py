"""An acquirer that leaves it open what it did: which message meets which fault, and what its books say in the end.

Every original meets one fault at least, but for those of terminals that play a part (`Part`) without any.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from enum import Enum
from pathlib import Path
from typing import Final

import protocol.iso8583
from bench.books import NORMALLY, Books, Order
from bench.proxy import Fault, Way
from bench.records import LedgerEvent
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import is_advice

MessageKey = tuple[str, str, str]
"""Class, terminal and STAN of a message."""

DROPPED: Final = (Way.REPLY, Fault.DROP)
LATE: Final = (Way.REPLY, Fault.LATE)
TORN: Final = (Way.REPLY, Fault.RESET_INSIDE)
SWALLOWED: Final = (Way.REQUEST, Fault.DROP)
KINDS: Final = {
    DROPPED: "books, and drops the answer",
    LATE: "answers late",
    TORN: "resets inside the answer",
    SWALLOWED: "a black hole for one message: nothing is booked, and nobody knows",
}

AGAIN: Final = 0.04
"""Share of repeats and reversals that are hit like their originals; each narrows the replay to one in flight (D19)."""
HITS_MAX: Final = 2
"""Of one message, so that runs end."""


class Part(Enum):
    """What the acquirer does with a terminal's messages once an answer gets through; the value is its code."""

    PLAIN = ""
    CLEAR = "00"  # answers at once, whatever is asked
    KNOWN = "94"  # says that it knows the request as another one
    POISON = "30"  # does not understand the advice
    UNHEARD_OF = "ZZ"  # takes the advice, and answers a code that nobody knows
    KEPT = "05"  # refuses the reversal
    ENDLESS = "none"  # takes the advice, and its answer never arrives


_CLEAR: Final = frozenset({Part.CLEAR, Part.KNOWN, Part.POISON, Part.UNHEARD_OF})
"""Parts whose answers get through at once: it is what they say that is ambiguous."""


class MoodyBooks(Books):
    """Books that answer as a terminal's part says."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Part] = {}

    def decide(self, message: Message, at: float, order: Order = NORMALLY) -> LedgerEvent:
        """Decide about a message; see Books."""
        part = self.parts.get(message.fields.get(41, "").strip(), Part.PLAIN)
        reversal, advice = message.mti[1] == "4", message.mti[1] != "4" and is_advice(message.mti)
        if message.mti[1] == "8":
            return super().decide(message, at, order)
        if part is Part.UNHEARD_OF and advice:
            order = Order(code=part.value, booking=True)
        elif (
            (part is Part.KNOWN and not reversal)
            or (part is Part.POISON and advice)
            or (part is Part.KEPT and reversal)
        ):
            order = Order(code=part.value, booking=False)
        return super().decide(message, at, order)


class Ambiguous:
    """Decides about messages between gateway and acquirer.

    Attributes:
        kind: the fault of every original that is sent for the first time from now on.
        hit: faults by the message that they hit.
        parts: of terminals.
    """

    def __init__(self, dialect: Dialect, seed: int, parts: dict[str, Part]) -> None:
        self.kind = DROPPED
        self.hit: defaultdict[MessageKey, list[Fault]] = defaultdict(list)
        self.parts = parts
        self._dialect = dialect
        self._seed = seed
        self._sends: Counter[MessageKey] = Counter()
        self._fates: dict[MessageKey, tuple[Way, Fault] | None] = {}
        self.counts: Counter[tuple[Way, Fault]] = Counter()
        """Faults of originals, not of their reversals."""

    def __call__(self, way: Way, frame: bytes) -> Fault | None:
        """The fault of one message; drawn with each request, for it or its answer."""
        message = self._dialect.codec.decode(frame)
        if message.mti[1] == "8":
            return None
        key = (message.mti[1], message.fields[41].strip(), message.fields[11])
        if way is Way.REQUEST:
            self._fates[key] = self._drawn(key)
        fate = self._fates.get(key)
        if fate is None or fate[0] is not way:
            return None
        self._fates[key] = None
        self.hit[key].append(fate[1])
        self.counts[fate] += key[0] != "4"
        return fate[1]

    def _drawn(self, key: MessageKey) -> tuple[Way, Fault] | None:
        part = self.parts.get(key[1], Part.PLAIN)
        if part is Part.ENDLESS:
            return DROPPED
        if part in _CLEAR or (part is Part.KEPT and key[0] == "4"):
            return None
        self._sends[key] += 1
        dice = random.Random(f"{self._seed}/{key}/{self._sends[key]}")
        hits = len(self.hit.get(key, ()))
        if hits == 0 and key[0] != "4":
            return self.kind
        if hits >= HITS_MAX or dice.random() >= AGAIN:
            return None
        return dice.choice((DROPPED, LATE, SWALLOWED))


def certified_for_repeats(folder: Path, shipped: str) -> str:
    """Write a shipped host dialect with 0201 allowed (D7); returns the path of the file."""
    source = Path(protocol.iso8583.__file__).parent / "dialects" / f"{shipped}.toml"
    plain, without = source.read_text(encoding="utf-8"), "repeat_request = false"
    assert plain.count(without) == 1
    path = folder / f"{shipped}-repeats.toml"
    path.write_text(plain.replace(without, "repeat_request = true"), encoding="utf-8")
    return str(path)
