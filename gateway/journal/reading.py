"""Reading records back, every one verified; runs on the threads of both connections.

What fails a check is noted as `Damage`; the writer puts it in quarantine. A read goes on with what is whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from gateway.core.events import Heads, Lookup
from gateway.core.lifecycle import FINAL, IN_DOUBT_AFTER_CRASH, REPLAYABLE, State
from gateway.core.transaction import Answer, Stored, StoredMessage
from gateway.journal.heads import HeadsReader
from gateway.journal.rows import Row, RowCodec, RowDamaged, unpack_account, unpack_sensitive
from gateway.journal.schema import newest_head
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, KeyDestroyed, SealBroken, Sealer
from protocol.iso8583.message import Fields
from protocol.journal_entry import Entry, EntryError, PartCommitment, decode_entry
from protocol.transparency.tree import leaf_hash

_QUEUE_STEP: Final = 32
_DAMAGE_CODES: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG}
)
_UNSETTLED_STATES: Final = tuple(sorted(set(State) - FINAL))


@dataclass(slots=True, frozen=True)
class Damage:
    """Something that was met damaged.

    Attributes:
        id: of the transaction, 0 where that is unknown.
        what: which check failed; never contents.
        owing: entry of the queue that led to it, to be taken out.
        belongs: the true row, where only the queue's entry is wrong: it is put back in its place.
        removes: the record itself is damaged and no longer counts as unsettled; a person has it now.
    """

    id: int
    what: str
    owing: tuple[bytes, int, int] | None = None
    belongs: Row | None = None
    removes: bool = False


class RecordDamaged(Exception):
    """A record fails its checks; nothing of it may be served."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"record {number}: {what}")
        self.number = number
        self.what = what


