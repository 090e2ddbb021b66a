"""The notary: has the log's head signed while entries come, and brings it to where it cannot be taken back.

On the event loop there is a timer, and what it does takes microseconds. Signing has a thread of its own, and so has
each outlet. When the journal does not continue what was signed, nothing is signed any more until a person decides;
payments go on all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from gateway.notary.folder import FOLDER_OUTLET, FolderConflict, TileFolder
from gateway.notary.live_log import LiveLog, LogUnreadable
from gateway.notary.note_file import NoteFiles
from gateway.notary.outlet import Outlet, Tell
from gateway.notary.signing import LogBroken, Signed, Signing
from gateway.notary.status import MOVES, NotaryState, NotaryStatus
from gateway.notary.syslog_line import SYSLOG_OUTLET, SyslogDestination, SyslogEnd
from gateway.notary.witness import WitnessConflict, WitnessDestination, WitnessEnd
from protocol.transparency.notes import Signature, SignerKey

_FIRST_CONTACT_S: Final = 6.0
"""How long the first signature after a start waits for the folder and the witnesses: they may know of a later head."""
_FOLDER: Final = "the published folder"
"""Its name among the conflicts; no witness's name has a space."""
_LAST_TRY_S: Final = 5.0
"""How long a stop waits for outlets; a witness that is away must not keep the gateway from ending."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What was signed last, and what witnesses and folder are asked with first: nothing new is signed before that."""

    kept: Signed | None
    question: Signed


