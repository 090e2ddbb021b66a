"""The journal's port: what any journal must do, and what it must not. One conformance suite runs on every journal.

A journal MUST
- answer every Write, Find, FindNewest, FetchHeads, FetchBatch and Load handed to it with exactly one event of the same
  token, through `deliver`, in batches, in the order in which writes were handed over (INV-4);
- deliver Committed only after the commit that covers the write has reached the disk (INV-1);
- decide the uniqueness of keys and the limits of exposure inside the commit (D1, D21);
- give entries dense sequences from 1, in commit order, and keep the Merkle tree over them (RFC 6962);
- verify every record that it reads, and on damage quarantine that record, deliver Damaged, and go on with the rest;
- refuse to open, and change nothing, where something that it has committed is missing and cannot be brought back.
A journal MUST NOT
- report WriteRefused for a write that may have become durable: when a commit's outcome is unknown it calls `failed`
  with JournalInDoubt, delivers nothing more, and accepts nothing more;
- keep anything in memory that grows with the number of stored transactions;
- write card data outside ciphertext, or a key beside what it protects (INV-8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.effects import FetchBatch, FetchHeads, Find, FindNewest, Load, Note, Write
from gateway.core.events import JournalEvent
from gateway.core.lifecycle import ABOUT_NO_TRANSACTION, EntryKind, State
from gateway.core.transaction import Stored, Transaction

if TYPE_CHECKING:
    from gateway.journal.keyring import Keyring

Deliver = Callable[[Sequence[JournalEvent]], None]
"""Called on the event loop's thread, once per batch."""

BATCH_TRANSACTIONS_MAX: Final = 5_000
"""Transactions of a terminal's batch that are read at once: bounds memory, and how long other reads wait."""


NOTE_DETAIL_BYTES_MAX: Final = 16_384
"""An entry about no transaction tells who did what and why; what is longer belongs elsewhere."""


class JournalError(Exception):
    """Something is wrong with the journal; the message says what to do."""


class JournalLocked(JournalError):
    """Another gateway holds this journal."""


class JournalKeysWrong(JournalError):
    """The keys do not fit this journal; the message names the key that is missing or wrong."""


class JournalUnreadable(JournalError):
    """Not a journal of ours, of a newer version, damaged beyond one record, or not all there."""


class JournalFull(JournalError):
    """There is no room: nothing was written, for certain."""


class JournalInDoubt(JournalError):
    """A commit failed and its outcome is unknown: stop and recover; terminals retry with the same key."""


@dataclass(slots=True, frozen=True, kw_only=True)
class JournalHealth:
    """What status, metrics and readiness are told.

    Attributes:
        writable: the last write was not refused.
        reason: why not, in words; empty where writable.
        entries: highest sequence.
        bytes_on_disk, bytes_free: of the journal's files and of their file system.
        counts: number of transactions by state (kept by the journal, not counted by scanning).
        oldest_owed_ms: UTC time of acceptance of the oldest transaction that owes something, or 0.
        quarantined: damages in quarantine that are open.
        settled: records in quarantine that two people have settled; they are not among these.
        commits, writes: since opening; writes / commits is the mean size of a group commit.
        queued: writes handed over and not yet answered.
        syncs: of the journal's files since opening: one for each commit that wrote, up to four for each checkpoint.
    """

    writable: bool
    reason: str
    entries: int
    bytes_on_disk: int
    bytes_free: int
    counts: dict[State, int]
    oldest_owed_ms: int
    quarantined: int
    commits: int
    writes: int
    queued: int
    settled: int = 0
    syncs: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class Listing:
    """Which transactions an operator or a till wants to see: newest last, `limit` after `after_id`.

    Attributes:
        terminal: only its transactions; costs what this terminal has, not what the journal has.
        stan: only those with this field 11 upstream; with a terminal, costs what it has of this STAN.
    """

    states: frozenset[State]
    lane: str = ""
    terminal: str = ""
    stan: str = ""
    after_id: int = 0
    limit: int = 100


def checked_note(kind: EntryKind, detail: str) -> Note:
    """An entry about no transaction.

    Raises:
        ValueError: as Journal.note.
    """
    if kind not in ABOUT_NO_TRANSACTION:
        raise ValueError(f"an entry of kind {kind.name} is about a transaction")
    if len(detail.encode()) > NOTE_DETAIL_BYTES_MAX:
        raise ValueError(f"the detail of an entry has at most {NOTE_DETAIL_BYTES_MAX} bytes")
    return Note(kind, detail)


@dataclass(slots=True, frozen=True)
class KeyNeeds:
    """Up to where older keys are needed.

    Attributes:
        oldest_unsettled: id of the oldest transaction that is not final, or 0: no entry of one has a lower sequence.
        oldest_quarantined: id of the oldest open one in quarantine not known to be final, or 0; the same holds for it.
        sensitive: by id of the epoch key that it is sealed with, the oldest entry whose sensitive part is kept.
        sensitive_quarantined: transactions in quarantine whose sensitive part is kept, the oldest of them.
    """

    oldest_unsettled: int
    oldest_quarantined: int
    sensitive: dict[int, int]
    sensitive_quarantined: list[int]


