"""What a terminal may expect of the ISO 8583 listener."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.transaction import Answer, Kind
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import HEADER, PAN, TPDU, TPDU_BACK, Terminal, sale, shop

UNIONPAY = load_dialect("unionpay")
ASCII = load_dialect("iso87-ascii")
BINARY = load_dialect("iso87-binary")
EACH_DIALECT = pytest.mark.parametrize("dialect", [UNIONPAY, ASCII, BINARY], ids=lambda d: d.name)


@EACH_DIALECT
@on_each_loop
async def test_a_request_is_submitted_and_its_answer_comes_back(dialect: Dialect) -> None:
    async with shop(dialect) as s, await s.terminal() as terminal:
        terminal.send(sale(dialect, 1))
        answer = await terminal.receive()
        assert (answer.mti, answer.fields[11], answer.fields[39]) == ("0210", "000001", "00")
        (requested,) = s.requested
        assert (requested.request.kind, requested.request.stan) == (Kind.SALE, "000001")
        assert requested.request.pan == PAN


@on_each_loop
async def test_the_answer_carries_the_header_and_the_tpdu_with_its_addresses_exchanged() -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as terminal:
        message = sale(UNIONPAY, 1)
        terminal.send(message)
        answer = await terminal.receive()
        assert (answer.tpdu, answer.header) == (TPDU_BACK, HEADER)
        terminal.send(message)  # and again: nothing was swapped in place
        answer = await terminal.receive()
        assert (answer.tpdu, message.tpdu) == (TPDU_BACK, TPDU)


@on_each_loop
async def test_answers_go_to_the_connection_that_asked_in_whatever_order_they_come() -> None:
    async with shop(BINARY) as s:
        s.approves = False
        terminals = [await s.terminal() for _ in range(20)]
        for stan, terminal in enumerate(terminals):
            terminal.send(sale(BINARY, stan, f41=f"T{stan:07}"))
        await s.submitted(20)
        for requested in reversed(s.requested):
            s.approve(requested)
        for stan, terminal in enumerate(terminals):
            answer = await terminal.receive()
            assert (answer.fields[11], answer.fields[41]) == (f"{stan:06}", f"T{stan:07}")
            await terminal.close()


@EACH_DIALECT
@on_each_loop
async def test_a_frame_that_comes_byte_by_byte_is_read(dialect: Dialect) -> None:
    async with shop(dialect) as s, await s.terminal() as terminal:
        for octet in terminal.framed(sale(dialect, 1)) + terminal.framed(sale(dialect, 2)):
            terminal.writer.write(bytes([octet]))
            await terminal.writer.drain()
            await asyncio.sleep(0)
        assert [(await terminal.receive()).fields[11] for _ in range(2)] == ["000001", "000002"]


@on_each_loop
async def test_pipelined_frames_are_each_answered() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        terminal.send(*(sale(BINARY, stan) for stan in range(300)))
        answers = [await terminal.receive() for _ in range(300)]
        assert [int(a.fields[11]) for a in answers] == list(range(300))
        assert s.listener.counters()["replies"] == 300


@on_each_loop
async def test_a_keepalive_is_read_and_nothing_answered() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        terminal.writer.write(b"\x00\x00" * 3)
        terminal.send(sale(BINARY, 1))
        assert (await terminal.receive()).fields[11] == "000001"
        assert s.listener.counters()["frames"] == 1


@on_each_loop
async def test_network_management_goes_to_the_core_like_others() -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as terminal:
        terminal.send(Message("0820", {11: "000001", 41: "T0000001", 60: "00000001301"}, TPDU, HEADER))
        assert (await terminal.receive()).mti == "0830"
        assert s.requested[0].request.kind is Kind.NETWORK


@on_each_loop
async def test_an_answer_for_a_terminal_that_has_gone_is_dropped_and_counted() -> None:
    async with shop(BINARY) as s, await s.terminal() as other:
        s.approves = False
        gone = await s.terminal()
        gone.send(sale(BINARY, 1))
        await s.submitted(1)
        gone.reset()
        await until(lambda: s.listener.gauges()["connections"] == 1, "the loss noticed")
        assert s.listener.gauges()["in_flight"] == 1  # the core still has it
        s.approve(s.requested[0])
        assert s.listener.counters()["replies_dropped"] == 1
        assert s.listener.gauges()["in_flight"] == 0
        await s.serves_others(other)
        await gone.close()


@on_each_loop
async def test_an_answer_is_sent_once_and_an_unknown_token_is_only_counted() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        terminal.send(sale(BINARY, 1))
        await terminal.receive()
        s.approve(s.requested[0])
        assert s.listener.counters()["replies_unknown"] == 1
        await s.serves_others(terminal)


@on_each_loop
async def test_an_answer_that_the_dialect_cannot_say_is_reported_without_its_values() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.submitted(1)
        s.listener.reply(s.requested[0].terminal_token, Answer("0210", {4: "x" + PAN, 39: "00"}))
        assert s.listener.counters()["replies_unencodable"] == 1
        assert s.reports[-1][1]["field"] == "4"
        await s.serves_others(terminal)


@on_each_loop
async def test_stopping_refuses_new_work_and_lets_answers_out() -> None:
    async with shop(BINARY) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.submitted(1)
        s.listener.stop_admitting()
        with pytest.raises(ConnectionError):
            await s.terminal()
        terminal.send(sale(BINARY, 2))
        refused = await terminal.receive()
        assert (refused.fields[11], refused.fields[39]) == ("000002", "96")
        assert await s.listener.drain(20) == 1
        draining = asyncio.ensure_future(s.listener.drain(5_000))
        await asyncio.sleep(0)
        s.approve(s.requested[0])
        assert await draining == 0
        await s.listener.close()
        assert (await terminal.receive()).fields[39] == "00"
        await terminal.hung_up()
        assert len(s.requested) == 1


@on_each_loop
async def test_a_thousand_terminals_that_connect_at_once_are_all_served() -> None:
    async with shop(BINARY, connections_per_address_max=1_000, backlog=1_024) as s:

        async def one(number: int) -> Terminal:
            terminal = await s.terminal()
            terminal.send(sale(BINARY, number, f41=f"T{number:07}"))
            answer = await terminal.receive()
            assert answer.fields[41] == f"T{number:07}"
            return terminal

        terminals = await asyncio.gather(*map(one, range(1_000)))
        assert s.listener.gauges() == {"connections": 1_000, "in_flight": 0}
        for terminal in terminals:
            await terminal.close()
