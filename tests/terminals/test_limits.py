"""Each limit of a listener: what it refuses, how, and that everyone else is served meanwhile (INV-9)."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from gateway.terminals.limits import ListenerSettings
from protocol.framing import KeepAliveFloodError
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import Terminal, sale, shop

BINARY = load_dialect("iso87-binary")
KEEPALIVE = b"\x00\x00"
SIGN_ON = Message("0800", {11: "000001", 41: "T0000001", 42: "M00000000000001"})


@pytest.mark.parametrize(
    ("limit", "counter"),
    [
        ("connections_max", "connections_refused_total"),
        ("connections_per_address_max", "connections_refused_address"),
    ],
)
@on_each_loop
async def test_a_connection_over_the_limit_is_closed_at_once(limit: str, counter: str) -> None:
    async with shop(BINARY, None, **{limit: 2}) as s, await s.terminal() as first, await s.terminal() as second:
        async with await s.terminal() as third:
            await third.hung_up()
        assert s.listener.counters()[counter] == 1
        await s.serves_others(first)
        await second.close()
        await until(lambda: s.listener.gauges()["connections"] == 1, "the place free again")
        async with await s.terminal() as fourth:
            await s.serves_others(fourth)


@on_each_loop
async def test_a_crowd_that_connects_at_once_is_let_in_a_few_a_turn() -> None:
    """So that those who are there are served in between: a sale takes several turns of the loop."""
    async with shop(BINARY) as s:
        crowd = [socket.create_connection(s.address) for _ in range(100)]  # the loop does not run meanwhile
        grown: list[int] = []
        while (before := s.listener.gauges()["connections"]) < len(crowd):
            await asyncio.sleep(0)
            grown.append(s.listener.gauges()["connections"] - before)
        assert max(grown) <= 8, "at most two turns of the loop lie between two looks"
        for each in crowd:
            each.close()
        await until(lambda: s.listener.gauges()["connections"] == 0, "the crowd gone")


@on_each_loop
async def test_running_out_of_descriptors_delays_new_connections_only() -> None:
    async with shop(BINARY) as s, await s.terminal() as other:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        client.setblocking(False)
        lowest_free = os.dup(client.fileno())
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            await asyncio.get_running_loop().sock_connect(client, s.address)
            await s.counted("accept_failed")
            await s.serves_others(other)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await asyncio.open_connection(sock=client)
        async with Terminal(BINARY, reader, writer) as waited:
            await s.serves_others(waited)


@on_each_loop
async def test_a_connection_with_too_much_in_flight_is_not_read_from_until_it_has_less() -> None:
    settings = {"in_flight_per_connection_high": 8, "in_flight_per_connection_low": 4}
    async with shop(BINARY, None, **settings) as s, await s.terminal() as greedy, await s.terminal() as other:
        s.approves = False
        greedy.send(*(sale(BINARY, stan) for stan in range(30)))
        await s.submitted(8)
        await s.counted("reading_paused")
        await s.serves_others(other)
        s.approves = False
        asked = [r for r in s.requested if r.request.stan != "424242"]
        assert len(asked) == 8
        for requested in asked[:3]:
            s.approve(requested)
        assert [(await greedy.receive()).fields[11] for _ in range(3)] == ["000000", "000001", "000002"]
        assert len(s.requested) == 9  # five are left, above the low-water mark
        s.approve(asked[3])
        await s.submitted(9 + 4)
        answered = 4
        while answered < 30:
            asked = [r for r in s.requested if r.request.stan != "424242"]
            for requested in asked[answered:]:
                s.approve(requested)
            answered = len(asked)
            await asyncio.sleep(0)
        assert [int((await greedy.receive()).fields[11]) for _ in range(27)] == list(range(3, 30))


@on_each_loop
async def test_over_the_total_in_flight_the_answer_is_96_and_nothing_is_submitted() -> None:
    async with shop(BINARY, in_flight_max=3) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(*(sale(BINARY, stan) for stan in range(5)))
        refused = [await terminal.receive() for _ in range(2)]
        assert [(m.fields[11], m.fields[39]) for m in refused] == [("000003", "96"), ("000004", "96")]
        assert len(s.requested) == 3
        assert s.listener.counters()["answered_overload"] == 2
        for requested in s.requested:
            s.approve(requested)
        for _ in range(3):
            assert (await terminal.receive()).fields[39] == "00"
        await s.serves_others(terminal)


@on_each_loop
async def test_a_terminal_that_dribbles_is_hung_up_on() -> None:
    async with shop(BINARY, frame_timeout_ms=60) as s, await s.terminal() as slow, await s.terminal() as other:
        framed = slow.framed(sale(BINARY, 1))

        async def dribble() -> None:
            for octet in framed:
                slow.writer.write(bytes([octet]))
                await asyncio.sleep(0.01)

        dribbling = asyncio.ensure_future(dribble())
        await slow.hung_up()
        dribbling.cancel()
        await asyncio.wait([dribbling])
        await s.serves_others(other)
        assert s.listener.counters()["closed_frame_timeout"] == 1
        assert len(s.requested) == 1


@on_each_loop
async def test_a_busy_terminal_may_take_as_long_as_it_likes_for_many_frames() -> None:
    async with shop(BINARY, frame_timeout_ms=600) as s, await s.terminal() as terminal:
        framed = [terminal.framed(sale(BINARY, stan)) for stan in range(8)]
        stream = b"".join(framed)
        third = len(framed[0]) // 3
        for at in range(0, len(stream), len(framed[0])):  # always some bytes of the next frame, never too long
            terminal.writer.write(stream[max(0, at - third) : at + len(framed[0]) - third])
            await asyncio.sleep(0.1)  # eight of them take longer than one frame may, and a busy machine may add to each
        terminal.writer.write(stream[-third:])
        assert [int((await terminal.receive()).fields[11]) for _ in range(8)] == list(range(8))
        assert s.listener.counters()["closed_frame_timeout"] == 0


@on_each_loop
async def test_an_idle_terminal_is_hung_up_on_but_not_one_that_waits_for_its_answer() -> None:
    async with shop(BINARY, idle_timeout_ms=400) as s, await s.terminal() as waiting:
        s.approves = False
        waiting.send(sale(BINARY, 1))
        await s.submitted(1)
        async with await s.terminal() as idle:
            await idle.hung_up()
        await s.counted("closed_idle")
        s.approve(s.requested[0])
        assert (await waiting.receive()).fields[39] == "00"


@on_each_loop
async def test_a_terminal_that_does_not_read_is_closed_and_holds_no_memory() -> None:
    async with shop(BINARY, write_buffer_limit_bytes=65_536) as s, await s.terminal() as other:
        s.approves = False
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, s.address)
        stan = 0
        text = "x" * 900
        while not s.listener.counters()["closed_write_buffer"]:
            stan += 1
            assert stan < 50_000
            framed = other.framed(sale(BINARY, stan % 1_000_000))
            try:
                await asyncio.get_running_loop().sock_sendall(sock, framed)
            except ConnectionError:
                break
            await until(lambda: bool(s.requested or s.listener.counters()["closed_write_buffer"]), "taken or closed")
            while s.requested:
                s.approve(s.requested.pop(), f61=text, f62=text, f63=text)
        await until(lambda: s.listener.gauges()["connections"] == 1, "closed, although the terminal is still there")
        sock.close()
        assert s.listener.counters()["closed_write_buffer"] == 1
        await s.serves_others(other)


@on_each_loop
async def test_a_flood_of_keepalives_is_hung_up_on_after_the_good_requests_before_it_are_answered() -> None:
    async with shop(BINARY, report_interval_ms=60_000) as s, await s.terminal() as other:
        for nth in (1, 2):
            async with await s.terminal() as flooding:
                flooding.writer.write(flooding.framed(sale(BINARY, nth)) + KEEPALIVE * 20_000)
                assert (await flooding.receive()).fields[11] == f"{nth:06}"
                await flooding.hung_up()
            await s.counted("closed_keepalive_flood", nth)
        assert [facts["reason"] for _, facts in s.reports if "reason" in facts].count("closed_keepalive_flood") <= 1
        assert len(s.reports) == 1
        await s.serves_others(other)


@on_each_loop
async def test_keepalives_within_the_limit_go_on_for_ever() -> None:
    async with shop(BINARY, keepalives_per_s_max=4) as s, await s.terminal() as terminal:
        for _ in range(2):
            terminal.writer.write(KEEPALIVE * 4)
            await s.serves_others(terminal)
            await asyncio.sleep(1.01)  # the limit is by the second
        terminal.writer.write(KEEPALIVE * 2 + terminal.framed(sale(BINARY, 1)))
        assert (await terminal.receive()).fields[11] == "000001"
        terminal.writer.write(KEEPALIVE * 3)  # however they are cut into chunks
        await terminal.hung_up()


def test_reading_stops_at_the_first_keepalive_over_the_limit_however_many_follow() -> None:
    reader = BINARY.framing.reader()
    with pytest.raises(KeepAliveFloodError) as flood:
        reader.feed(BINARY.framing.wrap(b"good") + KEEPALIVE * 100_000, 20)
    assert flood.value.frames == [b"good"]
    assert reader.keepalives == 21


@pytest.mark.parametrize("flood", [SIGN_ON, sale(BINARY, 1)], ids=["network messages", "sales"])
@on_each_loop
async def test_others_get_their_turn_while_one_connections_frames_are_taken(flood: Message) -> None:
    frames = 1_000
    settings = {"frames_per_turn_max": 2, "frames_per_s_max": 10_000, "write_buffer_limit_bytes": 1_000_000}
    settings["taking_ms_per_turn_max"] = 10_000  # else that would see to it
    async with shop(BINARY, None, **settings) as s, await s.terminal() as greedy, await s.terminal() as other:

        def taken() -> int:
            return s.listener.counters()["frames"]

        greedy.writer.write(greedy.framed(flood) * frames)
        await until(lambda: taken() > 0, "the first taken")
        assert taken() < frames  # this turn came although hundreds are there
        await s.serves_others(other)
        assert taken() < frames
        for nth in range(frames):
            await greedy.receive()
            assert nth or taken() < frames  # answers leave with each slice, so that their limit is looked at
        assert taken() == frames + 1  # nothing is lost, and nothing taken twice


@on_each_loop
async def test_a_connection_that_sends_more_than_a_second_may_bring_waits_and_others_do_not() -> None:
    async with shop(BINARY, frames_per_s_max=10) as s, await s.terminal() as greedy, await s.terminal() as other:
        began = asyncio.get_running_loop().time()
        greedy.send(*(sale(BINARY, stan) for stan in range(15)))
        await s.counted("reading_slowed")
        await s.serves_others(other)
        assert len(s.requested) == 10 + 1
        assert [int((await greedy.receive()).fields[11]) for _ in range(15)] == list(range(15))
        assert asyncio.get_running_loop().time() - began > 0.9
        assert s.listener.counters()["reading_slowed"] == 1
        await s.serves_others(greedy)


@on_each_loop
async def test_a_request_that_the_core_never_answers_gives_its_place_back() -> None:
    async with shop(BINARY, reply_timeout_ms=50, in_flight_max=1) as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sale(BINARY, 1))
        await s.counted("requests_unanswered")
        assert s.listener.gauges()["in_flight"] == 0
        s.approve(s.requested[0])
        assert s.listener.counters()["replies_unknown"] == 1
        await s.serves_others(terminal)


@on_each_loop
async def test_close_does_not_wait_for_a_terminal_that_does_not_read() -> None:
    async with shop(BINARY, close_timeout_ms=50) as s:
        s.approves = False
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, s.address)
        framing, codec = BINARY.framing, BINARY.codec
        frames = b"".join(framing.wrap(codec.encode(sale(BINARY, stan))) for stan in range(64))
        await asyncio.get_running_loop().sock_sendall(sock, frames)
        await s.submitted(64)
        text = "x" * 900
        for requested in s.requested:
            s.approve(requested, f61=text, f62=text, f63=text)
        await asyncio.sleep(0)
        await s.listener.close()
        assert s.listener.gauges()["connections"] == 0
        sock.close()


def test_settings_tell_all_their_mistakes_at_once() -> None:
    with pytest.raises(ValueError, match=r"connections_max must be above 0; port .*; in_flight_per_connection_low"):
        ListenerSettings(connections_max=0, port=70_000, in_flight_per_connection_low=64)