@dataclass(slots=True, frozen=True)
class PutAside:
    """What is in quarantine of one record.

    Attributes:
        id: of the transaction; 0 for damage that belongs to none.
        damage: what was wrong, as it was met.
        since_ms: UTC time of the first of it.
        settled_in, settled_ms: the entry by which two people have settled it, and when (UTC); 0 while it is open.
        lists_only: only a list of it was wrong, the record itself never was.
        whole: an open one that reads whole now: it has healed.
    """

    id: int
    damage: list[str]
    since_ms: int
    settled_in: int = 0
    settled_ms: int = 0
    lists_only: bool = False
    whole: bool = False


class Journal(Protocol):
    """A durable memory of transactions. All calls are made on the event loop's thread."""

    async def open(self) -> None:
        """Take the single-instance lock, check keys and format, create what is missing.

        Raises: JournalLocked, JournalKeysWrong, JournalUnreadable.
        """

    async def close(self) -> None:
        """Finish what was handed over, checkpoint, release the lock. Safe to call twice.

        Raises: JournalInDoubt, where the disk fails; what was acknowledged is kept, and the lock is released.
        """

    def write(self, write: Write) -> None:
        """Hand over a group of changes for the next group commit. Answered through `deliver`."""

    def begin(self) -> None:
        """Begin with what was handed over, rather than in the loop's next turn: there is no more of it just now."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """Log an entry about no transaction, and wait until it is durable.

        It stands behind the writes of the same commit. Only a full disk keeps it out.

        Args:
            kind: of ABOUT_NO_TRANSACTION.
            detail: who did what and why, at most NOTE_DETAIL_BYTES_MAX as UTF-8; never card data.
        Returns:
            The entry's sequence.
        Raises:
            ValueError: another kind, or a detail that is too long or no text.
            JournalFull: the disk is full.
            JournalInDoubt: the commit failed, or the journal has stopped.
        Cancellation: the entry may become durable all the same.
        """

    async def adopt_keys(self, keyring: Keyring) -> None:
        """Seal with the current keys of `keyring` from now on, and open with all of its keys and no others.

        Its list of keys is noted in the journal before anything is sealed with one of them, so that the loss of a key
        is named at the next opening. What is handed over after this call is sealed with the new keys.

        Raises:
            JournalFull: the disk is full; the keys are as they were.
            JournalError: the journal has stopped.
        """

    async def key_needs(self) -> KeyNeeds:
        """Which keys what is owed still needs. Sees every write answered before this call.

        Raises:
            JournalUnreadable: damage may hide something that is owed.
        """

    async def put_aside(self, after_id: int, limit: int) -> list[PutAside]:
        """What is in quarantine, by id: up to `limit` records behind `after_id` (-1 for all), settled ones as well.

        An entry of kind DAMAGE_SETTLED (`note`) settles the record that it names, in its own commit; see
        settled_damage.py for where nothing comes of it.
        """

    def log_head(self) -> tuple[int, bytes]:
        """Size and RFC 6962 root of the tree over the entries, as of the newest commit that was delivered; cheap."""

    def find(self, find: Find) -> None:
        """Look up by key. Answered by Found. Sees every write answered before this call."""

    def find_newest(self, find: FindNewest) -> None:
        """Look for the newest transaction of a lane that names a batch. Answered by Found with one element."""

    def fetch_heads(self, fetch: FetchHeads) -> None:
        """Read the head of a lane. Answered by Heads. Sees every write answered before this call."""

    def fetch_batch(self, fetch: FetchBatch) -> None:
        """Read a terminal's batch. Answered by BatchRead. Sees every write answered before this call.

        `whole` is False where a record that is or may be of the batch is damaged, or where the batch has more than
        BATCH_TRANSACTIONS_MAX; what is whole of the oldest so many is there all the same. All of it is of one state of
        the journal. Costs what the batch has, not what the journal has.
        """

    def load(self, load: Load) -> None:
        """Read one transaction. Answered by Found with one element."""

    async def owing_lanes(self) -> list[str]:
        """Lanes with something to replay. Does not scan the journal: its cost grows with the number of lanes."""

    async def in_doubt(self, limit: int) -> list[Stored]:
        """Up to `limit` transactions that a crash left in doubt (lifecycle.IN_DOUBT_AFTER_CRASH)."""

    async def listing(self, listing: Listing) -> list[Transaction]:
        """Rows for operators; verified, without opening ciphertexts."""

    async def health(self) -> JournalHealth:
        """Cheap: called once a second."""

    def refusal(self) -> str:
        """Why new transactions would be refused now, in words; empty where they would be taken."""
