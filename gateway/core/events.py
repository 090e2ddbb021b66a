"""What the world tells the core. Each event is one call of `Engine.step`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from gateway.core.transaction import Request, Stored
from protocol.iso8583.message import Fields


@dataclass(slots=True, frozen=True)
class Requested:
    """A terminal's message has arrived. `terminal_token` says where the answer goes."""

    terminal_token: int
    request: Request


@dataclass(slots=True, frozen=True)
class Committed:
    """The write of this token is durable. `ids` has the transaction id of each change, in order."""

    token: int
    ids: tuple[int, ...]


@dataclass(slots=True, frozen=True)
class Existing:
    """The key of a Create exists (the first such, in order); nothing was written.

    `stored` is None when that record is damaged.
    """

    token: int
    stored: Stored | None


@dataclass(slots=True, frozen=True)
class OverLimit:
    """An exposure limit refused the reservation; nothing was written."""

    token: int
    reason: str


class RefusalReason(StrEnum):
    """Why the journal did not write."""

    FULL = "full"
    """The disk or the configured limit is reached."""


@dataclass(slots=True, frozen=True)
class WriteRefused:
    """Nothing was written, for certain; it may be tried again later.

    A Create is refused when room runs short, but not a reversal's (D15); an Update only when there is none at all.
    """

    token: int
    reason: RefusalReason


class Lookup(IntEnum):
    """What a lookup found where it has no transaction to give."""

    ABSENT = 1
    DAMAGED = 2


@dataclass(slots=True, frozen=True)
class Found:
    """Result of Find or Load, one element per key asked for."""

    token: int
    results: tuple[Stored | Lookup, ...]


@dataclass(slots=True, frozen=True)
class Heads:
    """Result of FetchHeads, in lane order. Damaged records are quarantined by the journal and left out.

    `more` tells whether the lane owes anything beyond these.
    """

    token: int
    lane: str
    stored: tuple[Stored, ...]
    more: bool


@dataclass(slots=True, frozen=True)
class BatchRead:
    """Result of FetchBatch.

    `whole` is False where a record is damaged or the batch has more than the journal reads at once: its totals are not
    known then.
    """

    token: int
    stored: tuple[Stored, ...]
    whole: bool


@dataclass(slots=True, frozen=True)
class Damaged:
    """The journal met a damaged record and quarantined it. `sequence` is that of the record."""

    sequence: int
    what: str


@dataclass(slots=True, frozen=True)
class Answered:
    """The acquirer answered in time. `verified` is False where the answer's MAC is wrong: it proves nothing (D12)."""

    token: int
    mti: str
    fields: Fields = field(repr=False)
    verified: bool = True


@dataclass(slots=True, frozen=True)
class TimedOut:
    """At least one byte may have left, and no answer came in time or the connection broke (in doubt)."""

    token: int


@dataclass(slots=True, frozen=True)
class NotSent:
    """No byte was written, for certain (D6)."""

    token: int
    reason: str


@dataclass(slots=True, frozen=True)
class LateAnswered:
    """An answer to a Send that has already been reported as TimedOut (D16)."""

    token: int
    mti: str
    fields: Fields = field(repr=False)


@dataclass(slots=True, frozen=True)
class Connected:
    """The acquirer has at least one endpoint connected, or none any more."""

    connected: bool


class OperatorAct(StrEnum):
    """What an operator may do."""

    RELEASE = "release"
    CANCEL = "cancel"
    VOID = "void"
    MAINTENANCE_ON = "maintenance-on"
    MAINTENANCE_OFF = "maintenance-off"


@dataclass(slots=True, frozen=True)
class Commanded:
    """An operator's command. `id` is a transaction's id, 0 where the act is about the link."""

    operator_token: int
    act: OperatorAct
    id: int
    who: str
    why: str


@dataclass(slots=True, frozen=True)
class Stopping:
    """The gateway is about to stop: what is under way is finished, nothing new is sent upstream."""


@dataclass(slots=True, frozen=True)
class Ticked:
    """Time has passed up to `Engine.next_wakeup_ms`."""


JournalEvent = Committed | Existing | OverLimit | WriteRefused | Found | Heads | BatchRead | Damaged
LinkEvent = Answered | TimedOut | NotSent | LateAnswered | Connected
Event = Requested | JournalEvent | LinkEvent | Commanded | Stopping | Ticked
