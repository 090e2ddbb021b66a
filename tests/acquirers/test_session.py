"""The ISO 8583 link with a session: the conformance suite once more, sign-ons, and MACs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.acquirers.iso8583 import Iso8583Link
from gateway.acquirers.port import EndpointState
from gateway.acquirers.session import HostSession
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, LateAnswered, NotSent, TimedOut
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from protocol.mac_method import MacMethod
from tests.acquirers.conformance import SHORT_MS, Scene, sale
from tests.acquirers.host import Exchange
from tests.acquirers.session_host import MASTER_KEY, MERCHANT, TERMINAL
from tests.acquirers.session_scene import (
    FIXED_KEY,
    HEADER,
    SHORT_MAC,
    TPDU,
    UNIONPAY,
    Alone,
    WithSession,
    connections,
    dialect_with,
    oracle,
    reasons,
)
from tests.acquirers.waiting import mono_ms, on_each_loop, until


@oracle
class TestIso8583LinkWithSessionConforms(WithSession):
    """Whatever a link does, it does with sign-on and MACs."""


@oracle
class TestSignOn(Alone):
    """Keys come first."""

    @on_each_loop
    async def test_nothing_but_the_sign_on_leaves_before_there_are_keys(self) -> None:
        async with self.started() as (link, [host], core):
            await until(lambda: len(host.sign_ons) == 1, "signed on")
            message = host.sign_ons[0].message
            assert (message.mti, message.tpdu, message.header) == ("0800", TPDU, HEADER)
            assert message.fields == {11: message.fields[11], 41: TERMINAL, 42: MERCHANT, 60: "00000001003"}
            assert link.endpoints()[0].state is EndpointState.SIGNING_ON
            assert not link.connected
            link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 5_000))
            link.send(Send(2, Purpose.PROBE, Message("0820", {11: "000077", 60: "00000001301"}), 5_000))
            host.connections[0].send(Message("0820", {11: "000001", 60: "00000001301"}, TPDU, HEADER))
            assert (await core.wait(NotSent, 1)).reason == "no endpoint is connected"
            await core.wait(NotSent, 2)
            await until(lambda: link.counters()["unsolicited"] == 1, "the host's echo is not answered either")
            assert connections(core) == []
            assert link.gauges()["endpoints_connected"] == 0
            host.give_keys(host.sign_ons[0])
            await core.wait(Connected)
            link.send(Send(3, Purpose.REQUEST, Message("0200", sale(3)), 5_000))
            (await host.next()).answer()
            assert (await core.wait(Answered, 3)).verified
            assert [m.fields[11] for m in host.received] == ["000003"]
            assert (link.endpoints()[0].sent, link.endpoints()[0].answered, link.endpoints()[0].in_flight) == (1, 1, 0)

    @pytest.mark.parametrize(
        ("reason", "detail", "fields"),
        [
            ("refused", "response code 03", {"code": "03"}),
            ("unusable answer", "field 62 is missing", {"f62": None}),
            ("wrong keys", "check value does not match: mac key", {"spoil": 39}),
            ("wrong keys", "check value does not match: pin key", {"spoil": 0}),
            ("wrong keys", "has 24, 40, 60 bytes, not 8", {"f62": "00" * 8}),
            ("no answer", "within 60 ms", None),
        ],
    )
    @on_each_loop
    async def test_a_failed_sign_on_ends_the_connection_and_pauses_grow(
        self, reason: str, detail: str, fields: dict[str, Any] | None
    ) -> None:
        at_ms: list[int] = []  # when they were sent: when they are read says less on a busy machine

        def answer(exchange: Exchange) -> None:
            at_ms.append(self.signing_on()._sent_ms)
            if fields is None:
                return
            keys = bytearray(self.bank.work_keys())
            if "spoil" in fields:
                keys[fields["spoil"]] ^= 1
            field_62 = fields.get("f62", keys.hex())
            exchange.answer(fields.get("code", "00"), **({"f62": field_62} if field_62 else {}))

        async with self.started(
            on_sign_on=answer, sign_on_timeout_ms=60, reconnect_initial_ms=30, reconnect_max_ms=2_000,
            reconnect_stable_ms=0,  # a sign-on that takes long to fail is no connection that has lasted
        ) as (link, [host], core):  # fmt: skip
            await until(lambda: len(at_ms) >= 4, "several attempts")
            assert at_ms[3] - at_ms[0] >= 30 + 60 + 120 + (3 * 60 if fields is None else 0)
            assert set(reasons(core)) == {reason}
            assert any(detail in facts["detail"] for name, facts in core.reports if name == "link.sign-on-failed")
            assert host.accepted >= 4
            assert len(host.connections) <= 1
            counters = link.counters()
            assert counters["connect_failed"] >= 3
            assert (counters["connected"], counters["signed_on"]) == (0, 0)
            assert counters["sign_on_failed"] >= 3
            assert link.endpoints()[0].last_error == f"sign-on failed: {reason}"
            assert core.events == []
            host.on_sign_on = host.give_keys
            assert (await core.wait(Connected)).connected

    @on_each_loop
    async def test_a_connection_that_breaks_during_the_sign_on_is_made_anew(self) -> None:
        def reset(exchange: Exchange) -> None:
            exchange.connection.reset()

        async with self.started(on_sign_on=reset) as (_, [host], core):
            await until(lambda: len(host.sign_ons) >= 2, "again")
            assert set(reasons(core)) == {"connection lost"}
            host.on_sign_on = host.give_keys
            await core.wait(Connected)
            assert connections(core) == [True]

    @on_each_loop
    async def test_a_late_answer_to_a_sign_on_gives_no_keys(self) -> None:
        async with self.started(sign_on_timeout_ms=200) as (link, [host], core):
            await until(lambda: len(host.sign_ons) == 2, "the second try")
            host.connections[0].send(host.sign_ons[0].reply(f62=self.bank.work_keys().hex()))
            await until(lambda: link.counters()["unmatched_answers"] == 1, "ignored")
            assert core.events == []

    @on_each_loop
    async def test_endpoints_share_one_key_and_sign_on_one_after_the_other(self) -> None:
        async with self.started(hosts=2) as (link, hosts, core):
            await until(lambda: all(host.connections for host in hosts), "both connected")
            await until(lambda: any(host.sign_ons for host in hosts), "one signs on")
            first, second = hosts if hosts[0].sign_ons else reversed(hosts)
            assert (len(first.sign_ons), len(second.sign_ons)) == (1, 0)
            first.sign_ons[0].answer("05")
            await until(lambda: len(second.sign_ons) == 1, "the other's turn")
            second.give_keys(second.sign_ons[0])
            await until(lambda: link.gauges()["endpoints_connected"] == 2, "both usable")
            assert len(self.bank.given) == 1
            assert connections(core) == [True]

    @on_each_loop
    async def test_close_during_a_sign_on_settles_it_in_silence(self) -> None:
        async with self.started(hosts=2) as (link, hosts, core):
            await until(lambda: any(host.sign_ons for host in hosts), "signing on")
            await link.close()
            assert link.gauges()["in_flight"] == 0
            assert reasons(core) == []
            assert link.counters()["sign_ons"] == 1

    @on_each_loop
    async def test_each_outage_ends_with_a_new_sign_on_and_late_answers_pass_under_the_key_before(self) -> None:
        async with self.scene() as s:
            host = self.made[0]
            s.send(1)
            s.send(2)
            exchange = await host.next()
            second = await host.next()
            exchange.connection.reset()
            await s.core.wait(Connected, nth=3)
            assert len(self.bank.given) == 2
            host.reply_under = 0
            host.connections[0].send(exchange.reply())
            await s.core.wait(LateAnswered, 1)
            assert connections(s.core) == [True, False, True]
            host.reply_under = 1
            host.connections[0].send(second.reply())
            await s.core.wait(LateAnswered, 2)

    @on_each_loop
    async def test_one_endpoint_lost_of_two_needs_no_new_key(self) -> None:
        async with self.scene(hosts=2) as s:
            accepted = s.hosts[0].accepted
            s.hosts[0].connections[0].reset()
            await until(lambda: s.hosts[0].accepted > accepted, "back")
            await until(lambda: s.link.gauges()["endpoints_connected"] == 2, "both")
            assert len(self.bank.given) == 1


@oracle
class TestMacs(Alone):
    """Every message carries one, and every answer must."""

    @pytest.mark.parametrize("spoils", [True, False])
    @on_each_loop
    async def test_an_answer_with_a_wrong_mac_or_none_is_not_verified(self, spoils: bool) -> None:
        async with self.scene() as s:
            host = self.made[0]
            host.spoils_macs, host.reply_under = spoils, -1 if spoils else None
            s.send(1)
            (await host.next()).answer(f38="123456")
            answered = await s.core.wait(Answered, 1)
            assert (answered.verified, answered.mti, answered.fields[38]) == (False, "0210", "123456")
            assert s.link.counters()["mac_wrong"] == 1
            assert reasons(s.core, "link.bad-frame") == ["wrong MAC" if spoils else "no MAC"]
            host.spoils_macs, host.reply_under = False, -1
            s.send(2)
            (await host.next()).answer()
            assert (await s.core.wait(Answered, 2)).verified

    @on_each_loop
    async def test_a_mac_covers_every_byte_of_the_answer(self) -> None:
        async with self.scene(sign_on_interval_ms=60_000) as s:
            host = self.made[0]
            s.send(1)
            exchange = await host.next()
            framed = host.framed(exchange.reply())
            amount_at = framed.index(bytes.fromhex("000000001000"))
            exchange.connection.transport.write(framed[: amount_at + 5] + b"\x99" + framed[amount_at + 6 :])
            answered = await s.core.wait(Answered, 1)
            assert (answered.verified, answered.fields[4]) == (False, "000000001099")

    @on_each_loop
    async def test_a_late_answer_with_a_wrong_mac_is_ignored_and_a_right_one_still_counts(self) -> None:
        async with self.scene() as s:
            host = self.made[0]
            s.send(1, timeout_ms=SHORT_MS)
            exchange = await host.next()
            await s.core.wait(TimedOut, 1)
            host.spoils_macs = True
            exchange.answer()
            await until(lambda: s.link.counters()["mac_wrong"] == 1, "ignored")
            assert s.link.counters()["late_answered"] == 0
            host.spoils_macs = False
            exchange.answer()
            await s.core.wait(LateAnswered, 1)

    @on_each_loop
    async def test_echo_tests_carry_no_mac_in_either_direction(self) -> None:
        async with self.scene() as s:
            s.link.send(Send(1, Purpose.PROBE, Message("0820", {11: "000077", 60: "00000001301"}), 5_000))
            exchange = await self.made[0].next()
            exchange.answer(f41="T0000001", f42="M00000000000001")
            assert (await s.core.wait(Answered, 1)).verified
            s.host.connections[0].send(Message("0820", {11: "000001", 60: "00000001301"}, TPDU, HEADER))
            assert 64 not in (await self.made[0].next()).message.fields
            assert self.made[0].received_under == [None, None]

    @on_each_loop
    async def test_a_terminals_mac_never_reaches_the_host(self) -> None:
        async with self.scene() as s:
            s.send(1, f64="0123456789abcdef")
            s.link.send(Send(2, Purpose.PROBE, Message("0820", {11: "000077", 64: "0123456789abcdef"}), 5_000))
            assert (await s.host.next()).message.fields == sale(1)
            assert (await s.host.next()).message.fields == {11: "000077"}
            assert self.made[0].received_under == [0, None]

    @pytest.mark.parametrize(
        ("method", "layout", "mac_key_bytes"),
        [
            (MacMethod.UNIONPAY_ECB, 24, 8),
            (MacMethod.UNIONPAY_ECB, 40, 8),
            (MacMethod.UNIONPAY_ECB, 60, 16),
            (MacMethod.X9_9, 24, 8),
            (MacMethod.X9_9, 40, 8),
            (MacMethod.X9_19, 40, 16),
            (MacMethod.X9_19, 60, 16),
        ],
    )
    @on_each_loop
    async def test_methods_and_kinds_of_work_keys(self, method: MacMethod, layout: int, mac_key_bytes: int) -> None:
        self.dialect = dialect_with("unionpay", mac_method=str(method))
        self.bank.method, self.bank.layout, self.bank.mac_key_bytes = method, layout, mac_key_bytes
        await self.one_sale()

    @pytest.mark.parametrize("base", ["iso87-ascii", "iso87-binary"])
    @on_each_loop
    async def test_other_dialects_have_sessions_too(self, base: str) -> None:
        self.dialect = dialect_with(base, mac_method="x9.19", sign_on_fields={"70": "001"})
        self.bank.method = MacMethod.X9_19
        async with self.scene() as s:
            s.send(1)
            (await s.host.next()).answer()
            assert (await s.core.wait(Answered, 1)).verified
            s.send(2, f90="0" * 42)
            reason = (await s.core.wait(NotSent, 2)).reason
            assert reason == "unencodable: field 90 stands behind the MAC in field 64"

    @on_each_loop
    async def test_a_work_key_that_the_method_does_not_take_is_refused(self) -> None:
        self.dialect = dialect_with("unionpay", mac_method="x9.9")
        async with self.started() as (_, [host], core):
            host.on_sign_on = host.give_keys
            await until(lambda: bool(reasons(core)), "refused")
            assert reasons(core) == ["wrong keys"]

    @on_each_loop
    async def test_a_host_with_a_fixed_key_is_never_signed_on_to(self) -> None:
        self.dialect = dialect_with("unionpay", mac_method="x9.19")
        self.session = HostSession(fixed_key=FIXED_KEY)
        self.bank.method = MacMethod.X9_19
        self.bank.given.append(FIXED_KEY)
        self.bank.secrets.append(FIXED_KEY)
        s = await self.one_sale("A0")
        assert s.link.counters()["sign_ons"] == 0
        async with self.scene() as s:
            s.send(1)
            exchange = await s.host.next()
            exchange.connection.reset()
            await s.core.wait(Connected, nth=3)
            s.host.connections[0].send(exchange.reply())
            await s.core.wait(LateAnswered, 1)

    async def one_sale(self, code: str = "00") -> Scene:
        async with self.scene(sign_on_interval_ms=1) as s:
            s.send(1)
            (await s.host.next()).answer(code)
            assert (await s.core.wait(Answered, 1)).verified
            assert self.made[0].received_under == [0]
            await asyncio.sleep(0.03)
            return s


def test_settings_of_a_session_tell_all_their_mistakes_and_no_key() -> None:
    key = b"\xa5" * 15
    with pytest.raises(ValueError, match=r"master_key must .*; terminal and .*; sign_on_timeout_ms must") as mistakes:
        HostSession(master_key=key, sign_on_timeout_ms=0)
    assert "a5" not in str(mistakes.value)
    for one, other in ((b"", b""), (MASTER_KEY, MASTER_KEY)):
        with pytest.raises(ValueError, match="either master_key or fixed_key"):
            HostSession(terminal="T", merchant="M", master_key=one, fixed_key=other)
    session = HostSession(terminal=TERMINAL, merchant=MERCHANT, master_key=MASTER_KEY)
    assert "master_key" not in repr(session)
    assert "fixed_key" not in repr(session)


@pytest.mark.parametrize(
    ("dialect", "session", "mistake"),
    [
        (load_dialect("iso87-binary"), HostSession(fixed_key=FIXED_KEY), "a session needs a host with a mac_method"),
        (dialect_with("unionpay", mac_method="x9.9"), HostSession(fixed_key=FIXED_KEY), "fixed_key: MAC method x9.9"),
        (UNIONPAY, HostSession(terminal="SHORT", merchant=MERCHANT, master_key=MASTER_KEY), "the sign-on cannot"),
        (
            SHORT_MAC,
            HostSession(fixed_key=FIXED_KEY),
            "field 64 must be of type b",
        ),
    ],
)  # fmt: skip
def test_a_session_that_the_dialect_cannot_have_is_refused(
    dialect: Dialect, session: HostSession, mistake: str
) -> None:
    settings = LinkSettings(name="a", endpoints=(EndpointSettings(host="127.0.0.1", port=1),), session=session,
                            tpdu=TPDU if dialect.tpdu else b"", header=HEADER if dialect.tpdu else b"")  # fmt: skip
    with pytest.raises(ValueError, match=mistake):
        Iso8583Link(settings, dialect, lambda _: None, mono_ms, lambda *_: None)
