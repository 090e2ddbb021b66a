"""The HTTP listener: hears tills that speak JSON, admits or refuses, and holds each request until its outcome."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from aiohttp import web

from gateway.core.events import Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.transaction import Answer, Request, Transaction
from gateway.reporting import RateLimitedReport, Report
from gateway.terminals.accepting import Acceptor
from gateway.terminals.asked import Asked
from gateway.terminals.http_admission import InFlight, Place, Share
from gateway.terminals.http_answers import AnswerWriter, Made
from gateway.terminals.http_connection import HttpConnection
from gateway.terminals.http_desk import Asks, Core, Find, Load, Refused, Search, Steps, Told
from gateway.terminals.http_heartbeats import Heard
from gateway.terminals.http_identity import Identities
from gateway.terminals.http_openapi import RETRY_AFTER_STATUSES, openapi_document
from gateway.terminals.http_routes import Routes
from gateway.terminals.http_sales import CLOSING, UNKNOWN_YET, Sales
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from gateway.terminals.http_signatures import SCHEME, SecretOf
from gateway.terminals.limits import CLOSED_PER_SWEEP, NEXT_SWEEP_S, Count
from gateway.terminals.receipts import ReceiptOf
from gateway.terminals.reserve import Reserve
from gateway.tls import TerminalNames
from protocol.http_api import PROBLEM_MEDIA_TYPE, Mode, ProblemKind
from protocol.iso8583.rules import TerminalRules

_UNREPORTED = frozenset({404, 405, 409})
"""Statuses that a till in good order gets; they are counted."""

_RETRY_SPREAD_S = 4
_REPLIES: Final = HttpCount.REPLIES

_ACCEPTING = ("connections_", "accept_", "handshake_")


class HttpListener:
    """Tills on one port. The same life cycle as Iso8583Listener.

    A sale in a plain request is answered in plain calls (http_sales.py); any other request is one handler coroutine of
    aiohttp's. Either waits for the core at most `reply_wait_ms`, a sale until the sweep after it. A till that hangs up
    meanwhile cancels nothing: what was handed to the core is its matter, and keeps its place until it is answered.
    """

    def __init__(
        self,
        settings: HttpListenerSettings,
        rules: TerminalRules,
        hashing: KeyedHash,
        submit: Callable[[Requested], None],
        find: Find,
        load: Load,
        search: Search,
        mode: Callable[[], str],
        utc_ms: Callable[[], int],
        report: Report,
        *,
        tokens: Iterator[int] | None = None,
        secret_of: SecretOf | None = None,
        journal_wait_ms: Callable[[], int] = lambda: 0,
        acquirer_full: Callable[[], bool] = lambda: False,
        asked: Asked | None = None,
        always_fit: frozenset[int] = frozenset(),
        receipt_of: ReceiptOf | None = None,
    ) -> None:
        """Nothing is heard before `start`.

        Args:
            rules: of the dialect in whose terms these tills' transactions are identified (D1).
            submit: takes each request on the loop's thread; it may answer from within the call. Must not raise.
            mode: "online", "standing-in" or "maintenance".
            tokens: where terminal tokens come from; listeners that share one never give out the same token.
            secret_of: the secrets that requests are signed with; None where none are.
            journal_wait_ms: how long a transaction that begins now would wait for the journal.
            acquirer_full: whether one that begins now would find no room with the acquirer, although it answers.
            asked: what was asked lately, of all HTTP listeners; one of its own by default.
            always_fit: fields that can be forwarded whatever a body says (http_mapping.fitting).
            receipt_of: makes receipts; needed where the settings have them.
        Raises:
            ValueError: no terminal could prove who it is.
        """
        self._settings = settings
        self._submit = submit
        self._journal_wait_ms = journal_wait_ms
        self._acquirer_full = acquirer_full
        self._asked = asked if asked is not None else Asked()
        self._reserve = Reserve(settings.in_flight_max)
        self._overloaded = 0
        self._report = RateLimitedReport(report, settings.report_interval_ms)
        self._tokens = tokens if tokens is not None else itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._unreserved = settings.in_flight_max - self._reserve.places
        self._in_flight = InFlight(settings.in_flight_max, settings.in_flight_per_terminal_max)
        self._connections: set[HttpConnection] = set()
        self._acceptor = Acceptor(settings.accepting, self._connection, self._count_accepting, self._refused_connection)
        self._identities = Identities(settings, secret_of, utc_ms)
        core = Core(
            rules=rules, always_fit=always_fit, hashing=hashing, find=find, load=load, search=search,
            mode=lambda: Mode(mode()), utc_ms=utc_ms, receipt_of=receipt_of,
        )  # fmt: skip
        steps = Steps(self, settings, self._identities, core)
        self._writer = AnswerWriter(mode, utc_ms)
        self._sales = Sales(self, settings, steps, self._writer, submit, self._tokens)
        self.takes, self.take = self._sales.takes, self._sales.take
        self._routes = Routes(self, settings, steps, core, openapi_document(settings, self._identities))
        self._runner: web.AppRunner | None = None
        self.admitting = False
        """Whether new requests are taken."""
        self._sweep: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address that was bound.

        Raises:
            OSError: the address cannot be resolved or bound.
        """
        self._loop = asyncio.get_running_loop()
        runner = web.AppRunner(
            self._routes.application(),
            handler_cancellation=False,
            access_log=None,
            shutdown_timeout=self._settings.close_timeout_ms / 1000,
        )
        await runner.setup()
        self._runner = runner
        try:
            bound = await self._acceptor.start()
        except OSError:
            await runner.cleanup()
            self._runner = None
            raise
        self._asked.begin(self.now_ms())
        self.admitting = True
        self._schedule_sweep()
        return bound

    def stop_admitting(self) -> None:
        """Accept no connections any more, and answer requests 503, or 409 (`place`); outcomes still go out."""
        self.admitting = False
        self._acceptor.stop()

    async def drain(self, timeout_ms: int) -> int:
        """Wait until nothing is under way, at most `timeout_ms`; return how many requests still are.

        Cancellation: nothing changes.
        """
        await self._until(lambda: not self._in_flight.total, timeout_ms)
        return self._in_flight.total

    async def close(self) -> None:
        """Close every connection when its answer has been written, at most `close_timeout_ms`. Safe to call twice.

        Cancellation: what is open stays open; call again.
        """
        self.stop_admitting()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        await self._acceptor.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Refused(ProblemKind.IN_PROGRESS, CLOSING))
        await self._sales.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._until(lambda: not self._connections, self._settings.close_timeout_ms)
        for connection in tuple(self._connections):
            connection.abort()
        await self._until(lambda: not self._connections, self._settings.close_timeout_ms)

    def reply(self, terminal_token: int, answer: Answer, recorded: Transaction | None = None) -> None:
        """Give a request its outcome. Where nobody waits any more it is dropped: the retry gets it (D3).

        `recorded` is the row that the answer is about; where it is None, the journal is asked.
        """
        if self._sales.told(terminal_token, answer, recorded):
            self._counts[_REPLIES] += 1
            return
        future = self._waiting.get(terminal_token)
        if future is None:
            self.count(HttpCount.REPLIES_UNKNOWN)
        elif future.done():
            self.count(HttpCount.REPLIES_DROPPED)
        else:
            self.count(HttpCount.REPLIES)
            future.set_result(Told(answer, recorded))

    def answer_now(self) -> None:
        """Nothing: answers are written when they are told."""

    def counters(self) -> dict[str, int]:
        """Totals since the start: names in `HttpCount`, the acceptor's, and `problem_...` for each kind of problem."""
        names = [count.value for count in HttpCount]
        names += [count.value for count in Count if count.value.startswith(_ACCEPTING)]
        names += [_problem_counter(kind) for kind in ProblemKind]
        return {name: self._counts[name] for name in names}

    def gauges(self) -> dict[str, int]:
        """Open connections (handshakes included), requests under way, terminals heard of, nonces remembered."""
        return {
            "connections": self._acceptor.connections,
            "in_flight": self._in_flight.total,
            "heartbeats": len(self._routes.heartbeats),
            "nonces": self._identities.nonces,
        }

    def heartbeats(self) -> dict[str, Heard]:
        """The last heartbeat of each terminal, for operators."""
        return self._routes.heartbeats.all()

    # --- called by operations --------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Monotonic time."""
        return int(self._loop.time() * 1000)

    def count(self, count: HttpCount) -> None:
        """Count something."""
        self._counts[count] += 1

    def place(self, terminal: str, asks: Asks | None = None) -> Place:
        """Take one of the places for what is under way. Raises: Refused where there is none.

        New requests are refused first. Only what is surely new is told that nothing was recorded: of any other the
        first send may be under way or approved, before a restart too (D3, INV-6). A retry that is known as one may have
        a place of those kept for retries.
        """
        name, first, peer = None, False, ""
        if asks is not None:
            name, first, peer = (terminal, asks.key), asks.refused_first, asks.address
        wait_ms = self._journal_wait_ms() if first else 0
        hurried = wait_ms > self._settings.journal_wait_ms_max or self._in_flight.total >= self._unreserved
        acquirer_full = first and not hurried and self._acquirer_full()
        hurried = hurried or acquirer_full
        reserved = first and hurried and self._asked.seen(name) and self._reserve.has_room(peer)
        if not self.admitting or (first and hurried and not reserved):
            if acquirer_full:
                self.count(HttpCount.ACQUIRER_FULL)
            raise self._no_room(name, wait_ms)
        if (share := self._in_flight.enter(terminal)) is not None:
            if share is Share.FULL:
                raise self._no_room(name, wait_ms)
            raise Refused(ProblemKind.FAIR_SHARE, "wait for the answers to what is under way")
        if asks is not None:
            self._asked.add(name, asks.now_ms)
        if reserved:
            self._reserve.enter(peer)
        return Place(terminal, peer if reserved else None, self._leave)

    def _leave(self, terminal: str, peer: str | None) -> None:
        """Take a place back; one of the reserve from the peer that it was kept for."""
        if peer is not None:
            self._reserve.leave(peer)
        self._in_flight.leave(terminal)
        if not self._in_flight.total:
            self._changed.set()

    def _no_room(self, name: tuple[str, str] | None, wait_ms: int) -> Refused:
        """What to tell whoever there is no room for; spread, so that they do not come back together."""
        self._overloaded += 1
        retry_after_ms = wait_ms + 1_000 * (1 + self._overloaded % _RETRY_SPREAD_S)
        if name is not None and not self._asked.surely_new(name, self.now_ms()):
            detail = "send the same request again, with the same Idempotency-Key, when Retry-After tells"
            return Refused(ProblemKind.IN_PROGRESS, detail, retry_after_ms=retry_after_ms)
        kind = ProblemKind.OVERLOADED if self.admitting else ProblemKind.STOPPING
        return Refused(kind, "Retry-After tells how long to wait", retry_after_ms=retry_after_ms)

    async def ask(self, request: Request) -> Told:
        """Hand a request to the core and wait for its outcome.

        Raises:
            Refused: it took longer than `reply_wait_ms`, or the listener closes; both 409, for it may be recorded.
        Cancellation: the core goes on; its answer is dropped.
        """
        token = next(self._tokens)
        future: asyncio.Future[Told] = self._loop.create_future()
        self._waiting[token] = future
        self.count(HttpCount.REQUESTS)
        try:
            self._submit(Requested(token, request))
            async with asyncio.timeout(self._settings.reply_wait_ms / 1000):
                return await future
        except TimeoutError:
            self.count(HttpCount.UNANSWERED)
            raise Refused(ProblemKind.IN_PROGRESS, UNKNOWN_YET) from None
        finally:
            del self._waiting[token]

    def refusal(self, refused: Refused, peer: str) -> Made:
        """Count and report a refusal; returns the answer. Reported at most once per kind and interval, no values."""
        kind = refused.kind
        self._counts[_problem_counter(kind)] += 1
        if kind.status not in _UNREPORTED:
            facts = {"listener": self._settings.name, "peer": peer, "detail": refused.reason or refused.detail}
            self._report.line("terminal.refused", str(kind.value[0]), facts, self.now_ms())
        headers: tuple[tuple[str, str], ...] = ()
        if kind.status in RETRY_AFTER_STATUSES:
            headers = (("Retry-After", str(max(1, -(-refused.retry_after_ms // 1000)))),)
        if kind.status == 401:
            headers = (*headers, ("WWW-Authenticate", SCHEME))
        return Made(msgspec.json.encode(kind.problem(refused.detail)), kind.status, PROBLEM_MEDIA_TYPE, headers)

    # --- called by acceptor and connections ------------------------------------------------------------------------

    def certified(self, transport: asyncio.BaseTransport) -> TerminalNames | None:
        """The terminals that a new connection's certificate speaks for; None where it has shown none."""
        return self._identities.certified(transport)

    def opened(self, connection: HttpConnection) -> None:
        """A connection is there."""
        self._connections.add(connection)

    def lost(self, connection: HttpConnection) -> None:
        """The connection is gone; the core goes on with what it has of it."""
        self._connections.discard(connection)
        self._acceptor.release(connection.address)
        if not self._connections:
            self._changed.set()

    def refuse(self, kind: ProblemKind, detail: str, reason: str, peer: str) -> Made:
        """Count and report a problem that was found outside of any operation; returns the answer."""
        return self.refusal(Refused(kind, detail, reason), peer)

    def complete(self, response: web.StreamResponse) -> None:
        """Put on what every answer carries."""
        self._writer.complete(response)

    def _connection(self, address: str, name: str) -> HttpConnection:
        assert self._runner is not None
        assert self._runner.server is not None
        return HttpConnection(self, self._settings, self._runner.server, self._loop, (address, name))

    def _count_accepting(self, count: Count) -> None:
        self._counts[count.value] += 1

    def _refused_connection(self, count: Count, peer: str, detail: str) -> None:
        self._tell(count.value, peer, detail)

    def _tell(self, count: str, peer: str, detail: str) -> None:
        self._counts[count] += 1
        facts = {"listener": self._settings.name, "peer": peer, "detail": detail}
        self._report.line("terminal.refused", count, facts, self.now_ms())

    # --- time ------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self, *, soon: bool = False) -> None:
        wait_s = NEXT_SWEEP_S if soon else self._settings.sweep_interval_ms / 1000
        self._sweep = self._loop.call_later(wait_s, self._swept)

    def _swept(self) -> None:
        """Close what is overdue, write the lines that were kept back."""
        now_ms = self.now_ms()
        late = [(c, overdue) for c in self._connections if (overdue := c.overdue(now_ms)) is not None]
        for connection, overdue in late[:CLOSED_PER_SWEEP]:
            self._tell(overdue.value, connection.name, "too slow")
            connection.abort()
        self._sales.sweep(now_ms)
        self._schedule_sweep(soon=len(late) > CLOSED_PER_SWEEP)
        self._report.flush(now_ms)
        if self.admitting:
            self._acceptor.resume()

    async def _until(self, reached: Callable[[], bool], timeout_ms: int) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


def _problem_counter(kind: ProblemKind) -> str:
    return "problem_" + str(kind.value[0]).replace("-", "_")
