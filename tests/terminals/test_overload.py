"""Too much at once: what is refused first, what last, and what is never told that nothing was stored (INV-9)."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from gateway.core.fingerprint import KeyedHash
from gateway.terminals.asked import Asked
from gateway.terminals.http import HttpListener
from gateway.terminals.http_admission import InFlight, Share
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.limits import ListenerSettings
from gateway.terminals.turns import Turns
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import TerminalRules
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.http_shop import HttpShop
from tests.terminals.terminal import Shop, sale, shop

BINARY = load_dialect("iso87-binary")


@asynccontextmanager
async def waiting_shop(**settings: int) -> AsyncIterator[WaitingShop]:
    """A started listener whose journal lets wait."""
    made = WaitingShop(replace(ListenerSettings(sweep_interval_ms=20), **settings))  # type: ignore[arg-type]
    made.address = await made.listener.start()
    try:
        yield made
    finally:
        await made.listener.close()


class WaitingShop(Shop):
    """A listener that is told how long its journal lets wait."""

    def __init__(self, settings: ListenerSettings) -> None:
        super().__init__(BINARY, settings)
        self.wait_ms = 0
        self.listener = Iso8583Listener(
            settings, BINARY, KeyedHash(bytes(32)), self._submit, lambda: self.utc_ms, self._report,
            journal_wait_ms=lambda: self.wait_ms,
        )  # fmt: skip


def message(mti: str, stan: int, **more: str) -> Message:
    """A message of another type with a sale's fields."""
    made = sale(BINARY, stan, **more)
    return Message(mti, made.fields, made.tpdu, made.header)


@on_each_loop
async def test_while_the_journal_lets_wait_too_long_a_new_request_is_96_and_not_submitted() -> None:
    async with waiting_shop(journal_wait_ms_max=500) as s, await s.terminal() as terminal:
        s.wait_ms = 501
        terminal.send(sale(BINARY, 1), message("0100", 2))
        assert [(m.fields[11], m.fields[39]) for m in [await terminal.receive() for _ in range(2)]] == [
            ("000001", "96"),
            ("000002", "96"),
        ]
        assert s.requested == []
        assert s.listener.counters()["answered_overload"] == 2
        s.wait_ms = 500
        terminal.send(sale(BINARY, 1))  # a refusal is not an outcome: the same sale is taken when there is room
        assert (await terminal.receive()).fields[39] == "00"
        await until(lambda: any(name == "terminal.overload" for name, _ in s.reports), "an operator hears of it")
        assert [facts["refused"] for name, facts in s.reports if name == "terminal.overload"] == ["2"]


@on_each_loop
async def test_advices_and_reversals_are_taken_while_new_requests_are_refused() -> None:
    async with waiting_shop() as s, await s.terminal() as terminal:
        s.wait_ms = 10**6
        terminal.send(message("0220", 1), sale(BINARY, 2), message("0400", 3), message("0420", 4))
        answers = {m.fields[11]: m.fields[39] for m in [await terminal.receive() for _ in range(4)]}
        assert answers == {"000001": "00", "000002": "96", "000003": "00", "000004": "00"}


@on_each_loop
async def test_the_last_tenth_of_what_can_be_under_way_is_for_what_is_refused_last() -> None:
    async with shop(BINARY, in_flight_max=10) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(*(sale(BINARY, stan) for stan in range(1, 11)))
        assert (await terminal.receive()).fields[11] == "000010"
        terminal.send(message("0400", 11), message("0400", 12))
        refused = await terminal.receive()
        assert (refused.fields[11], refused.fields[39]) == ("000012", "96")
        assert [r.request.stan for r in s.requested] == [f"{stan:06}" for stan in (*range(1, 10), 11)]
        for requested in s.requested:
            s.approve(requested)


@on_each_loop
async def test_a_retry_is_let_in_where_a_new_request_is_refused() -> None:
    """Its first send may be approved already: 96 would say that nothing was stored (D3, D11)."""
    async with waiting_shop() as s, await s.terminal() as terminal:
        terminal.send(sale(BINARY, 1))
        assert (await terminal.receive()).fields[39] == "00"
        s.wait_ms = 10**6
        terminal.send(sale(BINARY, 1))
        assert (await terminal.receive()).fields[39] == "00"
        terminal.send(message("0201", 7))  # a repeat, by its own word
        assert (await terminal.receive()).fields[39] == "00"
        terminal.send(sale(BINARY, 1, f41="T0000002"))  # another terminal's
        assert (await terminal.receive()).fields[39] == "96"


