"""What the world tells the core. Each event is one call of `Engine.step`."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import ClassVar, Final

import msgspec

from gateway.core.transaction import Request, Stored, Veiled
from protocol.iso8583.message import Fields


class Requested(msgspec.Struct, frozen=True, gc=False):
    """A terminal's message has arrived. `terminal_token` says where the answer goes."""

    terminal_token: int
    request: Request


class Committed(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The write of this token is durable. `ids` has the transaction id of each change, in order."""

    token: int
    ids: tuple[int, ...]


class Existing(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The key of a Create exists (the first such, in order); nothing was written.

    `stored` is None when that record is damaged.
    """

    token: int
    stored: Stored | None


class OverLimit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """An exposure limit refused the reservation; nothing was written."""

    token: int
    reason: str


class RefusalReason(StrEnum):
    """Why the journal did not write."""

    FULL = "full"
    """The disk or the configured limit is reached."""


class WriteRefused(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Nothing was written, for certain; it may be tried again later.

    A Create is refused when room runs short, but not a reversal's (D15); an Update only when there is none at all.
    """

    token: int
    reason: RefusalReason


class Lookup(IntEnum):
    """What a lookup found where it has no transaction to give."""

    ABSENT = 1
    DAMAGED = 2


class Found(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Result of Find or Load, one element per key asked for."""

    token: int
    results: tuple[Stored | Lookup, ...]


class Heads(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Result of FetchHeads, in lane order. Damaged records are quarantined by the journal and left out.

    `more` tells whether the lane owes anything beyond these.
    """

    token: int
    lane: str
    stored: tuple[Stored, ...]
    more: bool


class BatchRead(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Result of FetchBatch.

    `whole` is False where a record is damaged or the batch has more than the journal reads at once: its totals are not
    known then.
    """

    token: int
    stored: tuple[Stored, ...]
    whole: bool


class Damaged(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The journal met a damaged record and quarantined it. `sequence` is that of the record."""

    sequence: int
    what: str


class Answered(Veiled, frozen=True, gc=False):
    """The acquirer answered in time. `verified` is False where the answer's MAC is wrong: it proves nothing (D12)."""

    VEILED: ClassVar[frozenset[str]] = frozenset({"fields"})

    token: int
    mti: str
    fields: Fields
    verified: bool = True


class TimedOut(msgspec.Struct, frozen=True, gc=False):
    """At least one byte may have left, and no answer came in time or the connection broke (in doubt)."""

    token: int


NO_ROOM: Final = "no endpoint has room"
"""Reason of a NotSent: as much is in flight as may be."""


class NotSent(msgspec.Struct, frozen=True, gc=False):
    """No byte was written, for certain (D6)."""

    token: int
    reason: str


class LateAnswered(Veiled, frozen=True, gc=False):
    """An answer to a Send that has already been reported as TimedOut (D16)."""

    VEILED: ClassVar[frozenset[str]] = frozenset({"fields"})

    token: int
    mti: str
    fields: Fields


class Connected(msgspec.Struct, frozen=True, gc=False):
    """The acquirer has at least one endpoint connected, or none any more."""

    connected: bool


class OperatorAct(StrEnum):
    """What an operator may do."""

    RELEASE = "release"
    CANCEL = "cancel"
    VOID = "void"
    MAINTENANCE_ON = "maintenance-on"
    MAINTENANCE_OFF = "maintenance-off"


class Commanded(msgspec.Struct, frozen=True, gc=False):
    """An operator's command. `id` is a transaction's id, 0 where the act is about the link."""

    operator_token: int
    act: OperatorAct
    id: int
    who: str
    why: str


class Stopping(msgspec.Struct, frozen=True, gc=False):
    """The gateway is about to stop: what is under way is finished, nothing new is sent upstream."""


class Ticked(msgspec.Struct, frozen=True, gc=False):
    """Time has passed up to `Engine.next_wakeup_ms`."""


JournalEvent = Committed | Existing | OverLimit | WriteRefused | Found | Heads | BatchRead | Damaged
LinkEvent = Answered | TimedOut | NotSent | LateAnswered | Connected
Event = Requested | JournalEvent | LinkEvent | Commanded | Stopping | Ticked
