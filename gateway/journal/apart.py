"""The journal in a process of its own: the gateway's end. `serving.py` is the other.

Sealing, hashing and writing cost as much as hearing and deciding. One interpreter does one thing at a time, so that
both in one process hold each other up; in two they use two cores. The contract is the journal's (port.py), and what
holds it is SqliteJournal all the same, over there: nothing is decided and nothing is kept here.

What a crash leaves is what it leaves of SqliteJournal. The process of the journal is killed with the gateway, and
where it ends by itself, the outcome of what was handed over is unknown: the gateway stops and recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

import msgspec

from gateway.core.effects import FetchBatch, FetchHeads, Find, FindNewest, Load, Write
from gateway.core.events import Committed, JournalEvent
from gateway.core.lifecycle import EntryKind
from gateway.core.transaction import Stored, Transaction
from gateway.journal.keyring import Keyring
from gateway.journal.port import (
    Deliver,
    JournalError,
    JournalHealth,
    JournalInDoubt,
    KeyNeeds,
    Listing,
    PutAside,
    checked_note,
)
from gateway.journal.sqlite import SqliteJournalSettings
from gateway.journal.wire import (
    AskAdoptKeys,
    AskClose,
    AskHealth,
    AskInDoubt,
    AskKeyNeeds,
    AskListing,
    AskNote,
    AskOwingLanes,
    AskPutAside,
    AskRefusal,
    Call,
    Failure,
    Open,
    Order,
    Result,
    Said,
    Standing,
    Stopped,
    Tiding,
    frame,
    send_now,
    tidings,
)

_T = TypeVar("_T")

_ENDS_WITHIN_S: Final = 5.0
_CLOSES_WITHIN_S: Final = 30.0
_ANSWERS_WITHIN_S: Final = 3.0
"""A journal that has said nothing for so long to a question that costs it nothing hangs: nobody is told it is well."""
_SOCKET_BYTES: Final = 1 << 20
_ORDERS_PER_FRAME: Final = 32
"""Orders that are handed over before the turn of the loop has ended. A turn that hears hundreds of terminals takes
many milliseconds, and the other process would have nothing to do until then."""


def error_of(name: str, text: str) -> JournalError:
    """The error that the other end has met, as its own class."""
    known: list[type[JournalError]] = [JournalError, *JournalError.__subclasses__()]
    kinds = {kind.__name__: kind for kind in known}
    return kinds[name](text) if name in kinds else JournalInDoubt(f"{name}: {text}")


_HANGS: Final = "the journal's process does not answer"


def _ignore_signals() -> None:
    """In the new process, before its program: what ends the gateway's group is for the gateway to act upon."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class JournalApart:
    """See port.Journal, whose contract this keeps."""

    def __init__(
        self,
        settings: SqliteJournalSettings,
        keyring: Keyring,
        deliver: Deliver,
        failed: Callable[[JournalError], None],
        program: Sequence[str] = (sys.executable, "-P", "-m", "gateway.journal.serving"),
    ) -> None:
        """As SqliteJournal's; `program` runs `serving.main`, and takes no module from the current folder."""
        self._program = program
        self._settings = settings
        self._keyring = keyring
        self._deliver = deliver
        self._failed = failed
        self._orders: list[Order] = []
        self._calls: dict[int, tuple[object, asyncio.Future[Any]]] = {}
        self._newest_call = 0
        self._standing = Standing("", 0, b"")
        self._asked_s: float | None = None
        self._health: JournalHealth | None = None
        self._broken: JournalError | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._line: _Line | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """The journal's process; None where there is none."""
        return None if self._child is None else self._child.pid

    # -- opening and closing

    async def open(self) -> None:
        """See port.Journal.open."""
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            line = self._line = _Line(self)
            await self._loop.create_connection(lambda: line, sock=ours)
            try:
                self._child = await asyncio.create_subprocess_exec(
                    *self._program, str(theirs.fileno()), str(os.getpid()),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(),), preexec_fn=_ignore_signals,
                )  # fmt: skip
            except OSError as error:
                self._closing = True
                line.close()
                raise JournalError(f"the journal's process ({self._program[0]}) cannot be started: {error}") from error
        settings = self._settings
        try:
            await self._called(
                lambda call: Open(
                    call, str(settings.path), settings.min_free_bytes, settings.limit_bytes, settings.cache_mib,
                    settings.commit_delay_ms, self._keyring,
                ),
                None,
            )  # fmt: skip
        except BaseException:
            await self._end()
            raise

    async def close(self) -> None:
        """See port.Journal.close."""
        if self._child is None or self._closing:
            return
        try:
            if self._broken is None:
                async with asyncio.timeout(_CLOSES_WITHIN_S):
                    await self._called(AskClose, None)
        except TimeoutError:
            raise JournalInDoubt(
                f"the journal's process has not closed within {_CLOSES_WITHIN_S:g} s and is ended: what was "
                f"acknowledged is on the disk, and the next start goes on from there"
            ) from None
        finally:
            await self._end()

    async def _end(self) -> None:
        """See the other process end, whatever state it is in."""
        self._closing = True
        child, line = self._child, self._line
        assert child is not None
        assert line is not None
        line.close()
        try:
            await asyncio.wait_for(child.wait(), _ENDS_WITHIN_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    # -- orders

    def _order(self, order: Order) -> None:
        """Hand over, in one frame with others of this turn of the loop."""
        if self._broken is not None:
            return
        orders = self._orders
        if not orders:
            self._loop.call_soon(self._send)
        orders.append(order)
        if len(orders) >= _ORDERS_PER_FRAME:
            self._send()  # the other process begins while this turn of the loop goes on

    def _send(self) -> None:
        orders, self._orders = self._orders, []
        if orders and self._line is not None:
            try:
                octets = frame(orders)
            except Exception as error:  # noqa: BLE001 - the journal's supervision boundary: these orders are lost
                self.defect(error)
            else:
                self._line.send(octets)

    async def _called(self, order: Callable[[int], Call], gives: object) -> Any:
        """Ask, and wait for what it gives. Raises: JournalError, what the other end has met."""
        if self._broken is not None:
            raise self._broken
        self._newest_call += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls[self._newest_call] = gives, future
        self._order(order(self._newest_call))
        return await future

    def write(self, write: Write) -> None:
        """See port.Journal.write."""
        self._order(write)

    def begin(self) -> None:
        """See port.Journal.begin."""
        self._send()

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal.note."""
        checked_note(kind, detail)
        return cast("int", await self._called(lambda call: AskNote(call, kind, detail), int))

    async def adopt_keys(self, keyring: Keyring) -> None:
        """See port.Journal.adopt_keys."""
        await self._called(lambda call: AskAdoptKeys(call, keyring), type(None))

    async def key_needs(self) -> KeyNeeds:
        """See port.Journal.key_needs."""
        return cast("KeyNeeds", await self._called(AskKeyNeeds, KeyNeeds))

    async def put_aside(self, after_id: int, limit: int) -> list[PutAside]:
        """See port.Journal.put_aside."""
        return cast(
            "list[PutAside]", await self._called(lambda call: AskPutAside(call, after_id, limit), list[PutAside])
        )

    def log_head(self) -> tuple[int, bytes]:
        """See port.Journal.log_head."""
        return self._standing.size, self._standing.root

    def find(self, find: Find) -> None:
        """See port.Journal.find."""
        self._order(find)

    def find_newest(self, find: FindNewest) -> None:
        """See port.Journal.find_newest."""
        self._order(find)

    def fetch_heads(self, fetch: FetchHeads) -> None:
        """See port.Journal.fetch_heads."""
        self._order(fetch)

    def fetch_batch(self, fetch: FetchBatch) -> None:
        """See port.Journal.fetch_batch."""
        self._order(fetch)

    def load(self, load: Load) -> None:
        """See port.Journal.load."""
        self._order(load)

    async def owing_lanes(self) -> list[str]:
        """See port.Journal.owing_lanes."""
        return cast("list[str]", await self._called(AskOwingLanes, list[str]))

    async def in_doubt(self, limit: int) -> list[Stored]:
        """See port.Journal.in_doubt."""
        return cast("list[Stored]", await self._called(lambda call: AskInDoubt(call, limit), list[Stored]))

    async def listing(self, listing: Listing) -> list[Transaction]:
        """See port.Journal.listing."""
        return cast("list[Transaction]", await self._called(lambda call: AskListing(call, listing), list[Transaction]))

    async def health(self) -> JournalHealth:
        """See port.Journal.health. While the journal's process hangs, what it told last, and that it hangs."""
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                self._health = cast("JournalHealth", await self._called(AskHealth, JournalHealth))
        except TimeoutError:
            if self._health is None:
                raise JournalError(_HANGS) from None
            return replace(self._health, writable=False, reason=_HANGS)
        return self._health

    def refusal(self) -> str:
        """See port.Journal.refusal; as it was when it was told last, a moment ago."""
        if self._broken is not None:
            return str(self._broken)
        now_s = self._loop.time()
        if self._asked_s is None:
            self._asked_s = now_s
            self._order(AskRefusal())
        return self._standing.refusal if now_s - self._asked_s <= _ANSWERS_WITHIN_S else _HANGS

    # -- tidings

    def told(self, messages: list[Tiding]) -> None:
        """Take what the other end says. Called by the line."""
        if self._broken is not None:
            return
        events: list[JournalEvent] = []
        standing, stopped = self._standing, None
        for message in messages:
            match message:
                case Committed():  # almost all of them
                    events.append(message)
                case Standing():
                    standing = message
                    self._asked_s = None
                case Result():
                    gives, future = self._calls.pop(message.call)
                    if not future.done():
                        future.set_result(None if gives is None else msgspec.msgpack.decode(message.value, type=gives))
                case Failure():
                    _, future = self._calls.pop(message.call)
                    if not future.done():
                        future.set_exception(error_of(message.error, message.text))
                case Said():
                    logging.getLogger(message.name).log(message.level, "%s", message.text)
                case Stopped():  # what came before it is durable: terminals are told
                    stopped = error_of(message.error, message.text)
                    break
                case _:
                    events.append(message)
        self._standing = standing
        if events:
            self._deliver(events)
        if stopped is not None:
            self._stop(stopped)

    def lost(self) -> None:
        """The other end is gone. Called by the line."""
        if not self._closing:
            how = "" if self._child is None or self._child.returncode is None else f" ({self._child.returncode})"
            self._stop(JournalInDoubt(f"the journal's process has ended by itself{how}: restart to recover"))

    def defect(self, error: Exception) -> None:
        """What came could not be taken. Called by the line."""
        stop = JournalInDoubt(f"the journal stops at a defect: {type(error).__name__}: {error}")
        stop.__cause__ = error
        self._stop(stop)

    def _stop(self, error: JournalError) -> None:
        if self._broken is not None:
            return
        self._broken = error
        self._orders.clear()
        calls, self._calls = self._calls, {}
        opening = False
        for gives, future in calls.values():
            opening = opening or gives is None
            if not future.done():
                future.set_exception(error)
        if not opening:  # else whoever opens or closes is told
            self._failed(error)


class _Line(asyncio.Protocol):
    """The gateway's end of the socket."""

    def __init__(self, journal: JournalApart) -> None:
        self._journal = journal
        self._reader = tidings()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._journal.lost()

    def data_received(self, data: bytes) -> None:
        try:
            self._journal.told(self._reader.feed(data))
        except Exception as error:  # noqa: BLE001 - the journal's supervision boundary
            self._journal.defect(error)

    def send(self, octets: bytes) -> None:
        """Send, if the other end is there."""
        if self._transport is not None:
            send_now(self._transport, octets)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
