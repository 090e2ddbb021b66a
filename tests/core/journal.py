"""A journal in memory that follows gateway/journal/port.py, for one thread and no disk.

Writes wait until they are committed; a crash may keep or lose those that wait. Lookups see what is committed when they
are answered.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import dataclass, field

from gateway.core.effects import Change, Create, FetchBatch, FetchHeads, Find, FindNewest, Limit, Load, Update, Write
from gateway.core.events import (
    BatchRead,
    Committed,
    Existing,
    Found,
    Heads,
    JournalEvent,
    Lookup,
    OverLimit,
    RefusalReason,
    WriteRefused,
)
from gateway.core.lifecycle import FINAL, IN_DOUBT_AFTER_CRASH, REPLAYABLE, EntryKind, State
from gateway.core.standin import counters
from gateway.core.transaction import Kind, Stored, StoredMessage, Transaction
from gateway.journal.port import JournalFull, checked_note
from protocol.iso8583.message import Fields

ANSWERED_STATES = frozenset(State) - IN_DOUBT_AFTER_CRASH


_UNCHANGEABLE = (
    "key", "kind", "lane", "fingerprint", "card", "amount_minor", "currency", "stan", "accepted_ms",
    "alias", "alias_digest",
)  # fmt: skip
"""What an update must leave alone (INV-5)."""


class Broken(AssertionError):
    """A promise does not hold: which one (an INV or D number, or a few words), and what was seen."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class RevisionMismatch(Broken):
    """An update states another revision than the next one: the real journal would stop."""

    def __init__(self, text: str) -> None:
        super().__init__("one after the other", text)


@dataclass(slots=True)
class Row:
    """One transaction as it is stored."""

    transaction: Transaction
    request: StoredMessage
    sensitive: Fields
    stored: Stored


@dataclass(slots=True)
class CounterState:
    """One exposure counter."""

    count: int = 0
    amount_minor: int = 0
    since_ms: int = 0


@dataclass(slots=True)
class Entry:
    """One entry of the log; `id` is 0 and `state` None where it is about no transaction."""

    sequence: int
    kind: EntryKind
    id: int
    state: State | None
    detail: str = ""


def copied(row: Transaction) -> Transaction:
    """A row that nobody else holds; faster than dataclasses.replace."""
    return copy(row)


