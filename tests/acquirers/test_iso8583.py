"""The ISO 8583 link: the conformance suite, and what is its own."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.acquirers.iso8583 import Iso8583Link
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, TimedOut
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from tests.acquirers.certificates import tls_contexts
from tests.acquirers.conformance import PAN, SHORT_MS, Core, LinkConformance, sale
from tests.acquirers.host import Host
from tests.acquirers.waiting import mono_ms, on_each_loop, until

TPDU = bytes.fromhex("6000030000")
HEADER = bytes.fromhex("603100311234")


class _Iso8583(LinkConformance):
    dialect: Dialect

    def link(self, ports: list[int], core: Core, **settings: int) -> Iso8583Link:
        quick: dict[str, Any] = {
            "reconnect_initial_ms": 10,
            "reconnect_max_ms": 50,
            "reconnect_jitter_ms": 5,
            "sweep_interval_ms": 20,
        }
        return Iso8583Link(
            LinkSettings(
                name="acquirer",
                endpoints=tuple(EndpointSettings(host="127.0.0.1", port=port) for port in ports),
                tpdu=TPDU if self.dialect.tpdu else b"",
                header=HEADER if self.dialect.tpdu else b"",
                **{**quick, **settings},
            ),
            self.dialect,
            core.deliver,
            mono_ms,
            core.report,
        )

    def host(self) -> Host:
        return Host(self.dialect)


class TestIso8583LinkConforms(_Iso8583):
    """Without TPDU."""

    dialect = load_dialect("iso87-binary")


class TestIso8583LinkWithTpdu(_Iso8583):
    """What an ISO 8583 link does beyond the port's contract, in the dialect that has everything."""

    dialect = load_dialect("unionpay")

    @on_each_loop
    async def test_tpdu_and_header_stand_before_every_message(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            assert (exchange.message.tpdu, exchange.message.header) == (TPDU, HEADER)
            exchange.answer()
            await s.core.wait(Answered, 1)

    @on_each_loop
    async def test_what_is_sent_in_the_turn_in_which_the_link_closes_still_leaves(self) -> None:
        async with self.scene() as s:
            for token in range(1, 9):
                s.send(token)
            await s.link.close()
            for token in range(1, 9):
                assert (await s.host.next()).message.fields[11] == f"{token:06}"
                await s.core.wait(TimedOut, token)

    @on_each_loop
    async def test_an_echo_test_of_the_host_is_answered_and_a_storm_of_them_is_not(self) -> None:
        async with self.scene(echo_answered_per_s_max=3) as s:
            connection = s.host.connections[0]
            back = bytes.fromhex("6000000003")
            for stan in range(20):
                fields = {11: f"{stan:06}", 60: "00000001301"}
                connection.send(Message("0820", fields, back, HEADER))
            answer = (await s.host.next()).message
            assert (answer.mti, answer.fields[39], answer.fields[11]) == ("0830", "00", "000000")
            assert answer.tpdu == TPDU  # addresses exchanged
            await until(lambda: s.link.counters()["unsolicited"] >= 14, "the rest ignored")
            assert s.link.counters()["echoes_answered"] <= 6  # three a second, and a second may have passed

    @on_each_loop
    async def test_other_requests_of_the_host_are_counted_and_ignored(self) -> None:
        async with self.scene() as s:
            s.host.connections[0].send(Message("0200", {2: PAN, 11: "000001"}, TPDU, HEADER))
            await until(lambda: s.link.counters()["unsolicited"] == 1, "counted")
            s.send(1)
            (await s.host.next()).answer()
            await s.core.wait(Answered, 1)
            assert len(s.host.received) == 1

    @on_each_loop
    async def test_an_echo_answer_may_add_terminal_and_merchant(self) -> None:
        async with self.scene() as s:
            probe = Message("0820", {11: "000077", 60: "00000001301"})
            s.link.send(Send(1, Purpose.PROBE, probe, 5_000))
            (await s.host.next()).answer(f41="T0000001", f42="M00000000000001")
            await s.core.wait(Answered, 1)

    @on_each_loop
    async def test_an_unreadable_answer_leaves_the_send_in_doubt_and_the_connection_up(self) -> None:
        async with self.scene() as s:
            s.send(1, timeout_ms=2 * SHORT_MS)
            exchange = await s.host.next()
            frame = self.dialect.codec.encode(exchange.reply())
            exchange.connection.transport.write(self.dialect.framing.wrap(frame[:-1]))
            await until(lambda: s.link.counters()["unreadable_frames"] == 1, "counted")
            await s.core.wait(TimedOut, 1)
            s.send(2)
            (await s.host.next()).answer()
            await s.core.wait(Answered, 2)
            assert s.host.accepted == 1

    @on_each_loop
    async def test_a_stream_that_cannot_be_cut_is_dropped_and_made_anew(self) -> None:
        async with self.scene() as s:
            s.send(1)
            s.send(2)
            (await s.host.next()).answer()
            exchange = await s.host.next()
            exchange.connection.transport.write(b"\xff\xff rubbish")
            await s.core.wait(Answered, 1)
            await s.core.wait(TimedOut, 2)
            await s.core.wait(Connected, nth=3)

    @on_each_loop
    async def test_a_flood_from_the_host_leaves_turns_to_others_and_loses_no_answer(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            stray = exchange.reply()
            stray.fields[11] = "999999"
            flood = self.host().framed(stray) * 1_000
            exchange.connection.transport.write(flood + self.host().framed(exchange.reply()))
            await until(lambda: s.link.counters()["unmatched_answers"] > 0, "the first taken")
            assert s.link.counters()["unmatched_answers"] < 1_000  # this turn came although hundreds are there
            await s.core.wait(Answered, 1)
            assert s.link.counters()["unmatched_answers"] == 1_000
            s.send(2)
            exchange = await s.host.next()
            exchange.connection.transport.write(flood + self.host().framed(exchange.reply()) + b"\xff\xff rubbish")
            await s.core.wait(Answered, 2)  # although the connection ends before its turn has come
            await s.core.wait(Connected, nth=3)
            assert s.link.counters()["unmatched_answers"] == 2_000

    @on_each_loop
    async def test_a_host_that_floods_with_keepalives_is_hung_up_on_and_its_answers_before_count(self) -> None:
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            exchange.connection.transport.write(self.host().framed(exchange.reply()) + bytes(2 * 20_000))
            await s.core.wait(Answered, 1)
            await s.core.wait(Connected, nth=3)
            assert any(facts.get("reason") == "keep-alive flood" for _, facts in s.core.reports)

    @on_each_loop
    async def test_a_frame_that_the_host_never_completes_ends_the_connection(self) -> None:
        async with self.scene(frame_timeout_ms=40) as s:
            s.send(1)
            exchange = await s.host.next()
            exchange.connection.transport.write(self.host().framed(exchange.reply())[:5])
            await s.core.wait(TimedOut, 1)
            assert any("frame incomplete" in facts["reason"] for _, facts in s.core.reports)

    @on_each_loop
    async def test_a_host_that_accepts_and_hangs_up_is_not_hammered(self) -> None:
        host = self.host()
        host.on_connect = lambda connection: connection.reset()
        core = Core()
        link = self.link([await host.start()], core, reconnect_initial_ms=30, reconnect_max_ms=1_000)
        started_ms = mono_ms()
        await link.start()
        try:
            await until(lambda: host.accepted >= 4, "several attempts")
            assert mono_ms() - started_ms >= 30 + 60 + 120  # pauses doubled although each attempt connected
        finally:
            await link.close()
            await host.stop()

    @on_each_loop
    async def test_a_host_that_never_answers_the_handshake_is_given_up_after_the_connect_timeout(
        self, tmp_path: Path
    ) -> None:
        _, client = tls_contexts(tmp_path)
        mute = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        core = Core()
        link = self.secured(mute.sockets[0].getsockname()[1], client, core, connect_timeout_ms=50)
        await link.start()
        try:
            await until(lambda: link.counters()["connect_failed"] >= 2, "given up, and tried again")
            assert link.endpoints()[0].last_error.startswith("timed out")
        finally:
            await link.close()
            mute.close()
            await mute.wait_closed()
        assert core.events == []

    @on_each_loop
    async def test_a_host_is_reached_over_tls_if_its_certificate_has_its_name(self, tmp_path: Path) -> None:
        server, client = tls_contexts(tmp_path)
        host = self.host()
        host.tls = server
        core = Core()
        for server_hostname, reached in (("localhost", True), ("acquirer.example", False)):
            link = self.secured(await host.start(), client, core, server_hostname=server_hostname)
            await link.start()
            try:
                await until(lambda: any(link.counters()[n] for n in ("connected", "connect_failed")), "tried")  # noqa: B023
                assert link.connected is reached
                if reached:
                    link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 5_000))
                    (await host.next()).answer()
                    await core.wait(Answered, 1)
                else:
                    assert link.endpoints()[0].last_error.startswith("tls")
            finally:
                await link.close()
                await host.stop()

    def secured(
        self, port: int, tls: ssl.SSLContext, core: Core, *, server_hostname: str = "localhost", **settings: Any
    ) -> Iso8583Link:
        """A link over TLS."""
        endpoint = EndpointSettings(host="127.0.0.1", port=port, tls=tls, server_hostname=server_hostname)
        made = LinkSettings(
            name="acquirer", endpoints=(endpoint,), tpdu=TPDU, header=HEADER, reconnect_initial_ms=10, **settings
        )
        return Iso8583Link(made, self.dialect, core.deliver, mono_ms, core.report)

    def test_settings_tell_all_their_mistakes_at_once(self) -> None:
        with pytest.raises(ValueError, match=r"in_flight_max .*; endpoints .*reconnect_initial_ms"):
            LinkSettings(name="a", endpoints=(), in_flight_max=0, reconnect_initial_ms=100, reconnect_max_ms=50)

    def test_a_dialect_with_tpdu_wants_one(self) -> None:
        settings = LinkSettings(name="a", endpoints=(EndpointSettings(host="127.0.0.1", port=1),))
        with pytest.raises(ValueError, match="tpdu must have 5 bytes; header must have 6 bytes"):
            Iso8583Link(settings, self.dialect, lambda _: None, mono_ms, lambda *_: None)
