"""The link over TLS: a host that cannot prove who it is gets nothing, least of all in clear (D6)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.acquirers.iso8583 import Iso8583Link
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, NotSent
from gateway.tls import Refusal, ReloadableClientContext, TlsClientSettings, client_context
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from tests.acquirers.certificates import CLIENTS, EXPIRED, SERVERS, Authority, Issued, only_tls_1_1
from tests.acquirers.conformance import Core, sale
from tests.acquirers.host import Host
from tests.acquirers.waiting import mono_ms, on_each_loop, until

BINARY = load_dialect("iso87-binary")
NAME = "host.acquirer.example"


@asynccontextmanager
async def _link(port: int, tls: ssl.SSLContext, name: str = NAME) -> AsyncIterator[tuple[Iso8583Link, Core]]:
    core = Core()
    settings = LinkSettings(
        name="acquirer",
        endpoints=(EndpointSettings(host="127.0.0.1", port=port, tls=tls, server_hostname=name),),
        reconnect_initial_ms=10,
        reconnect_max_ms=50,
        reconnect_jitter_ms=5,
        sweep_interval_ms=20,
    )
    link = Iso8583Link(settings, BINARY, core.deliver, mono_ms, core.report)
    await link.start()
    try:
        yield link, core
    finally:
        await link.close()


@asynccontextmanager
async def _host(tls: ssl.SSLContext) -> AsyncIterator[Host]:
    host = Host(BINARY)
    host.tls = tls
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


@asynccontextmanager
async def _tap(seen: bytearray, answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a host that keeps what it sees."""
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Tap(seen, answer), "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await listening.wait_closed()


def _trusting(authority: Authority, shown: Issued | None = None) -> ReloadableClientContext:
    return client_context(
        TlsClientSettings(
            ca_file=authority.ca_file,
            certificate_file=shown.certificate_file if shown else None,
            key_file=shown.key_file if shown else None,
            server_name=NAME,
        )
    )


def _hosts_end(shown: Issued, asks_for: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate_file, shown.key_file)
    if asks_for is not None:
        context.load_verify_locations(asks_for.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Tap(asyncio.Protocol):
    """What a host sees on the wire; it answers as it is told."""

    def __init__(self, seen: bytearray, answer: bytes) -> None:
        self._seen = seen
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._answer:
            self._transport.write(self._answer)  # type: ignore[attr-defined]
        self._transport.close()


def _expired(ca: Authority, _: Authority) -> ssl.SSLContext:
    return _hosts_end(ca.issue("host", dns=[NAME], valid=EXPIRED))


def _another_ca(_: Authority, stranger: Authority) -> ssl.SSLContext:
    return _hosts_end(stranger.issue("host", dns=[NAME]))


def _self_signed(ca: Authority, _: Authority) -> ssl.SSLContext:
    return _hosts_end(ca.self_signed("host", common_name=NAME, dns=[NAME]))


def _another_name(ca: Authority, _: Authority) -> ssl.SSLContext:
    return _hosts_end(ca.issue("host", dns=["other.acquirer.example"]))


def _name_as_common_name_only(ca: Authority, _: Authority) -> ssl.SSLContext:
    return _hosts_end(ca.issue("host", common_name=NAME))


def _a_clients(ca: Authority, _: Authority) -> ssl.SSLContext:
    return _hosts_end(ca.issue("host", dns=[NAME], usage=CLIENTS))


def _tls_1_1(ca: Authority, _: Authority) -> ssl.SSLContext:
    return only_tls_1_1(_hosts_end(ca.issue("host", dns=[NAME])))


REFUSED: dict[Callable[[Authority, Authority], ssl.SSLContext], Refusal] = {
    _another_ca: Refusal.UNTRUSTED,
    _self_signed: Refusal.SELF_SIGNED,
    _expired: Refusal.EXPIRED,
    _another_name: Refusal.WRONG_NAME,
    _name_as_common_name_only: Refusal.WRONG_NAME,
    _a_clients: Refusal.WRONG_PURPOSE,
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__.strip("_"))
@on_each_loop
async def test_a_host_that_cannot_prove_who_it_is_gets_nothing(
    tmp_path: Path, make: Callable[[Authority, Authority], ssl.SSLContext]
) -> None:
    ca = Authority(tmp_path)
    async with (
        _host(make(ca, Authority(tmp_path, "stranger"))) as host,
        _link(host.port, _trusting(ca)) as (link, core),
    ):
        await _not_sent(link, core, f"tls: {REFUSED[make].text}")
        assert host.received == []


@on_each_loop
async def test_a_host_of_tls_1_1_gets_nothing(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    seen = bytearray()
    async with _tap(seen, b"", _tls_1_1(ca, ca)) as port, _link(port, _trusting(ca)) as (link, core):
        await until(lambda: link.counters()["connect_failed"] >= 1, "tried")
        link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 5_000))
        await core.wait(NotSent, 1)
        assert seen == b""


