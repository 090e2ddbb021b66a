"""The HTTP link: the conformance suite, and what is its own."""

from __future__ import annotations

import tomllib
from typing import Any, cast

from gateway.acquirers.http import HttpLink
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.mapping import HttpMapping
from gateway.acquirers.mapping_file import mapping_of
from gateway.acquirers.settings import EndpointSettings
from gateway.core.events import Answered, Connected, TimedOut
from tests.acquirers.conformance import SHORT_MS, Core, LinkConformance
from tests.acquirers.host import Host
from tests.acquirers.http_host import MAPPING, HttpHost
from tests.acquirers.waiting import mono_ms, on_each_loop, until

QUICK = {"reconnect_initial_ms": 10, "reconnect_max_ms": 50, "reconnect_jitter_ms": 5, "sweep_interval_ms": 20}
UTC_MS = 1_795_000_000_000
DIALLED_MS = 5 * SHORT_MS  # within it a connection is made, on a busy machine too


def mapping(text: str = MAPPING) -> HttpMapping:
    return mapping_of("test.toml", tomllib.loads(text))


class TestHttpLinkConforms(LinkConformance):
    """Two tests of the suite say what HTTP cannot do, and are said here for HTTP in their place."""

    short_ms = DIALLED_MS

    def link(self, ports: list[int], core: Core, **settings: int) -> HttpLink:
        settings.pop("write_buffer_low_bytes", None)  # the bound on what a slow host leaves unread is on requests here
        if "write_buffer_high_bytes" in settings:
            settings["in_flight_bytes_max"] = settings.pop("write_buffer_high_bytes")
        return HttpLink(
            HttpLinkSettings(
                name="acquirer",
                endpoints=tuple(EndpointSettings(host="127.0.0.1", port=port) for port in ports),
                **cast("Any", {**QUICK, **settings}),
            ),
            mapping(),
            core.deliver,
            mono_ms,
            lambda: UTC_MS,
            core.report,
        )

    def host(self) -> Host:
        return cast("Host", HttpHost())

    @on_each_loop
    async def test_an_answer_that_nobody_awaits_is_counted_and_told_once_a_second(self) -> None:
        """Over HTTP an answer that names another payment has taken the place of the right one: in doubt."""
        async with self.scene() as s:
            began_ms = mono_ms()
            for token in range(1, 51):
                s.send(token)
            for _ in range(50):
                (await s.host.next()).answer(f11="999999")
            for token in range(1, 51):
                await s.core.wait(TimedOut, token)
                assert [type(e) for e in s.core.of(token)] == [TimedOut]
            assert s.link.counters()["unmatched_answers"] == 50
            told = sum("not the message's" in facts["reason"] for _, facts in s.core.reports)
            assert told <= 2 + (mono_ms() - began_ms) // 1_000

    @on_each_loop
    async def test_the_answer_may_come_late_over_the_next_connection(self) -> None:
        """Over HTTP it cannot: what the next connection brings is the next payment's alone."""
        async with self.scene() as s:
            s.send(1, timeout_ms=2 * DIALLED_MS)
            (await s.host.next()).connection.reset()
            await s.core.wait(TimedOut, 1)
            await s.core.wait(Connected, nth=3)
            s.send(2)
            (await s.host.next()).answer()
            await s.core.wait(Answered, 2)
            await until(lambda: s.link.gauges()["late_awaited"] == 0, "nothing waited for any more")
            assert [type(e) for e in s.core.of(1)] == [TimedOut]
