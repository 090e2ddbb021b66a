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
from typing import Any, Final

from gateway.core.effects import FetchBatch, FetchHeads, Find, FindNewest, Load, Note, Write
from gateway.core.events import Found, JournalEvent, RefusalReason, WriteRefused
from gateway.core.lifecycle import IN_DOUBT_AFTER_CRASH, EntryKind, State
from gateway.core.transaction import Stored, Transaction
from gateway.journal.batch import BATCH_WRITES_MAX, Batcher
from gateway.journal.connections import CACHE_MIB, connect_reader, connect_writer
from gateway.journal.key_needs import read_key_needs
from gateway.journal.keyring import Keyring, sync_folder
from gateway.journal.listings import Listings, goes_by_unsettled
from gateway.journal.lock import take_lock
from gateway.journal.log_length import LogLength
from gateway.journal.lookups import Lookups
from gateway.journal.mark import Mark, standing
from gateway.journal.opening import adopt_while_open, leave_in_order, make_ready, refuse_unfit
from gateway.journal.port import (
    Deliver,
    JournalError,
    JournalFull,
    JournalHealth,
    JournalInDoubt,
    JournalUnreadable,
    KeyNeeds,
    Listing,
    PutAside,
    checked_note,
)
from gateway.journal.reader import list_in_steps, scan_in_doubt
from gateway.journal.reading import Damage, RecordReader
from gateway.journal.room import Need, Room, bytes_free, bytes_on_disk
from gateway.journal.rows import RowCodec
from gateway.journal.sealing import Sealer
from gateway.journal.settled_damage import put_aside_page
from gateway.journal.upkeep import Upkeep
from gateway.journal.waiting import Fullness, Waiting, WaitingDamages

