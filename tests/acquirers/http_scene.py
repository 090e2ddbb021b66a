"""A link to HTTP hosts, with its core, for a test; what it settles, it settles once."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from gateway.acquirers.http import HttpLink
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.port import EndpointState
from gateway.acquirers.settings import EndpointSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, NotSent, TimedOut
from gateway.tls import TlsClientSettings, client_context
from protocol.iso8583.message import Message
from tests.acquirers.certificates import Authority
from tests.acquirers.conformance import LONG_MS, Core, sale
from tests.acquirers.http_host import MAPPING, HttpHost
from tests.acquirers.test_http import QUICK, UTC_MS, mapping
from tests.acquirers.waiting import mono_ms, until

NAME = "host.acquirer.example"


class Scene:
    """A link, its HTTP hosts and its core."""

    def __init__(self, link: HttpLink, hosts: list[HttpHost], core: Core) -> None:
        self.link, self.hosts, self.host, self.core = link, hosts, hosts[0], core

    def send(self, token: int, purpose: Purpose = Purpose.REQUEST, mti: str = "0200", **more: Any) -> None:
        timeout_ms = more.pop("timeout_ms", LONG_MS)
        self.link.send(Send(token, purpose, Message(mti, sale(token, **more)), timeout_ms))

    def probe(self, token: int) -> None:
        self.link.send(Send(token, Purpose.PROBE, Message("0800", {11: f"{token:06}", 70: "301"}), LONG_MS))


@asynccontextmanager
async def scene(
    *, hosts: int = 1, text: str = MAPPING, tls: Any = None, host_tls: Any = None, **settings: Any
) -> AsyncIterator[Scene]:
    made = [HttpHost() for _ in range(hosts)]
    for host in made:
        host.tls = host_tls
    endpoints = tuple(
        [
            EndpointSettings(
                host="127.0.0.1", port=await host.start(), tls=tls, server_hostname=NAME if tls is not None else None
            )
            for host in made
        ]
    )
    core = Core()
    link = HttpLink(
        HttpLinkSettings(name="acquirer", endpoints=endpoints, **cast("Any", {**QUICK, **settings})),
        mapping(text), core.deliver, mono_ms, lambda: UTC_MS, core.report,
    )  # fmt: skip
    await link.start()
    try:
        await until(lambda: all(e.state is EndpointState.CONNECTED for e in link.endpoints()), "connected")
        yield Scene(link, made, core)
    finally:
        await link.close()
        for host in made:
            await host.stop()
        settled = [e.token for e in core.events if isinstance(e, Answered | TimedOut | NotSent)]
        assert len(settled) == len(set(settled))
        assert link.gauges()["in_flight"] == link.gauges()["late_awaited"] == 0


def tls_ends(folder: Path, *, trusted: bool) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    shown = (authority if trusted else stranger).issue("host", dns=[NAME])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate_file, shown.key_file)
    return context, client_context(TlsClientSettings(ca_file=authority.ca_file, server_name=NAME))
