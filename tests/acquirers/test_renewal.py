"""New work keys over a live connection, while messages are in flight."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, TimedOut
from protocol.iso8583.message import Message
from protocol.mac_method import MacMethod
from tests.acquirers.conformance import Scene
from tests.acquirers.host import Exchange
from tests.acquirers.session_host import MERCHANT, TERMINAL
from tests.acquirers.session_scene import (
    ASKING_HEADER,
    HEADER,
    Alone,
    connections,
    dialect_with,
    oracle,
    reasons,
)
from tests.acquirers.waiting import mono_ms, on_each_loop, until


@oracle
class TestRenewal(Alone):
    """New keys over a live connection."""

    @pytest.mark.parametrize("asking", ["A0", "77", "header", "A0 without MAC", "wrong MAC"])
    @on_each_loop
    async def test_a_host_that_asks_is_signed_on_to_while_traffic_goes_on(self, asking: str) -> None:
        async with self.scene(sign_on_interval_ms=1) as s:
            host = self.made[0]
            held: list[Exchange] = []
            host.on_sign_on = held.append
            for token in (1, 2, 3):
                s.send(token)
            first, second, third = [await host.next() for _ in range(3)]
            host.reply_under = None if asking == "A0 without MAC" else -1
            host.spoils_macs = asking == "wrong MAC"
            reply = first.reply(asking[:2] if asking[:2] in ("A0", "77") else "00")
            reply.header = ASKING_HEADER if asking == "header" else HEADER
            first.connection.send(reply)
            assert (await s.core.wait(Answered, 1)).verified is (asking in ("A0", "77", "header"))
            host.reply_under, host.spoils_macs = -1, False
            await until(lambda: len(held) == 1, "signs on again")
            s.send(4)  # meanwhile
            fourth = await host.next()
            assert host.received_under[-1] == 0
            host.give_keys(held[0])
            await until(lambda: s.link.counters()["signed_on"] == 2, "new keys")
            s.send(5)
            fifth = await host.next()
            assert host.received_under[-1] == 1
            for exchange, under in ((second, 0), (third, 1), (fourth, 0), (fifth, 1)):
                host.reply_under = under
                exchange.answer()
            for token in (2, 3, 4, 5):
                assert (await s.core.wait(Answered, token)).verified
            assert connections(s.core) == [True]
            assert host.accepted == 1

    @on_each_loop
    async def test_the_key_before_passes_for_a_bounded_time(self) -> None:
        async with self.scene(sign_on_interval_ms=1, previous_key_ms=1) as s:
            host = self.made[0]
            await self.renew(s)
            await asyncio.sleep(0.005)
            host.on_sign_on = lambda _: None
            s.send(2)
            exchange = await host.next()
            host.reply_under = 0
            exchange.answer()
            assert not (await s.core.wait(Answered, 2)).verified

    @on_each_loop
    async def test_many_that_ask_make_one_sign_on_and_none_within_the_interval(self) -> None:
        interval_ms = 150
        async with self.scene(sign_on_interval_ms=interval_ms) as s:
            host = self.made[0]
            began_ms = self.signing_on()._sent_ms
            at_ms: list[int] = []
            host.on_sign_on = lambda _: at_ms.append(mono_ms())  # and never an answer
            for token in range(1, 21):
                s.send(token)
            for _ in range(20):
                (await host.next()).answer("A0")
            for token in range(1, 21):
                await s.core.wait(Answered, token)
            await until(lambda: len(at_ms) == 1, "when the interval is over, although nobody asks any more")
            assert at_ms[0] - began_ms >= interval_ms
            s.send(30)
            (await host.next()).answer("A0")
            await s.core.wait(Answered, 30)
            await asyncio.sleep(0.2)
            assert len(at_ms) == 1  # one at a time

    @on_each_loop
    async def test_a_renewal_that_fails_leaves_connection_and_key_and_is_tried_again(self) -> None:
        async with self.scene(sign_on_interval_ms=30, sign_on_timeout_ms=150) as s:
            host = self.made[0]
            host.on_sign_on = lambda exchange: exchange.answer("05")
            s.send(1)
            asking = await host.next()
            reply = asking.reply("00")
            reply.header = ASKING_HEADER  # it asks, and goes on taking what is sent
            asking.connection.send(reply)
            await until(lambda: s.link.counters()["sign_on_failed"] == 2, "refused, and tried again")
            host.on_sign_on = lambda _: None
            await until(lambda: s.link.counters()["sign_on_failed"] == 4, "not answered, and tried again")
            s.send(2)
            (await host.next()).answer()
            assert (await s.core.wait(Answered, 2)).verified
            host.on_sign_on = host.give_keys
            await until(lambda: s.link.counters()["signed_on"] == 2, "at last")
            sign_ons = s.link.counters()["sign_ons"]
            await asyncio.sleep(0.08)
            assert s.link.counters()["sign_ons"] == sign_ons
            assert set(reasons(s.core)) == {"refused", "no answer"}
            assert host.accepted == 1

    @pytest.mark.parametrize("refused_by", ["05", "wrong keys"])
    @on_each_loop
    async def test_a_host_that_refuses_messages_and_the_sign_on_as_well_counts_as_away(self, refused_by: str) -> None:
        async with self.scene(sign_on_interval_ms=1) as s:
            host = self.made[0]
            host.on_sign_on = lambda exchange: (
                exchange.answer("05") if refused_by == "05" else exchange.answer("00", f62="00" * 40)
            )
            s.send(1)
            (await host.next()).answer("A0")
            await until(lambda: connections(s.core) == [True, False], "nothing more is sent, and sales stand in")
            host.on_sign_on = host.give_keys
            await until(lambda: connections(s.core) == [True, False, True], "it takes us again")
            s.send(2)
            (await host.next()).answer()
            assert (await s.core.wait(Answered, 2)).verified

    @on_each_loop
    async def test_what_went_under_an_earlier_key_says_nothing_of_the_present_one(self) -> None:
        async with self.scene(sign_on_interval_ms=1) as s:
            host = self.made[0]
            s.send(1)
            early = await host.next()
            await asyncio.sleep(0.005)
            await self.renew(s, 2)
            early.answer("A0")
            await s.core.wait(Answered, 1)
            await asyncio.sleep(0.05)
            assert len(host.sign_ons) == 2

    @on_each_loop
    async def test_a_connection_lost_during_a_renewal_begins_with_a_sign_on(self) -> None:
        async with self.scene(sign_on_interval_ms=1) as s:
            host = self.made[0]
            host.on_sign_on = lambda exchange: exchange.connection.reset()
            s.send(1)
            s.send(2)
            (await host.next()).answer("A0")
            await s.core.wait(TimedOut, 2)
            host.on_sign_on = host.give_keys
            await s.core.wait(Connected, nth=3)
            assert connections(s.core) == [True, False, True]
            assert "connection lost" in reasons(s.core)
            s.send(3)
            await host.next()
            (await host.next()).answer()
            assert (await s.core.wait(Answered, 3)).verified
            assert host.received_under[-1] == len(self.bank.given) - 1

    @on_each_loop
    async def test_a_sign_on_never_takes_the_trace_number_of_an_echo_in_flight(self) -> None:
        self.dialect = dialect_with("iso87-binary", mac_method="x9.19", sign_on_fields={"70": "001"})
        self.bank.method = MacMethod.X9_19
        async with self.scene(sign_on_interval_ms=1) as s:
            self.signing_on()._stan = 999_999  # the next is 1
            s.link.send(Send(1, Purpose.PROBE, Message("0800", {11: "000001", 70: "301"}), 5_000))
            probe = await s.host.next()
            await self.renew(s, 2)
            assert self.made[0].sign_ons[-1].message.fields[11] == "000002"
            probe.answer(f41=TERMINAL, f42=MERCHANT)  # hosts put in whom they know
            await s.core.wait(Answered, 1)

    async def renew(self, s: Scene, token: int = 1) -> None:
        before = s.link.counters()["signed_on"]
        s.send(token)
        (await s.host.next()).answer("A0")
        await until(lambda: s.link.counters()["signed_on"] == before + 1, "renewed")