@on_each_loop
async def test_a_retry_without_any_place_left_is_not_told_that_nothing_was_stored() -> None:
    async with shop(BINARY, in_flight_max=1) as s, await s.terminal() as terminal, await s.terminal() as other:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.submitted(1)
        terminal.send(sale(BINARY, 1))
        await s.counted("retries_left_unanswered")
        other.send(sale(BINARY, 2))
        assert (await other.receive()).fields[39] == "96"
        s.approve(s.requested[0])
        answer = await terminal.receive()
        assert (answer.fields[11], answer.fields[39]) == ("000001", "00"), (
            "the first answer that it hears is the outcome"
        )


@on_each_loop
async def test_a_retry_to_a_gateway_that_stops_is_not_told_that_nothing_was_stored() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.submitted(1)
        s.listener.stop_admitting()
        terminal.send(sale(BINARY, 1), sale(BINARY, 2))
        answer = await terminal.receive()
        assert (answer.fields[11], answer.fields[39]) == ("000002", "96")
        assert s.listener.counters()["retries_left_unanswered"] == 1
        s.approve(s.requested[0])
        assert (await terminal.receive()).fields[39] == "00"


@on_each_loop
async def test_what_the_system_keeps_unread_of_a_connection_is_bounded() -> None:
    """Else each connection that is not read from holds megabytes outside of the process, whatever its limits say."""
    settings = {"in_flight_per_connection_high": 1, "in_flight_per_connection_low": 0, "receive_buffer_bytes": 8192}
    async with shop(BINARY, None, **settings) as s:
        s.approves = False
        with socket.create_connection(s.address) as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            greedy.setblocking(False)
            framed = BINARY.framing.wrap(BINARY.codec.encode(sale(BINARY, 1)))
            taken = 0
            for _ in range(200):
                try:
                    taken += greedy.send(framed * 100)
                except BlockingIOError:
                    await asyncio.sleep(0.005)  # the peer reads as long as it reads at all
            assert taken < 400_000
            assert len(s.requested) == 1


@on_each_loop
async def test_a_flood_takes_a_bounded_part_of_each_turn() -> None:
    """Two hundred connections with eight messages each: the loop turns many times before all of them are taken."""
    async with shop(BINARY, taking_ms_per_turn_max=1) as s:
        crowd = [await s.terminal() for _ in range(200)]
        for number, terminal in enumerate(crowd):
            terminal.send(*(sale(BINARY, 8 * number + stan) for stan in range(8)))
        grown, before = [], 0
        while len(s.requested) < 1600:
            await asyncio.sleep(0)
            grown.append(len(s.requested) - before)
            before = len(s.requested)
        assert max(grown) < 400, "at most two turns lie between two looks"
        for terminal in crowd:
            assert [(await terminal.receive()).fields[39] for _ in range(8)] == ["00"] * 8
            await terminal.close()


def test_in_a_turn_without_time_those_who_came_first_go_on_first() -> None:
    async def play() -> None:
        turns, went = Turns(taking_ms_max=1), []

        class Waiting:
            def __init__(self, name: str) -> None:
                self.name = name

            def go_on(self) -> None:
                went.append((self.name, turns.may_take(self)))

        first, second, gone = Waiting("first"), Waiting("second"), Waiting("gone")
        assert turns.may_take(Waiting("eager"))
        deadline = asyncio.get_running_loop().time() + 5
        while turns.may_take(first):  # until the turn's time is over
            assert asyncio.get_running_loop().time() < deadline
        assert not turns.may_take(gone)
        assert not turns.may_take(second)
        assert not turns.may_take(first), "whoever stands in line keeps the place"
        turns.leave(gone)
        await until(lambda: len(went) == 2, "both have gone on")
        assert went == [("first", True), ("second", True)]

    asyncio.run(play())


# --- what was asked lately -------------------------------------------------------------------------------------------


