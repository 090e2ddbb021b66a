"""Checks of the links that nobody had, until a safeguard was taken away and nothing noticed."""

from __future__ import annotations

from gateway.core.events import Answered, Connected, TimedOut
from tests.acquirers import test_iso8583
from tests.acquirers.conformance import SHORT_MS
from tests.acquirers.waiting import on_each_loop


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
