"""Reads that gather for the reading thread: many lookups take one hop together, and see one state of the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar, cast

from gateway.core.events import JournalEvent
from gateway.journal.connections import Threaded
from gateway.journal.port import Deliver, JournalError
from gateway.journal.reader import snapshot, unless_damaged
from gateway.journal.reading import Damage, RecordReader

_T = TypeVar("_T")
_Read = tuple[Callable[[], object], asyncio.Future[object] | None]

READS_MAX: Final = 256
"""Lookups that one hop to the reading thread takes along."""


class Lookups:
    """All calls are made on the event loop's thread; the reads themselves are done on the reading thread."""

    def __init__(self, deliver: Deliver, note: Callable[[list[Damage]], None]) -> None:
        """`deliver` is given the events that reads make; `note` what they have met damaged."""
        self._deliver = deliver
        self._note = note
        self._reads: list[_Read] = []
        self._long_reads: list[_Read] = []
        self._reading: list[_Read] = []
        self._wake = asyncio.Event()
        self._ending = False
        self._broken: JournalError | None = None

    def ask(self, read: Callable[[], JournalEvent]) -> None:
        """Have a read done; what it gives is delivered."""
        self._add(read, None)

    def ask_long(self, read: Callable[[], JournalEvent]) -> None:
        """The same, of one that takes long: one of them goes with each hop."""
        if self._broken is None:
            self._long_reads.append((read, None))
            self._wake.set()

    async def asked(self, read: Callable[[], _T]) -> _T:
        """What a read gives.

        Raises:
            JournalError: what has stopped the journal, or JournalUnreadable for damage beyond one record.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._add(read, future)
        return cast("_T", await future)

    def _add(self, read: Callable[[], object], future: asyncio.Future[object] | None) -> None:
        if self._broken is None:
            self._reads.append((read, future))
            self._wake.set()
        elif future is not None:
            future.set_exception(self._broken)

    async def read_on(self, reader: Threaded, records: RecordReader) -> None:
        """Do what is asked for, until `end` or `stop`.

        Args:
            records: reads over the same connection, and keeps what it meets damaged.
        Raises:
            JournalUnreadable: damage beyond one record, in a read whose event was to be delivered.
        """
        while self._broken is None:
            await self._wake.wait()
            self._wake.clear()
            while (self._reads or self._long_reads) and self._broken is None:
                await self._read_batch(reader, records)
            if self._ending:
                return

    def end(self) -> None:
        """Do what was asked for until now, then no more."""
        self._ending = True
        self._wake.set()

    def stop(self, error: JournalError) -> None:
        """The journal has stopped: nothing is delivered any more, and whoever awaits a read is told why."""
        self._broken = error
        for _, future in [*self._reading, *self._reads, *self._long_reads]:
            if future is not None and not future.done():
                future.set_exception(error)
        self._reads.clear()
        self._long_reads.clear()
        self._wake.set()

    async def _read_batch(self, reader: Threaded, records: RecordReader) -> None:
        reads, self._reads = self._reads[:READS_MAX], self._reads[READS_MAX:]
        if self._long_reads:
            reads.append(self._long_reads.pop(0))  # one at a time, so that lookups go between them
        results: list[object] = []
        damages: list[Damage] = []

        def read_all() -> None:
            results.extend(snapshot(reader.connection, [partial(unless_damaged, read) for read, _ in reads]))
            damages.extend(records.noted)
            records.noted.clear()

        self._reading = reads
        await reader.run(read_all)
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