NOTES_MAX: Final = 64
"""Entries about no transaction in one commit."""


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
        *,
        write_here: bool = False,
    ) -> None:
        """A journal that is not open yet.

        Args:
            failed: called at most once, on the event loop's thread; after it the journal is silent.
            write_here: write on the event loop's thread, which does nothing else then while a commit is on the disk.
        """
        self._write_here = write_here
        self._path = Path(os.path.realpath(settings.path))  # a symbolic link is another name of the same journal
        self._cache_mib = settings.cache_mib
        self._delay_s = settings.commit_delay_ms / 1000
        self._keyring = keyring
        self._deliver = deliver
        self._failed = failed
        self._utc_ms = utc_ms
        self._codec = RowCodec(keyring.row_key)
        self._sealer = Sealer(keyring)
        self._room = Room(self._path, settings.min_free_bytes, settings.limit_bytes, self._owed)
        self._writes: list[Write] = []
        self._notes = Waiting[Note]()
        self._adoptions = Waiting[Keyring]()
        self._damages = WaitingDamages()
        self._lookups = Lookups(deliver, self._note)
        self._write_wake = asyncio.Event()
        self._stopping_writes = False
        self._broken: JournalError | None = None
        self._fullness = Fullness()
        self._commits = self._written = self._in_flight = 0
        self._resources: AsyncExitStack | None = None

    # -- opening and closing

    async def open(self) -> None:
        """See port.Journal.open."""
        async with AsyncExitStack() as stack:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(self._path)
            stack.callback(self._lock.release)
            await refuse_unfit(self._path, self._keyring, self._codec)
            try:
                self._writer = await connect_writer(self._path, self._cache_mib, here=self._write_here)
                stack.push_async_callback(self._writer.close)
                await self._writer.run(self._prepare)
                stack.callback(self._mark.close)
                log_length = LogLength(self._path)
                stack.callback(log_length.close)
                sync_folder(self._path.parent)  # the file's name is durable before anything in it is acknowledged
                self._reader = await connect_reader(self._path, self._cache_mib)
                stack.push_async_callback(self._reader.close)
            except sqlite3.Error as error:
                raise JournalUnreadable(f"{self._path} cannot be opened: {error}") from error
            self._records = RecordReader(self._reader.connection, self._codec, self._sealer)
            self._listings = Listings(self._records, self._codec)
            self._delivered = self._batcher.frontier
            self._upkeep = Upkeep(
                self._writer,
                self._batcher,
                self._mark,
                log_length,
                self._fullness,
                writing=lambda: self._in_flight > 0,
                wake=self._write_wake.set,
            )
            self._writing_task = asyncio.create_task(self._supervised(self._write_on()), name="journal writer")
            reading = self._lookups.read_on(self._reader, self._records)
            self._reading_task = asyncio.create_task(self._supervised(reading), name="journal reader")
            self._resources = stack.pop_all()

    def _prepare(self) -> None:
        """On the writer's thread: see opening.make_ready; then what the last run had in memory is read back."""
        connection = self._writer.connection
        meta, head = make_ready(connection, self._keyring, self._codec, self._path)
        self._batcher = Batcher(connection, self._codec, self._sealer, head, self._utc_ms, self._refusal_of)
        self._batcher.checkpointed()
        self._note(self._batcher.recover())
        self._commits_before = head.commits
        said = standing(connection, meta.journal, head)
        self._batcher.newest_leaf = said.leaf
        self._mark = Mark(self._path, self._codec, said)  # last, for all that it says is durable now

    async def close(self) -> None:
        """See port.Journal.close."""
        resources, self._resources = self._resources, None
        if resources is None:
            return
        async with resources:
            self._upkeep.end()
            self._lookups.end()
            await self._reading_task
            self._stopping_writes = True  # last, for the reads may have found something for the quarantine
            self._write_wake.set()
            await self._writing_task
            if self._broken is None:
                await self._writer.run(self._leave_in_order)

    def _leave_in_order(self) -> None:
        self._upkeep.tidy()  # so that the next opening has nothing to read back
        leave_in_order(self._writer.connection, self._path)

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
        self._upkeep.end()
        self._writes.clear()
        self._notes.refuse_all(error)
        self._adoptions.refuse_all(error)
        self._lookups.stop(error)
        self._write_wake.set()
        self._failed(error)

    # -- writing

    def write(self, write: Write) -> None:
        """See port.Journal.write."""
        if self._broken is None:
            self._writes.append(write)
            self._write_wake.set()

    def begin(self) -> None:
        """See port.Journal.begin. The writer begins by itself."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal.note."""
        note = checked_note(kind, detail)
        if self._broken is not None:
            raise self._broken
        if self._stopping_writes:
            raise JournalError("the journal is closed")
        waiting = self._notes.add(note)
        self._write_wake.set()
        return await waiting

    async def adopt_keys(self, keyring: Keyring) -> None:
        """See port.Journal.adopt_keys."""
        if self._broken is not None:
            raise self._broken
        if self._resources is None or self._stopping_writes:
            raise JournalError("the journal is closed")
        waiting = self._adoptions.add(keyring)
        self._write_wake.set()
        await waiting

    async def key_needs(self) -> KeyNeeds:
        """See port.Journal.key_needs."""
        return await self._lookups.asked(lambda: read_key_needs(self._reader.connection, self._codec))

    async def put_aside(self, after_id: int, limit: int) -> list[PutAside]:
        """See port.Journal.put_aside."""
        return await self._lookups.asked(
            lambda: put_aside_page(self._reader.connection, self._records, after_id, limit)
        )

    async def _adopt_next(self) -> None:
        (keyring,) = self._adoptions.oldest(1)
        adopted: list[bool] = []
        await self._writer.run(lambda: adopted.append(self._adopt(keyring)))
        if self._broken is not None:
            return
        if adopted[0]:
            self._adoptions.written([0])
        else:
            self._adoptions.refuse(1, JournalFull("the disk is full: the new keys are not in use"))

    def _adopt(self, keyring: Keyring) -> bool:
        """On the writer's thread: note the keys first, then seal with them. False where there is no room."""
        if not adopt_while_open(self._writer.connection, keyring, self._path):
            return False
        self._sealer.adopt(keyring)
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
                elif self._writes or self._notes or self._damages or self._fullness.to_probe:
                    await self._write_batch()
                    if self._write_here:
                        await asyncio.sleep(0)  # let what has come meanwhile be heard
                    if not self._writes and self._broken is None:
                        await self._upkeep.lull()
                elif self._upkeep.quiet:
                    await self._upkeep.step()
                    await asyncio.sleep(0)
                else:
                    break
            if self._stopping_writes:
                return

    async def _write_batch(self) -> None:
        writes, self._writes = self._writes[:BATCH_WRITES_MAX], self._writes[BATCH_WRITES_MAX:]
        notes = self._notes.oldest(NOTES_MAX)
        damages, probe = self._damages.take(), self._fullness.take_probe()
        outcome: list[list[JournalEvent] | None] = []
        self._in_flight = len(writes)
        await self._writer.run(lambda: outcome.append(self._commit(writes, damages, notes, probe=probe)))
        self._in_flight = 0
        if self._broken is not None:
            return
        events = outcome[0]
        if events is None:
            self._fullness.met()
            self._notes.refuse(len(notes), JournalFull("the disk is full: nothing was written"))
            self._damages.put_back(damages)
            self._deliver([WriteRefused(write.token, RefusalReason.FULL) for write in writes])
            return
        self._fullness.over()
        self._commits += 1
        self._written += len(writes)
        self._delivered = self._batcher.frontier
        self._deliver(events)
        newest = self._delivered.size  # notes are the last entries of their commit
        self._notes.written(range(newest - len(notes) + 1, newest + 1))
        await self._upkeep.committed(len(writes))

    def _commit(
        self, writes: list[Write], damages: list[Damage], notes: list[Note], *, probe: bool
    ) -> list[JournalEvent] | None:
        """As Batcher.commit; what has returned from it is durable, and so the mark may say it."""
        events = self._batcher.commit(writes, damages, notes, probe=probe)
        if self._delay_s:
            time.sleep(self._delay_s)
        self._mark.committed(self._batcher.head, self._batcher.newest_leaf)
        return events

    # -- reading

    def _note(self, damages: list[Damage]) -> None:
        """Hand what was met damaged to the writer, each once: it reports it when it is in quarantine."""
        if self._damages.add(damages):
            self._write_wake.set()

    def find(self, find: Find) -> None:
        """See port.Journal.find."""
        # Asked before the snapshot is taken: what leaves `newest` is in the tables that were committed before.
        newest = self._batcher.newest
        recent = [newest.of_key(key) for key in find.keys]
        self._lookups.ask(partial(self._find, find, recent))

    def _find(self, find: Find, recent: list[int | None]) -> Found:
        since_ms = self._utc_ms() - find.horizon_ms if find.horizon_ms else 0
        return Found(
            find.token, tuple([self._records.by_key(k, r, since_ms) for k, r in zip(find.keys, recent, strict=True)])
        )

    def find_newest(self, find: FindNewest) -> None:
        """See port.Journal.find_newest."""
        # Asked before the snapshot is taken: what leaves `newest` is in the tables that were committed before.
        newest = self._batcher.newest.of_terminal(find.lane.partition("|")[2])
        self._lookups.ask(lambda: self._listings.newest(find.token, find.lane, newest))

    def fetch_heads(self, fetch: FetchHeads) -> None:
        """See port.Journal.fetch_heads."""
        # Asked before the snapshot is taken: what leaves `newest` is in the table that was committed before.
        newest = self._batcher.newest.owing_of(fetch.lane, fetch.limit + 1)
        self._lookups.ask(lambda: self._records.heads(fetch.token, fetch.lane, fetch.limit, newest))

    def fetch_batch(self, fetch: FetchBatch) -> None:
        """See port.Journal.fetch_batch."""
        # Asked before the snapshot is taken: what leaves `newest` is in the tables that were committed before.
        newest = self._batcher.newest.of_batch(fetch.batch)
        self._lookups.ask_long(lambda: self._listings.batch(fetch.token, fetch.batch, newest))

    def load(self, load: Load) -> None:
        """See port.Journal.load."""
        self._lookups.ask(lambda: Found(load.token, (self._records.by_id(load.id, load.key),)))

    async def owing_lanes(self) -> list[str]:
        """See port.Journal.owing_lanes."""
        newest = self._batcher.newest.owing_lanes()
        return sorted({*newest, *await self._lookups.asked(self._records.owing_lanes)})

    async def in_doubt(self, limit: int) -> list[Stored]:
        """See port.Journal.in_doubt. Reads every row when fewer are found than were counted."""
        # Asked before the snapshot is taken: what leaves `newest` is in the table that was committed before.
        newest = self._batcher.newest.unsettled(IN_DOUBT_AFTER_CRASH)
        found = await self._lookups.asked(lambda: self._records.in_doubt(limit, newest))
        counts = self._batcher.head.counts
        counted = sum(counts[state] for state in IN_DOUBT_AFTER_CRASH)
        if len(found) >= min(limit, counted) or self._writes or self._in_flight:
            return found
        # One of them is hidden by a flipped bit; left in doubt, it would never be reversed (INV-3).
        return await scan_in_doubt(self._records, self._listings, self._lookups.asked, limit)

    async def listing(self, listing: Listing) -> list[Transaction]:
        """See port.Journal.listing."""

        def step(after: int) -> Awaitable[tuple[list[Transaction], int]]:
            newest = self._batcher.newest.of_terminal(listing.terminal, listing.stan) if listing.terminal else ()
            unsettled = self._batcher.newest.unsettled(listing.states) if goes_by_unsettled(listing) else ()
            return self._lookups.asked(lambda: self._listings.step(listing, after, newest, unsettled))

        return await list_in_steps(listing, step)

    async def health(self) -> JournalHealth:
        """See port.Journal.health."""
        head = self._batcher.head
        reason = self.refusal()
        oldest = self._batcher.newest.oldest_unsettled()
        return JournalHealth(
            writable=not reason,
            reason=reason,
            entries=head.sequence,
            bytes_on_disk=bytes_on_disk(self._path),
            bytes_free=bytes_free(self._path),
            counts={state: head.counts[state] for state in State},
            oldest_owed_ms=0
            if self._broken
            else await self._lookups.asked(lambda: self._records.oldest_owed_ms(oldest)),
            quarantined=head.quarantined - head.closed,
            settled=head.settled,
            commits=self._commits,
            syncs=self._batcher.head.commits - self._commits_before + self._upkeep.syncs,
            writes=self._written,
            queued=len(self._writes) + self._in_flight,
        )

    def refusal(self) -> str:
        """See port.Journal.refusal. While the disk was full, also tries whether it still is."""
        if self._broken is None and self._fullness.probe_soon():
            self._write_wake.set()
        return self.refusal_known()

    def refusal_known(self) -> str:
        """As `refusal`, but tries nothing."""
        return str(self._broken) if self._broken is not None else self._fullness.reason or self._refusal_of(Need.NEW)

    def _owed(self) -> int:
        return self._batcher.head.owed

    def _refusal_of(self, need: Need) -> str:
        """Why no transaction of this need is taken now, on any thread. A lost lock refuses nothing but new ones."""
        return (self._lock.refusal() if need is Need.NEW else "") or self._room.refusal(need)
