"""The group commit: everything that has gathered becomes one transaction of the database. Runs on the writer's thread.

Stages of a batch, and what a crash at each leaves (SQLite's write-ahead log, synchronous=FULL):

    judged      conditions looked at, rows and ciphertexts made, in memory   nothing
    written     in the log, without its commit mark                          nothing
    committed   COMMIT has returned: the log is synced                       all of it
    COMMIT failed other than for want of room                                unknown: all of it or nothing

Only want of room is a certain "not written": SQLite reports it from the write of the log's frames, the commit mark is
in the last of them, and a frame that is cut short does not pass its checksum.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from gateway.core.effects import Change, Create, Note, Write
from gateway.core.events import (
    Committed,
    Existing,
    JournalEvent,
    OverLimit,
    RefusalReason,
    WriteRefused,
)
from gateway.core.lifecycle import FINAL
from gateway.core.transaction import Kind
from gateway.journal.bulk import select_in
from gateway.journal.counters import SELECT_COUNTERS, Counters
from gateway.journal.draft import Draft, JournalDefect
from gateway.journal.drafted import write_entries, write_rows
from gateway.journal.leaving import Leaving
from gateway.journal.newest import Newest
from gateway.journal.port import JournalInDoubt, JournalLocked, JournalUnreadable
from gateway.journal.quarantine import put_aside
from gateway.journal.reading import Damage, RecordDamaged, RecordReader, is_damage
from gateway.journal.recovering import read_back
from gateway.journal.room import Need
from gateway.journal.rows import Row, RowCodec, RowDamaged
from gateway.journal.schema import Head, write_head
from gateway.journal.sealing import Sealer
from gateway.journal.settled_damage import take_notes
from protocol.transparency.tree import Frontier

BATCH_WRITES_MAX: Final = 512
"""Writes in one commit: bounds the time that the first of them waits for the last, and the batch's memory."""

RECENT_MAX: Final = 4_096
"""Transactions or counters that gather in memory before they leave for the tables: bounds memory and time to open."""

_FORGOTTEN_AT_ONCE: Final = 64
"""Rows that are let go of together: thousands of them at once would hold a commit up by milliseconds."""

_NEEDS: Final = {Kind.REVERSAL: Need.REVERSAL, Kind.UNSEEN: Need.UNSEEN}

_Judged = JournalEvent | tuple[int, int]  # a pair is a conflict: token, and id of the transaction that exists
_Hits = dict[int, set[object]]