ANSWERS = {
    "hangs up": (b"", ""),
    "tells its version": (bytes.fromhex("15030100020246"), f"tls: {Refusal.OLD_PROTOCOL.text}"),
    "speaks plain text": (b"0084ISO0210 not TLS at all", f"tls: {Refusal.PLAIN_TEXT.text}"),
}


@pytest.mark.parametrize("what", ANSWERS)
@on_each_loop
async def test_nothing_is_ever_sent_in_clear_to_a_host_that_does_not_shake_hands(tmp_path: Path, what: str) -> None:
    answer, told = ANSWERS[what]
    seen = bytearray()
    async with _tap(seen, answer) as port, _link(port, _trusting(Authority(tmp_path))) as (link, core):
        await _not_sent(link, core, told)
        await until(lambda: link.counters()["connect_failed"] >= 3, "tried again")
    assert seen[:2] == b"\x16\x03"  # a TLS handshake record
    assert b"T0000001" not in seen


async def _not_sent(link: Iso8583Link, core: Core, told: str) -> None:
    await until(lambda: link.counters()["connect_failed"] >= 1, "tried")
    link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 5_000))
    assert (await core.wait(NotSent, 1)).reason == "no endpoint is connected"
    assert link.counters()["connected"] == 0
    assert link.endpoints()[0].last_error.startswith(told)
    name, facts = core.reports[0]
    assert name == "link.connect-failed"
    assert facts["reason"].startswith(told)
    assert facts["endpoint"].startswith("127.0.0.1:")


@on_each_loop
async def test_a_host_that_asks_for_a_certificate_is_shown_ours_and_after_a_reload_the_new_one(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    shown = ca.issue("gateway", common_name="gateway 1", usage=CLIENTS)
    tls = _trusting(ca, shown)
    hosts_end = _hosts_end(ca.issue("host", dns=[NAME], usage=SERVERS), asks_for=ca)
    async with _host(hosts_end) as host, _link(host.port, tls) as (link, core):
        for token, name in ((1, "gateway 1"), (2, "gateway 2")):
            await until(lambda: link.connected, "connected")
            link.send(Send(token, Purpose.REQUEST, Message("0200", sale(token)), 5_000))
            exchange = await host.next()
            assert exchange.connection.transport.get_extra_info("peercert")["subject"] == ((("commonName", name),),)
            shown.replace(ca.issue("renewed", common_name="gateway 2", usage=CLIENTS))
            assert tls.reload(force=True)
            exchange.answer()
            await core.wait(Answered, token)  # over the connection that was there before the reload
            exchange.connection.transport.abort()
            await until(lambda: not link.connected, "lost")


@on_each_loop
async def test_a_host_that_refuses_our_certificate_is_told_of(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    hosts_end = _hosts_end(ca.issue("host", dns=[NAME]), asks_for=ca)
    hosts_end.maximum_version = ssl.TLSVersion.TLSv1_2  # with TLS 1.3 our end is through before it hears of the refusal
    async with _host(hosts_end) as host, _link(host.port, _trusting(ca)) as (link, core):
        await until(lambda: link.counters()["connect_failed"] >= 1, "tried")
        assert link.counters()["connected"] == 0
        link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 5_000))
        await core.wait(NotSent, 1)
        assert host.received == []


@on_each_loop
async def test_an_address_is_a_name_as_well(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    async with (
        _host(_hosts_end(ca.issue("host", dns=[NAME]))) as host,
        _link(host.port, _trusting(ca), name="127.0.0.1") as (link, core),
    ):
        await _not_sent(link, core, f"tls: {Refusal.WRONG_NAME.text}")
