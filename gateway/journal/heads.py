"""The head of a lane in a few wide queries: how a backlog is read while all of it is whole.

Each statement that SQLite steps through gives the interpreter away and waits to get it back, so that rows and entries
one by one cost more than all that is done with them. Whatever is not as it should be, be it a page, an entry of the
queue, a row or a part, makes this a `None`: then RecordReader.heads reads the same again, one by one, finds out what it
is and notes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from gateway.core.events import Heads
from gateway.core.lifecycle import REPLAYABLE
from gateway.core.transaction import Answer, Stored, StoredMessage
from gateway.journal.bulk import select_in
from gateway.journal.rows import Row, RowCodec, RowDamaged, unpack_account, unpack_sensitive
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, SealBroken, Sealer
from protocol.iso8583.message import Fields
from protocol.journal_entry import EntryError, PartCommitment, decode_parts
from protocol.transparency.tree import leaf_hash

_BEFORE: Final = "SELECT lane, place, id FROM owing WHERE lane < ? ORDER BY lane DESC, place DESC, id DESC LIMIT 1"
_FROM: Final = "SELECT lane, place, id FROM owing WHERE lane >= ? ORDER BY lane, place, id LIMIT ?"
_ROWS: Final = "SELECT id, row FROM tx WHERE id IN"
_ENTRIES: Final = "SELECT sequence, body, leaf, account FROM entry WHERE sequence IN"
_SENSITIVE: Final = "SELECT sequence, ciphertext FROM sensitive WHERE sequence IN"

_Parts = tuple[StoredMessage | None, Answer | None, tuple[PartCommitment, ...]]


class _NotWhole(Exception):
    """Something is not as it should be; what it is, the slower way finds out."""


class HeadsReader:
    """Reads heads of lanes through one connection, on its thread."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec, sealer: Sealer) -> None:
        self._connection = connection
        self._codec = codec
        self._sealer = sealer

    def heads(self, token: int, lane: str, limit: int, newest: Sequence[tuple[int, int]]) -> Heads | None:
        """The first replayable transactions of a lane, in order; None where anything on the way is not whole.

        Args:
            newest: (place, id) of the lane's that are not in the queue's table yet, as they were before this read.
        """
        try:
            rows = self._rows(lane, limit, newest)
            heads = self._stored(rows[:limit])
        except (_NotWhole, RowDamaged, EntryError, SealBroken, sqlite3.Error):
            return None
        return Heads(token, lane, heads, len(rows) > limit)

    def _rows(self, lane: str, limit: int, newest: Sequence[tuple[int, int]]) -> list[Row]:
        """The first `limit` rows and perhaps some more; the queue's entries beside the lane's are verified as well."""
        lane_bytes = lane.encode()
        queue = self._connection.execute(_BEFORE, (lane_bytes,)).fetchall()
        queue += self._connection.execute(_FROM, (lane_bytes, limit + 2)).fetchall()
        found = self._unpacked({number for _, number in newest}.union(number for _, _, number in queue))
        mine: dict[int, Row] = {}
        for lane_said, place, number in queue:
            row = found.get(number)
            if row is None or row.state not in REPLAYABLE or (row.lane.encode(), row.place) != (lane_said, place):
                raise _NotWhole
            if row.lane == lane:
                mine[number] = row
        for _, number in newest:
            row = found.get(number)
            if row is None:
                raise _NotWhole
            if row.state in REPLAYABLE and row.lane == lane:  # it may have moved on since
                mine[number] = row
        return sorted(mine.values(), key=lambda row: (row.place, row.id))

    def _unpacked(self, numbers: set[int]) -> dict[int, Row]:
        unpack = self._codec.unpack
        return {number: unpack(number, packed) for number, packed in select_in(self._connection, _ROWS, [*numbers])}

    def _stored(self, rows: list[Row]) -> tuple[Stored, ...]:
        """The transactions of these rows, their parts opened."""
        sequences = [row.id for row in rows]
        sequences += [row.answered_at for row in rows if row.answered_at not in (0, row.id)]
        entries = {each[0]: each for each in select_in(self._connection, _ENTRIES, sequences)}
        retained = [row.id for row in rows if row.retained]
        sealed = dict(select_in(self._connection, _SENSITIVE, retained)) if retained else {}
        stored = []
        for row in rows:
            request, answer, said = self._parts(row.id, entries.get(row.id))
            if row.answered_at != row.id:
                answer = self._parts(row.id, entries.get(row.answered_at))[1] if row.answered_at else None
            if request is None or (answer is None and row.answered_at):
                raise _NotWhole
            sensitive: Fields = {}
            if row.retained:
                sensitive = unpack_sensitive(self._open(row.id, said, SENSITIVE_PART, sealed.get(row.id)))
            stored.append(Stored(row.transaction(), request, sensitive, answer))
        return tuple(stored)

    def _parts(self, number: int, found: tuple[int, object, object, object] | None) -> _Parts:
        """What an entry of a transaction and the ciphertext beside it say, everything verified."""
        if found is None:
            raise _NotWhole
        sequence, body, leaf, account = found
        if not isinstance(body, bytes) or leaf_hash(body) != leaf:
            raise _NotWhole
        said_sequence, transaction, said = decode_parts(body)
        if said_sequence != sequence or transaction != number:
            raise _NotWhole
        return (*unpack_account(self._open(sequence, said, ACCOUNT_PART, account)), said)

    def _open(self, sequence: int, said: tuple[PartCommitment, ...], part: int, ciphertext: object) -> bytes:
        for each in said:
            if each.part == part and isinstance(ciphertext, bytes):
                return self._sealer.open(sequence, each, ciphertext)
        raise _NotWhole
