"""A link with a session and its hosts, for tests; what they have told is searched for keys after each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.acquirers.iso8583 import Iso8583Link
from gateway.acquirers.session import HostSession
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.acquirers.signing_on import SigningOn
from gateway.core.events import Connected
from protocol.iso8583.dialect import Dialect, dialect_of, load_dialect
from tests.acquirers.conformance import Core, LinkConformance
from tests.acquirers.host import Exchange
from tests.acquirers.session_host import MASTER_KEY, MERCHANT, TERMINAL, Bank, SessionHost
from tests.acquirers.waiting import mono_ms

TPDU = bytes.fromhex("6000030000")
HEADER = bytes.fromhex("603100311234")
ASKING_HEADER = bytes.fromhex("603103311234")  # its sixth digit asks for a sign-on
UNIONPAY = load_dialect("unionpay")
QUICK = {"reconnect_initial_ms": 10, "reconnect_max_ms": 50, "reconnect_jitter_ms": 5, "sweep_interval_ms": 10}
FIXED_KEY = bytes(range(16))
_FIELD_64 = {"name": "MAC", "type": "b", "length": 4}
SHORT_MAC = dialect_of("short", {"extends": "unionpay", "name": "short", "fields": {"64": _FIELD_64}})


def dialect_with(base: str, **host: Any) -> Dialect:
    """A shipped dialect with other habits of the host."""
    return dialect_of("test", {"extends": base, "name": base, "host": host})


class WithSession(LinkConformance):
    """A link that signs on, its hosts, and the search for keys in whatever they have told."""

    dialect = UNIONPAY
    session = HostSession(terminal=TERMINAL, merchant=MERCHANT, master_key=MASTER_KEY)

    @pytest.fixture(autouse=True)
    def _bank(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        self.bank = Bank()
        self.made: list[SessionHost] = []
        self.links: list[tuple[Iso8583Link, LinkSettings, Core]] = []
        yield
        told = caplog.text
        for link, settings, core in self.links:
            told += repr((settings, link.counters(), link.endpoints(), core.reports, core.events, link._session))
        for secret in self.bank.secrets:
            assert secret.hex() not in told.lower()
            assert repr(secret)[2:-1] not in told

    @pytest.fixture(autouse=True)
    def _right_macs(self, _bank: None) -> Iterator[None]:
        yield
        assert [fault for host in self.made for fault in host.mac_faults] == []

    def link(self, ports: list[int], core: Core, **settings: int) -> Iso8583Link:
        own = {"sign_on_timeout_ms", "sign_on_interval_ms", "previous_key_ms"}
        of_session: dict[str, Any] = {n: v for n, v in settings.items() if n in own}
        made = LinkSettings(
            name="acquirer",
            endpoints=tuple(EndpointSettings(host="127.0.0.1", port=port) for port in ports),
            tpdu=TPDU if self.dialect.tpdu else b"",
            header=HEADER if self.dialect.tpdu else b"",
            session=replace(self.session, **of_session),
            **{**QUICK, **{n: v for n, v in settings.items() if n not in own}},
        )
        link = Iso8583Link(made, self.dialect, core.deliver, mono_ms, core.report)
        self.links.append((link, made, core))
        return link

    def host(self) -> SessionHost:
        made = SessionHost(self.dialect, self.bank)
        self.made.append(made)
        return made

    def signing_on(self) -> SigningOn:
        """How the newest link signs on."""
        signing_on = self.links[-1][0]._signing_on
        assert signing_on is not None
        return signing_on

    @asynccontextmanager
    async def started(
        self, hosts: int = 1, on_sign_on: Callable[[Exchange], None] = lambda _: None, **settings: int
    ) -> AsyncIterator[tuple[Iso8583Link, list[SessionHost], Core]]:
        """As `scene`, without a wait for the keys."""
        core = Core()
        made = [self.host() for _ in range(hosts)]
        for host in made:
            host.on_sign_on = on_sign_on
        link = self.link([await host.start() for host in made], core, **settings)
        await link.start()
        try:
            yield link, made, core
        finally:
            await link.close()
            for host in made:
                await host.stop()


def reasons(core: Core, name: str = "link.sign-on-failed") -> list[str]:
    return [facts["reason"] for told, facts in core.reports if told == name]


def connections(core: Core) -> list[bool]:
    return [event.connected for event in core.events if isinstance(event, Connected)]


oracle = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


class Alone(WithSession):
    """The set-up without the suite."""


for _name in [name for name in dir(LinkConformance) if name.startswith("test_")]:
    setattr(Alone, _name, None)
