"""A link to an acquirer that speaks JSON over HTTP: one request for each Send, its reply, and its one outcome.

What becomes of a Send stands in http_exchange.py; how a request is made and its reply read, in http_endpoint.py.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from gateway.acquirers.http_endpoint import ExchangeBrokenError, HttpEndpoint, NotConnectedError
from gateway.acquirers.http_exchange import DOUBTS, Count, Exchange, Stage
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.mapping import Doubt, HttpMapping, HttpReply, HttpRequest, UnmappableMessage
from gateway.acquirers.matching import Flight, Late, Matching, NoFlight
from gateway.acquirers.port import Deliver, EndpointStatus
from gateway.acquirers.silence import Turns
from gateway.core.effects import Purpose, Send
from gateway.core.events import NO_ROOM, Answered, Connected, LateAnswered, NotSent, TimedOut
from gateway.reporting import RateLimitedReport, Report
from protocol.iso8583.mti import answer_mti


class HttpLink:
    """A link as port.Link describes it, over HTTP. A Send goes to the first endpoint that can be reached and has room.

    Those that have fallen silent come last (silence.py). Heard is an answer in time: one that comes too late, or proves
    nothing, does no till any good. An answer is its exchange's, and where it names a payment, that must be the one that
    was sent.
    """

    def __init__(
        self,
        settings: HttpLinkSettings,
        mapping: HttpMapping,
        deliver: Deliver,
        mono_ms: Callable[[], int],
        utc_ms: Callable[[], int],
        report: Report,
    ) -> None:
        """Nothing is connected before `start`. `utc_ms` is for signatures only."""
        self._settings = settings
        self._mapping = mapping
        self._deliver = deliver
        self._mono_ms = mono_ms
        self._report = RateLimitedReport(report, settings.report_interval_ms)
        self._counts = dict.fromkeys(Count, 0)
        self._matching = Matching(
            mapping.host, abandoned_max=settings.abandoned_max, abandoned_age_ms=settings.abandoned_age_ms
        )
        self._endpoints = [
            HttpEndpoint(
                index, endpoint, settings, reuse=mapping.answers_name_their_payment, key_header=mapping.key_header,
                owner=self, mono_ms=mono_ms, utc_ms=utc_ms,
            )
            for index, endpoint in enumerate(settings.endpoints)
        ]  # fmt: skip
        self._exchanges: dict[int, Exchange] = {}  # not settled; as many as the endpoints have room for
        self._connecting: dict[int, Exchange] = {}  # those of them of which no byte has left
        self._late: OrderedDict[int, Exchange] = OrderedDict()  # settled, and their tasks go on; at most `late_max`
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._turns = Turns()
        self._told_connected = False
        self.room = 0
        self._refusals: list[NotSent] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_ms = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether at least one endpoint can be reached, as far as known."""
        return any(endpoint.connected for endpoint in self._endpoints)

    async def start(self) -> None:
        """Begin to connect, and return without waiting for a connection."""
        self._loop = asyncio.get_running_loop()
        self._schedule_sweep()
        for endpoint in self._endpoints:
            endpoint.start()

    def send(self, send: Send) -> None:
        """Send a message once (D6); the outcome comes through `deliver`, never from within this call."""
        message = send.message
        now_ms = self._mono_ms()
        if self._closing:
            self._refuse(send, Count.REFUSED_CLOSED, "the link is closed")
            return
        try:
            request = self._mapping.request(message, send.purpose)
            key = self._matching.key(answer_mti(message.mti), message.fields)
        except ValueError as error:  # UnmappableMessage: its texts name fields, never values
            text = str(error) if isinstance(error, UnmappableMessage) else "the message type has no answer"
            self._report.line("link.unencodable", "unencodable", {"mti": message.mti, "detail": text}, now_ms)
            self._refuse(send, Count.REFUSED_UNENCODABLE, f"unencodable: {text}")
            return
        if reason := self._matching.refusal(key, message.fields, send.purpose, now_ms):
            self._refuse(send, Count.REFUSED_MATCH_KEY, reason)
            return
        endpoint = self._next_endpoint(request, ())
        if endpoint is None:
            if self.connected:
                self._refuse(send, Count.REFUSED_NO_ROOM, NO_ROOM)
            else:
                self._refuse(send, Count.REFUSED_NOT_CONNECTED, "no endpoint is connected")
            return
        self._numbers += 1
        flight = Flight(
            token=send.token, purpose=send.purpose, key=key, endpoint=self._numbers, fields=message.fields,
            timeout_ms=send.timeout_ms, deadline_ms=now_ms + send.timeout_ms,
        )  # fmt: skip
        exchange = Exchange(self._numbers, send, request, flight, endpoint)
        self._matching.add(flight)
        self._exchanges[exchange.number] = self._connecting[exchange.number] = exchange
        self._occupy(exchange, endpoint)
        self._counts[Count.SENT] += 1
        if self._deadline is None or flight.deadline_ms < self._deadline_ms:
            self._set_deadline(flight.deadline_ms, now_ms)
        exchange.task = self._loop.create_task(self._bounded(exchange))
        self._tasks.add(exchange.task)
        exchange.task.add_done_callback(self._tasks.discard)

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names in `Count`; and keys evicted from the memory of late answers."""
        return {**{count.value: total for count, total in self._counts.items()}, "evicted": self._matching.evicted}

    def gauges(self) -> dict[str, int]:
        """Messages in flight, room for them, abandoned keys, connections kept for late answers, endpoints."""
        return {
            "in_flight": len(self._matching),
            "room": self.room,
            "abandoned": self._matching.abandoned,
            "late_awaited": len(self._late),
            "endpoints_connected": sum(endpoint.connected for endpoint in self._endpoints),
        }

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """One status per endpoint, in configured order."""
        return tuple(endpoint.status() for endpoint in self._endpoints)

    async def close(self) -> None:
        """Settle everything in flight as TimedOut, then disconnect. Safe to call twice.

        Cancellation: everything has been settled all the same; sockets may close a little later.
        """
        self._closing = True
        for timer in (self._deadline, self._sweep):
            if timer is not None:
                timer.cancel()
        self._deadline = self._sweep = None
        for flight in self._matching.lost(None, self._mono_ms()):
            self._timed_out(flight)
        self._deliver_refusals()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.close_timeout_ms / 1000)
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    # --- called by the endpoints -----------------------------------------------------------------------------------

    def opened(self, endpoint: HttpEndpoint) -> None:
        """The endpoint can be reached."""
        self._counts[Count.CONNECTED] += 1
        self._report.line("link.connected", endpoint.name, self._facts(endpoint), self._mono_ms())
        self._tell_connected()

    def lost(self, endpoint: HttpEndpoint, reason: str) -> None:
        """Nobody is to send there now. What is in flight over other connections may still be answered."""
        if not self._closing:
            self._counts[Count.CONNECTION_LOST] += 1
            facts = {**self._facts(endpoint), "in_flight": str(endpoint.in_flight)}
            self._report.line("link.connection-lost", reason, facts, self._mono_ms())
            if endpoint.in_flight:
                self._unheard(endpoint)
            endpoint.began_anew()
        self._tell_connected()

    def connect_failed(self, endpoint: HttpEndpoint, reason: str) -> None:
        """An attempt to connect has failed."""
        self._counts[Count.CONNECT_FAILED] += 1
        self._report.line("link.connect-failed", reason, self._facts(endpoint), self._mono_ms())

    def stray(self, endpoint: HttpEndpoint, *, behind_late: bool) -> None:
        """Something came behind a response: it is nobody's, and its connection is not used again."""
        self._counts[Count.DUPLICATE_ANSWERS if behind_late else Count.UNMATCHED_ANSWERS] += 1
        self._note(endpoint, "answer without a request")

    # --- exchanges -------------------------------------------------------------------------------------------------

    async def _bounded(self, exchange: Exchange) -> None:
        """An exchange from its beginning to the end of the time in which a late answer is taken."""
        limit_ms = exchange.send.timeout_ms + self._settings.late_answer_ms
        try:
            async with asyncio.timeout(limit_ms / 1000):
                await self._exchange(exchange)
        except TimeoutError:
            self._counts[Count.LATE_GIVEN_UP] += 1
        except Exception as error:  # noqa: BLE001 - supervision boundary: a defect of ours leaves no send unsettled
            self._loop.call_exception_handler({"message": f"link {self._settings.name}", "exception": error})
        finally:
            if exchange.stage is not Stage.SETTLED:
                self._fail(exchange)
            self._late.pop(exchange.number, None)

    async def _exchange(self, exchange: Exchange) -> None:
        while True:
            endpoint = exchange.endpoint
            try:
                reply = await endpoint.ask(
                    exchange.request, lambda: self._may_write(exchange), lambda: exchange.stage is Stage.SETTLED
                )
            except NotConnectedError as error:
                endpoint.broke(error.reason)
                if not self._moved(exchange):
                    return
            except ExchangeBrokenError as error:
                self._counts[Count.EXCHANGES_BROKEN] += 1
                self._note(endpoint, error.reason)
                if error.connection and not self._closing:
                    endpoint.broke(error.reason)  # told before the outcome, so that nothing new is sent in between
                self._fail(exchange)
                return
            else:
                self._replied(exchange, reply)
                return

    def _may_write(self, exchange: Exchange) -> bool:
        """The gate: a settled exchange is not written any more; any other is in doubt from here on (D6)."""
        if exchange.stage is not Stage.CONNECTING or self._closing:
            return False
        exchange.stage = Stage.WRITTEN
        del self._connecting[exchange.number]
        exchange.endpoint.sent += 1
        return True

    def _moved(self, exchange: Exchange) -> bool:
        """Whether an exchange of which no byte has left goes on to another endpoint."""
        if exchange.stage is not Stage.CONNECTING:
            return False
        exchange.tried += (exchange.endpoint,)
        endpoint = self._next_endpoint(exchange.request, exchange.tried)
        if endpoint is None:
            self._not_sent(exchange, "no connection could be made")
            return False
        self._vacate(exchange)
        self._occupy(exchange, endpoint)
        return True

    def _replied(self, exchange: Exchange, reply: HttpReply) -> None:
        """Find out what a reply proves, and whose answer it is."""
        endpoint = exchange.endpoint
        message = exchange.send.message
        fields = self._mapping.answer(reply, message, exchange.send.purpose)
        if isinstance(fields, Doubt):
            self._counts[DOUBTS[fields.kind]] += 1
            self._note(endpoint, fields.reason)
            self._fail(exchange)
            return
        mti = answer_mti(message.mti)
        found = self._matching.answered(exchange.flight.key, self._mono_ms())
        if isinstance(found, Flight):
            endpoint.heard(echo=found.purpose is Purpose.PROBE)
            # Not always this exchange's own: the answer to an earlier send is the repeat's as well.
            answered = self._exchanges[found.endpoint]
            answered.endpoint.answered += 1
            self._settled(answered)
            if answered is not exchange:
                self._await_late(answered)
            self._counts[Count.ANSWERED] += 1
            self._deliver(Answered(found.token, mti, fields))
        elif isinstance(found, Late):
            self._counts[Count.LATE_ANSWERED] += 1
            self._deliver(LateAnswered(found.token, mti, fields))
        elif found is NoFlight.DUPLICATE:
            self._counts[Count.DUPLICATE_ANSWERS] += 1
            self._note(endpoint, "duplicate answer")
        else:
            self._counts[Count.UNMATCHED_ANSWERS] += 1
            self._note(endpoint, "unmatched answer")

    # --- outcomes --------------------------------------------------------------------------------------------------

    def _fail(self, exchange: Exchange) -> None:
        """The exchange is over without an answer."""
        if exchange.stage is Stage.WRITTEN:
            for flight in self._matching.lost(exchange.number, self._mono_ms()):
                self._timed_out(flight)
        elif exchange.stage is Stage.CONNECTING:
            self._not_sent(exchange, "no connection could be made")

    def _timed_out(self, flight: Flight) -> None:
        exchange = self._exchanges[flight.endpoint]
        exchange.endpoint.timed_out += 1
        if exchange.endpoint.connected and not self._closing:  # else a break has been counted
            self._unheard(exchange.endpoint, echo=flight.purpose is Purpose.PROBE)
        self._settled(exchange)
        self._counts[Count.TIMED_OUT] += 1
        self._deliver(TimedOut(flight.token))

    def _not_sent(self, exchange: Exchange, reason: str) -> None:
        """No byte has left: the key is free again."""
        self._matching.answered(exchange.flight.key, self._mono_ms())
        self._settled(exchange)
        self._counts[Count.REFUSED_NOT_CONNECTED] += 1
        self._counts[Count.NOT_SENT] += 1
        self._deliver(NotSent(exchange.send.token, reason))

    def _settled(self, exchange: Exchange) -> None:
        """Its one outcome is about to be told."""
        del self._exchanges[exchange.number]
        self._connecting.pop(exchange.number, None)
        self._vacate(exchange)
        exchange.stage = Stage.SETTLED

    def _await_late(self, exchange: Exchange) -> None:
        """Let the task of a settled exchange go on for a late answer; above the limit the longest kept is given up."""
        self._late[exchange.number] = exchange
        while len(self._late) > self._settings.late_max:
            _, oldest = self._late.popitem(last=False)
            if oldest.task is not None:
                self._counts[Count.LATE_GIVEN_UP] += 1
                oldest.task.cancel()

    def _refuse(self, send: Send, count: Count, reason: str) -> None:
        """Queue NotSent: nothing is delivered from within `send`, so that the core is never entered twice."""
        self._counts[count] += 1
        self._counts[Count.NOT_SENT] += 1
        self._refusals.append(NotSent(send.token, reason))
        if len(self._refusals) == 1:
            asyncio.get_running_loop().call_soon(self._deliver_refusals)

    def _deliver_refusals(self) -> None:
        refusals, self._refusals = self._refusals, []
        for refusal in refusals:
            self._deliver(refusal)

    def _tell_connected(self) -> None:
        self.room = self._settings.in_flight_max * sum(endpoint.connected for endpoint in self._endpoints)
        connected = self.room > 0
        if connected is not self._told_connected:
            self._told_connected = connected
            self._deliver(Connected(connected))

    def _next_endpoint(self, request: HttpRequest, tried: tuple[HttpEndpoint, ...]) -> HttpEndpoint | None:
        """The first one in configured order; one that has fallen silent only where there is no other."""
        left = [e for e in self._endpoints if e not in tried and e.has_room(request.size_bytes)]
        return next((e for e in left if not e.silent), None) or self._turns.next(left)

    def _unheard(self, endpoint: HttpEndpoint, *, echo: bool = False) -> None:
        if endpoint.went_unheard(echo=echo):
            self._note(endpoint, "silent")

    def _occupy(self, exchange: Exchange, endpoint: HttpEndpoint) -> None:
        exchange.endpoint = endpoint
        endpoint.in_flight += 1
        endpoint.in_flight_bytes += exchange.request.size_bytes

    def _vacate(self, exchange: Exchange) -> None:
        exchange.endpoint.in_flight -= 1
        exchange.endpoint.in_flight_bytes -= exchange.request.size_bytes

    # --- timers ----------------------------------------------------------------------------------------------------

    def _set_deadline(self, deadline_ms: int, now_ms: int) -> None:
        """One timer for all sends, at the earliest deadline; an answered head leaves it to fire for nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline_ms = deadline_ms
        self._deadline = self._loop.call_later(max(0, deadline_ms - now_ms) / 1000, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        now_ms = self._mono_ms()
        for exchange in [e for e in self._connecting.values() if e.flight.deadline_ms <= now_ms]:
            self._not_sent(exchange, "no connection could be made in time")
            if exchange.task is not None:
                exchange.task.cancel()
        for flight in self._matching.expire(now_ms):
            self._await_late(self._exchanges[flight.endpoint])
            self._timed_out(flight)
        deadline_ms = self._matching.next_deadline_ms()
        if deadline_ms is not None and not self._closing:
            self._set_deadline(deadline_ms, now_ms)

    def _schedule_sweep(self) -> None:
        self._sweep = self._loop.call_later(self._settings.sweep_interval_ms / 1000, self._swept)

    def _swept(self) -> None:
        for endpoint in self._endpoints:
            endpoint.sweep()
        self._report.flush(self._mono_ms())
        self._schedule_sweep()

    def _facts(self, endpoint: HttpEndpoint) -> dict[str, str]:
        return {"link": self._settings.name, "endpoint": endpoint.name}

    def _note(self, endpoint: HttpEndpoint, reason: str) -> None:
        self._report.line("link.bad-answer", reason, self._facts(endpoint), self._mono_ms())
