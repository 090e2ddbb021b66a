"""An acquirer with a ledger of its own: it books once per key, whatever it is asked, and answers as its mood says."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import is_repeat
from protocol.response_codes import REVERSAL_DONE

HostKey = tuple[str, str]
"""Merchant and terminal, and the STAN of the transaction that is booked."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Mood:
    """What becomes of one message.

    Attributes:
        sent: a byte leaves; else the gateway is told NotSent.
        arrives: it reaches the acquirer, `after_ms` later.
        books: a request or an advice is booked on arrival, whatever the answer says.
        code: field 39 of the answer, where the ledger has no say.
        answers: the answer gets back.
        breaks: the connection breaks at once: the gateway is told TimedOut before the deadline.
        extra: further fields of the answer.
        verified: the MAC of the answer is right.
        twice: the message arrives twice; the second answer is lost.
        denies: a reversal of what is booked is not carried out, now and later, and is told that nothing is known of it.
    """

    sent: bool = True
    arrives: bool = True
    after_ms: int = 0
    books: bool = True
    code: str = "00"
    answers: bool = True
    breaks: bool = False
    extra: tuple[tuple[int, str], ...] = ()
    verified: bool = True
    twice: bool = False
    denies: bool = False


APPROVES = Mood()
DECLINES = Mood(books=False, code="51")
SILENT_BOOKED = Mood(answers=False)
SILENT_LOST = Mood(arrives=False, answers=False)
LATE = Mood(after_ms=20_000)
LATE_DECLINE = Mood(after_ms=20_000, books=False, code="51")
REFUSES = Mood(sent=False)
WRONG_MAC_BOOKED = Mood(verified=False)
WRONG_MAC_LOST = Mood(arrives=True, books=False, code="51", verified=False)
BREAKS_BOOKED = Mood(breaks=True, after_ms=25_000, answers=False)


def answers(code: str, *, books: bool = False) -> Mood:
    """A mood that answers with this code."""
    return Mood(code=code, books=books)


@dataclass(slots=True)
class Acquirer:
    """The ledger, and what has arrived.

    Attributes:
        mood: of every message that finds none in `moods`.
        moods: of the next messages, one each; probes take none.
        alive: answers probes.
        booked: amount by key.
        reversed: keys that were taken back.
        early: keys whose reversal came when nothing was booked.
        overtaken: keys that were booked after such a reversal.
        arrived: every message, in order of arrival.
        remembers: it knows each message by a key, and answers a repeat as it answered the first.
        unknown: its code for a reversal of what it does not know.
        denied: keys that it has booked and has refused to reverse.
    """

    mood: Mood = APPROVES
    moods: deque[Mood] = field(default_factory=deque)
    alive: bool = True
    booked: dict[HostKey, int] = field(default_factory=dict)
    outcomes: dict[HostKey, str] = field(default_factory=dict)
    reversed: set[HostKey] = field(default_factory=set)
    early: set[HostKey] = field(default_factory=set)
    overtaken: set[HostKey] = field(default_factory=set)
    arrived: list[tuple[Purpose, Message]] = field(default_factory=list)
    remembers: bool = False
    unknown: str = "25"
    denied: set[HostKey] = field(default_factory=set)

    def next_mood(self) -> Mood:
        """The mood of the next message."""
        return self.moods.popleft() if self.moods else self.mood

    def net(self, key: HostKey) -> int:
        """1 while the card is debited for this key, else 0."""
        return int(key in self.booked and key not in self.reversed)

    def arrive(self, purpose: Purpose, message: Message, mood: Mood) -> Fields:
        """Take a message into the ledger; returns the fields of the answer."""
        self.arrived.append((purpose, message))
        if purpose in {Purpose.INQUIRY, Purpose.SETTLEMENT}:  # moves no money
            return (
                {n: message.fields[n] for n in (3, 11, 41, 42) if n in message.fields}
                | {39: mood.code}
                | dict(mood.extra)
            )
        key = host_key(purpose, message)
        code = self._reverse(key, mood) if purpose is Purpose.REVERSAL else self._book(key, purpose, message, mood)
        fields: Fields = {n: message.fields[n] for n in (3, 4, 7, 11, 41, 42) if n in message.fields}
        if code:
            fields[39] = code
        if code == "00":
            fields[38] = f"H{key[1][-5:]}"
            fields[37] = f"REF{key[1]:>09}"
        return fields | dict(mood.extra)

    def _book(self, key: HostKey, purpose: Purpose, message: Message, mood: Mood) -> str:
        if key in self.outcomes:
            again = purpose is Purpose.REQUEST and is_repeat(message.mti)
            return self.outcomes[key] if again else "94"
        if mood.books or mood.code == "94":  # known already: as if it had been booked under this key before
            amount = dict(mood.extra).get(4, "") if purpose is Purpose.REQUEST else ""
            self.booked[key] = int(amount or message.fields[4])
            self.outcomes[key] = "00"
            if key in self.early:
                self.overtaken.add(key)
        elif purpose is Purpose.REQUEST:
            self.outcomes[key] = mood.code
        return mood.code

    def _reverse(self, key: HostKey, mood: Mood) -> str:
        if mood.code not in REVERSAL_DONE:  # what it says of that it means
            return mood.code
        if self.remembers and key in self.early:
            return self.unknown
        if mood.denies and self.net(key):
            self.denied.add(key)
        if key in self.denied:
            return self.unknown
        if key in self.booked:
            self.reversed.add(key)
            return "00"
        self.early.add(key)
        return self.unknown


def lane_of(message: Message) -> str:
    """Merchant and terminal as the gateway names the lane."""
    return f"{message.fields.get(42, '')}|{message.fields.get(41, '')}"


def host_key(purpose: Purpose, message: Message) -> HostKey:
    """Under which key a message counts: a reversal's is its original's."""
    if purpose is Purpose.REVERSAL and 90 in message.fields:
        return lane_of(message), message.fields[90][4:10]
    return lane_of(message), message.fields[11]
