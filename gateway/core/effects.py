"""What the core asks the world to do. The conductor carries effects out and brings back events (events.py).

Every effect that has a result carries a token; exactly one event with that token answers it, except where said.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from gateway.core.lifecycle import EntryKind
from gateway.core.transaction import Answer, StoredMessage, Transaction, Veiled
from protocol.iso8583.message import Fields, Message


class Limit(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A bound on one exposure counter, decided in the commit (D21).

    Attributes:
        counter: name of the durable counter, e.g. "terminal|MERCHANT/TERMINAL|156".
        count_max, amount_minor_max: refuse when this reservation would go above; None for no bound.
        age_ms_max: refuse when the counter has been above zero for longer; None for no bound.
        reason: what is reported when this bound refuses, e.g. "standin.terminal-count".
    """

    counter: str
    count_max: int | None
    amount_minor_max: int | None
    age_ms_max: int | None
    reason: str


class Create(Veiled, frozen=True, gc=False, array_like=True, tag=True):
    """A new transaction with its first entry.

    Conditional: when the key exists, nothing of the whole write is done (Existing); when a limit refuses, likewise
    (OverLimit). With `horizon_ms` above 0 the key exists when a transaction of that key was accepted within it (D1).
    A reservation adds (1, amount_minor) to the counter of every limit in `reserve`.
    """

    VEILED: ClassVar[frozenset[str]] = frozenset({"sensitive"})

    kind: EntryKind
    transaction: Transaction
    request: StoredMessage
    sensitive: Fields
    answer: Answer | None
    reserve: tuple[Limit, ...] = ()
    horizon_ms: int = 0


class Update(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A change of an existing transaction: its next row and the entry that tells of it.

    `answer` replaces what the terminal was told; None leaves it. `reserve` as in Create; `release` names counters from
    which (1, amount_minor) is taken. `detail` is free text of an operator's act (who, why), never card data.
    A row whose stored revision is not `transaction.revision - 1` is a defect of ours: the journal stops, nothing is
    written.
    """

    kind: EntryKind
    transaction: Transaction
    answer: Answer | None = None
    reserve: tuple[Limit, ...] = ()
    release: tuple[str, ...] = ()
    detail: str = ""


Change = Create | Update


class Write(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """One atomic group of changes. Every Create is conditional on its keys; only the first change may reserve.

    A Create of a later place whose `transaction.original` is -1 gets the id of the first change's transaction; an
    Update whose `transaction.position` is -1 gets the sequence of its own entry as its place in the lane.
    Answered by Committed, Existing, OverLimit or WriteRefused.
    """

    token: int
    changes: tuple[Change, ...]


class Note(msgspec.Struct, frozen=True, gc=False):
    """An entry about no transaction: `kind` is of lifecycle.ABOUT_NO_TRANSACTION; `detail` as in Update.

    No effect of the core: whoever keeps keys or opens records hands it to the journal (port.Journal.note).
    """

    kind: EntryKind
    detail: str


class Find(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Look transactions up by key. Answered by Found, in the order of `keys`.

    `horizon_ms` is 0, or how far back the newest transaction of such a key is looked for (D1).
    """

    token: int
    keys: tuple[str, ...]
    horizon_ms: int = 0


class FindNewest(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Look for the newest transaction of a lane that names a batch. Answered by Found with one element.

    It says which batch a terminal is in, for reversals that do not (D12). What is damaged is passed over.
    """

    token: int
    lane: str


class FetchHeads(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Read the first `limit` replayable transactions of a lane in order. Answered by Heads."""

    token: int
    lane: str
    limit: int


class Load(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Read one transaction by id. Answered by Found with one element.

    With a `key`, only if it has this key; also one that is damaged is told as damaged only if the key is known to be
    its own, else as absent: whoever guesses ids learns nothing of others' transactions.
    """

    token: int
    id: int
    key: str = ""


class FetchBatch(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Read the transactions of one terminal's batch, oldest first, parts opened. Answered by BatchRead.

    `batch` is what their keys begin with: `PERIOD|MERCHANT|TERMINAL`. Second keys do not count.
    """

    token: int
    batch: str


class Purpose(IntEnum):
    """Why a message goes upstream."""

    REQUEST = 1
    ADVICE = 2
    REVERSAL = 3
    INQUIRY = 4
    PROBE = 5
    SETTLEMENT = 6


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message upstream. Answered by Answered, TimedOut or NotSent; after TimedOut, LateAnswered may follow once.

    The link owns the deadline (`timeout_ms` from the call) and tries the acquirer's endpoints in turn as long as no
    byte was written (D6).
    """

    token: int
    purpose: Purpose
    message: Message
    timeout_ms: int


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Answer a terminal. `terminal_token` is the one that its Requested event carried. Has no result.

    `recorded` is the row that the answer is about, as it is stored; None where there is none, or it is not at hand.
    """

    terminal_token: int
    answer: Answer
    recorded: Transaction | None = None


class OperatorReply(msgspec.Struct, frozen=True, gc=False):
    """Answer an operator's command. Has no result."""

    operator_token: int
    done: bool
    text: str


class Severity(IntEnum):
    """How loudly an alarm is raised."""

    NOTICE = 1
    WARNING = 2
    ALARM = 3


class Alarm(msgspec.Struct, frozen=True, gc=False):
    """Something a person should know. `code` is stable and machine-readable; `facts` never hold card data."""

    severity: Severity
    code: str
    text: str
    facts: dict[str, str]


Effect = Write | Find | FindNewest | FetchHeads | FetchBatch | Load | Send | Reply | OperatorReply | Alarm