class NotDone(Exception):
    """What an operator has asked of the notary was not done; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotarySettings:
    """What the notary is told.

    Attributes:
        journal: its file.
        origin: the log's name, and the name of the key that signs for it.
        checkpoint_every_ms: 0 signs nothing.
    """

    journal: Path
    origin: str
    checkpoint_every_ms: int = 1000
    folder: Path | None = None
    syslog: SyslogEnd | None = None
    witnesses: tuple[WitnessEnd, ...] = ()


class Notary:
    """All calls are made on the event loop's thread."""

    def __init__(
        self,
        settings: NotarySettings,
        signers: Callable[[], Sequence[SignerKey]],
        seeds: Callable[[], Sequence[bytes]],
        head: Callable[[], tuple[int, bytes]],
        note: Callable[[str], Awaitable[int]],
        utc_ms: Callable[[], int],
        tell: Tell,
    ) -> None:
        """See `Signing` for signers and seeds.

        Args:
            head: size and root of the journal's newest commit.
            note: makes an entry that says so when the log is continued over a break.
            tell: called on the event loop's thread.
        """
        self._settings = settings
        self._head = head
        self._note = note
        self._tell_now = tell
        self._state = NotaryState.STARTING if settings.checkpoint_every_ms else NotaryState.OFF
        self._reason = ""
        self._signing = Signing(settings.journal, settings.origin, signers, seeds, utc_ms)
        self._files = NoteFiles(settings.journal)
        self._opened = False
        self._newest: Signed | None = None
        self._conflicts: set[str] = set()
        self._continued_over = 0
        """Entries of the head that a person has gone on over."""
        self._known_conflicts = self._files.read_continued() if settings.checkpoint_every_ms else frozenset()
        self._busy: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ThreadPoolExecutor(1, "notary")
        self._first_until_s = 0.0
        self._witnesses = tuple(
            Outlet(partial(self._witness, end), f"witness {end.key.name}", self._tell) for end in settings.witnesses
        )
        self._lines = (
            ()
            if settings.syslog is None
            else (Outlet(partial(SyslogDestination, settings.syslog), SYSLOG_OUTLET, self._tell),)
        )
        self._folders = (
            ()
            if settings.folder is None
            else (Outlet(partial(self._folder, settings.folder, seeds), FOLDER_OUTLET, self._tell),)
        )

    # -- start and stop

    def start(self) -> None:
        """Begin. Does not wait: what was signed last is read on the notary's thread. The journal is open."""
        if self._state is NotaryState.OFF:
            return
        self._loop = asyncio.get_running_loop()
        for outlet in self._outlets:
            outlet.start()
        self._first_until_s = time.monotonic() + _FIRST_CONTACT_S
        self._launch()
        self._set_timer()

    async def stop(self, *, sign: bool = True) -> None:
        """Sign what has come since, give each outlet a last try, and end. Bounded; safe without `start`.

        Where so much is not signed that its check would take long, it stays unsigned until the next start.

        Args:
            sign: False where the journal is in doubt.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._signing.hasten()
            await self._idle()
            if sign:
                await self._sign_now()
            # Witnesses before the folder, which gets their cosignatures too.
            await self._end([*self._witnesses, *self._lines])
            await self._loop.run_in_executor(self._thread, self._signing.close)
            await asyncio.sleep(0)
            await self._end(self._folders)
        self._thread.shutdown(wait=False)

    async def _end(self, outlets: Sequence[Outlet]) -> None:
        until_s = time.monotonic() + _LAST_TRY_S
        for outlet in outlets:
            outlet.end()
        for outlet in outlets:
            await asyncio.to_thread(outlet.join, until_s - time.monotonic())

    # -- what operators see and ask for

    def status(self) -> NotaryStatus:
        """Cheap: asked by every probe and scrape."""
        newest = self._newest
        return NotaryStatus(
            state=self._state,
            origin=self._settings.origin,
            reason=self._reason,
            size=newest.size if newest is not None else 0,
            root=newest.root if newest is not None else "",
            signed_ms=newest.signed_ms if newest is not None else 0,
            unsigned=max(0, self._head()[0] - (newest.size if newest is not None else 0)),
            outlets=tuple(outlet.status for outlet in self._outlets),
        )

    def remarks(self) -> tuple[str, ...]:
        """What readiness tells beside itself: payments go on without signatures, but somebody has to know."""
        if self._state is NotaryState.BROKEN:
            return (f"the auditor's log is not signed any more: {self._reason}",)
        return ()

    async def checkpoint(self) -> Signed:
        """The signed head of all that is durable now.

        Raises:
            NotDone: it cannot be signed.
        Cancellation: it may be signed all the same.
        """
        if self._state is NotaryState.OFF:
            raise NotDone("no heads are signed here: audit.checkpoint_every_ms is 0")
        await self._sign_now()
        if self._state is not NotaryState.SIGNING:
            raise NotDone(f"the head was not signed: {self._reason}")
        if self._newest is None:
            raise NotDone("the journal has no entries yet: there is nothing to sign")
        return self._newest

    async def continue_over(self, who: str, why: str) -> Signed:
        """Go on signing over a break, once an entry of the log says who has decided it, why, and over what.

        Raises:
            NotDone: nothing is broken, or it cannot be done.
            JournalError: the entry could not be made.
        Cancellation: it may be done all the same.
        """
        await self._idle()
        if self._state is not NotaryState.BROKEN:
            raise NotDone("nothing is broken: the journal continues what was signed")
        conflicts = self._known_conflicts | self._conflicts
        newest = self._newest
        before = (
            "nothing that can be read" if newest is None else f"a head of {newest.size} entries, root {newest.root}"
        )
        detail = f"continued by {who}: {why} | signed before: {before} | {self._reason}"
        entry = 0
        try:
            await self._on_thread(self._prepare_to_continue, *self._head(), conflicts)
            entry = await self._note(detail)
            signed: Signed = await self._on_thread(self._signing.accept, *self._head())
        except (LogBroken, OSError, ValueError) as error:
            noted = (
                f"; entry {entry} tells of it already, and the next start may go by that: ask again" if entry else ""
            )
            raise NotDone(f"the log was not continued: {error}{noted}") from error
        self._known_conflicts = conflicts
        self._conflicts.clear()
        self._continued_over = newest.size if newest is not None else 0
        self._opened = True
        self._move(NotaryState.SIGNING)
        self._tell_now("warning", "audit.log-continued", {"who": who, "why": why, "over": self._reason})
        self._reason = ""
        self._offer(signed)
        return signed

    # -- on the event loop

    @property
    def _outlets(self) -> tuple[Outlet, ...]:
        return (*self._folders, *self._lines, *self._witnesses)

    @property
    def _asked(self) -> tuple[Outlet, ...]:
        """Those that may know a later head than this machine does."""
        return (*self._folders, *self._witnesses)

    def _set_timer(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(self._settings.checkpoint_every_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._set_timer()
        if self._busy is None and self._due():
            assert self._loop is not None
            self._loop.call_soon(self._launch_if_due)  # after what a witness may have said just now

    def _launch_if_due(self) -> None:
        if self._busy is None and self._due():
            self._launch()

    def _due(self) -> bool:
        """Whether something has come that is not signed, and may be."""
        if self._state in (NotaryState.OFF, NotaryState.BROKEN):
            return False
        if not self._opened:
            return True
        if not self._contacted():
            return False
        if self._state is NotaryState.FAILING:
            return True
        size = self._head()[0]
        return size > 0 and (self._newest is None or self._newest.size != size)

    def _launch(self) -> asyncio.Future[Any]:
        assert self._loop is not None
        work = self._signing.sign if self._opened else self._open
        self._busy = self._loop.run_in_executor(self._thread, work, *self._head())
        self._busy.add_done_callback(self._done)
        return self._busy

    async def _sign_now(self) -> None:
        """Whatever is due, after what is under way, and after the witnesses were asked."""
        await self._idle()
        for _ in range(2):  # to open, where that has failed before, and to sign
            for outlet in self._asked if self._opened else ():
                await asyncio.to_thread(outlet.wait_tried, self._first_until_s - time.monotonic())
            await asyncio.sleep(0)  # what a witness has said is known before this goes on
            if self._due():
                self._launch()
                await self._idle()

    async def _idle(self) -> None:
        while self._busy is not None:
            await asyncio.wait([self._busy])
            await asyncio.sleep(0)

    def _contacted(self) -> bool:
        return time.monotonic() >= self._first_until_s or all(outlet.tried for outlet in self._asked)

    async def _on_thread(self, work: Callable[..., Any], *values: Any) -> Any:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._thread, work, *values)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._busy = None
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._succeeded(future.result())
        elif isinstance(error, LogBroken):
            if not self._opened:
                self._opened, self._newest = True, self._signing.newest
            self._break(str(error))
        else:  # the notary's supervision boundary: whatever it is, payments go on and it is tried again
            why = str(error) if isinstance(error, (OSError, ValueError, LogUnreadable)) else repr(error)
            if self._state not in (NotaryState.FAILING, NotaryState.BROKEN):
                self._move(NotaryState.FAILING)
                self._tell_now("error", "audit.not-signed", {"reason": why})
            self._reason = self._reason if self._state is NotaryState.BROKEN else why

    def _succeeded(self, signed: _Opened | Signed | None) -> None:
        if self._state is NotaryState.FAILING:
            self._tell_now("info", "audit.signing-resumed", {})
        if self._state in (NotaryState.STARTING, NotaryState.FAILING):
            self._move(NotaryState.SIGNING)
            self._reason = ""
        if isinstance(signed, _Opened):
            self._opened = True
            self._newest = signed.kept
            if signed.kept is None and self._head()[0]:
                self._tell_now(
                    "warning", "audit.no-head-kept", {"reason": "entries, but no head of them was ever signed"}
                )
            for outlet in self._outlets if signed.kept is not None else self._asked:
                outlet.offer(signed.question)
        elif signed is not None:
            self._offer(signed)

    def _offer(self, signed: Signed) -> None:
        self._newest = signed
        if self._state is not NotaryState.BROKEN:
            for outlet in self._outlets:
                outlet.offer(signed)

    def _break(self, reason: str) -> None:
        if self._state is NotaryState.BROKEN:
            return
        self._move(NotaryState.BROKEN)
        self._reason = reason
        todo = "no head is signed until `holdfast audit continue`; payments go on"
        self._tell_now("error", "audit.log-broken", {"reason": reason, "text": todo})

    def _move(self, state: NotaryState) -> None:
        assert state in MOVES[self._state], (self._state, state)
        self._state = state

    def _conflicted(self, name: str, reason: str) -> None:
        if name not in self._known_conflicts:
            self._conflicts.add(name)
            self._break(reason)

    def _folder_conflicted(self, told: FolderConflict) -> None:
        if told.held > self._continued_over:
            self._conflicted(_FOLDER, str(told))
        elif _FOLDER not in self._known_conflicts:  # a person has gone on over this very head, or a later one
            self._known_conflicts |= {_FOLDER}
            self._remember(self._known_conflicts)

    def _folder_agreed(self) -> None:
        if _FOLDER in self._known_conflicts:
            self._known_conflicts -= {_FOLDER}
            self._remember(self._known_conflicts)

    def _remember(self, conflicts: frozenset[str]) -> None:
        with suppress(RuntimeError):  # the notary has ended
            self._thread.submit(self._write_continued, conflicts)

    def _keep_published(self, kept: Signed, witness: str) -> None:
        self._known_conflicts -= {witness}
        if self._newest is not None and kept.checkpoint == self._newest.checkpoint:
            self._newest = kept
            for folder in self._folders:
                folder.offer(kept)

    # -- on other threads

    def _open(self, size: int, root: bytes) -> _Opened:
        kept = self._signing.open(size, root)
        return _Opened(kept, kept if kept is not None else self._signing.empty())

    def _prepare_to_continue(self, size: int, root: bytes, conflicts: frozenset[str]) -> None:
        self._signing.refuse_other_tree(size, root)
        self._files.write_continued(conflicts)

    def _open_log(self) -> LiveLog:
        return LiveLog(self._settings.journal)

    def _write_continued(self, conflicts: frozenset[str]) -> None:
        try:
            self._files.write_continued(conflicts)
        except OSError as error:
            self._tell("warning", "audit.decision-not-kept", {"outlet": FOLDER_OUTLET, "reason": str(error)})

    def _folder(self, folder: Path, seeds: Callable[[], Sequence[bytes]]) -> TileFolder:
        return TileFolder(
            folder, self._open_log, seeds,
            partial(self._on_loop, self._folder_conflicted), partial(self._on_loop, self._folder_agreed),
        )  # fmt: skip

    def _witness(self, end: WitnessEnd) -> WitnessDestination:
        return WitnessDestination(end, self._open_log, partial(self._cosigned, end.key.name), self._conflicting)

    def _cosigned(self, witness: str, signed: Signed, lines: tuple[Signature, ...]) -> None:
        if signed.size:
            with suppress(RuntimeError):  # the notary has ended
                self._thread.submit(self._keep, witness, signed, lines)

    def _keep(self, witness: str, signed: Signed, lines: tuple[Signature, ...]) -> None:
        try:
            kept = self._signing.cosigned(signed, lines)
            if witness in self._known_conflicts:  # its operator has settled it: from now on it is believed again
                self._files.write_continued(self._known_conflicts - {witness})
        except OSError as error:
            self._tell("warning", "audit.cosignature-not-kept", {"outlet": witness, "reason": str(error)})
            return
        self._on_loop(self._keep_published, kept, witness)

    def _conflicting(self, told: WitnessConflict) -> None:
        self._on_loop(self._conflicted, told.witness, str(told))

    def _tell(self, level: str, event: str, facts: dict[str, str]) -> None:
        self._on_loop(self._tell_now, level, event, facts)

    def _on_loop(self, call: Callable[..., None], *values: Any) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(call, *values)