class RecordDestroyed(RecordDamaged):
    """A settled record's key was destroyed: it cannot be served, and there is nothing to quarantine."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite met a page or a value that cannot be, as opposed to an error about the whole database."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _DAMAGE_CODES


class RecordReader:
    """Reads transactions, entries and parts through one connection, and notes what is damaged."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec, sealer: Sealer) -> None:
        self._connection = connection
        self._codec = codec
        self._sealer = sealer
        self._heads = HeadsReader(connection, codec, sealer)
        self.noted: list[Damage] = []

    def select(self, number: int, sql: str, *values: object) -> list[tuple[object, ...]]:
        """What a query gives.

        Raises:
            RecordDamaged: of record `number`, 0 where none is meant: a page of it cannot be read.
        """
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if is_damage(error):
                raise RecordDamaged(number, "page") from error
            raise

    def row(self, number: int) -> Row | None:
        """The row of a transaction, or None.

        Raises:
            RecordDamaged: it fails its tag, or its page cannot be read.
        """
        found = self.select(number, "SELECT row FROM tx WHERE id = ?", number)
        if not found:
            return None
        try:
            return self._codec.unpack(number, found[0][0])
        except RowDamaged as error:
            raise RecordDamaged(number, str(error)) from None

    def entry(self, sequence: int) -> tuple[Entry, object]:
        """An entry whose leaf hash fits, and the ciphertext beside it.

        Raises:
            RecordDamaged: it is missing, or does not fit.
        """
        found = self.select(sequence, "SELECT body, leaf, account FROM entry WHERE sequence = ?", sequence)
        if not found:
            raise RecordDamaged(sequence, "entry missing")
        body, leaf, account = found[0]
        if not isinstance(body, bytes) or leaf_hash(body) != leaf:
            raise RecordDamaged(sequence, "entry")
        try:
            entry = decode_entry(body)
        except EntryError:
            raise RecordDamaged(sequence, "entry") from None
        if entry.sequence != sequence:
            raise RecordDamaged(sequence, "entry under another sequence")
        return entry, account

    def _open(self, entry: Entry, part: int, ciphertext: object, what: str) -> bytes:
        said: PartCommitment | None = next((each for each in entry.parts if each.part == part), None)
        if said is None or not isinstance(ciphertext, bytes):
            raise RecordDamaged(entry.sequence, f"{what} missing")
        try:
            return self._sealer.open(entry.sequence, said, ciphertext)
        except SealBroken as error:
            kind = RecordDestroyed if isinstance(error, KeyDestroyed) else RecordDamaged
            raise kind(entry.sequence, f"{what}: {error}") from None

    def _account(self, number: int, sequence: int) -> tuple[StoredMessage | None, Answer | None, Entry]:
        entry, ciphertext = self.entry(sequence)
        if entry.transaction != number:
            raise RecordDamaged(number, "entry of another transaction")
        plaintext = self._open(entry, ACCOUNT_PART, ciphertext, "account part")
        try:
            request, answer = unpack_account(plaintext)
        except RowDamaged as error:
            raise RecordDamaged(number, str(error)) from None
        return request, answer, entry

    def stored(self, row: Row) -> Stored:
        """A transaction with its parts.

        Raises:
            RecordDestroyed: it is settled, and a key of it was destroyed.
            RecordDamaged: any part of it fails a check, or it owes something and a key of it was destroyed: a keyring
                was put back that lacks that key. Then it can never be sent, and is for two people to settle.
        """
        try:
            request, answer, entry = self._account(row.id, row.id)
            if row.answered_at != row.id:
                answer = self._account(row.id, row.answered_at)[1] if row.answered_at else None
            sensitive = self._sensitive(row, entry) if row.retained else {}
        except RecordDamaged as damaged:
            kind = type(damaged) if row.state in FINAL else RecordDamaged
            raise kind(row.id, damaged.what) from damaged
        if request is None or (answer is None and row.answered_at):
            raise RecordDamaged(row.id, "account part incomplete")
        return Stored(row.transaction(), request, sensitive, answer)

    def _sensitive(self, row: Row, entry: Entry) -> Fields:
        found = self.select(row.id, "SELECT ciphertext FROM sensitive WHERE sequence = ?", row.id)
        ciphertext = found[0][0] if found else None
        try:
            return unpack_sensitive(self._open(entry, SENSITIVE_PART, ciphertext, "sensitive part"))
        except RowDamaged as error:
            raise RecordDamaged(row.id, str(error)) from None

    def note(self, damage: Damage) -> None:
        """Keep what was met damaged, for the writer."""
        self.noted.append(damage)

    def note_record(self, damaged: RecordDamaged, owing: tuple[bytes, int, int] | None = None) -> None:
        """The same for a record that is damaged itself; `owing` is the queue's entry that led to it."""
        if isinstance(damaged, RecordDestroyed):
            return
        self.noted.append(Damage(damaged.number, damaged.what, owing, removes=damaged.number > 0))

    def match(self, key: str, recent: int | None, first: set[object], second: set[object], since_ms: int) -> Row | None:
        """The newest transaction of the key or second key `key` among candidates of the two lookup tables, or None.

        Args:
            recent: the newest one if it is too new for the tables, else None.
            since_ms: UTC; the newest one accepted before it does not count. 0 for any age.
        Raises:
            RecordDamaged: a candidate may be it and cannot be read.
        """
        if recent is not None:
            row = self.row(recent)
            if row is None or key not in row.keys:
                raise RecordDamaged(recent, "row missing")
            return row if row.accepted_ms >= since_ms else None
        candidates = sorted((each for each in first | second if isinstance(each, int)), reverse=True)
        for number in candidates:
            row = self.row(number)
            if row is None:
                if number in first and number in second:
                    raise RecordDamaged(number, "row missing")
                self.note(Damage(number, "lookup"))
            elif key in row.keys:
                if (number not in first or number not in second) and not self.on_its_way(number):
                    self.note(Damage(number, "lookup"))
                return row if row.accepted_ms >= since_ms else None
            elif self._is_strange(key, row, (number in first, number in second)):
                self.note(Damage(number, "lookup"))
        return None

    def _is_strange(self, key: str, row: Row, found: tuple[bool, bool]) -> bool:
        """Whether a lookup table has the row under a number that none of its keys has.

        Another key may have the same number in one of the tables: then nothing is damaged.
        """
        asked, theirs = self._codec.key_hashes(key), [self._codec.key_hashes(each) for each in row.keys]
        return any(found[table] and asked[table] not in [each[table] for each in theirs] for table in (0, 1))

    def on_its_way(self, number: int) -> bool:
        """Whether a transaction is still being put in the lookup tables, so that one may have it and another not yet.

        It was committed, and began to leave memory (newest.py), after memory was asked for it and before this read.
        """
        head = newest_head(self._connection, self._codec)
        return head is not None and number > head.indexed

    def row_by_key(self, key: str, recent: int | None, since_ms: int) -> Row | None:
        """The newest transaction of `key`, or None; as `match`."""
        if recent is not None:
            return self.match(key, recent, set(), set(), since_ms)
        hashes = self._codec.key_hashes(key)
        candidates: list[set[object]] = []
        unreadable = 0
        for table, hashed in zip(("by_key", "by_key_again"), hashes, strict=True):
            try:
                found = self.select(0, f"SELECT id FROM {table} WHERE hash = ?", hashed)  # noqa: S608 - our own names
                candidates.append({each for (each,) in found})
            except RecordDamaged:
                unreadable += 1
                self.note(Damage(0, f"lookup page of {table}"))
        if unreadable == 2:
            raise RecordDamaged(0, "lookup page")
        if unreadable:
            candidates.append(candidates[0])
        return self.match(key, None, candidates[0], candidates[1], since_ms)

    def by_key(self, key: str, recent: int | None, since_ms: int) -> Stored | Lookup:
        """What Find is told of one key."""
        try:
            row = self.row_by_key(key, recent, since_ms)
            return Lookup.ABSENT if row is None else self.stored(row)
        except RecordDamaged as damaged:
            self.note_record(damaged)
            return Lookup.DAMAGED

    def by_id(self, number: int, key: str = "") -> Stored | Lookup:
        """What Load is told."""
        named = not key
        try:
            row = self.row_created(number)
            if row is None or (key and row.key != key):
                return Lookup.ABSENT
            named = True
            return self.stored(row)
        except RecordDamaged as damaged:
            self.note_record(damaged)
            return Lookup.DAMAGED if named or self._is_listed(number, key) else Lookup.ABSENT

    def _is_listed(self, number: int, key: str) -> bool:
        """Whether one of the lookup tables has a transaction under a key; no where they cannot be read."""
        for table, hashed in zip(("by_key", "by_key_again"), self._codec.key_hashes(key), strict=True):
            query = f"SELECT 1 FROM {table} WHERE hash = ? AND id = ?"  # noqa: S608 - our own names
            try:
                if self.select(0, query, hashed, number):
                    return True
            except RecordDamaged:
                self.note(Damage(0, f"lookup page of {table}"))
        return False

    def row_created(self, number: int) -> Row | None:
        """The row of a transaction, None if it was never created.

        A flipped bit in an inner page can hide a row; the entry lies in another tree and still tells of it.

        Raises:
            RecordDamaged: as `row`, or it is missing.
        """
        row = self.row(number)
        if row is None and self._created(number):
            raise RecordDamaged(number, "row missing")
        return row

    def _created(self, number: int) -> bool:
        """Whether an entry tells of this transaction's creation."""
        if not self.select(number, "SELECT 1 FROM entry WHERE sequence = ?", number):
            return False
        return self.entry(number)[0].transaction == number

    def heads(self, token: int, lane: str, limit: int, newest: Sequence[tuple[int, int]] = ()) -> Heads:
        """The first replayable transactions of a lane, in order.

        The entries just before and just after the lane's are verified as well: an entry whose lane has a flipped bit
        still lies where it was, so it is found there and put right.

        Args:
            newest: (place, id) of the lane's that are not in the queue's table yet, as they were before this read.
        """
        if (whole := self._heads.heads(token, lane, limit, newest)) is not None:
            return whole
        stored: list[tuple[int, int, Stored]] = []
        lane_bytes = lane.encode()
        beside: set[int] = set()
        for said, number in newest:
            try:
                row = self.row_created(number)
                if row is not None and row.state in REPLAYABLE and row.lane == lane:  # it may have moved on since
                    stored.append((row.place, row.id, self.stored(row)))
            except RecordDamaged as damaged:
                self.note_record(damaged, (lane_bytes, said, number))
            beside.add(number)
        from_table = 0
        for place in self._queue_of(lane_bytes):
            row = self._queued_row(place)
            if row is None:
                continue
            if row.lane != lane:
                if place[0] > lane_bytes:
                    break
                continue
            if row.id in beside:
                continue
            try:
                stored.append((row.place, row.id, self.stored(row)))
                from_table += 1
            except RecordDamaged as damaged:
                self.note_record(damaged, place)
            if from_table > limit:
                break
        stored.sort(key=lambda each: each[:2])
        heads = tuple(each for _, _, each in stored[:limit])
        return Heads(token, lane, heads, len(stored) > limit)

    def _queue_of(self, lane: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Entries of the queue from the one before the lane on.

        Fetched a few at a time: a cursor that an exception keeps alive would keep its snapshot, and so the log, too.
        """
        before = "SELECT lane, place, id FROM owing WHERE lane < ? ORDER BY lane DESC, place DESC, id DESC LIMIT 1"
        first = "SELECT lane, place, id FROM owing WHERE lane >= ? ORDER BY lane, place, id LIMIT ?"
        further = (
            "SELECT lane, place, id FROM owing WHERE (lane, place, id) > (?, ?, ?) ORDER BY lane, place, id LIMIT ?"
        )
        try:
            yield from self._connection.execute(before, (lane,)).fetchall()
            found = self._connection.execute(first, (lane, _QUEUE_STEP)).fetchall()
            yield from found
            while len(found) == _QUEUE_STEP:
                found = self._connection.execute(further, (*found[-1], _QUEUE_STEP)).fetchall()
                yield from found
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self.note(Damage(0, "page of the queue"))

    def _queued_row(self, place: tuple[bytes, int, int]) -> Row | None:
        """The row that an entry of the queue leads to, if it may be sent; what is wrong is noted."""
        number = place[2] if isinstance(place[2], int) else 0
        try:
            row = self.row_created(number)
        except RecordDamaged as damaged:
            self.note_record(damaged, place)
            return None
        if row is None or row.state not in REPLAYABLE:
            self.note(Damage(number, "queue", place))
            return None
        if (row.lane.encode(), row.place) != place[:2]:
            self.note(Damage(number, "queue", place, row))
        return row

    def owing_lanes(self) -> list[str]:
        """Lanes with something to replay: a loose scan, two seeks for each lane."""
        found = self.select(
            0,
            "WITH RECURSIVE loose(lane) AS (SELECT min(lane) FROM owing UNION ALL "
            "SELECT (SELECT min(lane) FROM owing WHERE lane > loose.lane) FROM loose WHERE loose.lane IS NOT NULL) "
            "SELECT CAST(lane AS BLOB) FROM loose WHERE lane IS NOT NULL",
        )
        lanes: set[str] = set()
        for (lane,) in found:
            if not isinstance(lane, bytes):
                continue
            # The first entry of each is verified: a lane with a flipped bit would else hide the one it stands for.
            first = "SELECT place, id FROM owing WHERE lane = ? ORDER BY place, id LIMIT 1"
            for place, number in self.select(0, first, lane):
                row = self._queued_row((lane, cast("int", place), cast("int", number)))
                lanes.add(lane.decode(errors="replace") if row is None else row.lane)
        return sorted(lanes)

    def unsettled(self, states: frozenset[State], after_id: int, limit: int, newest: Sequence[int] = ()) -> list[int]:
        """Ids of the next transactions in these states, in their order, by what `unsettled` lists.

        Args:
            newest: those in these states that need not be in the table yet, as they were before this read.
        """
        found = {number for number in newest if number > after_id}
        for state in states:
            ids = self.select(
                0, "SELECT id FROM unsettled WHERE state = ? AND id > ? ORDER BY id LIMIT ?", state, after_id, limit
            )
            found.update(each for (each,) in ids if isinstance(each, int))
        return sorted(found)[:limit]

    def in_doubt(self, limit: int, newest: Sequence[int] = ()) -> list[Stored]:
        """Transactions that a crash left in doubt, oldest first; `newest` as for `unsettled`."""
        found: list[Stored] = []
        after_id = 0
        moving = set(newest)
        while len(found) < limit:
            numbers = self.unsettled(IN_DOUBT_AFTER_CRASH, after_id, limit, newest)
            for number in numbers:
                try:
                    row = self.row_created(number)
                    if row is not None and row.state in IN_DOUBT_AFTER_CRASH:
                        found.append(self.stored(row))
                    elif number not in moving:  # else it has moved on since
                        self.note(Damage(number, "unsettled"))
                except RecordDamaged as damaged:
                    self.note_record(damaged)
            if len(numbers) < limit:
                break
            after_id = numbers[-1]
        return found[:limit]

    def oldest_owed_ms(self, newest: Sequence[int] = ()) -> int:
        """UTC time of acceptance of the oldest transaction that owes something, or 0; `newest` as for `unsettled`."""
        try:
            oldest = self.unsettled(frozenset(_UNSETTLED_STATES), 0, 1, newest)
            row = self.row(oldest[0]) if oldest else None
        except RecordDamaged as damaged:
            self.note_record(damaged)
            return 0
        return 0 if row is None else row.accepted_ms