@dataclass(slots=True)
class MemoryJournal:
    """Rows, log and counters; `damaged` are ids whose record cannot be read.

    `full` refuses all writes; `short` refuses what is new, but for reversals (D15).
    """

    full: bool = False
    short: bool = False
    damaged: set[int] = field(default_factory=set)
    rows: dict[int, Row] = field(default_factory=dict)
    by_key: dict[str, list[int]] = field(default_factory=dict)
    by_lane: dict[str, set[int]] = field(default_factory=dict)
    by_stan: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    owed: dict[str, set[int]] = field(default_factory=dict)
    operated: set[int] = field(default_factory=set)
    counters: dict[str, CounterState] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)

    # Writing

    def commit(self, write: Write, utc_ms: int) -> JournalEvent:
        """Decide and carry out one write."""
        if self.full:
            return WriteRefused(write.token, RefusalReason.FULL)
        for change in write.changes:
            if isinstance(change, Create):
                row = change.transaction
                found = self._existing(row.key, change.horizon_ms, row.accepted_ms)
                if found is None and row.alias:
                    found = self._existing(row.alias, 0, row.accepted_ms)
                if found is not None:
                    return Existing(write.token, None if found in self.damaged else self.rows[found].stored)
        assert not any(change.reserve for change in write.changes[1:])
        if self.short and self._is_new(write):
            return WriteRefused(write.token, RefusalReason.FULL)
        for limit in write.changes[0].reserve:
            if self._over(limit, write.changes[0].transaction.amount_minor, utc_ms):
                return OverLimit(write.token, limit.reason)
        ids: list[int] = []
        for change in write.changes:
            ids.append(self._apply(change, ids[0] if ids else 0, utc_ms))
        return Committed(write.token, tuple(ids))

    def note(self, kind: EntryKind, detail: str) -> int:
        """Log an entry about no transaction; its sequence. As the real one, it is durable when this returns."""
        asked = checked_note(kind, detail)
        if self.full:
            raise JournalFull("the disk is full: nothing was written")
        self.log.append(Entry(len(self.log) + 1, asked.kind, 0, None, asked.detail))
        return len(self.log)

    @staticmethod
    def _is_new(write: Write) -> bool:
        """Whether it creates anything, and no reversal."""
        return write.changes[0].transaction.kind not in {Kind.REVERSAL, Kind.UNSEEN} and any(
            isinstance(change, Create) for change in write.changes
        )

    def _existing(self, key: str, horizon_ms: int, now_ms: int) -> int | None:
        ids = self.by_key.get(key)
        if not ids:
            return None
        newest = ids[-1]
        if horizon_ms and now_ms - self.rows[newest].transaction.accepted_ms > horizon_ms:
            return None
        return newest

    def _over(self, limit: Limit, amount_minor: int, utc_ms: int) -> bool:
        state = self.counters.get(limit.counter, CounterState())
        return (
            (limit.count_max is not None and state.count + 1 > limit.count_max)
            or (limit.amount_minor_max is not None and state.amount_minor + amount_minor > limit.amount_minor_max)
            or (limit.age_ms_max is not None and state.count > 0 and utc_ms - state.since_ms > limit.age_ms_max)
        )

    def _apply(self, change: Change, first_id: int, utc_ms: int) -> int:
        sequence = len(self.log) + 1
        row = change.transaction
        if isinstance(change, Create):
            assert row.id == 0
            assert row.revision == 1
            made = copied(row)
            made.id = sequence
            if row.original == -1:
                made.original = first_id
            assert made.key not in self.by_key or change.horizon_ms
            self.by_key.setdefault(made.key, []).append(sequence)
            if made.alias:
                assert made.alias not in self.by_key
                self.by_key[made.alias] = [sequence]
            self.by_lane.setdefault(made.lane, set()).add(sequence)
            if made.kind is not Kind.REVERSAL:
                self.by_stan.setdefault((made.lane, made.sent_stan), []).append(sequence)
            message = StoredMessage(change.request.mti, dict(change.request.fields))
            sensitive, answer = dict(change.sensitive), change.answer
        else:
            before = self.rows[row.id]
            if before.transaction.revision != row.revision - 1:
                raise RevisionMismatch(f"{row.id}: {before.transaction.revision} -> {row.revision}")
            self._unchangeable(before.transaction, row)
            made = copied(row)
            if row.position == -1:
                made.position = sequence
            message, sensitive = before.request, before.sensitive
            answer = change.answer if change.answer is not None else before.stored.answer
        if made.state in FINAL:
            sensitive = {}
        assert answer is not None or made.state not in ANSWERED_STATES or made.kind is Kind.UNSEEN, made
        self.rows[made.id] = Row(made, message, sensitive, Stored(made, message, sensitive, answer))
        owed = self.owed.setdefault(made.lane, set())
        (owed.add if made.state in REPLAYABLE else owed.discard)(made.id)
        self._count(change, made, utc_ms)
        detail = change.detail if isinstance(change, Update) else ""
        if change.kind is EntryKind.OPERATOR:
            self.operated.add(made.id)
        self.log.append(Entry(sequence, change.kind, made.id, made.state, detail))
        return made.id

    @staticmethod
    def _unchangeable(before: Transaction, after: Transaction) -> None:
        for name in _UNCHANGEABLE:
            assert getattr(before, name) == getattr(after, name), name

    def _count(self, change: Change, row: Transaction, utc_ms: int) -> None:
        for limit in change.reserve:
            state = self.counters.setdefault(limit.counter, CounterState())
            if state.count == 0:
                state.since_ms = utc_ms
            state.count += 1
            state.amount_minor += row.amount_minor
        for name in change.release if isinstance(change, Update) else ():
            state = self.counters.setdefault(name, CounterState())
            state.count -= 1
            state.amount_minor -= row.amount_minor
            if state.count < 0 or state.amount_minor < 0:
                raise Broken("D21", f"more is released than was reserved: {name}")

    # Reading

    def find(self, find: Find, utc_ms: int) -> Found:
        """Look keys up."""
        return Found(find.token, tuple(self._read(self._existing(k, find.horizon_ms, utc_ms)) for k in find.keys))

    def load(self, load: Load) -> Found:
        """Read by id."""
        known = load.id in self.rows and load.key in ("", self.rows[load.id].transaction.key)
        return Found(load.token, (self._read(load.id if known else None),))

    def _read(self, found: int | None) -> Stored | Lookup:
        if found is None:
            return Lookup.ABSENT
        return Lookup.DAMAGED if found in self.damaged else self.rows[found].stored

    def owed_rows(self, lane: str) -> list[Row]:
        """What the lane owes, by place."""
        rows = [self.rows[found] for found in self.owed.get(lane, ()) if found not in self.damaged]
        return sorted(rows, key=lambda row: row.transaction.position or row.transaction.id)

    def heads(self, fetch: FetchHeads) -> Heads:
        """The first replayable transactions of a lane, by place."""
        owed = self.owed_rows(fetch.lane)
        return Heads(
            fetch.token, fetch.lane, tuple(row.stored for row in owed[: fetch.limit]), more=len(owed) > fetch.limit
        )

    def newest(self, find: FindNewest) -> Found:
        """The newest transaction of a lane that names a batch."""
        named = (
            number
            for number in sorted(self.by_lane.get(find.lane, ()), reverse=True)
            if number not in self.damaged and self.rows[number].transaction.key.startswith("B")
        )
        return Found(find.token, (self._read(next(named, None)),))

    def batch(self, fetch: FetchBatch) -> BatchRead:
        """The transactions of a terminal's batch, oldest first."""
        prefix = f"{fetch.batch}|"
        found = [row.stored for number, row in sorted(self.rows.items()) if row.transaction.key.startswith(prefix)]
        whole = [stored for stored in found if stored.transaction.id not in self.damaged]
        return BatchRead(fetch.token, tuple(whole), len(whole) == len(found))

    # Starting

    def owing_lanes(self) -> list[str]:
        """Lanes with something to replay."""
        return [lane for lane in self.by_lane if self.owed_rows(lane)]

    def in_doubt(self) -> list[Stored]:
        """What a crash left in doubt."""
        return [
            row.stored
            for number, row in self.rows.items()
            if row.transaction.state in IN_DOUBT_AFTER_CRASH and number not in self.damaged
        ]

    # Judging

    def row(self, key: str) -> Transaction:
        """The newest transaction of a key or second key."""
        return self.rows[self.by_key[key][-1]].transaction

    def stored(self, key: str) -> Stored:
        """The newest transaction of a key, whole."""
        return self.rows[self.by_key[key][-1]].stored

    def check_counters(self) -> None:
        """The exposure counters are exactly what the exposed rows say (D21)."""
        counts: Counter[str] = Counter()
        amounts: Counter[str] = Counter()
        for row in self.rows.values():
            transaction = row.transaction
            if transaction.exposed:
                for name in counters(transaction.lane, transaction.card, transaction.currency):
                    counts[name] += 1
                    amounts[name] += transaction.amount_minor
        for name, state in self.counters.items():
            if (state.count, state.amount_minor) != (counts[name], amounts[name]):
                raise Broken("D21", f"{name} is {state.count}, and {counts[name]} rows are exposed")
