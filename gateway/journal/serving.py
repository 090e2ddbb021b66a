"""The journal in a process of its own: the journal's end. `apart.py` starts it and says what it is for.

It does what it is asked for over the socket that it is given, and ends with the gateway: on the last order, when the
gateway hangs up, and by the kernel when the gateway is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, cast

import uvloop

from gateway.clock import Clock, SystemClock
from gateway.collecting import spare_the_collector
from gateway.core.effects import FetchBatch, FetchHeads, Find, FindNewest, Load, Write
from gateway.core.events import JournalEvent
from gateway.core_dumps import refuse_core_dumps
from gateway.journal.port import JournalError, JournalLocked
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
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
    orders,
    packed,
    send_now,
)

_LOOKS_EVERY_S: Final = 0.25
_LOCK_TRIES: Final = 20
_LOCK_PAUSE_S: Final = 0.1
"""The journal's process of a gateway that was killed a moment ago ends a moment later: so long that may take."""
_PR_SET_PDEATHSIG: Final = 1


def name_of(error: BaseException) -> str:
    """The class by which the other end knows an error (apart.error_of): of a finer one, the one in the contract."""
    for kind in type(error).__mro__:
        if kind is JournalError or JournalError in kind.__bases__:
            return kind.__name__
    return type(error).__name__


class Serving(asyncio.Protocol):
    """One gateway's journal."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reader = orders()
        self._tidings: list[Tiding] = []
        self._standing = Standing("", 0, b"")
        self._calls: set[asyncio.Task[None]] = set()
        self._journal: SqliteJournal | None = None
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        root = logging.getLogger()
        root.addHandler(_Lines(self._tell, self._loop))
        root.setLevel(logging.INFO)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Called by the event loop: the gateway is gone, and nothing that is not committed was acknowledged."""
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        journal = self._journal
        for order in self._reader.feed(data):
            if isinstance(order, Write) and journal is not None:
                journal.write(order)
            else:
                self._take(order)

    def _take(self, order: Order) -> None:  # noqa: C901 - a case for each order
        if isinstance(order, Open):
            self._call(order, self._open(order))
            return
        journal = self._journal
        assert journal is not None, "the first order opens"
        match order:
            case Find():
                journal.find(order)
            case FindNewest():
                journal.find_newest(order)
            case FetchHeads():
                journal.fetch_heads(order)
            case FetchBatch():
                journal.fetch_batch(order)
            case Load():
                journal.load(order)
            case AskRefusal():
                self._tell(self._stands())  # always answered, for that shows that this process is well
                journal.refusal()  # what comes of it is told when it is known
            case AskNote():
                self._call(order, journal.note(order.kind, order.detail))
            case AskAdoptKeys():
                self._call(order, journal.adopt_keys(order.keyring))
            case AskKeyNeeds():
                self._call(order, journal.key_needs())
            case AskPutAside():
                self._call(order, journal.put_aside(order.after_id, order.limit))
            case AskOwingLanes():
                self._call(order, journal.owing_lanes())
            case AskInDoubt():
                self._call(order, journal.in_doubt(order.limit))
            case AskListing():
                self._call(order, journal.listing(order.listing))
            case AskHealth():
                self._call(order, journal.health())
            case AskClose():
                self._call(order, self._close())

    # -- calls

    def _call(self, order: Call, work: Awaitable[object]) -> None:
        task = self._loop.create_task(self._carry_out(order, work))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _carry_out(self, order: Call, work: Awaitable[object]) -> None:
        try:
            value = await work
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told
            self._tell(Failure(order.call, name_of(error), str(error)))
        else:
            self._tell(Result(order.call, packed(value)))

    async def _open(self, order: Open) -> None:
        settings = SqliteJournalSettings(
            path=Path(order.path),
            min_free_bytes=order.min_free_bytes,
            limit_bytes=order.limit_bytes,
            cache_mib=order.cache_mib,
            commit_delay_ms=order.commit_delay_ms,
        )
        journal = SqliteJournal(
            settings, order.keyring, self._delivered, self._failed, self._clock.utc_ms, write_here=True
        )
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                await journal.open()
                break
            except JournalLocked:
                if not tries_left:
                    raise
            await asyncio.sleep(_LOCK_PAUSE_S)
        self._journal = journal
        spare_the_collector()
        self._look_on()

    async def _close(self) -> None:
        assert self._journal is not None
        if self._look is not None:
            self._look.cancel()
        await self._journal.close()

    # -- tidings

    def _delivered(self, events: Sequence[JournalEvent]) -> None:
        """What the journal delivers goes at once, with how it stands after it."""
        self._tidings.extend(events)
        self._stand()
        self._flush()

    def _failed(self, error: JournalError) -> None:
        self._tell(Stopped(name_of(error), str(error)))

    def _tell(self, tiding: Tiding) -> None:
        self._tidings.append(tiding)
        self._flush()

    def _flush(self) -> None:
        told, self._tidings = self._tidings, []
        if not self._transport.is_closing():
            send_now(self._transport, frame(told))

    def _stands(self) -> Standing:
        assert self._journal is not None
        self._standing = Standing(self._journal.refusal_known(), *self._journal.log_head())
        return self._standing

    def _stand(self) -> None:
        before = self._standing
        if self._stands() != before:
            self._tidings.append(self._standing)

    def _look_now(self) -> None:
        self._stand()
        if self._tidings:
            self._flush()

    def _look_on(self) -> None:
        """Room and lock change by themselves."""
        self._look_now()
        self._look = self._loop.call_later(_LOOKS_EVERY_S, self._look_on)


class _Lines(logging.Handler):
    """Log lines go where the gateway's go."""

    def __init__(self, tell: Callable[[Tiding], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._say = tell
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, on any thread."""
        said = Said(record.name, record.levelno, record.getMessage())
        with contextlib.suppress(RuntimeError):  # the loop is closed: the gateway is gone
            self._loop.call_soon_threadsafe(self._say, said)


async def serve(descriptor: int, clock: Clock) -> None:
    """Serve the gateway at the other end of a socket until it has closed the journal or is gone."""
    loop = asyncio.get_running_loop()
    serving = Serving(clock)
    await loop.create_connection(lambda: serving, sock=socket.socket(fileno=descriptor))
    await serving.ended.wait()


def _end_with(parent: int) -> None:
    """Have the kernel end this process with the gateway, even when that is killed."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux the socket's end tells
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it was gone before


def main(clock: Clock) -> None:
    """`python -m gateway.journal.serving DESCRIPTOR PARENT`: started by apart.py only."""
    refuse_core_dumps()  # the keys are here, too
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway decides when its journal ends
    _end_with(parent)
    uvloop.run(serve(descriptor, clock))
    os._exit(0)  # threads of a journal that was not closed hold nothing that is worth waiting for


if __name__ == "__main__":
    main(SystemClock())
