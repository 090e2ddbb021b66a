"""Drives a journal from synchronous tests: hands effects over, waits for their events, and keeps what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msgspec.structs import replace

from gateway.core.effects import Create, FetchBatch, FetchHeads, Find, FindNewest, Limit, Load, Update, Write
from gateway.core.events import BatchRead, Damaged, Existing, Found, Heads, JournalEvent
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, Kind, Stored, StoredMessage, Transaction
from gateway.journal.keyring import Keyring
from gateway.journal.port import Deliver, Journal, JournalError, Listing
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from protocol.iso8583.message import Fields

T = TypeVar("T")
Asked = Write | Find | FindNewest | FetchHeads | FetchBatch | Load
Make = Callable[[Deliver, Callable[[JournalError], None], Callable[[], int]], Journal]

PAN = "4242424242424242"
TRACK = "4242424242424242=30121010000012345678"
APPROVED_ANSWER = Answer("0210", {39: "00"})
START_MS = 1_700_000_000_000


class Rig:
    """A journal on an event loop of its own. `now_ms` is its clock.

    Every open one is in `all_open`: one that a failed test leaves behind would keep its threads, and so the test run.
    """

    all_open: ClassVar[set[Rig]] = set()

    def __init__(self, make: Make) -> None:
        self._make = make
        self._runner: asyncio.Runner | None = None
        self._answers: dict[int, JournalEvent] = {}
        self._wanted: set[int] = set()
        self._answered = asyncio.Event()
        self.order: list[int] = []
        self.damaged: list[Damaged] = []
        self.failure: JournalError | None = None
        self._then: Write | None = None
        self.now_ms = START_MS
        self.token = 0
        self.journal: Journal

    def open(self) -> Rig:
        async def opening() -> None:
            self._answered = asyncio.Event()
            self.journal = self._make(self._deliver, self._fail, lambda: self.now_ms)
            await self.journal.open()

        self._end_loop()
        self._runner = asyncio.Runner()
        try:
            self._runner.run(opening())
        except BaseException:
            self._end_loop()
            raise
        self.all_open.add(self)
        return self

    def close(self) -> None:
        """Close the journal and its loop; safe to call twice."""
        self.all_open.discard(self)
        if self._runner is not None:
            self._runner.run(self.journal.close())
            self._end_loop()

    def _end_loop(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def reopen(self) -> None:
        self.close()
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._runner is not None, "not open"
        return self._runner.run(work)

    def _deliver(self, events: Sequence[JournalEvent]) -> None:
        for event in events:
            if isinstance(event, Damaged):
                self.damaged.append(event)
                continue
            assert event.token not in self._answers, "answered twice"
            self._answers[event.token] = event
            self.order.append(event.token)
            self._wanted.discard(event.token)
        if self._then is not None:
            then, self._then = self._then, None
            self.journal.write(then)
        if not self._wanted:
            self._answered.set()

    def _fail(self, error: JournalError) -> None:
        assert self.failure is None, "failed twice"
        self.failure = error
        self._answered.set()

    def perform(self, *asked: Asked, then: Write | None = None) -> list[JournalEvent]:
        """Hand all over at once; the event of each. After a failure, those that were answered before it.

        `then` is handed over when the first of them is answered: after a read, in the commit that puts aside what the
        read has met damaged.
        """

        both = asked if then is None else (*asked, then)

        async def performing() -> None:
            self._answered.clear()
            self._wanted = {each.token for each in both}
            self._then = then
            for each in asked:
                if isinstance(each, Write):
                    self.journal.write(each)
                elif isinstance(each, Find):
                    self.journal.find(each)
                elif isinstance(each, FetchHeads):
                    self.journal.fetch_heads(each)
                elif isinstance(each, FindNewest):
                    self.journal.find_newest(each)
                elif isinstance(each, FetchBatch):
                    self.journal.fetch_batch(each)
                else:
                    self.journal.load(each)
            if asked and self.failure is None:
                async with asyncio.timeout(30):
                    await self._answered.wait()

        self.run(performing())
        return [self._answers.pop(each.token) for each in both if each.token in self._answers]

    def next_token(self) -> int:
        self.token += 1
        return self.token

    def write(self, *changes: Create | Update) -> JournalEvent:
        return self.perform(Write(self.next_token(), changes))[0]

    def find(self, *keys: str, horizon_ms: int = 0) -> tuple[Any, ...]:
        found = self.perform(Find(self.next_token(), keys, horizon_ms))[0]
        assert isinstance(found, Found)
        return found.results

    def load(self, number: int, key: str = "") -> Any:
        found = self.perform(Load(self.next_token(), number, key))[0]
        assert isinstance(found, Found)
        return found.results[0]

    def newest(self, lane: str) -> Any:
        found = self.perform(FindNewest(self.next_token(), lane))[0]
        assert isinstance(found, Found)
        return found.results[0]

    def heads(self, lane: str, limit: int = 100) -> Heads:
        heads = self.perform(FetchHeads(self.next_token(), lane, limit))[0]
        assert isinstance(heads, Heads)
        return heads

    def batch(self, batch: str) -> BatchRead:
        read = self.perform(FetchBatch(self.next_token(), batch))[0]
        assert isinstance(read, BatchRead)
        return read

    def listed(self, **listing: Any) -> list[int]:
        """Ids of what a listing shows, of any state unless told."""
        rows = self.run(self.journal.listing(Listing(**{"states": frozenset(), "limit": 10**6, **listing})))
        return [row.id for row in rows]

    def settle(self) -> None:
        """Let the writer catch up with what reads have found: a write is answered after that, or with it."""
        if self.failure is None:
            self.perform(Write(self.next_token(), (sale(f"settled|{self.token:06}", state=State.DECLINED),)))

    def existing(self, *changes: Create | Update) -> Stored | None:
        event = self.write(*changes)
        assert isinstance(event, Existing)
        return event.stored


def sale(
    key: str = "M|T|000001",
    *,
    state: State = State.STORED,
    kind: EntryKind = EntryKind.STOOD_IN,
    what: Kind = Kind.SALE,
    stan: str | None = None,
    lane: str = "M/T",
    amount_minor: int = 12_345,
    accepted_ms: int = START_MS,
    sensitive: Fields | None = None,
    answer: Answer | None = APPROVED_ANSWER,
    reserve: tuple[Limit, ...] = (),
    horizon_ms: int = 0,
    original: int = 0,
    position: int = 0,
    alias: str = "",
) -> Create:
    """A new transaction; of terminal T of merchant M, unless its key has all five parts and tells."""
    parts = key.split("|")
    merchant, terminal = parts[1:3] if len(parts) == 5 else ("M", "T")
    transaction = Transaction(
        key=key,
        kind=what,
        state=state,
        lane=lane,
        terminal=terminal,
        merchant=merchant,
        stan=key[-6:] if stan is None else stan,
        fingerprint=b"f" * 16,
        card=b"c" * 16,
        card_mask="424242******4242",
        amount_minor=amount_minor,
        currency="156",
        accepted_ms=accepted_ms,
        changed_ms=accepted_ms,
        original=original,
        position=position,
        exposed=bool(reserve),
        response="00" if answer else "",
        alias=alias,
        alias_digest=b"a" * 16 if alias else b"",
    )
    message = StoredMessage("0200", {2: PAN, 3: "000000", 4: f"{amount_minor:012}", 11: key[-6:], 41: terminal})
    return Create(kind, transaction, message, sensitive or {}, answer, reserve, horizon_ms)


def evolved(
    stored: Transaction,
    state: State,
    *,
    kind: EntryKind = EntryKind.ANSWERED,
    answer: Answer | None = None,
    reserve: tuple[Limit, ...] = (),
    release: tuple[str, ...] = (),
    detail: str = "",
    **changes: Any,
) -> Update:
    row = replace(stored, state=state, revision=stored.revision + 1, **changes)
    return Update(kind, row, answer, reserve, release, detail)


def sqlite_make(path: Path, keyring: Keyring, *, min_free_bytes: int = 0, limit_bytes: int = 1 << 40) -> Make:
    settings = SqliteJournalSettings(path=path, min_free_bytes=min_free_bytes, limit_bytes=limit_bytes)
    return lambda deliver, failed, utc_ms: SqliteJournal(settings, keyring, deliver, failed, utc_ms)