class Batcher:
    """Judges and writes batches. One per journal; the only code that changes the database once it is open."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        codec: RowCodec,
        sealer: Sealer,
        head: Head,
        utc_ms: Callable[[], int],
        refusal: Callable[[Need], str],
    ) -> None:
        """`refusal` says why a Create that needs so much is refused now for want of room, or is empty."""
        self._connection = connection
        self._codec = codec
        self._sealer = sealer
        self._reader = RecordReader(connection, codec, sealer)
        self._counters = Counters(connection, codec)
        self._utc_ms = utc_ms
        self._refusal = refusal
        self._reasons: dict[Need, str] = {}
        self._first_hits: _Hits = {}
        self._second_hits: _Hits = {}
        self.head = head
        self.frontier = Frontier.decode(head.frontier)
        """Of the Merkle tree over the entries up to `head.sequence`: moves when COMMIT has returned, with `head`."""
        self._based = head.based
        self.newest_leaf = b""
        """Leaf hash of the entry `head.sequence`, once this one has written any: for the mark."""
        self._open_rows: dict[int, Row] = {}
        self.newest = Newest(codec)
        """Transactions that the tables may not have yet. Committed ones only; read by others."""
        self._leaving = Leaving(connection, self.newest, self._counters, head.indexed)
        self._stored_before = head.sequence
        """A crash may have left rows in the tables of what is not indexed, up to here."""
        self._was_full = False

    def recover(self) -> list[Damage]:
        """Read back what the last run had in memory; what of it is damaged. Raises: as recovering.read_back."""
        return read_back(
            self._connection, self._codec, self._reader, self.head, newest=self.newest, counters=self._counters
        )

    def untidy(self) -> bool:
        """Whether more has gathered than commits put away by themselves: the disk was full, or much was read back."""
        return len(self.newest) >= 4 * RECENT_MAX or len(self._counters) >= 4 * RECENT_MAX

    def checkpointed(self) -> None:
        """All that was committed is in the database by itself now: the next commit may begin the log anew."""
        self._based = self.head.commits

    def _draft(self, now_ms: int) -> Draft:
        through = self._leaving.through
        listed = max(through, self._stored_before)
        draft = Draft(self.head, now_ms, self._sealer, through, listed, self.newest.aside)
        draft.head.commits, draft.head.based = self.head.commits + 1, self._based
        return draft

    @property
    def leaving(self) -> bool:
        """Whether a generation is on its way into the tables."""
        return self._leaving.under_way

    def tidy(self) -> None:
        """Put all that is in memory in the tables, in a commit or two; what there is no room for stays in memory.

        Raises: as `commit`.
        """
        if self.leaving:
            self.put_away(all_of_it=True)
        if not self.leaving:
            self._leaving.begin(self.head.sequence)
            self.put_away(all_of_it=True)

    def put_away(self, *, all_of_it: bool = False) -> bool:
        """Write the next slice, or all of them, in a commit of its own. A crash leaves all of the commit or none.

        Returns:
            False where there was no room.
        Raises: as `commit`.
        """
        draft = self._draft(0)
        self._leaving.hasten()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._leaving.write(draft, all_of_it=all_of_it)
            write_head(self._connection, self._codec, draft.head)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(error)
            return False
        self.head = draft.head
        self._leaving.committed(self.head.indexed)
        return True

    def commit(
        self, writes: Sequence[Write], damages: Sequence[Damage], notes: Sequence[Note] = (), *, probe: bool = False
    ) -> list[JournalEvent] | None:
        """Write a batch and make it durable.

        Args:
            notes: become the last entries of the commit, in their order.
            probe: write something even if there is nothing to tell, to learn whether there is room again.
        Returns:
            One event for each write in order, then one for each record that is newly in quarantine; or None when
            there was no room: nothing was written, for certain.
        Raises:
            JournalInDoubt: the outcome is unknown.
            JournalLocked: another process holds the write lock.
            JournalUnreadable: the tables are damaged where every write would meet it.
            JournalDefect: a write breaks the contract; nothing was written.
        """
        draft = self._draft(self._utc_ms())
        frontier = self.frontier
        self._reader.noted.clear()
        self._reasons.clear()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._was_full:  # the next one goes without, so that these rows keep no outcome out
                self._leaving.write(draft)
            self._look_up(draft, writes)
            judged = [self._judge(draft, each) for each in writes]
            take_notes(self._connection, self._reader, draft, notes)
            damages_met = [*damages, *self._reader.noted, *self._counters.noted]
            reported = put_aside(self._connection, self._reader, self.newest, draft, damages_met)
            wrote = bool(draft.entries or damages_met or probe or self._leaving.written)
            if wrote:
                if draft.entries:
                    frontier = write_entries(self._connection, draft, frontier)
                    write_rows(self._connection, self._codec, draft)
                    self._counters.flush(draft.head.sequence)
                write_head(self._connection, self._codec, draft.head)
            # Up to here a crash leaves nothing; once the next line has returned, all of it.
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(error)
            return None
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        if wrote:  # else the head in the database is still the one before, and so is its number of commits
            self.head = draft.head
        self.frontier = frontier
        if draft.entries:
            self.newest_leaf = draft.leaves[-1]
        self._was_full = False
        if draft.aside is not self.newest.aside:  # first, for what has left is forgotten of these, too
            self.newest.put_aside(draft.aside)
        self._leaving.committed(self.head.indexed)
        self._counters.committed(draft.head.sequence)
        self._remember(draft)
        for damage in damages_met:
            self._open_rows.pop(damage.id, None)
            if damage.owing is not None and damage.id not in draft.back:
                self.newest.disown(damage.owing[0].decode(errors="replace"), damage.id)
        if self.leaving:
            self._leaving.entries_written(len(draft.entries))
        elif max(len(self.newest), len(self._counters)) >= RECENT_MAX or (
            self.head.sequence - self.head.indexed >= 4 * RECENT_MAX
        ):
            self._leaving.begin(self.head.sequence)
        return [*[self._resolved(*each) if isinstance(each, tuple) else each for each in judged], *reported]

    def _remember(self, draft: Draft) -> None:
        """Take in what is durable now: keys and groups of new transactions, and the rows that will change again.

        What was written a moment ago need not be read back.
        """
        before, open_rows, newest, indexed = draft.before, self._open_rows, self.newest, self.head.indexed
        if len(open_rows) >= RECENT_MAX + _FORGOTTEN_AT_ONCE:
            for number in list(islice(open_rows, len(open_rows) - RECENT_MAX)):  # the oldest
                del open_rows[number]
        created = []
        for number, row in draft.rows.items():
            if number not in before:
                created.append(row)
            elif number > indexed:
                newest.change(row)
            if row.state not in FINAL:
                open_rows[number] = row
            elif number in before:
                open_rows.pop(number, None)
        newest.add(created, draft.hashes)
        newest.let_go()

    def _undo(self, error: sqlite3.Error) -> None:
        """Take a failed batch back if it is certain that nothing of it was written, else stop."""
        code = getattr(error, "sqlite_errorcode", None)
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            raise JournalInDoubt(f"a batch could be neither committed nor taken back: {second}") from error
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            self._was_full = True
            self._leaving.taken_back()
            return
        if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
            raise JournalLocked("another process writes to the journal: nothing was written, stop it") from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if is_damage(error) and code is not None and code & 0xFF != sqlite3.SQLITE_IOERR:
            raise JournalUnreadable(f"the journal's tables are damaged ({name}): restore or repair it") from error
        raise JournalInDoubt(f"a commit failed ({name}), its outcome is unknown: restart to recover") from error

    def _resolved(self, token: int, number: int) -> JournalEvent:
        """Read the transaction that a conflict is about; after the commit, for it may be of the same batch."""
        try:
            row = self._reader.row(number)
            return Existing(token, None if row is None else self._reader.stored(row))
        except RecordDamaged:
            return Existing(token, None)

    def _look_up(self, draft: Draft, writes: Sequence[Write]) -> None:
        """Ask for all that the batch's conditions need, in a few wide queries instead of many narrow ones."""
        ids: set[int] = set()
        names: set[str] = set()
        hashes, key_hashes = draft.hashes, self._codec.key_hashes
        for write in writes:
            for change in write.changes:
                if isinstance(change, Create):
                    transaction = change.transaction
                    key, alias = transaction.key, transaction.alias
                    hashes[key] = key_hashes(key)
                    if alias:
                        hashes[alias] = key_hashes(alias)
                else:
                    ids.add(change.transaction.id)
                    names.update(change.release)
                for limit in change.reserve:
                    names.add(limit.counter)
        first = [one for one, _ in hashes.values()]
        second = [two for _, two in hashes.values()]
        self._first_hits, self._second_hits = {}, {}
        for hashed, number in select_in(self._connection, "SELECT hash, id FROM by_key WHERE hash IN", first):
            self._first_hits.setdefault(hashed, set()).add(number)
        for hashed, number in select_in(self._connection, "SELECT hash, id FROM by_key_again WHERE hash IN", second):
            self._second_hits.setdefault(hashed, set()).add(number)
        before, open_rows = draft.before, self._open_rows
        unknown = []
        for number in ids:
            row = open_rows.get(number)
            if row is None:
                unknown.append(number)
            else:
                before[number] = row
        for number, packed in select_in(self._connection, "SELECT id, row FROM tx WHERE id IN", unknown):
            try:
                before[number] = self._codec.unpack(number, packed)
            except RowDamaged as error:
                # The update brings the whole next row, so that the record is written anew; its history is in doubt.
                before[number] = None
                self._reader.noted.append(Damage(number, str(error), removes=True))
        self._counters.load(select_in(self._connection, SELECT_COUNTERS, self._counters.begin(names)))

    def _judge(self, draft: Draft, write: Write) -> _Judged:
        """Look at a write's conditions first, then take in all of it or none (INV-2, D21)."""
        changes = write.changes
        creates = False
        for change in changes:
            if isinstance(change, Create):
                creates = True
                transaction = change.transaction
                existing = self._existing(draft, transaction.key, change.horizon_ms)
                if existing is None and transaction.alias:
                    existing = self._existing(draft, transaction.alias, 0)
                if existing is not None:
                    return (write.token, existing) if existing else Existing(write.token, None)
        head = changes[0]
        reserve = head.reserve
        if reserve:
            reason = self._counters.refusal(reserve, head.transaction.amount_minor, draft.now_ms)
            if reason is not None:
                return OverLimit(write.token, reason)
        # A reversal may take of the room that is kept back (D15), up to a bound of its own (INV-9).
        if creates and self._refused(_NEEDS.get(head.transaction.kind, Need.NEW)):
            return WriteRefused(write.token, RefusalReason.FULL)
        if reserve:
            self._counters.reserve(reserve, head.transaction.amount_minor, draft.now_ms)
        if creates and len(changes) > 1:
            self._refuse_twins(changes)
        ids: list[int] = []
        for change in changes:
            if change.reserve and ids:
                raise JournalDefect("only the first change of a write may reserve")
            if isinstance(change, Create):
                ids.append(draft.create(change, ids[0] if ids else 0))
            else:
                ids.append(draft.update(change))
                if change.release:
                    self._counters.release(change.release, change.transaction.amount_minor)
        return Committed(write.token, tuple(ids))

    def _refused(self, need: Need) -> str:
        """Why there is no room for what needs so much; asked once in a commit."""
        reason = self._reasons.get(need)
        if reason is None:
            reason = self._reasons[need] = self._refusal(need)
        return reason

    @staticmethod
    def _refuse_twins(changes: Sequence[Change]) -> None:
        created = [each.transaction for each in changes if isinstance(each, Create)]
        keys = [key for each in created for key in (each.key, each.alias) if key]
        if len(set(keys)) != len(keys):
            raise JournalDefect("one write creates the same key twice")

    def _existing(self, draft: Draft, key: str, horizon_ms: int) -> int | None:
        """Id of the transaction that has this key or second key, 0 if that is damaged, None if there is none."""
        since_ms = draft.now_ms - horizon_ms if horizon_ms else 0
        fresh = draft.fresh.get(key)
        if fresh is not None:
            return fresh.id if fresh.accepted_ms >= since_ms else None
        recent = self.newest.of_key(key)
        if recent is None and not (self._first_hits or self._second_hits):
            return None
        one, two = draft.hashes[key]
        first, second = self._first_hits.get(one), self._second_hits.get(two)
        if recent is None and not first and not second:
            return None
        try:
            row = self._reader.match(key, recent, first or set(), second or set(), since_ms)
        except RecordDamaged as damaged:
            self._reader.noted.append(Damage(damaged.number, damaged.what, removes=damaged.number > 0))
            return 0
        return None if row is None else row.id
