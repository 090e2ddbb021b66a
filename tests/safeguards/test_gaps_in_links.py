"""Checks of the links that nobody had, until a safeguard was taken away and nothing noticed."""

from __future__ import annotations

from gateway.core.events import Answered, Connected, LateAnswered, TimedOut
from tests.acquirers import test_iso8583
from tests.acquirers.conformance import SHORT_MS
from tests.acquirers.waiting import on_each_loop, until


@on_each_loop
async def test_a_line_on_which_nothing_is_heard_is_made_anew() -> None:
    """A line may be dead without either end knowing; what is said on it is answered by nobody (D6)."""
    async with test_iso8583.TestIso8583LinkConforms().scene(unheard_max=3) as s:
        for token in (1, 2):
            s.send(token, timeout_ms=SHORT_MS)
        await s.core.wait(TimedOut, 2)
        s.send(3)
        for _ in range(3):
            exchange = await s.host.next()
        exchange.answer()
        await s.core.wait(Answered, 3)
        for token in (4, 5):
            s.send(token, timeout_ms=SHORT_MS)
        await s.core.wait(TimedOut, 5)
        assert s.host.accepted == 1, "one that is heard in between is kept"
        s.send(6, timeout_ms=SHORT_MS)
        await s.core.wait(TimedOut, 6)
        await s.core.wait(Connected, nth=3)
        assert any(facts.get("reason") == "silent" for _, facts in s.core.reports)
        s.send(7)
        for _ in range(4):
            exchange = await s.host.next()
        exchange.answer()
        await s.core.wait(Answered, 7)


@on_each_loop
async def test_a_line_that_is_mute_after_a_break_with_many_in_flight_is_made_anew() -> None:
    """What a break left in doubt must not hide that nothing is heard on the next line either."""
    async with test_iso8583.TestIso8583LinkConforms().scene(unheard_max=3) as s:
        for token in range(1, 6):
            s.send(token)
        for _ in range(5):
            exchange = await s.host.next()
        exchange.connection.reset()
        await s.core.wait(TimedOut, 5)
        await s.core.wait(Connected, nth=3)
        assert s.host.accepted == 2
        for token in (6, 7, 8):
            s.send(token, timeout_ms=SHORT_MS)
        await s.core.wait(TimedOut, 8)
        await s.core.wait(Connected, nth=5)
        assert any(facts.get("reason") == "silent" for _, facts in s.core.reports)
        s.send(9)
        for _ in range(4):
            exchange = await s.host.next()
        exchange.answer()
        await s.core.wait(Answered, 9)


@on_each_loop
async def test_of_two_endpoints_one_that_is_mute_after_a_break_is_passed_over_until_anything_is_heard_of_it() -> None:
    """It may accept connections again while nothing behind it answers."""
    async with test_iso8583.TestIso8583LinkConforms().scene(hosts=2, unheard_max=3) as s:
        for token in range(1, 5):
            s.send(token)
        for _ in range(4):
            exchange = await s.hosts[0].next()
        exchange.connection.reset()
        await s.core.wait(TimedOut, 4)
        await until(lambda: s.link.gauges()["endpoints_connected"] == 2, "connected again")
        for token in (5, 6, 7):
            s.send(token, timeout_ms=SHORT_MS)
        await s.core.wait(TimedOut, 7)
        mute = [await s.hosts[0].next() for _ in range(3)]
        s.send(8)
        (await s.hosts[1].next()).answer()
        await s.core.wait(Answered, 8)
        await until(lambda: s.link.gauges()["endpoints_connected"] == 2, "its new line is there")
        s.hosts[0].connections[0].send(mute[0].reply())
        await s.core.wait(LateAnswered, 5)
        s.send(9)
        (await s.hosts[0].next()).answer()
        await s.core.wait(Answered, 9)
