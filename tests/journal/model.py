"""What a journal must do, as plain dictionaries: the reference that real journals are compared with."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.core.effects import Create, Update, Write
from gateway.core.events import BatchRead, Committed, Existing, Heads, JournalEvent, Lookup, OverLimit
from gateway.core.lifecycle import FINAL, IN_DOUBT_AFTER_CRASH, OBLIGATION, REPLAYABLE, Obligation, State
from gateway.core.transaction import Answer, Stored, Transaction
from gateway.journal.port import Listing


class ModelJournal:
    """A journal that forgets nothing and is never damaged."""

    def __init__(self) -> None:
        self.stored: dict[int, Stored] = {}
        self.counters: dict[str, tuple[int, int, int]] = {}
        self.sequence = 0
        self.now_ms = 0

    def newest(self, key: str, horizon_ms: int) -> Stored | None:
        rows = self._rows()
        numbers = [row.id for row in rows if key in (row.key, row.alias)]
        if not numbers:
            return None
        found = self.stored[max(numbers)]
        if horizon_ms and found.transaction.accepted_ms < self.now_ms - horizon_ms:
            return None
        return found

    def write(self, write: Write) -> JournalEvent:
        for change in write.changes:
            if isinstance(change, Create):
                row = change.transaction
                existing = self.newest(row.key, change.horizon_ms)
                if existing is None and row.alias:
                    existing = self.newest(row.alias, 0)
                if existing is not None:
                    return Existing(write.token, existing)
        head = write.changes[0]
        amount = head.transaction.amount_minor
        for limit in head.reserve:
            count, total, since_ms = self.counters.get(limit.counter, (0, 0, 0))
            if (
                (limit.count_max is not None and count + 1 > limit.count_max)
                or (limit.amount_minor_max is not None and total + amount > limit.amount_minor_max)
                or (limit.age_ms_max is not None and count and self.now_ms - since_ms > limit.age_ms_max)
            ):
                return OverLimit(write.token, limit.reason)
        for name in {limit.counter for limit in head.reserve}:
            count, total, since_ms = self.counters.get(name, (0, 0, 0))
            self.counters[name] = (count + 1, total + amount, since_ms if count else self.now_ms)
        ids: list[int] = []
        for change in write.changes:
            self.sequence += 1
            if isinstance(change, Create):
                ids.append(self._create(change, ids))
            else:
                ids.append(self._update(change))
        return Committed(write.token, tuple(ids))

    def _create(self, change: Create, ids: list[int]) -> int:
        row = replace(change.transaction, id=self.sequence)
        if row.original == -1:
            row.original = ids[0]
        sensitive = {} if row.state in FINAL else change.sensitive
        self.stored[self.sequence] = Stored(row, change.request, sensitive, change.answer)
        return self.sequence

    def _update(self, change: Update) -> int:
        row = replace(change.transaction)
        if row.position == -1:
            row.position = self.sequence
        before = self.stored[row.id]
        assert before.transaction.revision == row.revision - 1
        answer: Answer | None = before.answer if change.answer is None else change.answer
        sensitive = {} if row.state in FINAL else before.sensitive
        self.stored[row.id] = Stored(row, before.request, sensitive, answer)
        for name in change.release:
            count, total, since_ms = self.counters.get(name, (0, 0, 0))
            self.counters[name] = (count - 1, total - row.amount_minor, since_ms if count > 1 else 0)
        return row.id

    def note(self) -> int:
        self.sequence += 1
        return self.sequence

    def find(self, key: str, horizon_ms: int) -> Stored | Lookup:
        return self.newest(key, horizon_ms) or Lookup.ABSENT

    def heads(self, token: int, lane: str, limit: int) -> Heads:
        owed = [
            each
            for each in self.stored.values()
            if each.transaction.lane == lane and each.transaction.state in REPLAYABLE
        ]
        owed.sort(key=lambda each: (each.transaction.position or each.transaction.id, each.transaction.id))
        return Heads(token, lane, tuple(owed[:limit]), len(owed) > limit)

    def batch(self, token: int, batch: str) -> BatchRead:
        members = [
            self.stored[number]
            for number in sorted(self.stored)
            if self.stored[number].transaction.key.startswith(batch + "|")
        ]
        return BatchRead(token, tuple(members), whole=True)

    def owing_lanes(self) -> list[str]:
        return sorted({t.lane for t in self._rows() if t.state in REPLAYABLE})

    def in_doubt(self) -> list[Stored]:
        return [each for each in self.stored.values() if each.transaction.state in IN_DOUBT_AFTER_CRASH]

    def listing(self, listing: Listing) -> list[Transaction]:
        fitting = [
            t
            for t in self._rows()
            if t.id > listing.after_id
            and (not listing.states or t.state in listing.states)
            and (not listing.lane or t.lane == listing.lane)
            and (not listing.terminal or t.terminal == listing.terminal)
            and (not listing.stan or t.sent_stan == listing.stan)
        ]
        return fitting[: listing.limit]

    def counts(self) -> dict[State, int]:
        return {state: sum(1 for t in self._rows() if t.state is state) for state in State}

    def oldest_owed_ms(self) -> int:
        owing = [t for t in self._rows() if OBLIGATION[t.state] is not Obligation.NONE]
        return owing[0].accepted_ms if owing else 0

    def _rows(self) -> list[Transaction]:
        return [self.stored[number].transaction for number in sorted(self.stored)]