def test_whatever_was_asked_within_a_generation_is_seen_and_forgotten_after_two() -> None:
    asked = Asked(generation_ms=1_000)
    for number in range(5_000):
        asked.add(("02", "T0000001", number), 0)
    assert all(asked.seen(("02", "T0000001", number)) for number in range(5_000))
    asked.add("later", 1_000)
    assert all(asked.seen(("02", "T0000001", number)) for number in range(5_000))
    asked.add("much later", 2_000)
    assert asked.seen("later")
    assert not any(asked.seen(("02", "T0000001", number)) for number in range(100))


def test_few_of_a_hundred_thousand_others_are_taken_for_known() -> None:
    asked = Asked()
    for number in range(100_000):
        asked.add(("known", number), 0)
    assert sum(asked.seen(("other", number)) for number in range(100_000)) < 1_000


# --- over HTTP -------------------------------------------------------------------------------------------------------


class WaitingHttpShop(HttpShop):
    """A listener that is told how long its journal lets wait."""

    def __init__(self, settings: HttpListenerSettings, rules: TerminalRules) -> None:
        super().__init__(settings, rules, None)
        self.wait_ms = 0
        self.listener = HttpListener(
            settings, rules, KeyedHash(bytes(32)), self.core.submit, self.core.find, self.core.search,
            lambda: self.mode, lambda: self.utc_ms, self._report, journal_wait_ms=lambda: self.wait_ms,
        )  # fmt: skip


@asynccontextmanager
async def waiting_http_shop(**settings: int) -> AsyncIterator[WaitingHttpShop]:
    """The same over HTTP."""
    chosen = replace(HttpListenerSettings(allow_unauthenticated=True), **settings)  # type: ignore[arg-type]
    made = WaitingHttpShop(chosen, load_dialect("unionpay").terminal)
    made.address = await made.listener.start()
    made.session = aiohttp.ClientSession()
    try:
        yield made
    finally:
        await made.session.close()
        await made.listener.close()


@on_each_loop
async def test_over_http_it_is_503_with_a_time_to_come_again_and_nothing_is_submitted() -> None:
    async with waiting_http_shop(journal_wait_ms_max=500) as s:
        s.wait_ms = 3_000
        told = [await s.sell(key="mine", stan="000001") for _ in range(4)]
        assert {(each.status, each.problem) for each in told} == {(503, "overloaded")}
        assert sorted(int(each.headers["Retry-After"]) for each in told) == [4, 5, 6, 7], "not all at the same time"
        assert s.core.requested == []
        assert (await s.sell(type="advice", stan="000002")).status == 200
        s.wait_ms = 500
        assert (await s.sell(key="mine", stan="000001")).status == 200


@on_each_loop
async def test_over_http_a_retry_is_let_in_and_a_retry_without_a_place_is_told_to_ask_again() -> None:
    async with waiting_http_shop(in_flight_max=1) as s:
        assert (await s.sell(key="mine", stan="000001")).status == 200
        s.wait_ms = 10**6
        assert (await s.sell(key="mine", stan="000001")).status == 200
        s.wait_ms = 0
        s.core.holds = True
        asking = asyncio.ensure_future(s.sell(key="other", stan="000002"))
        await until(lambda: len(s.core.running) == 1, "one under way")
        told = await s.sell(key="mine", stan="000001")
        assert (told.status, told.problem) == (409, "in-progress")
        assert (await s.sell(key="third", stan="000003")).status == 503
        for request in list(s.core.requested):
            if request.key in s.core.running:
                s.core.decide(request.key)
        assert (await asking).status == 200


def test_over_http_the_last_tenth_of_the_places_is_for_what_is_refused_last() -> None:
    places = InFlight(total_max=10, per_terminal_max=10)
    names = (f"T{number:07}" for number in itertools.count())
    for _ in range(9):
        assert places.enter(next(names), new=True) is None
    assert places.enter(next(names), new=True) is Share.FULL
    assert places.enter(next(names)) is None
    assert places.enter(next(names)) is Share.FULL


@pytest.mark.parametrize("name", ["journal_wait_ms_max", "receive_buffer_bytes", "taking_ms_per_turn_max"])
def test_a_limit_of_nothing_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        replace(ListenerSettings(), **{name: 0})  # type: ignore[arg-type]
