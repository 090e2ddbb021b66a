"""The journal on SQLite: one file, one writer, group commit."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from gateway.core.effects import Create, FetchBatch, FetchHeads, Find, FindNewest, Load, Note, Write
from gateway.core.events import Found, JournalEvent, RefusalReason, WriteRefused
from gateway.core.lifecycle import IN_DOUBT_AFTER_CRASH, EntryKind, State
from gateway.core.transaction import Stored, Transaction
from gateway.journal.batch import BATCH_WRITES_MAX, RECENT_MAX, Batcher
from gateway.journal.completeness import refuse_what_went_back
from gateway.journal.connections import CACHE_MIB, connect_reader, connect_writer
from gateway.journal.key_needs import read_key_needs
from gateway.journal.keyring import Keyring, sync_folder
from gateway.journal.listings import Listings
from gateway.journal.lock import take_lock
from gateway.journal.mark import Mark, standing
from gateway.journal.port import (
    Deliver,
    JournalError,
    JournalFull,
    JournalHealth,
    JournalInDoubt,
    JournalLocked,
    JournalUnreadable,
    KeyNeeds,
    Listing,
    checked_note,
)
from gateway.journal.reader import list_in_steps, scan_in_doubt, snapshot, unless_damaged
from gateway.journal.reading import Damage, RecordReader
from gateway.journal.room import Need, Room, bytes_free, bytes_on_disk
from gateway.journal.rows import RowCodec
from gateway.journal.schema import (
    Meta,
    adopt_new_keys,
    check_tables,
    create_tables,
    read_head,
    read_meta,
    refuse_foreign_file,
)
from gateway.journal.sealing import Sealer
from gateway.private_file import make_private

_T = TypeVar("_T")

READS_MAX: Final = 256
"""Lookups that one hop to the reading thread takes along."""

NOTES_MAX: Final = 64
"""Entries about no transaction in one commit."""

_CHECKPOINT_FRAMES: Final = 4_000
_FRAMES_PER_CREATE: Final = 2
_FRAMES_PER_BATCH: Final = 10
_NOTED_MAX: Final = 1_024
_PROBE_EVERY_S: Final = 0.25


@dataclass(slots=True, frozen=True, kw_only=True)
class SqliteJournalSettings:
    """Where the journal lies and how much room it may take.

    Attributes:
        path: the database file; its lock lies beside it.
        min_free_bytes: new transactions are refused when the file system has less free; outcomes still go through.
        limit_bytes: new transactions are refused when the journal's files take this much; reversals at some more.
        cache_mib: page cache of each of the two connections.
        commit_delay_ms: added to every commit, to measure how a slower disk would do.
    """

    path: Path
    min_free_bytes: int = 256 * 1024 * 1024
    limit_bytes: int = 64 * 1024 * 1024 * 1024
    cache_mib: int = CACHE_MIB
    commit_delay_ms: int = 0


class SqliteJournal:
    """See port.Journal, whose contract this keeps."""

    def __init__(
        self,
        settings: SqliteJournalSettings,
        keyring: Keyring,
        deliver: Deliver,
        failed: Callable[[JournalError], None],
        utc_ms: Callable[[], int],
    ) -> None:
        """`failed` is called at most once, on the event loop's thread; after it the journal is silent."""
        self._path = Path(os.path.realpath(settings.path))  # a symbolic link is another name of the same journal
        self._cache_mib = settings.cache_mib
        self._delay_s = settings.commit_delay_ms / 1000
        self._keyring = keyring
        self._deliver = deliver
        self._failed = failed
        self._utc_ms = utc_ms
        self._codec = RowCodec(keyring.row_key)
        self._sealer = Sealer(keyring)
        self._room = Room(self._path, settings.min_free_bytes, settings.limit_bytes)
        self._writes: list[Write] = []
        self._notes: list[tuple[Note, asyncio.Future[int]]] = []
        self._adoptions: list[tuple[Keyring, asyncio.Future[int]]] = []
        self._damages: list[Damage] = []
        self._noted: set[Damage] = set()
        self._reads: list[tuple[Callable[[], object], asyncio.Future[object] | None]] = []
        self._long_reads: list[tuple[Callable[[], object], asyncio.Future[object] | None]] = []
        self._reading: list[tuple[Callable[[], object], asyncio.Future[object] | None]] = []
        self._write_wake = asyncio.Event()
        self._read_wake = asyncio.Event()
        self._stopping_reads = self._stopping_writes = False
        self._broken: JournalError | None = None
        self._full = ""
        self._probe = False
        self._probe_after_s = 0.0
        self._frames = 0
        self._commits = self._written = self._in_flight = 0
        self._resources: AsyncExitStack | None = None

    # -- opening and closing

    async def open(self) -> None:
        """See port.Journal.open."""
        async with AsyncExitStack() as stack:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(self._path)
            stack.callback(self._lock.release)
            refuse_foreign_file(self._path)
            await refuse_what_went_back(self._path, self._keyring, self._codec)
            make_private(self._path)
            try:
                self._writer = await connect_writer(self._path, self._cache_mib)
                stack.push_async_callback(self._writer.close)
                await self._writer.run(self._prepare)
                stack.callback(self._mark.close)
                sync_folder(self._path.parent)  # the file's name is durable before anything in it is acknowledged
                self._reader = await connect_reader(self._path, self._cache_mib)
                stack.push_async_callback(self._reader.close)
            except sqlite3.Error as error:
                raise JournalUnreadable(f"{self._path} cannot be opened: {error}") from error
            self._records = RecordReader(self._reader.connection, self._codec, self._sealer)
            self._listings = Listings(self._records, self._codec)
            self._delivered = self._batcher.frontier
            self._writing_task = asyncio.create_task(self._supervised(self._write_on()), name="journal writer")
            self._reading_task = asyncio.create_task(self._supervised(self._read_on()), name="journal reader")
            self._resources = stack.pop_all()

    def _prepare(self) -> None:
        """On the writer's thread: create or check the tables, and make durable what a crash has left in the log.

        After a kill the log may hold a commit that was never synced. It is visible now, so a retry would be answered
        from it: the checkpoint syncs log and database before anything is served (INV-1).
        """
        connection = self._writer.connection
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables:
            create_tables(connection, self._keyring, self._codec)
        meta: Meta = check_tables(connection, self._keyring, self._path)
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise JournalLocked(f"another process reads {self._path} and keeps its log from being synced")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        if pages * page_bytes != self._path.stat().st_size:
            raise JournalUnreadable(f"{self._path}: its header gives another length than it has")
        adopt_new_keys(connection, self._keyring, meta)
        head = read_head(connection, self._codec, self._path)
        self._batcher = Batcher(connection, self._codec, self._sealer, head, self._utc_ms, self._refusal_of)
        self._batcher.checkpointed()
        self._note(self._batcher.recover())
        said = standing(connection, meta.journal, head)
        self._batcher.newest_leaf = said.leaf
        self._mark = Mark(self._path, self._codec, said)  # last, for all that it says is durable now

    async def close(self) -> None:
        """See port.Journal.close."""
        resources, self._resources = self._resources, None
        if resources is None:
            return
        async with resources:
            self._stopping_reads = True
            self._read_wake.set()
            await self._reading_task
            self._stopping_writes = True  # last, for the reads may have found something for the quarantine
            self._write_wake.set()
            await self._writing_task
            if self._broken is None:
                await self._writer.run(self._checkpoint_all)

    def _checkpoint_all(self) -> None:
        """Leave everything in the database and nothing in the log; what there is no room for stays in the log.

        Raises:
            JournalInDoubt: the disk fails. What was acknowledged is in the log, and the next opening recovers it.
        """
        self._tidy()  # so that the next opening has nothing to read back
        try:
            self._writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            if not _is_want_of_room(error):
                raise JournalInDoubt(
                    f"{self._path} could not be closed in order: {error}. Nothing is lost: it is in the log beside it, "
                    f"which must stay with it; the next start goes on from there"
                ) from error

    async def _supervised(self, loop: Coroutine[Any, Any, None]) -> None:
        """The journal's supervision boundary: whatever ends a loop early stops the journal, once."""
        try:
            await loop
        except JournalError as error:
            self._stop(error)
        except sqlite3.Error as error:
            stop = JournalInDoubt(f"the journal's disk fails: {error}")
            stop.__cause__ = error
            self._stop(stop)
        except Exception as error:  # noqa: BLE001 - a defect of ours, and the journal cannot know what it has missed
            stop = JournalInDoubt(f"the journal stops at a defect: {type(error).__name__}: {error}")
            stop.__cause__ = error
            self._stop(stop)

    def _stop(self, error: JournalError) -> None:
        if self._broken is not None:
            return
        self._broken = error
        self._writes.clear()
        for _, waiting in [*self._notes, *self._adoptions]:
            if not waiting.done():
                waiting.set_exception(error)
        self._notes.clear()
        self._adoptions.clear()
        for _, future in [*self._reading, *self._reads, *self._long_reads]:
            if future is not None and not future.done():
                future.set_exception(error)
        self._reads.clear()
        self._long_reads.clear()
        self._write_wake.set()
        self._read_wake.set()
        self._failed(error)

    # -- writing

    def write(self, write: Write) -> None:
        """See port.Journal.write."""
        if self._broken is None:
            self._writes.append(write)
            self._write_wake.set()

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal.note."""
        note = checked_note(kind, detail)
        if self._broken is not None:
            raise self._broken
        if self._stopping_writes:
            raise JournalError("the journal is closed")
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._notes.append((note, waiting))
        self._write_wake.set()
        return await waiting

    async def adopt_keys(self, keyring: Keyring) -> None:
        """See port.Journal.adopt_keys."""
        if self._broken is not None:
            raise self._broken
        if self._resources is None or self._stopping_writes:
            raise JournalError("the journal is closed")
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._adoptions.append((keyring, waiting))
        self._write_wake.set()
        await waiting

    async def key_needs(self) -> KeyNeeds:
        """See port.Journal.key_needs."""
        return await self._asked(lambda: read_key_needs(self._reader.connection, self._codec))

    async def _adopt_next(self) -> None:
        keyring, waiting = self._adoptions[0]
        full: list[bool] = []
        await self._writer.run(lambda: full.append(not self._adopt(keyring)))
        del self._adoptions[0]
        if waiting.done():
            return
        if full[0]:
            waiting.set_exception(JournalFull("the disk is full: the new keys are not in use"))
        else:
            waiting.set_result(0)

    def _adopt(self, keyring: Keyring) -> bool:
        """On the writer's thread: note the keys first, then seal with them. False where there is no room."""
        connection = self._writer.connection
        try:
            adopt_new_keys(connection, keyring, read_meta(connection, self._path))
        except sqlite3.Error as error:
            if not _is_want_of_room(error):
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return False
        self._sealer.adopt(keyring)
        self._keyring = keyring
        return True

    def log_head(self) -> tuple[int, bytes]:
        """See port.Journal.log_head."""
        return self._delivered.size, self._delivered.root()

    async def _write_on(self) -> None:
        """While one commit is on the disk, the next batch gathers in `_writes`."""
        while self._broken is None:
            await self._write_wake.wait()
            self._write_wake.clear()
            while self._broken is None:
                if self._adoptions:
                    await self._adopt_next()
                elif self._writes or self._notes or self._damages or self._probe:
                    await self._write_batch()
                else:
                    break
            if self._stopping_writes:
                return

    async def _write_batch(self) -> None:
        writes, self._writes = self._writes[:BATCH_WRITES_MAX], self._writes[BATCH_WRITES_MAX:]
        noting = self._notes[:NOTES_MAX]
        damages, self._damages = self._damages, []
        probe, self._probe = self._probe, False
        outcome: list[list[JournalEvent] | None] = []
        self._in_flight = len(writes)
        notes = [note for note, _ in noting]
        await self._writer.run(lambda: outcome.append(self._commit(writes, damages, notes, probe=probe)))
        self._in_flight = 0
        if self._broken is not None:
            return
        events = outcome[0]
        del self._notes[: len(noting)]
        if events is None:
            self._full = "the disk is full"
            for _, waiting in noting:
                if not waiting.done():
                    waiting.set_exception(JournalFull("the disk is full: nothing was written"))
            self._damages[:0] = damages
            self._deliver([WriteRefused(write.token, RefusalReason.FULL) for write in writes])
            return
        self._full = ""
        self._commits += 1
        self._written += len(writes)
        self._delivered = self._batcher.frontier
        self._deliver(events)
        first = self._delivered.size - len(noting) + 1
        for sequence, (_, waiting) in enumerate(noting, first):
            if not waiting.done():
                waiting.set_result(sequence)
        creates = sum(1 for write in writes for change in write.changes if isinstance(change, Create))
        self._frames += _FRAMES_PER_BATCH + _FRAMES_PER_CREATE * creates + 2 * len(writes)
        if self._batcher.untidy():
            await self._writer.run(self._tidy)
            self._frames += RECENT_MAX
        if self._frames >= _CHECKPOINT_FRAMES:
            self._frames = 0
            await self._writer.run(self._checkpoint)

    def _commit(
        self, writes: list[Write], damages: list[Damage], notes: list[Note], *, probe: bool
    ) -> list[JournalEvent] | None:
        """As Batcher.commit; what has returned from it is durable, and so the mark may say it."""
        events = self._batcher.commit(writes, damages, notes, probe=probe)
        if self._delay_s:
            time.sleep(self._delay_s)
        self._mark.committed(self._batcher.head, self._batcher.newest_leaf)
        return events

    def _tidy(self) -> None:
        self._batcher.tidy()
        self._mark.committed(self._batcher.head, self._batcher.newest_leaf)

    def _checkpoint(self) -> None:
        """Move the log into the database; what readers still need stays. Everything in it is durable already."""
        self._mark.sync()
        try:
            busy, frames, moved = self._writer.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            if not _is_want_of_room(error):
                raise
            self._full = "the disk is full"  # the log keeps everything; the next checkpoint tries again
            return
        if not busy and frames == moved:
            self._batcher.checkpointed()

    # -- reading

    def _ask(self, read: Callable[[], object], future: asyncio.Future[object] | None) -> None:
        if self._broken is None:
            self._reads.append((read, future))
            self._read_wake.set()
        elif future is not None:
            future.set_exception(self._broken)

    async def _asked(self, read: Callable[[], _T]) -> _T:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._ask(read, future)
        return cast("_T", await future)

    async def _read_on(self) -> None:
        while self._broken is None:
            await self._read_wake.wait()
            self._read_wake.clear()
            while (self._reads or self._long_reads) and self._broken is None:
                await self._read_batch()
            if self._stopping_reads:
                return

    async def _read_batch(self) -> None:
        reads, self._reads = self._reads[:READS_MAX], self._reads[READS_MAX:]
        if self._long_reads:
            reads.append(self._long_reads.pop(0))  # one at a time, so that lookups go between them
        results: list[object] = []
        damages: list[Damage] = []

        def read_all() -> None:
            results.extend(snapshot(self._reader.connection, [partial(unless_damaged, read) for read, _ in reads]))
            damages.extend(self._records.noted)
            self._records.noted.clear()

        self._reading = reads
        await self._reader.run(read_all)
        self._reading = []
        self._note(damages)
        events: list[JournalEvent] = []
        broken: JournalError | None = None
        for (_, future), result in zip(reads, results, strict=True):
            if future is None and isinstance(result, JournalError):
                broken = result
            elif future is None:
                events.append(cast("JournalEvent", result))
            elif future.done():
                continue  # whoever asked was cancelled
            elif isinstance(result, JournalError):
                future.set_exception(result)
            else:
                future.set_result(result)
        if broken is not None:
            raise broken
        if events and self._broken is None:
            self._deliver(events)

    def _note(self, damages: list[Damage]) -> None:
        """Hand what was met damaged to the writer, each once: it reports it when it is in quarantine."""
        new = [each for each in dict.fromkeys(damages) if each not in self._noted]
        if new:
            if len(self._noted) >= _NOTED_MAX:
                self._noted.clear()  # quarantine itself keeps a second report from being made
            self._noted.update(new)
            self._damages += new
            self._write_wake.set()

    def find(self, find: Find) -> None:
        """See port.Journal.find."""
        # Asked before the snapshot is taken: a key leaves `recent` only once the tables that have it are committed.
        recent = [self._batcher.recent.get(key) for key in find.keys]
        self._ask(partial(self._find, find, recent), None)

    def _find(self, find: Find, recent: list[int | None]) -> Found:
        since_ms = self._utc_ms() - find.horizon_ms if find.horizon_ms else 0
        return Found(
            find.token, tuple([self._records.by_key(k, r, since_ms) for k, r in zip(find.keys, recent, strict=True)])
        )

    def find_newest(self, find: FindNewest) -> None:
        """See port.Journal.find_newest."""
        # Asked before the snapshot is taken: what leaves `newest` is in the tables that were committed before.
        newest = self._batcher.newest.of_terminal(find.lane.partition("|")[2])
        self._ask(lambda: self._listings.newest(find.token, find.lane, newest), None)

    def fetch_heads(self, fetch: FetchHeads) -> None:
        """See port.Journal.fetch_heads."""
        # Asked before the snapshot is taken: what leaves `newest` is in the table that was committed before.
        newest = self._batcher.newest.owing_of(fetch.lane, fetch.limit + 1)
        self._ask(lambda: self._records.heads(fetch.token, fetch.lane, fetch.limit, newest), None)

    def fetch_batch(self, fetch: FetchBatch) -> None:
        """See port.Journal.fetch_batch."""
        # Asked before the snapshot is taken: what leaves `newest` is in the tables that were committed before.
        newest = self._batcher.newest.of_batch(fetch.batch)
        if self._broken is None:
            self._long_reads.append((lambda: self._listings.batch(fetch.token, fetch.batch, newest), None))
            self._read_wake.set()

    def load(self, load: Load) -> None:
        """See port.Journal.load."""
        self._ask(lambda: Found(load.token, (self._records.by_id(load.id),)), None)

    async def owing_lanes(self) -> list[str]:
        """See port.Journal.owing_lanes."""
        newest = self._batcher.newest.owing_lanes()
        return sorted({*newest, *await self._asked(self._records.owing_lanes)})

    async def in_doubt(self, limit: int) -> list[Stored]:
        """See port.Journal.in_doubt. Reads every row when fewer are found than were counted."""
        found = await self._asked(lambda: self._records.in_doubt(limit))
        counts = self._batcher.head.counts
        counted = sum(counts[state] for state in IN_DOUBT_AFTER_CRASH)
        if len(found) >= min(limit, counted) or self._writes or self._in_flight:
            return found
        # One of them is hidden by a flipped bit; left in doubt, it would never be reversed (INV-3).
        return await scan_in_doubt(self._records, self._listings, self._asked, limit)

    async def listing(self, listing: Listing) -> list[Transaction]:
        """See port.Journal.listing."""

        def step(after: int) -> Awaitable[tuple[list[Transaction], int]]:
            newest = self._batcher.newest.of_terminal(listing.terminal, listing.stan) if listing.terminal else ()
            return self._asked(lambda: self._listings.step(listing, after, newest))

        return await list_in_steps(listing, step)

    async def health(self) -> JournalHealth:
        """See port.Journal.health."""
        head = self._batcher.head
        reason = self.refusal()
        return JournalHealth(
            writable=not reason,
            reason=reason,
            entries=head.sequence,
            bytes_on_disk=bytes_on_disk(self._path),
            bytes_free=bytes_free(self._path),
            counts={state: head.counts[state] for state in State},
            oldest_owed_ms=0 if self._broken else await self._asked(self._records.oldest_owed_ms),
            quarantined=head.quarantined,
            commits=self._commits,
            writes=self._written,
            queued=len(self._writes) + self._in_flight,
        )

    def refusal(self) -> str:
        """See port.Journal.refusal. While the disk was full, also tries whether it still is."""
        now_s = time.monotonic()
        if self._full and self._broken is None and now_s >= self._probe_after_s:
            self._probe_after_s = now_s + _PROBE_EVERY_S
            self._probe = True
            self._write_wake.set()
        return self.refusal_known()

    def refusal_known(self) -> str:
        """As `refusal`, but tries nothing."""
        return str(self._broken) if self._broken is not None else self._full or self._refusal_of(Need.NEW)

    def _refusal_of(self, need: Need) -> str:
        """Why no transaction of this need is taken now, on any thread. A lost lock refuses nothing but new ones."""
        return (self._lock.refusal() if need is Need.NEW else "") or self._room.refusal(need)


def _is_want_of_room(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
