"""The ISO 8583 listener: hears terminals, parses once, admits or refuses, and brings answers back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from gateway.core.answers import local_answer
from gateway.core.events import Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.parts import BadRequest
from gateway.core.transaction import Answer, Transaction
from gateway.reporting import RateLimitedReport, Report
from gateway.terminals.accepting import Acceptor
from gateway.terminals.asked import Asked
from gateway.terminals.connection import TerminalConnection
from gateway.terminals.limits import CLOSED_PER_SWEEP, NEXT_SWEEP_S, Count, ListenerSettings
from gateway.terminals.receipts import LogHead, with_receipt
from gateway.terminals.reserve import Reserve
from gateway.terminals.sessions import Admitted, Refused, TerminalSessions
from gateway.terminals.turns import Together, Turns
from gateway.terminals.unanswered import Unanswered
from gateway.tls import TerminalNames
from protocol.framing import FramingError
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import is_answer
from protocol.response_codes import IN_PROGRESS, OUR_FAULT

_NOT_UNDERSTOOD = "30"
_NOT_PERMITTED = "58"
_REQUESTS = frozenset({"010", "020"})
"""What may be refused when there is too much; all else tells of something done, or undoes it (D15, D18)."""
_FIRST_SEND: Final = "0"
"""The last digit of a type that does not call itself a repeat."""
_ESSENTIAL_FIELDS = frozenset({4, 11, 39, 41, 42})


_NO_SESSION = Admitted()  # of an answer without MAC and keys


class _Room(Enum):
    """Where there is room for a message."""

    ORDINARY = auto()
    RESERVED = auto()
    """In the reserve, for a retry."""


# Each is asked for with every frame: a member of an enumeration costs ten times as much to come by, and so does an
# entry of `_counts`, whose hash is made of its name.
_ORDINARY: Final = _Room.ORDINARY
_RESERVED: Final = _Room.RESERVED


class Iso8583Listener:
    """Terminals of one dialect on one port.

    What is not a request is answered or hung up on here, and leaves no trace but a count and a report line. Answers
    carry the request's TPDU with its addresses exchanged, on a copy, and its header (D3).
    """

    def __init__(
        self,
        settings: ListenerSettings,
        dialect: Dialect,
        hashing: KeyedHash,
        submit: Callable[[Requested], None],
        utc_ms: Callable[[], int],
        report: Report,
        *,
        tokens: Iterator[int] | None = None,
        sessions: TerminalSessions | None = None,
        always_fit: frozenset[int] = frozenset(),
        journal_wait_ms: Callable[[], int] = lambda: 0,
        acquirer_full: Callable[[], bool] = lambda: False,
        asked: Asked | None = None,
        log_head: LogHead | None = None,
    ) -> None:
        """Nothing is heard before `start`.

        Args:
            submit: takes each request on the loop's thread; it may answer from within the call. Must not raise.
            tokens: where terminal tokens come from; listeners that share one never give out the same token.
            sessions: of this dialect's terminals; without it no MAC is looked at, made or asked for.
            always_fit: fields that can be forwarded whatever they hold (covering.always_fitting).
            journal_wait_ms: how long a transaction that begins now would wait for the journal.
            acquirer_full: whether one that begins now would find no room with the acquirer, although it answers.
            asked: what was asked lately, of all ISO 8583 listeners; one of its own by default.
            log_head: the log's head, for receipts; needed where the settings name a field for them.
        """
        self._settings = settings
        self._dialect = dialect
        self._rules = dialect.terminal
        self._codec = dialect.codec
        self._framing = dialect.framing
        self._hashing = hashing
        self._sessions = sessions
        self._always_fit = always_fit
        self._journal_wait_ms = journal_wait_ms
        self._acquirer_full = acquirer_full
        self._asked = asked if asked is not None else Asked()
        self._reserve = Reserve(settings.in_flight_max)
        self._unreserved = settings.in_flight_max - self._reserve.places
        self._log_head = log_head
        self._receipt_spec = dialect.fields[settings.receipt_field] if log_head and settings.receipt_field else None
        self._submit = submit
        self._utc_ms = utc_ms
        self._report = RateLimitedReport(report, settings.report_interval_ms)
        self._tokens = tokens if tokens is not None else itertools.count(1)
        self._counts = dict.fromkeys(Count, 0)
        self._frames_taken = self._requests = self._replies = 0
        self._waiting: dict[int, Unanswered] = {}
        self._connections: set[TerminalConnection] = set()
        self._acceptor = Acceptor(settings, self._connection, self.count, self._refused_connection)
        self._together = Together()
        self._turns = Turns(settings.taking_ms_per_turn_max)
        self._overload_told = 0
        self._full_told = 0
        self._admitting = False
        self._sweep: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address that was bound.

        Raises:
            OSError: the address cannot be resolved or bound.
        """
        self._loop = asyncio.get_running_loop()
        bound = await self._acceptor.start()
        self._asked.begin(self._now_ms())
        self._admitting = True
        self._schedule_sweep()
        return bound

    def stop_admitting(self) -> None:
        """Accept no connections any more, and answer requests 96, or 09 (`_room`); answers still go out."""
        self._admitting = False
        self._acceptor.stop()

    async def drain(self, timeout_ms: int) -> int:
        """Wait until every request has been answered, at most `timeout_ms`; return how many have not.

        Cancellation: nothing changes.
        """
        await self._until(lambda: not self._waiting, timeout_ms)
        return len(self._waiting)

    async def close(self) -> None:
        """Close every connection when its answers have been written, at most `close_timeout_ms`. Safe to call twice.

        Cancellation: what is open stays open; call again.
        """
        self.stop_admitting()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        await self._acceptor.close()
        for connection in tuple(self._connections):
            connection.close()
        await self._until(lambda: not self._connections, self._settings.close_timeout_ms)
        for connection in tuple(self._connections):
            connection.abort()
        await self._until(lambda: not self._connections, self._settings.close_timeout_ms)

    def reply(
        self,
        terminal_token: int,
        answer: Answer,
        recorded: Transaction | None = None,
    ) -> None:
        """Send the answer of a request. Where the terminal has gone it is dropped: its retry gets the outcome (D3)."""
        waiting = self._waiting.pop(terminal_token, None)
        if waiting is None:
            self.count(Count.REPLIES_UNKNOWN)
            return
        if not self._waiting:
            self._changed.set()
        if self._receipt_spec is not None and self._log_head is not None and recorded is not None:
            number, spec = self._settings.receipt_field, self._receipt_spec
            answer = Answer(answer.mti, with_receipt(answer.fields, number, spec, recorded.id, self._log_head))
        self._settled(waiting)
        self._answer(waiting.connection, waiting.tpdu, waiting.header, answer, waiting.admitted)

    def answer_now(self) -> None:
        """Write the answers that are ready, rather than in the loop's next turn: there are no more just now."""
        self._together.now()

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names in `Count`."""
        often = {Count.FRAMES: self._frames_taken, Count.REQUESTS: self._requests, Count.REPLIES: self._replies}
        return {count.value: total + often.get(count, 0) for count, total in self._counts.items()}

    def gauges(self) -> dict[str, int]:
        """Open connections (handshakes included) and unanswered requests."""
        return {"connections": self._acceptor.connections, "in_flight": len(self._waiting)}

    # --- called by acceptor and connections ------------------------------------------------------------------------

    def count(self, count: Count) -> None:
        """Count something."""
        self._counts[count] += 1

    def opened(self, connection: TerminalConnection) -> None:
        """A connection is there."""
        self._connections.add(connection)

    def lost(self, connection: TerminalConnection) -> None:
        """The connection is gone; the core goes on with what it has of it."""
        self._connections.discard(connection)
        self._turns.leave(connection)
        self._acceptor.release(connection.address)
        if not self._connections:
            self._changed.set()

    def bad_framing(self, connection: TerminalConnection, detail: str) -> None:
        """The stream cannot be cut any further, and nothing in the protocol could say so: it is hung up."""
        self._bad(connection, Count.BAD_FRAMING, {"detail": detail})

    def keepalive_flood(self, connection: TerminalConnection) -> None:
        """Nothing but keep-alives, so many that reading them would cost the others: it is hung up."""
        self._bad(connection, Count.CLOSED_KEEPALIVE_FLOOD, {})

    def may_take(self, connection: TerminalConnection) -> bool:
        """Whether this turn of the loop has time for a frame; else the connection goes on when there is."""
        return self._turns.may_take(connection)

    def schedule(self, connection: TerminalConnection) -> None:
        """Call its `turn` in the next turn of the loop."""
        self._together.add(connection)

    def take(self, connection: TerminalConnection, frame: bytes) -> None:
        """Admit a frame to the core, or answer it here, or hang up."""
        self._frames_taken += 1
        try:
            message = self._codec.decode(frame)
        except CodecError as error:
            self._unreadable(connection, error)
            return
        if is_answer(message.mti):
            self._bad(connection, Count.BAD_MTI_CLOSED, {"mti": message.mti})
            connection.hang_up(drop_frames=True)
            return
        if connection.names is not None and not self._permitted(connection.names, connection, message):
            return
        admitted = _NO_SESSION if self._sessions is None else self._admitted(self._sessions, connection, message, frame)
        if admitted is None:
            return
        room = self._room(connection, message, admitted)
        if room is None:
            return
        try:
            request = request_from(message, self._rules, self._hashing, self._utc_ms(), always_fit=self._always_fit)
        except BadRequest as error:
            self._bad(connection, Count.BAD_REQUEST, {"mti": message.mti, "detail": error.reason, "code": error.code})
            self._refuse(connection, message, error.code, admitted)
            return
        reserved = room is _RESERVED
        if reserved:
            self._reserve.enter(connection.address)
        now_ms = self._now_ms()
        self._asked.add(_named(message), now_ms)
        token = next(self._tokens)
        self._waiting[token] = Unanswered(connection, message.tpdu, message.header, admitted, now_ms, reserved)
        connection.in_flight += 1
        self._requests += 1
        self._submit(Requested(token, request))

    def _room(self, connection: TerminalConnection, message: Message, admitted: Admitted) -> _Room | None:
        """Whether there is room for a message; else it is refused before it costs more than that (INV-9).

        New requests are refused first. Only what is surely new is told 96, that nothing was stored: of any other the
        first send may be under way or approved, before a restart too. A retry that is known as one may have a place of
        those kept for retries. What has none, and what calls itself a repeat, is told 09, which promises nothing: the
        terminal asks again, or reverses (D3, D11, D15, INV-6).
        """
        settings, under_way, stopping = self._settings, len(self._waiting), not self._admitting
        unhurried = under_way < self._unreserved and self._journal_wait_ms() <= settings.journal_wait_ms_max
        acquirer_full = unhurried and not stopping and self._acquirer_full()
        if unhurried and not stopping and not acquirer_full:
            return _ORDINARY
        full = stopping or under_way >= settings.in_flight_max
        request = message.mti[:3] in _REQUESTS
        if not request and not full:
            return _ORDINARY
        name = _named(message)
        if request and not full and self._asked.seen(name) and self._reserve.has_room(connection.address):
            return _RESERVED
        if acquirer_full:
            self.count(Count.ACQUIRER_FULL)
        if request and (message.mti[3] != _FIRST_SEND or not self._asked.surely_new(name, self._now_ms())):
            self.count(Count.IN_PROGRESS)
            self._refuse(connection, message, IN_PROGRESS, admitted)
        else:  # of overload the sweep tells: here every microsecond is one of many thousand
            self.count(Count.STOPPING if stopping else Count.OVERLOADED)
            self._refuse(connection, message, OUR_FAULT, admitted)
        return None

    def _permitted(self, names: TerminalNames, connection: TerminalConnection, message: Message) -> bool:
        """Whether the connection's certificate lets it speak for the terminal that a message names, else answer 58.

        Field 41 is compared as core.identity reads it: without the blanks around it, whole, case-sensitively. A network
        message may name none; anything else without a terminal is refused when its request is made.
        """
        terminal = message.fields.get(41, "").strip()
        if not terminal or terminal in names:
            return True
        facts = {"mti": message.mti, "detail": "its certificate names other terminals", "certificate": str(names)}
        self._bad(connection, Count.NOT_PERMITTED, facts)
        self._refuse(connection, message, _NOT_PERMITTED)
        return False

    def _admitted(
        self, sessions: TerminalSessions, connection: TerminalConnection, message: Message, frame: bytes
    ) -> Admitted | None:
        """What sessions say of a message: how to answer it, or None where it has been refused (D10, A0).

        Nothing else has looked at the fields by then but the check of field 41 against the certificate.
        """
        judged = sessions.admit(message, frame, self._utc_ms())
        if isinstance(judged, Refused):
            known = {"terminal": judged.terminal} if judged.terminal else {}
            self._bad(connection, judged.count, {"mti": message.mti, "detail": judged.detail, **known})
            self._refuse(connection, message, judged.code)
            return None
        if judged.outdated:
            self.count(Count.MAC_OUTDATED)
        return judged

    # --- answers ---------------------------------------------------------------------------------------------------

    def _unreadable(self, connection: TerminalConnection, error: CodecError) -> None:
        """Answer 30 where enough was read to say whom the answer is for, else hang up."""
        facts = {"field": str(error.field or ""), "offset": str(error.offset), "detail": error.reason}
        read = error.partial
        if read is not None and 11 in read.fields and 41 in read.fields and read.mti[2:3] in {"0", "2", "4"}:
            self._bad(connection, Count.BAD_MESSAGE, facts)
            self._refuse(connection, read, _NOT_UNDERSTOOD)
            return
        self._bad(connection, Count.BAD_MESSAGE_CLOSED, facts)
        connection.hang_up(drop_frames=True)

    def _refuse(
        self, connection: TerminalConnection, message: Message, code: str, admitted: Admitted = _NO_SESSION
    ) -> None:
        """Answer a message that is not taken; hang up where its type has no answer."""
        try:
            answer = local_answer(message.mti, message.fields, code, self._rules, self._utc_ms())
        except ValueError:
            self._bad(connection, Count.BAD_MTI_CLOSED, {"mti": message.mti})
            connection.hang_up(drop_frames=True)
            return
        self._answer(connection, message.tpdu, message.header, answer, admitted)

    def _answer(
        self, connection: TerminalConnection, tpdu: bytes, header: bytes, answer: Answer, admitted: Admitted
    ) -> None:
        if not connection.writable:
            self.count(Count.REPLIES_DROPPED)
            return
        message = Message(answer.mti, answer.fields, _swapped(tpdu), header)
        try:
            framed = self._framing.wrap(self._sealed(message, admitted))
        except (CodecError, FramingError) as error:
            # The outcome is durable, and the terminal's retry would fail the same way: a person must see this.
            field = str(error.field or "") if isinstance(error, CodecError) else ""
            self._bad(connection, Count.REPLIES_UNENCODABLE, {"field": field, "detail": str(error)})
            return
        self._replies += 1
        connection.answer(framed)

    def _sealed(self, message: Message, admitted: Admitted) -> bytes:
        """Encode an answer with what its session adds: work keys, a MAC made fresh (D3). Raises: CodecError."""
        if self._sessions is None or admitted is _NO_SESSION:
            return self._encoded(message)
        if admitted.sign_on is not None and message.fields.get(39) == "00":
            self.count(Count.SIGNED_ON)
        completed = self._sessions.completed(admitted, message, self._utc_ms())
        return self._sessions.sealed(admitted, self._encoded(completed))

    def _encoded(self, message: Message) -> bytes:
        """Encode an answer; what the host said in a field that this dialect cannot carry is left out.

        The outcome (39) and what identifies the transaction are never left out.
        Raises: CodecError.
        """
        message.fields = self._dialect.carried(message.fields)
        while True:
            try:
                return self._codec.encode(message)
            except CodecError as error:
                if error.field is None or error.field in _ESSENTIAL_FIELDS or error.field not in message.fields:
                    raise
                self.count(Count.FIELDS_LEFT_OUT)
                message.fields = {n: v for n, v in message.fields.items() if n != error.field}

    def _bad(self, connection: TerminalConnection, count: Count, facts: dict[str, str]) -> None:
        """Count what went wrong, and tell of it at most once per reason and interval; facts hold no values."""
        self._tell(count, connection.name, facts)

    def _refused_connection(self, count: Count, peer: str, detail: str) -> None:
        """The same for a connection that did not come to be."""
        self._tell(count, peer, {"detail": detail})

    def _tell(self, count: Count, peer: str, facts: dict[str, str]) -> None:
        self.count(count)
        self._report.line(
            "terminal.refused", count.value, {"listener": self._settings.name, "peer": peer, **facts}, self._now_ms()
        )

    def _settled(self, waiting: Unanswered) -> None:
        """A request is not awaited any more."""
        if waiting.reserved:
            self._reserve.leave(waiting.connection.address)
        waiting.connection.settled()

    # --- time ------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self, *, soon: bool = False) -> None:
        wait_s = NEXT_SWEEP_S if soon else self._settings.sweep_interval_ms / 1000
        self._sweep = self._loop.call_later(wait_s, self._swept)

    def _swept(self) -> None:
        """Close what is overdue, forget what was never answered, write the lines that were kept back."""
        now_ms = self._now_ms()
        late = [(c, overdue) for c in self._connections if (overdue := c.overdue(now_ms)) is not None]
        for connection, overdue in late[:CLOSED_PER_SWEEP]:
            self._bad(connection, overdue, {})
            connection.abort()
        self._schedule_sweep(soon=len(late) > CLOSED_PER_SWEEP)
        forgotten_ms = now_ms - self._settings.reply_timeout_ms
        stale = itertools.takewhile(lambda entry: entry[1].since_ms <= forgotten_ms, self._waiting.items())
        for token, waiting in list(stale):
            del self._waiting[token]
            self._settled(waiting)
            self._bad(waiting.connection, Count.UNANSWERED, {})
        if not self._waiting:
            self._changed.set()
        if (refused := self._counts[Count.OVERLOADED] + self._counts[Count.IN_PROGRESS]) > self._overload_told:
            full = self._counts[Count.ACQUIRER_FULL]
            facts = {
                "listener": self._settings.name,
                "refused": str(refused - self._overload_told),
                "acquirer_full": str(full - self._full_told),
            }
            self._full_told = full
            self._report.line("terminal.overload", Count.OVERLOADED.value, facts, now_ms)
            self._overload_told = refused
        self._report.flush(now_ms)
        if self._admitting:
            self._acceptor.resume()

    async def _until(self, reached: Callable[[], bool], timeout_ms: int) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _connection(self, address: str, name: str) -> TerminalConnection:
        return TerminalConnection(self, self._settings, self._framing, self._loop, (address, name))

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)


@lru_cache(maxsize=1024)
def _swapped(tpdu: bytes) -> bytes:
    """A TPDU with its addresses exchanged (D3)."""
    return tpdu[:1] + tpdu[3:5] + tpdu[1:3]


def _named(message: Message) -> tuple[str | None, ...]:
    """What names a request among those of a short time: class, merchant, terminal and STAN, alike in each dialect."""
    get = message.fields.get
    return message.mti[:2], get(42, "").strip(), get(41, "").strip(), get(11)
