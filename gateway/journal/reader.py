"""Reading a journal: snapshots, listings in steps, and the read-only use of a journal that no gateway holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gateway.core.events import Lookup
from gateway.core.lifecycle import FINAL, IN_DOUBT_AFTER_CRASH
from gateway.core.transaction import Stored, Transaction
from gateway.journal.connections import Threaded, connect_reader
from gateway.journal.keyring import Keyring
from gateway.journal.listings import Listings, goes_by_unsettled, newest_of
from gateway.journal.newest import Newest
from gateway.journal.port import JournalUnreadable, Listing
from gateway.journal.reading import RecordDamaged, RecordReader, is_damage
from gateway.journal.rows import RowCodec
from gateway.journal.schema import check_tables, in_words, read_head, refuse_foreign_file
from gateway.journal.sealing import Sealer

_T = TypeVar("_T")


def unless_damaged(read: Callable[[], object]) -> object:
    """What `read` gives; where it meets damage that is not of one record alone, JournalUnreadable, as a value."""
    try:
        return read()
    except RecordDamaged as damaged:
        return JournalUnreadable(f"the journal is damaged ({damaged.what}): restore or repair it")
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return JournalUnreadable(f"the journal is damaged ({error}): restore or repair it")


def snapshot(connection: sqlite3.Connection, reads: Sequence[Callable[[], object]]) -> list[object]:
    """Do several reads of one state of the journal: a commit between a row and its parts would look like damage."""
    connection.execute("BEGIN")
    try:
        with in_words():
            return [read() for read in reads]
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


async def list_in_steps(
    listing: Listing, step: Callable[[int], Awaitable[tuple[list[Transaction], int]]]
) -> list[Transaction]:
    """A whole listing; each step is short, so that lookups for terminals go between."""
    found: list[Transaction] = []
    after = listing.after_id
    while len(found) < listing.limit:
        more, after = await step(after)
        found += more
        if not after:
            break
    return found[: listing.limit]


async def scan_in_doubt(
    records: RecordReader, listings: Listings, asked: Callable[[Callable[[], Any]], Awaitable[Any]], limit: int
) -> list[Stored]:
    """The transactions in doubt, from every row of the journal, in steps."""
    whole = Listing(states=IN_DOUBT_AFTER_CRASH | FINAL)  # a listing with final states goes by the rows themselves
    after = 0
    numbers: list[int] = []
    while True:
        rows, after = await asked(partial(listings.step, whole, after))
        numbers += [row.id for row in rows if row.state in IN_DOUBT_AFTER_CRASH]
        if not after or len(numbers) >= limit:
            break
    stored = await asked(lambda: [records.by_id(number) for number in numbers[:limit]])
    return [each for each in stored if isinstance(each, Stored)]


class JournalReader:
    """A journal opened to be read only, by tools and while no gateway runs. Takes no lock, writes no quarantine."""

    def __init__(self, reader: Threaded, codec: RowCodec, records: RecordReader, path: Path) -> None:
        self._reader = reader
        self._codec = codec
        self._records = records
        self._listings = Listings(records, codec)
        self._path = path
        self._damaged: set[int] = set()

    @property
    def damaged(self) -> frozenset[int]:
        """Transactions that a listing has left out, for their records are damaged; 0 for what belongs to none."""
        return frozenset(self._damaged)

    async def _asked(self, read: Callable[[], _T]) -> _T:
        results: list[_T] = []

        def work() -> None:
            snapshot(self._reader.connection, [lambda: results.append(read())])
            self._damaged.update(damage.id for damage in self._records.noted)
            self._records.noted.clear()

        await self._reader.run(work)
        return results[0]

    async def listing(self, listing: Listing) -> list[Transaction]:
        """As port.Journal.listing."""
        by_state = goes_by_unsettled(listing)
        newest = await self._asked(self._newest) if by_state or listing.terminal else Newest(self._codec)
        unsettled = newest.unsettled(listing.states) if by_state else ()
        sent = newest.of_terminal(listing.terminal, listing.stan) if listing.terminal else ()
        return await list_in_steps(
            listing, lambda after: self._asked(lambda: self._listings.step(listing, after, sent, unsettled))
        )

    def _newest(self) -> Newest:
        """What the last gateway had in memory when it ended without closing."""
        connection = self._reader.connection
        head = read_head(connection, self._codec, self._path)
        return newest_of(connection, self._records, self._codec, head.indexed)

    async def load(self, number: int) -> Stored | Lookup:
        """One transaction by id, every part verified."""
        return await self._asked(lambda: self._records.by_id(number))

    async def close(self) -> None:
        """Close the file."""
        await self._reader.close()


async def open_for_reading(path: Path, keyring: Keyring) -> JournalReader:
    """Open a journal to be read only.

    Raises:
        JournalUnreadable, JournalKeysWrong: as port.Journal.open.
    """
    refuse_foreign_file(path)
    codec = RowCodec(keyring.row_key)
    try:
        reader = await connect_reader(path)
    except sqlite3.Error as error:
        beside = "; reading it makes an index beside it, so this user must be able to write to its folder"
        closed = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        raise JournalUnreadable(f"{path} cannot be opened: {error}{beside if closed else ''}") from error

    def check() -> None:
        check_tables(reader.connection, keyring, path)
        read_head(reader.connection, codec, path)

    def check_once() -> None:
        snapshot(reader.connection, [check])

    try:
        await reader.run(check_once)
    except sqlite3.Error as error:
        await reader.close()
        raise JournalUnreadable(f"{path} cannot be read: {error}") from error
    except BaseException:
        await reader.close()
        raise
    return JournalReader(reader, codec, RecordReader(reader.connection, codec, Sealer(keyring)), path)
