"""Too much at once: what is refused first, what last, and what is never told that nothing was stored (INV-9)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from gateway.core.fingerprint import KeyedHash
from gateway.terminals.asked import GENERATION_MS, Asked
from gateway.terminals.http import HttpListener
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.limits import ListenerSettings
from gateway.terminals.reserve import Reserve
from gateway.terminals.turns import Together, Turns
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import TerminalRules
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.http_shop import HttpShop
from tests.terminals.http_shop import sale as http_sale
from tests.terminals.terminal import Shop, sale, shop, since_long

BINARY = load_dialect("iso87-binary")


@asynccontextmanager
async def waiting_shop(asked: Asked | None = None, **settings: int) -> AsyncIterator[WaitingShop]:
    """A started listener whose journal lets wait; `asked` in place of what it remembers."""
    made = WaitingShop(replace(ListenerSettings(sweep_interval_ms=20), **settings), asked)  # type: ignore[arg-type]
    made.address = await made.listener.start()
    try:
        yield made
    finally:
        await made.listener.close()


class WaitingShop(Shop):
    """A listener that is told how long its journal lets wait, and whether the acquirer has room."""

    def __init__(self, settings: ListenerSettings, asked: Asked | None) -> None:
        super().__init__(BINARY, settings)
        self.wait_ms = 0
        self.acquirer_full = False
        self.listener = Iso8583Listener(
            settings, BINARY, KeyedHash(bytes(32)), self._submit, lambda: self.utc_ms, self._report,
            journal_wait_ms=lambda: self.wait_ms, acquirer_full=lambda: self.acquirer_full,
            asked=asked if asked is not None else since_long(),
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
async def test_while_an_acquirer_that_answers_has_no_room_new_requests_are_refused_and_nothing_else() -> None:
    """It would be stood in for: whoever sends enough at once would be approved without being asked for."""
    async with waiting_shop() as s, await s.terminal() as terminal:
        terminal.send(sale(BINARY, 1))
        assert (await terminal.receive()).fields[39] == "00"
        s.acquirer_full = True
        terminal.send(sale(BINARY, 1), message("0220", 2), sale(BINARY, 3), message("0400", 4))
        answers = {m.fields[11]: m.fields[39] for m in [await terminal.receive() for _ in range(4)]}
        assert answers == {"000001": "00", "000002": "00", "000003": "96", "000004": "00"}
        assert s.listener.counters()["refused_acquirer_full"] == 1
        await until(lambda: any(name == "terminal.overload" for name, _ in s.reports), "an operator hears of it")
        assert [facts["acquirer_full"] for name, facts in s.reports if name == "terminal.overload"] == ["1"]
        s.acquirer_full = False
        terminal.send(sale(BINARY, 3))
        assert (await terminal.receive()).fields[39] == "00"


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
        terminal.send(message("0201", 1))
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
        answer = await terminal.receive()
        assert (answer.fields[11], answer.fields[39]) == ("000001", "09")
        other.send(sale(BINARY, 2))
        assert (await other.receive()).fields[39] == "96"
        s.approve(s.requested[0])
        answer = await terminal.receive()
        assert (answer.fields[11], answer.fields[39]) == ("000001", "00")
        assert s.listener.counters()["answered_in_progress"] == 1


@on_each_loop
async def test_a_retry_to_a_gateway_that_stops_is_not_told_that_nothing_was_stored() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.submitted(1)
        s.listener.stop_admitting()
        terminal.send(sale(BINARY, 1), sale(BINARY, 2))
        answers = [await terminal.receive() for _ in range(2)]
        assert [(m.fields[11], m.fields[39]) for m in answers] == [("000001", "09"), ("000002", "96")]
        assert s.listener.counters()["answered_in_progress"] == 1
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


@pytest.mark.interpreted
@on_each_loop
async def test_who_stands_in_line_does_not_ask_in_each_turn_and_is_served_when_called() -> None:
    """Hundreds of connections that asked in each turn took the time in which they could have been served."""
    asked: list[Any] = []

    def nobody(_: Turns, who: Any) -> bool:
        asked.append(who)
        return False

    async with shop(BINARY) as s, await s.terminal() as terminal:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Turns, "may_take", nobody)
            terminal.send(*(sale(BINARY, stan) for stan in range(1, 4)))
            await until(lambda: bool(asked), "the connection has asked once")
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(asked) == 1
        asked[0].go_on()
        assert {(await terminal.receive()).fields[11] for _ in range(3)} == {"000001", "000002", "000003"}


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


def test_all_that_have_something_to_do_are_called_once_in_the_next_turn_even_after_one_that_raises() -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        raised: list[object] = []
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
        together, called, turn = Together(), [], 0

        class Connection:
            def __init__(self, name: str) -> None:
                self.name = name

            def turn(self) -> None:
                called.append((turn, self.name))
                if self.name == "again" and called.count((turn, self.name)) == 1 and turn == 1:
                    together.add(self)
                if self.name == "bad":
                    raise ArithmeticError

        for name in ("again", "bad", "third", "fourth"):
            together.add(Connection(name))
        assert called == [], "not in this turn"
        for _ in range(4):
            turn += 1
            await asyncio.sleep(0)
        assert called[:2] == [(1, "again"), (1, "bad")]
        assert called[2:] == [(2, "third"), (2, "fourth"), (2, "again")]
        assert [type(each) for each in raised] == [ArithmeticError]

    asyncio.run(play())


def test_those_that_wait_can_be_called_at_once_and_one_that_raises_is_no_concern_of_the_caller() -> None:
    async def play() -> None:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
        together, called = Together(), []

        class Connection:
            def __init__(self, name: str) -> None:
                self.name = name

            def turn(self) -> None:
                called.append(self.name)
                if self.name == "first":
                    together.add(Connection("added"))
                    together.now()
                    assert called == ["first"], "nobody's turn comes within another's"
                if self.name == "bad":
                    raise ArithmeticError

        for name in ("first", "second"):
            together.add(Connection(name))
        together.now()
        assert called == ["first", "second"]
        together.add(Connection("bad"))
        together.add(Connection("last"))
        together.now()
        assert called == ["first", "second", "added", "bad"]
        assert [type(each) for each in raised] == [ArithmeticError]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert called[4:] == ["last"]
        together.now()
        assert len(called) == 5

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
    """A listener that is told how long its journal lets wait, and whether the acquirer has room."""

    def __init__(self, settings: HttpListenerSettings, rules: TerminalRules, asked: Asked | None) -> None:
        super().__init__(settings, rules, None)
        self.wait_ms = 0
        self.acquirer_full = False
        self.listener = HttpListener(
            settings, rules, KeyedHash(bytes(32)), self.core.submit, self.core.find, self.core.load,
            self.core.search, lambda: self.mode, lambda: self.utc_ms, self._report,
            journal_wait_ms=lambda: self.wait_ms,
            acquirer_full=lambda: self.acquirer_full, asked=asked if asked is not None else since_long(),
        )  # fmt: skip


@asynccontextmanager
async def waiting_http_shop(asked: Asked | None = None, **settings: int) -> AsyncIterator[WaitingHttpShop]:
    """The same over HTTP."""
    chosen = replace(HttpListenerSettings(allow_unauthenticated=True), **settings)  # type: ignore[arg-type]
    made = WaitingHttpShop(chosen, load_dialect("unionpay").terminal, asked)
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
async def test_over_http_it_is_503_as_well_while_an_acquirer_that_answers_has_no_room() -> None:
    async with waiting_http_shop() as s:
        s.acquirer_full = True
        told = await s.sell(key="mine", stan="000001")
        assert (told.status, told.problem, s.core.requested) == (503, "overloaded", [])
        assert s.listener.counters()["refused_acquirer_full"] == 1
        assert (await s.sell(type="advice", stan="000002")).status == 200
        s.acquirer_full = False
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


@on_each_loop
async def test_over_http_the_last_tenth_of_the_places_is_for_what_is_refused_last() -> None:
    async with waiting_http_shop(in_flight_max=10) as s:
        s.core.holds = True
        asking = [asyncio.ensure_future(s.sell(stan=f"{stan:06}", terminal=f"T{stan:07}")) for stan in range(9)]
        await until(lambda: len(s.core.running) == 9, "nine under way")
        assert (await s.sell(stan="000010", terminal="T0000010")).problem == "overloaded"
        asking.append(asyncio.ensure_future(s.sell(type="advice", stan="000011", terminal="T0000011")))
        await until(lambda: len(s.core.running) == 10, "ten under way")
        assert (await s.sell(type="advice", stan="000012", terminal="T0000012")).problem == "overloaded"
        for request in list(s.core.requested):
            s.core.decide(request.key)
        assert [told.status for told in await asyncio.gather(*asking)] == [200] * 10


# --- after a restart, and what calls itself a repeat -----------------------------------------------------------------


@on_each_loop
async def test_after_a_start_nobody_is_told_that_nothing_was_stored_until_it_can_be_known() -> None:
    """What was asked before the start may be approved (INV-6): 09 promises nothing, and 96 would be a second sale."""
    now_ms = int(asyncio.get_running_loop().time() * 1000)
    young, old = Asked(), Asked()
    young.begin(now_ms - GENERATION_MS + 60_000)
    old.begin(now_ms - GENERATION_MS)
    for asked, code in ((young, "09"), (old, "96")):
        async with waiting_shop(asked) as s, await s.terminal() as terminal:
            s.wait_ms = 10**6
            terminal.send(sale(BINARY, 1))
            assert (await terminal.receive()).fields[39] == code
            s.listener.stop_admitting()
            terminal.send(sale(BINARY, 2), message("0400", 3))
            answers = {m.fields[11]: m.fields[39] for m in [await terminal.receive() for _ in range(2)]}
            assert answers == {"000002": code, "000003": "96"}, "a reversal is sent again whatever it is told"
            assert s.requested == []
            counters = s.listener.counters()
            names = ("answered_in_progress", "answered_overload", "answered_stopping")
            assert [counters[name] for name in names] == ([2, 0, 1] if code == "09" else [0, 1, 2])


@on_each_loop
async def test_a_listener_counts_the_generation_from_its_start() -> None:
    async with waiting_shop(Asked(generation_ms=50)) as s, await s.terminal() as terminal:
        s.wait_ms = 10**6
        terminal.send(sale(BINARY, 1))
        heard = [(await terminal.receive()).fields[39]]
        deadline = asyncio.get_running_loop().time() + 5
        while heard[-1] != "96":
            assert asyncio.get_running_loop().time() < deadline
            terminal.send(sale(BINARY, 1))
            heard.append((await terminal.receive()).fields[39])
        assert set(heard[:-1]) <= {"09"}


@on_each_loop
async def test_a_retry_on_another_listener_is_known_as_one() -> None:
    asked = since_long()
    async with waiting_shop(asked) as one, waiting_shop(asked) as two:
        first, second = await one.terminal(), await two.terminal()
        first.send(sale(BINARY, 1))
        assert (await first.receive()).fields[39] == "00"
        two.wait_ms = 10**6
        second.send(sale(BINARY, 1), sale(BINARY, 2))
        answers = {m.fields[11]: m.fields[39] for m in [await second.receive() for _ in range(2)]}
        assert answers == {"000001": "00", "000002": "96"}
        await first.close()
        await second.close()


@on_each_loop
async def test_who_calls_new_sales_repeats_gets_no_room_by_that_and_no_promise() -> None:
    async with waiting_shop() as s, await s.terminal() as terminal:
        s.wait_ms = 10**6
        terminal.send(*(message(mti, stan) for stan, mti in enumerate(("0201", "0101", "0203", "0200"), 1)))
        answers = {m.fields[11]: m.fields[39] for m in [await terminal.receive() for _ in range(4)]}
        assert answers == {"000001": "09", "000002": "09", "000003": "09", "000004": "96"}
        assert s.requested == []


@on_each_loop
async def test_retries_of_one_address_take_a_bounded_part_of_what_is_kept_for_retries() -> None:
    """Whoever sends every sale twice must not have all of it."""
    async with waiting_shop(in_flight_max=160) as s, await s.terminal() as terminal, await s.terminal() as other:
        for stan in range(1, 6):
            terminal.send(sale(BINARY, stan))
            assert (await terminal.receive()).fields[39] == "00"
        s.approves, s.wait_ms = False, 10**6
        for line in (terminal, other):  # an eighth of the sixteen for the address, whatever the connection
            line.send(*(sale(BINARY, stan) for stan in (range(1, 4) if line is terminal else range(4, 6))))
            refused = [await line.receive() for _ in range(1 if line is terminal else 2)]
            assert {m.fields[39] for m in refused} == {"09"}
        assert len(s.requested) == 5 + 2
        other.send(message("0400", 9))
        await s.submitted(5 + 3)
        for requested in s.requested[5:]:
            s.approve(requested)
        assert [(await terminal.receive()).fields[39] for _ in range(2)] == ["00"] * 2
        assert (await other.receive()).fields[39] == "00"
        s.approves = True
        terminal.send(sale(BINARY, 3))  # the places have been given back
        assert (await terminal.receive()).fields[39] == "00"


def test_all_retries_together_leave_half_of_the_reserve_to_advices_and_reversals() -> None:
    reserve = Reserve(in_flight_max=1_600)
    assert reserve.places == 160
    entered = []
    for peer in range(10):
        while reserve.has_room(f"192.0.2.{peer}"):
            reserve.enter(f"192.0.2.{peer}")
            entered.append(f"192.0.2.{peer}")
    assert [entered.count(f"192.0.2.{peer}") for peer in range(10)] == [20] * 4 + [0] * 6
    for each in entered:
        reserve.leave(each)
    assert reserve.has_room("192.0.2.9")
    assert Reserve(in_flight_max=1).has_room("192.0.2.1"), "one is always let in"


@on_each_loop
async def test_over_http_after_a_start_who_finds_no_room_is_told_to_ask_again() -> None:
    async with waiting_http_shop(Asked()) as s:
        s.wait_ms = 3_000
        for kind in ("sale", "authorisation"):
            told = await s.sell(key=f"mine-{kind}", stan="000001", type=kind)
            assert (told.status, told.problem) == (409, "in-progress")
            assert 4 <= int(told.headers["Retry-After"]) <= 7
        assert s.core.requested == []
        s.wait_ms = 0
        assert (await s.sell(key="mine-sale", stan="000001")).status == 200


@pytest.mark.parametrize(("restarted", "status"), [(True, 409), (False, 503)])
@on_each_loop
async def test_over_http_a_gateway_that_stops_says_that_nothing_was_recorded_only_of_what_is_new(
    restarted: bool, status: int
) -> None:
    async with waiting_http_shop(Asked() if restarted else None) as s:
        sold = await s.sell(key="mine", stan="000001")
        assert sold.status == 200
        lines = [await s.line() for _ in range(4)]
        await until(lambda: s.listener.gauges()["connections"] >= 4, "connected before the stop")
        s.listener.stop_admitting()

        async def told(number: int, path: str, body: dict[str, object], key: str) -> tuple[int, str]:
            reader, writer = lines[number]
            content = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = await reader.read()
            writer.close()
            return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])["type"].rpartition(":")[2]

        path = "/v1/transactions"
        assert await told(0, path, http_sale(stan="000001"), "mine") == (409, "in-progress")
        other = (status, "in-progress" if restarted else "stopping")
        assert await told(1, path, http_sale(stan="000002"), "new") == other
        assert await told(2, path, http_sale(stan="000003", type="advice"), "advice") == other
        assert await told(3, f"{path}/{sold.body['id']}/reversal", {}, "undo") == other
        assert len(s.core.requested) == 1


@on_each_loop
async def test_over_http_retries_of_one_address_take_a_bounded_part_of_what_is_kept_for_retries() -> None:
    async with waiting_http_shop(in_flight_max=160) as s:
        keys = {f"key-{number}": f"T{number:07}" for number in range(4)}
        for key, terminal in keys.items():
            assert (await s.sell(key=key, stan="000001", terminal=terminal)).status == 200
        s.core.rows.clear()  # so that the retries wait
        s.core.aliases.clear()
        s.core.holds, s.wait_ms = True, 10**6
        asking = [asyncio.ensure_future(s.sell(key=k, stan="000001", terminal=t)) for k, t in list(keys.items())[:2]]
        await until(lambda: len(s.core.running) == 2, "two retries under way")
        told = await s.sell(key="key-2", stan="000001", terminal=keys["key-2"])
        assert (told.status, told.problem) == (409, "in-progress")
        for key in list(s.core.running):
            s.core.decide(key)
        assert [each.status for each in await asyncio.gather(*asking)] == [200] * 2
        s.core.holds = False
        assert (await s.sell(key="key-2", stan="000001", terminal=keys["key-2"])).status == 200


@pytest.mark.parametrize("name", ["journal_wait_ms_max", "receive_buffer_bytes", "taking_ms_per_turn_max"])
def test_a_limit_of_nothing_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        replace(ListenerSettings(), **{name: 0})  # type: ignore[arg-type]
