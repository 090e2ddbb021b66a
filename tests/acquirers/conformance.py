"""What every link does, whatever it speaks (port.py). A kind of link inherits the suite and says how it is set up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from gateway.acquirers.port import EndpointState, Link
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, LateAnswered, LinkEvent, NotSent, TimedOut
from protocol.iso8583.message import Fields, Message
from tests.acquirers.host import Host
from tests.acquirers.waiting import DEADLINE_S, mono_ms, on_each_loop, until

PAN = "4111111111111111"  # a published test number
LONG_MS = 8_000  # longer than any wait of a test
SHORT_MS = 60
E = TypeVar("E", Answered, TimedOut, NotSent, LateAnswered, Connected)


class Core:
    """Records what a link delivers, in the place of the core."""

    def __init__(self) -> None:
        self.events: list[LinkEvent] = []
        self.reports: list[tuple[str, dict[str, str]]] = []
        self._came = asyncio.Event()

    def deliver(self, event: LinkEvent) -> None:
        self.events.append(event)
        self._came.set()

    def report(self, name: str, facts: dict[str, str]) -> None:
        assert PAN not in repr((name, facts))
        self.reports.append((name, facts))

    def of(self, token: int) -> list[LinkEvent]:
        """Everything that was delivered for a token."""
        return [e for e in self.events if not isinstance(e, Connected) and e.token == token]

    async def wait(self, kind: type[E], token: int | None = None, nth: int = 1) -> E:
        """The n-th event of a kind (and token)."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = [
                    e
                    for e in self.events
                    if isinstance(e, kind) and (token is None or isinstance(e, Connected) or e.token == token)
                ]
                if len(found) >= nth:
                    return found[nth - 1]
                self._came.clear()
                await self._came.wait()


class Scene:
    """A link, its hosts and its core."""

    def __init__(self, link: Link, hosts: list[Host], core: Core) -> None:
        self.link = link
        self.hosts = hosts
        self.host = hosts[0]
        self.core = core

    def send(
        self,
        token: int,
        *,
        timeout_ms: int = LONG_MS,
        mti: str = "0200",
        purpose: Purpose = Purpose.REQUEST,
        **more: str,
    ) -> Send:
        """Send a sale whose STAN is the token, unless told otherwise."""
        send = Send(token, purpose, Message(mti, sale(token, **more)), timeout_ms)
        before = len(self.core.events)
        self.link.send(send)
        assert len(self.core.events) == before, "nothing may be delivered from within send"
        return send


def sale(stan: int, **more: str) -> Fields:
    """Fields of a sale; `more` are fields by name `f4`."""
    fields = {
        2: PAN, 3: "000000", 4: "000000001000", 11: f"{stan:06}", 22: "051", 25: "00", 41: "T0000001",
        42: "M00000000000001", 49: "156",
    }  # fmt: skip
    fields.update({int(name[1:]): value for name, value in more.items()})
    return fields


