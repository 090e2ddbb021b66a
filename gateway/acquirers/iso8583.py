"""The link to an acquirer that speaks ISO 8583 over TCP: many messages in flight, answers matched by key."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from gateway.acquirers.counts import Count
from gateway.acquirers.endpoint import Endpoint
from gateway.acquirers.matching import Flight, Late, Matching, MatchKey, NoFlight
from gateway.acquirers.port import Deliver, EndpointStatus
from gateway.acquirers.session import MacCheck, Session, session_mistakes
from gateway.acquirers.settings import LinkSettings
from gateway.acquirers.signing_on import SigningOn
from gateway.acquirers.silence import Turns
from gateway.core.effects import Purpose, Send
from gateway.core.events import NO_ROOM, Answered, Connected, LateAnswered, NotSent, TimedOut
from gateway.reporting import RateLimitedReport, Report
from protocol.framing import FramingError
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import answer_mti, first_mti, is_answer

_MAC_FIELDS = (64, 128)
_NETWORK_CLASS = "8"
_SILENT = "silent"
"""Why a connection was ended here that nothing came over."""

_OWN_TOKEN = -1
"""Of the gateway's own sign-on, which is matched like all else; the core's tokens are above 0."""


class Iso8583Link:
    """A link as port.Link describes it, over one TCP connection per endpoint.

    A Send goes to the first endpoint, in configured order, that is connected and has room; those that have fallen
    silent come last (silence.py). An answer may come over any endpoint: the key alone decides whose it is. matching.py
    says what becomes of late and doubled answers.
    """

    def __init__(
        self,
        settings: LinkSettings,
        dialect: Dialect,
        deliver: Deliver,
        mono_ms: Callable[[], int],
        report: Report,
    ) -> None:
        """Nothing is connected before `start`.

        Raises:
            ValueError: TPDU or header do not have the dialect's length, or no such session can be had in this
                dialect; all mistakes at once.
        """
        mistakes = []
        if len(settings.tpdu) != (5 if dialect.tpdu else 0):
            mistakes.append(f"tpdu must have {5 if dialect.tpdu else 0} bytes")
        if len(settings.header) != dialect.header_bytes:
            mistakes.append(f"header must have {dialect.header_bytes} bytes")
        if settings.session is not None:
            mistakes += session_mistakes(settings.session, dialect)
        if mistakes:
            raise ValueError(f"link {settings.name}, dialect {dialect.name}: " + "; ".join(mistakes))
        self._settings = settings
        self._dialect = dialect
        self._host = dialect.host
        self._codec = dialect.codec
        self._framing = dialect.framing
        self._deliver = deliver
        self._mono_ms = mono_ms
        self._report = RateLimitedReport(report, settings.report_interval_ms)
        self._counts = dict.fromkeys(Count, 0)
        self._matching = Matching(
            dialect.host, abandoned_max=settings.abandoned_max, abandoned_age_ms=settings.abandoned_age_ms
        )
        self._endpoints = [
            Endpoint(index, endpoint, settings, framing=dialect.framing, owner=self, mono_ms=mono_ms)
            for index, endpoint in enumerate(settings.endpoints)
        ]
        self._session: Session | None = None
        self._signing_on: SigningOn | None = None
        if settings.session is not None:
            self._session = Session(settings.session, dialect, settings.tpdu, settings.header)
            first_stan = 1 + secrets.randbelow(999_999)  # a restart does not begin with the STANs of the last start
            self._signing_on = SigningOn(settings.session, self._session, self._endpoints, self, mono_ms, first_stan)
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
        """Whether at least one endpoint is connected."""
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
            key = self._matching.key(answer_mti(message.mti), message.fields)
            fields = self._dialect.carried(message.fields)
            if self._session is not None:
                fields = self._session.with_place_for_mac(message.mti, fields)
            frame = self._framing.wrap(
                self._codec.encode(Message(message.mti, fields, self._settings.tpdu, self._settings.header))
            )
        except ValueError as error:  # also CodecError and FramingError: their texts name places, never values
            facts = {"mti": message.mti, "detail": str(error)}
            self._report.line("link.unencodable", "unencodable", facts, now_ms)
            self._refuse(send, Count.REFUSED_UNENCODABLE, f"unencodable: {error}")
            return
        if reason := self._matching.refusal(key, message.fields, send.purpose, now_ms):
            self._refuse(send, Count.REFUSED_MATCH_KEY, reason)
            return
        endpoint = self._endpoint_with_room()
        if endpoint is None:
            if self.connected:
                self._refuse(send, Count.REFUSED_NO_ROOM, NO_ROOM)
            else:
                self._refuse(send, Count.REFUSED_NOT_CONNECTED, "no endpoint is connected")
            return
        if self._session is not None:
            frame = self._session.sealed(message.mti, frame)
        self._add(Flight(
            token=send.token, purpose=send.purpose, key=key, endpoint=endpoint.index, fields=message.fields,
            timeout_ms=send.timeout_ms, deadline_ms=now_ms + send.timeout_ms,
        ), now_ms)  # fmt: skip
        endpoint.in_flight += 1
        endpoint.sent += 1
        self._counts[Count.SENT] += 1
        endpoint.write(frame)  # in doubt from here on

    def _endpoint_with_room(self) -> Endpoint | None:
        """The first one in configured order; one that has fallen silent only where there is no other."""
        for endpoint in self._endpoints:
            if endpoint.has_room and not endpoint.silent:
                return endpoint
        return self._turns.next([endpoint for endpoint in self._endpoints if endpoint.has_room])

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names in `Count`; and keys evicted from the memory of late answers."""
        return {**{count.value: total for count, total in self._counts.items()}, "evicted": self._matching.evicted}

    def gauges(self) -> dict[str, int]:
        """Messages in flight, room for as many in all, abandoned keys, connected endpoints."""
        return {
            "in_flight": len(self._matching),
            "room": self.room,
            "abandoned": self._matching.abandoned,
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
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    # --- called by the signing-on ----------------------------------------------------------------------------------

    def carry(self, endpoint: Endpoint, message: Message, timeout_ms: int) -> bool:
        """Write a message of the gateway's own; False, and nothing was written, where its match key is in flight."""
        now_ms = self._mono_ms()
        key = self._matching.key(answer_mti(message.mti), message.fields)
        bare_key = self._matching.bare_key(answer_mti(message.mti), message.fields)
        if self._in_flight(key, now_ms) or self._in_flight(bare_key, now_ms):
            return False
        frame = self._framing.wrap(self._codec.encode(message))  # tried out when the link was made
        self._add(Flight(
            token=_OWN_TOKEN, purpose=Purpose.PROBE, key=key, endpoint=endpoint.index, fields=message.fields,
            timeout_ms=timeout_ms, deadline_ms=now_ms + timeout_ms,
        ), now_ms)  # fmt: skip
        self._counts[Count.SIGN_ONS] += 1
        endpoint.write(frame)
        return True

    def admit(self, endpoint: Endpoint) -> None:
        """Let messages go over a connection."""
        endpoint.admit()
        self._counts[Count.CONNECTED] += 1
        self._report.line("link.connected", endpoint.name, self._facts(endpoint), self._mono_ms())
        self._tell_connected()

    def signed_on(self, endpoint: Endpoint) -> None:
        """New keys have come."""
        self._counts[Count.SIGNED_ON] += 1
        self._report.line("link.signed-on", endpoint.name, self._facts(endpoint), self._mono_ms())

    def sign_on_failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """No keys have come; the texts hold none."""
        self._counts[Count.SIGN_ON_FAILED] += 1
        self._report.line("link.sign-on-failed", reason, {**self._facts(endpoint), "detail": detail}, self._mono_ms())

    # --- called by the endpoints -----------------------------------------------------------------------------------

    def opened(self, endpoint: Endpoint) -> None:
        """A connection is there; where the host wants a session, keys come first."""
        if self._signing_on is not None:
            self._signing_on.opened(endpoint)
        else:
            self.admit(endpoint)

    def lost(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """The connection is gone: first nobody is to send there, then what was in flight is in doubt (D6)."""
        now_ms = self._mono_ms()
        if not self._closing:
            self._counts[Count.CONNECTION_LOST] += 1
            facts = {**self._facts(endpoint), "detail": detail, "in_flight": str(endpoint.in_flight)}
            self._report.line("link.connection-lost", reason, facts, now_ms)
            if endpoint.in_flight:
                endpoint.unheard(self._settings.unheard_max)
            if reason != _SILENT:
                endpoint.began_anew()
        self.given_up(endpoint)

    def given_up(self, endpoint: Endpoint) -> None:
        """A connection is gone; if it was never admitted, nothing but a sign-on can have been in flight there."""
        if self._signing_on is not None:
            self._signing_on.gone()
        self._tell_connected()
        for flight in self._matching.lost(endpoint.index, self._mono_ms()):
            self._timed_out(flight)

    def connect_failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """An attempt to connect has failed."""
        self._counts[Count.CONNECT_FAILED] += 1
        facts = {**self._facts(endpoint), "detail": detail}
        self._report.line("link.connect-failed", reason, facts, self._mono_ms())

    def received(self, endpoint: Endpoint, frame: bytes) -> None:
        """Find out whose answer a frame is, or what the host wants."""
        try:
            message = self._codec.decode(frame)
            endpoint.heard(echo=message.mti[1] == _NETWORK_CLASS)
            answer = is_answer(message.mti)
        except (CodecError, ValueError) as error:
            # Whose it was cannot be known: that send stays in doubt until its time is over.
            self._counts[Count.UNREADABLE_FRAMES] += 1
            self._note(endpoint, "unreadable", {"detail": str(error)})
            return
        if not answer:
            self._unsolicited(endpoint, message)
            return
        now_ms = self._mono_ms()
        key = bare_key = self._matching.key(message.mti, message.fields)
        if message.mti[1] == _NETWORK_CLASS:
            # Hosts put their idea of terminal and merchant into the answer to an echo that had neither.
            bare_key = self._matching.bare_key(message.mti, message.fields)
        mac = MacCheck.RIGHT if self._session is None else self._session.check(message, frame, now_ms)
        if mac is not MacCheck.RIGHT:
            self._counts[Count.MAC_WRONG] += 1
            self._note(endpoint, mac.value, {"mti": message.mti})
            if not (self._in_flight(key, now_ms) or self._in_flight(bare_key, now_ms)):
                return  # late or nobody's: it proves nothing, and must not close the way for a right one
        found = self._matching.answered(key, now_ms)
        if found is NoFlight.UNKNOWN and bare_key is not key:
            found = self._matching.answered(bare_key, now_ms)
        if isinstance(found, Flight):
            self._answered(found, message, mac)
        elif isinstance(found, Late) and found.token != _OWN_TOKEN:
            self._counts[Count.LATE_ANSWERED] += 1
            self._deliver(LateAnswered(found.token, message.mti, message.fields))
        elif found is NoFlight.DUPLICATE:
            self._counts[Count.DUPLICATE_ANSWERS] += 1
            self._note(endpoint, "duplicate answer", {"mti": message.mti})
        else:
            self._counts[Count.UNMATCHED_ANSWERS] += 1
            self._note(endpoint, "unmatched answer", {"mti": message.mti})

    def _answered(self, flight: Flight, message: Message, mac: MacCheck) -> None:
        origin = self._endpoints[flight.endpoint]
        if self._signing_on is not None and flight.token == _OWN_TOKEN:
            self._signing_on.answered(origin, message)
            return
        origin.in_flight -= 1
        origin.answered += 1
        self._counts[Count.ANSWERED] += 1
        self._deliver(Answered(flight.token, message.mti, message.fields, verified=mac is MacCheck.RIGHT))
        if self._signing_on is not None:
            self._signing_on.judge(message, mac, sent_ms=flight.deadline_ms - flight.timeout_ms)

    def _unsolicited(self, endpoint: Endpoint, message: Message) -> None:
        """Answer the host's echo test; ignore what else a host may send by itself."""
        now_ms = self._mono_ms()
        second = now_ms // 1000
        if second != endpoint.echo_second:
            endpoint.echo_second, endpoint.echoes = second, 0
        if (
            not self._is_echo(message)
            or endpoint.echoes >= self._settings.echo_answered_per_s_max
            or not endpoint.connected
        ):
            self._counts[Count.UNSOLICITED] += 1
            self._note(endpoint, "unsolicited", {"mti": message.mti})
            return
        fields = {number: value for number, value in message.fields.items() if number not in _MAC_FIELDS}
        tpdu = message.tpdu[:1] + message.tpdu[3:5] + message.tpdu[1:3]
        answer = Message(answer_mti(message.mti), {**fields, 39: "00"}, tpdu, message.header)
        try:
            frame = self._framing.wrap(self._codec.encode(answer))
        except (CodecError, FramingError) as error:
            self._counts[Count.UNSOLICITED] += 1
            self._note(endpoint, "unsolicited", {"mti": message.mti, "detail": str(error)})
            return
        endpoint.echoes += 1
        self._counts[Count.ECHOES_ANSWERED] += 1
        endpoint.write(frame)

    def _is_echo(self, message: Message) -> bool:
        echo = self._host.echo_fields
        return first_mti(message.mti) == self._host.echo_mti and all(
            message.fields.get(number) == value for number, value in echo.items()
        )

    def _in_flight(self, key: MatchKey, now_ms: int) -> bool:
        return bool(self._matching.refusal(key, {}, Purpose.PROBE, now_ms))  # a probe is refused for nothing else

    def _add(self, flight: Flight, now_ms: int) -> None:
        self._matching.add(flight)
        if self._deadline is None or flight.deadline_ms < self._deadline_ms:
            self._set_deadline(flight.deadline_ms, now_ms)

    # --- outcomes --------------------------------------------------------------------------------------------------

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

    def _timed_out(self, flight: Flight) -> None:
        endpoint = self._endpoints[flight.endpoint]
        if self._signing_on is not None and flight.token == _OWN_TOKEN:
            if not self._closing:
                self._signing_on.unanswered(endpoint)
            return
        endpoint.in_flight -= 1
        endpoint.timed_out += 1
        # Of what a break left in doubt, the break has been counted. A line may be dead without either end knowing: a
        # new one shows.
        echo = flight.purpose is Purpose.PROBE
        if endpoint.live and not self._closing and endpoint.unheard(self._settings.unheard_max, echo=echo):
            endpoint.abort(f"{_SILENT}: nothing has come for as many messages as may go unheard")
        self._counts[Count.TIMED_OUT] += 1
        self._deliver(TimedOut(flight.token))

    def _tell_connected(self) -> None:
        self.room = self._settings.in_flight_max * sum(endpoint.connected for endpoint in self._endpoints)
        connected = self.room > 0
        if connected is not self._told_connected:
            self._told_connected = connected
            self._deliver(Connected(connected))

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
        for flight in self._matching.expire(now_ms):
            self._timed_out(flight)
        deadline_ms = self._matching.next_deadline_ms()
        if deadline_ms is not None and not self._closing:
            self._set_deadline(deadline_ms, now_ms)

    def _schedule_sweep(self) -> None:
        self._sweep = self._loop.call_later(self._settings.sweep_interval_ms / 1000, self._swept)

    def _swept(self) -> None:
        now_ms = self._mono_ms()
        for endpoint in self._endpoints:
            endpoint.sweep(now_ms)
        if self._signing_on is not None:
            self._signing_on.proceed()
        self._report.flush(now_ms)
        self._schedule_sweep()

    def _facts(self, endpoint: Endpoint) -> dict[str, str]:
        return {"link": self._settings.name, "endpoint": endpoint.name}

    def _note(self, endpoint: Endpoint, reason: str, facts: dict[str, str]) -> None:
        self._report.line("link.bad-frame", reason, {**self._facts(endpoint), **facts}, self._mono_ms())