class LinkConformance:
    """Inherit, give the class a name that begins with Test, and say how a link is made.

    Attributes:
        short_ms: a time limit that is soon over, but not before the message has left, on a busy machine too.
    """

    short_ms = SHORT_MS

    def link(self, ports: list[int], core: Core, **settings: int) -> Link:
        """A link to these ports of 127.0.0.1, its pauses short; `settings` as the link's own are called."""
        raise NotImplementedError

    def host(self) -> Host:
        """A host that the link understands."""
        raise NotImplementedError

    def scene(
        self, *, hosts: int = 1, absent: tuple[int, ...] = (), receive_buffer_bytes: int = 0, **settings: int
    ) -> AbstractAsyncContextManager[Scene]:
        """A started link with its hosts; those in `absent` refuse connections."""
        made = [self.host() for _ in range(hosts)]
        for host in made:
            host.receive_buffer_bytes = receive_buffer_bytes
        return self._scene(made, absent, settings)

    @asynccontextmanager
    async def _scene(
        self, hosts: list[Host], absent: tuple[int, ...], settings: dict[str, int]
    ) -> AsyncIterator[Scene]:
        count = len(hosts)
        ports = [await (host.reserve() if i in absent else host.start()) for i, host in enumerate(hosts)]
        core = Core()
        link = self.link(ports, core, **settings)
        await link.start()
        try:
            if len(absent) < count:
                await until(
                    lambda: sum(e.state is EndpointState.CONNECTED for e in link.endpoints()) == count - len(absent),
                    "all endpoints connected",
                )
            yield Scene(link, hosts, core)
        finally:
            await link.close()
            for host in hosts:
                await host.stop()
            settled = [e.token for e in core.events if isinstance(e, Answered | TimedOut | NotSent)]
            assert len(settled) == len(set(settled)), "a send was settled twice"
            assert link.gauges()["in_flight"] == 0

    # --- answers ---------------------------------------------------------------------------------------------------

    @on_each_loop
    async def test_an_answer_reaches_the_send_that_it_answers(self) -> None:
        async with self.scene() as s:
            s.send(7)
            exchange = await s.host.next()
            assert (exchange.message.mti, exchange.message.fields) == ("0200", sale(7))
            exchange.answer(f38="123456")
            answered = await s.core.wait(Answered, 7)
            assert (answered.mti, answered.fields[39], answered.fields[38]) == ("0210", "00", "123456")
            assert s.core.of(7) == [answered]

    @on_each_loop
    async def test_answers_are_matched_by_key_and_not_by_order(self) -> None:
        async with self.scene() as s:
            for token in range(1, 21):
                s.send(token)
            exchanges = [await s.host.next() for _ in range(20)]
            for exchange in reversed(exchanges):
                exchange.answer(f37=f"REF{exchange.message.fields[11]:>09}")
            for token in range(1, 21):
                assert (await s.core.wait(Answered, token)).fields[37] == f"REF{token:09}"

    @on_each_loop
    async def test_a_reversal_and_its_original_of_the_same_stan_are_told_apart(self) -> None:
        async with self.scene() as s:
            s.send(1, f11="000001")
            original = await s.host.next()  # first: two connections keep no order
            s.send(2, mti="0400", purpose=Purpose.REVERSAL, f11="000001")
            reversal = await s.host.next()
            reversal.answer("25")
            assert (await s.core.wait(Answered, 2)).mti == "0410"
            original.answer("51")
            assert (await s.core.wait(Answered, 1)).fields[39] == "51"

    @on_each_loop
    async def test_a_host_that_answers_twice_is_heard_once(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            exchange.answer()
            exchange.answer()
            await until(lambda: s.link.counters()["unmatched_answers"] == 1, "the second answer counted")
            assert [type(e) for e in s.core.of(1)] == [Answered]

    @on_each_loop
    async def test_an_answer_that_nobody_awaits_is_counted_and_told_once_a_second(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            began_ms = mono_ms()
            for _ in range(50):
                exchange.connection.send(exchange.reply(f11="999999"))
            await until(lambda: s.link.counters()["unmatched_answers"] == 50, "all of them counted")
            told = sum(facts["reason"] == "unmatched answer" for _, facts in s.core.reports)
            assert told <= 2 + (mono_ms() - began_ms) // 1_000
            exchange.answer()
            await s.core.wait(Answered, 1)

    # --- no answer -------------------------------------------------------------------------------------------------

    @on_each_loop
    async def test_no_answer_is_in_doubt_and_a_late_answer_is_told_once(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=self.short_ms)
            exchange = await s.host.next()
            await s.core.wait(TimedOut, 1)
            exchange.answer("00")
            exchange.answer("00")
            await s.core.wait(LateAnswered, 1)
            await until(lambda: s.link.counters()["duplicate_answers"] == 1, "the second one dropped")
            assert [type(e) for e in s.core.of(1)] == [TimedOut, LateAnswered]

    @on_each_loop
    async def test_each_send_has_its_own_time_limit(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=LONG_MS)
            s.send(2, timeout_ms=max(10 * SHORT_MS, 3 * self.short_ms))  # over later than the next, however busy
            s.send(3, timeout_ms=self.short_ms)
            await s.core.wait(TimedOut, 2)
            assert [e.token for e in s.core.events if isinstance(e, TimedOut)] == [3, 2]
            for _ in range(3):  # over connections of their own they arrive in any order
                (await s.host.next()).answer()
            await s.core.wait(Answered, 1)

    @on_each_loop
    async def test_a_late_answer_is_never_given_to_another_transaction_of_the_same_key(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=self.short_ms, f11="000001")
            late = await s.host.next()
            await s.core.wait(TimedOut, 1)
            s.send(2, f11="000001", f4="000000009900")  # the STAN again, with another amount
            assert "late answer" in (await s.core.wait(NotSent, 2)).reason
            late.answer()
            await s.core.wait(LateAnswered, 1)
            assert len(s.host.received) == 1

    @on_each_loop
    async def test_a_repeat_of_an_abandoned_send_takes_the_answer_and_only_one(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=self.short_ms, mti="0220", purpose=Purpose.ADVICE, f11="000001")
            first = await s.host.next()
            await s.core.wait(TimedOut, 1)
            s.send(2, mti="0221", purpose=Purpose.ADVICE, f11="000001")
            repeat = await s.host.next()
            first.answer()
            repeat.answer()
            await s.core.wait(Answered, 2)
            await until(lambda: s.link.counters()["duplicate_answers"] == 1, "the other answer dropped")
            assert [type(e) for e in s.core.of(1) + s.core.of(2)] == [TimedOut, Answered]

    # --- not sent, or in doubt (D6) --------------------------------------------------------------------------------

    @on_each_loop
    async def test_a_refused_connection_means_not_sent(self) -> None:
        async with self.scene(absent=(0,)) as s:
            await until(lambda: s.link.counters()["connect_failed"] > 0, "refused")
            s.send(1)
            assert (await s.core.wait(NotSent, 1)).reason == "no endpoint is connected"
            assert not s.link.connected
            assert "refused" in s.link.endpoints()[0].last_error

    @on_each_loop
    async def test_a_reset_before_the_host_has_read_is_in_doubt(self) -> None:
        async with self.scene() as s:
            connection = s.host.connections[0]
            connection.transport.pause_reading()
            s.send(1)
            connection.reset()
            await s.core.wait(TimedOut, 1)
            assert s.host.received == []
            assert [type(e) for e in s.core.of(1)] == [TimedOut]

    @on_each_loop
    async def test_a_reset_after_the_host_has_read_is_in_doubt_for_all_in_flight(self) -> None:
        async with self.scene() as s:
            for token in (1, 2, 3):
                s.send(token)
            for _ in range(3):
                exchange = await s.host.next()
            exchange.connection.reset()
            for token in (1, 2, 3):
                await s.core.wait(TimedOut, token)
                assert [type(e) for e in s.core.of(token)] == [TimedOut]

    @on_each_loop
    async def test_a_reset_within_an_answer_is_in_doubt(self) -> None:
        async with self.scene() as s:
            s.send(1)
            (await s.host.next()).answer_partly_and_reset()
            await s.core.wait(TimedOut, 1)
            assert [type(e) for e in s.core.of(1)] == [TimedOut]

    @on_each_loop
    async def test_the_core_hears_of_the_outage_before_what_it_left_in_doubt(self) -> None:
        async with self.scene() as s:
            s.send(1)
            (await s.host.next()).connection.reset()
            await s.core.wait(TimedOut, 1)
            assert s.core.events[:3] == [Connected(True), Connected(False), TimedOut(1)]

    @on_each_loop
    async def test_the_answer_may_come_late_over_the_next_connection(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            exchange.connection.reset()
            await s.core.wait(Connected, nth=3)
            s.host.connections[0].send(exchange.reply())
            await s.core.wait(LateAnswered, 1)

    # --- connections -----------------------------------------------------------------------------------------------

    @on_each_loop
    async def test_it_reconnects_by_itself_when_the_host_comes_back(self) -> None:
        async with self.scene() as s:
            await s.host.stop()
            await s.core.wait(Connected, nth=2)
            await until(lambda: s.link.counters()["connect_failed"] > 1, "attempts while the host is away")
            await s.host.start()
            await s.core.wait(Connected, nth=3)
            s.send(1)
            (await s.host.next()).answer()
            await s.core.wait(Answered, 1)
            connected = [e.connected for e in s.core.events if isinstance(e, Connected)]
            assert connected == [True, False, True]

    @on_each_loop
    async def test_the_second_endpoint_takes_over_and_the_core_does_not_notice(self) -> None:
        async with self.scene(hosts=2, absent=(0,)) as s:
            s.send(1)
            (await s.hosts[1].next()).answer()
            await s.core.wait(Answered, 1)
            assert s.core.events[0] == Connected(True)
            assert not any(isinstance(e, NotSent) for e in s.core.events)
            assert [e.sent for e in s.link.endpoints()] == [0, 1]

    @on_each_loop
    async def test_one_endpoint_lost_of_two_is_no_outage(self) -> None:
        async with self.scene(hosts=2) as s:
            await s.hosts[0].stop()
            await until(lambda: s.link.gauges()["endpoints_connected"] == 1, "the first one lost")
            s.send(1)
            (await s.hosts[1].next()).answer()
            await s.core.wait(Answered, 1)
            assert [e for e in s.core.events if isinstance(e, Connected)] == [Connected(True)]

    @on_each_loop
    async def test_what_may_have_left_never_goes_to_the_second_endpoint(self) -> None:
        async with self.scene(hosts=2) as s:
            s.send(1)
            (await s.hosts[0].next()).connection.reset()
            await s.core.wait(TimedOut, 1)
            for host in s.hosts:
                host.answers_at_once = True
            s.send(2)
            await s.core.wait(Answered, 2)  # by whichever is there: had the first been sent on, it would be there too
            assert [m.fields[11] for host in s.hosts for m in host.received].count("000001") == 1

    # --- endpoints that are silent ---------------------------------------------------------------------------------

    @on_each_loop
    async def test_an_endpoint_that_is_silent_is_passed_over_until_it_answers_again(self) -> None:
        async with self.scene(hosts=2, unheard_max=3) as s:
            for token in (1, 2):
                await self.send_in_vain(s, token, 0)
            probe = Message("0800", {11: "000003", 70: "301"})
            limit_ms = max(3 * SHORT_MS, self.short_ms)
            s.link.send(Send(3, Purpose.PROBE, probe, limit_ms))  # nothing else is heard of an idle host
            await s.core.wait(TimedOut, 3)
            await self.connected(s, 2)
            await self.send_and_answer(s, 4, 1)
            assert s.link.endpoints()[0].last_error.startswith("silent")
            assert [endpoint.silent for endpoint in s.link.endpoints()] == [True, False]
            await s.hosts[1].stop()
            await self.connected(s, 1)
            await self.send_and_answer(s, 5, 0)  # there is no other
            await s.hosts[1].start()
            await self.connected(s, 2)
            await self.send_and_answer(s, 6, 0)  # it has answered: it is the first again
            assert [e.sent for e in s.link.endpoints()] == [5, 1]
            assert [e for e in s.core.events if isinstance(e, Connected)] == [Connected(True)]

    @on_each_loop
    async def test_an_endpoint_that_is_heard_in_between_is_not_passed_over(self) -> None:
        async with self.scene(hosts=2, unheard_max=3) as s:
            for token in (1, 2, 4, 5):
                await self.send_in_vain(s, token, 0)
                if token == 2:
                    await self.send_and_answer(s, 3, 0)
            await self.send_and_answer(s, 6, 0)

    @on_each_loop
    async def test_of_endpoints_that_are_all_silent_each_has_its_turn(self) -> None:
        async with self.scene(hosts=2, unheard_max=2) as s:
            for token, host in enumerate((0, 0, 1, 1), 1):
                await self.send_in_vain(s, token, host)
                await self.connected(s, 2)
            first = [(m.fields[11], i) for i in (0, 1) for m in s.hosts[i].received]
            for token in (5, 6):
                s.send(token, timeout_ms=self.short_ms)
                await s.core.wait(TimedOut, token)
            asked = [(m.fields[11], i) for i in (0, 1) for m in s.hosts[i].received if (m.fields[11], i) not in first]
            assert sorted(asked) == [("000005", 0), ("000006", 1)]
            await self.send_in_vain(s, 7, 0)
            await self.connected(s, 2)
            await self.send_and_answer(s, 8, 1)
            await self.send_and_answer(s, 9, 1)  # heard again

    @on_each_loop
    async def test_an_endpoint_that_breaks_off_each_time_is_passed_over(self) -> None:
        async with self.scene(hosts=2, unheard_max=3) as s:
            for token in (1, 2, 3):
                s.send(token)
                (await s.hosts[0].next()).connection.reset()
                await s.core.wait(TimedOut, token)
                await self.connected(s, 2)
            await self.send_and_answer(s, 4, 1)

    @on_each_loop
    async def test_one_break_is_no_silence_however_much_was_in_flight_and_what_follows_counts(self) -> None:
        async with self.scene(hosts=2, unheard_max=3) as s:
            for token in range(1, 6):
                s.send(token)
            for _ in range(5):
                exchange = await s.hosts[0].next()
            exchange.connection.reset()
            for token in range(1, 6):
                await s.core.wait(TimedOut, token)
            await self.connected(s, 2)
            for token in (6, 7):
                await self.send_in_vain(s, token, 0)
            await self.connected(s, 2)
            await self.send_and_answer(s, 8, 1)
            stans = [message.fields[11] for host in s.hosts for message in host.received]
            assert sorted(stans) == [f"{token:06}" for token in range(1, 9)], "nothing went twice"

    async def send_in_vain(self, s: Scene, token: int, to: int) -> None:
        """A send that this host reads and never answers."""
        s.send(token, timeout_ms=max(3 * SHORT_MS, self.short_ms))
        await s.hosts[to].next()
        await s.core.wait(TimedOut, token)

    async def send_and_answer(self, s: Scene, token: int, to: int) -> None:
        """A send that this host answers."""
        s.send(token)
        exchange = await s.hosts[to].next()
        while exchange.message.fields.get(11) != f"{token:06}":  # what it read before, and did not answer
            exchange = await s.hosts[to].next()
        exchange.answer()
        await s.core.wait(Answered, token)

    async def connected(self, s: Scene, count: int) -> None:
        """As many endpoints are connected."""
        await until(lambda: s.link.gauges()["endpoints_connected"] == count, f"{count} endpoints connected")

    # --- limits ----------------------------------------------------------------------------------------------------

    @on_each_loop
    async def test_over_the_limit_in_flight_a_send_spills_over_and_then_is_not_sent(self) -> None:
        async with self.scene(hosts=2, in_flight_max=2) as s:
            for token in range(1, 6):
                s.send(token)
            assert (await s.core.wait(NotSent, 5)).reason == "no endpoint has room"
            assert [e.in_flight for e in s.link.endpoints()] == [2, 2]
            (await s.hosts[0].next()).answer()
            await s.core.wait(Answered)
            s.send(6)
            for _ in range(2):
                (await s.hosts[0].next()).answer()
            await s.core.wait(Answered, 6)

    @on_each_loop
    async def test_the_room_is_that_of_the_endpoints_that_are_connected(self) -> None:
        async with self.scene(hosts=2, in_flight_max=3) as s:
            assert s.link.room == 6
            await s.hosts[0].stop()
            await until(lambda: s.link.gauges()["endpoints_connected"] == 1, "the first one lost")
            assert s.link.room == 3
            await s.hosts[1].stop()
            await until(lambda: not s.link.connected, "both lost")
            assert s.link.room == 0

    @on_each_loop
    async def test_a_second_send_of_a_key_in_flight_is_not_sent(self) -> None:
        async with self.scene() as s:
            s.send(1, f11="000001")
            s.send(2, f11="000001")
            assert (await s.core.wait(NotSent, 2)).reason == "match key in flight"
            (await s.host.next()).answer()
            await s.core.wait(Answered, 1)
            assert len(s.host.received) == 1

    @on_each_loop
    async def test_a_host_that_does_not_read_is_not_written_to_without_end(self) -> None:
        async with self.scene(
            receive_buffer_bytes=4_096,
            in_flight_max=1_000_000,
            write_buffer_high_bytes=16_384,
            write_buffer_low_bytes=4_096,
        ) as s:
            connection = s.host.connections[0]
            connection.transport.pause_reading()
            sent = 0
            while not s.link.counters()["not_sent"] and sent < 100_000:
                sent += 1
                s.send(sent, timeout_ms=60_000, f62="0" * 900)  # thousands: on a busy machine their answers take time
                if sent % 50 == 0:
                    await asyncio.sleep(0)
            refused = await s.core.wait(NotSent)
            assert refused.reason == "no endpoint has room"
            s.host.answers_at_once = True
            connection.transport.resume_reading()
            await until(lambda: s.link.counters()["answered"] == s.link.counters()["sent"], "all answered")
            s.send(900_001)
            await s.core.wait(Answered, 900_001)

    @on_each_loop
    async def test_what_cannot_be_encoded_is_not_sent_and_no_value_is_told(self) -> None:
        async with self.scene() as s:
            s.send(1, f4="12x")
            reason = (await s.core.wait(NotSent, 1)).reason
            assert "field 4" in reason
            assert "12x" not in reason
            assert s.host.received == []
            assert [name for name, facts in s.core.reports if facts["reason"] == "unencodable"] == ["link.unencodable"]

    # --- the end ---------------------------------------------------------------------------------------------------

    @on_each_loop
    async def test_close_settles_everything_before_it_returns(self) -> None:
        async with self.scene() as s:
            s.send(1)
            s.send(2)
            await s.host.next()
            s.send(3, f11="000001")  # refused, and not yet delivered
            await s.link.close()
            assert [type(e) for t in (1, 2, 3) for e in s.core.of(t)] == [TimedOut, TimedOut, NotSent]
            assert all(e.state is EndpointState.CLOSED for e in s.link.endpoints())
            await s.link.close()
            s.send(4)
            assert (await s.core.wait(NotSent, 4)).reason == "the link is closed"

    @on_each_loop
    async def test_endpoints_tell_their_numbers(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=10 * SHORT_MS)
            await s.host.next()  # first: two connections keep no order
            s.send(2)
            (await s.host.next()).answer()
            await s.core.wait(Answered, 2)
            await s.core.wait(TimedOut, 1)
            (status,) = s.link.endpoints()
            assert (status.state, status.sent, status.answered, status.timed_out, status.in_flight) == (
                EndpointState.CONNECTED, 2, 1, 1, 0,
            )  # fmt: skip


__all__ = ["LONG_MS", "PAN", "SHORT_MS", "Core", "LinkConformance", "Scene", "sale"]
