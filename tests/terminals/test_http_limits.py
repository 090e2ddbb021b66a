"""Each limit of the HTTP listener: what it refuses, how, and that everyone else is served meanwhile (INV-9)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import socket
import time

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from gateway.terminals.http_admission import InFlight, Rates, Share
from gateway.terminals.http_connection import Exchange, HttpConnection
from gateway.terminals.http_settings import HttpListenerSettings
from tests.acquirers.waiting import DEADLINE_S, on_each_loop, until
from tests.terminals.http_shop import TERMINAL, HttpShop, http_shop, sale

HEAD = b"POST /v1/transactions HTTP/1.1\r\nHost: till\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What comes until the listener hangs up."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("sent", [b"P", HEAD, b"\r\n", HEAD + b"X: " + b"y" * 900])
@on_each_loop
async def test_a_head_that_does_not_end_is_cut_off(sent: bytes) -> None:
    async with http_shop(head_timeout_ms=80) as shop:
        reader, writer = await shop.line(sent)
        assert await closed(reader) == b""
        await shop.counted("closed_head_timeout")
        assert (await shop.sell()).status == 200
        writer.close()


@on_each_loop
async def test_a_head_that_dribbles_is_cut_off_however_often_a_byte_comes() -> None:
    async with http_shop(head_timeout_ms=80) as shop:
        reader, writer = await shop.line()

        async def dribble() -> None:
            for octet in HEAD * 100:
                writer.write(bytes([octet]))
                await asyncio.sleep(0.005)

        dribbling = asyncio.ensure_future(dribble())
        assert await closed(reader) == b""
        dribbling.cancel()
        await asyncio.wait([dribbling])
        writer.close()


@on_each_loop
async def test_a_body_that_does_not_end_is_408_and_hung_up_on() -> None:
    async with http_shop(body_timeout_ms=80) as shop:
        reader, writer = await shop.line(HEAD + b"Content-Length: 500\r\n\r\n{")
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"urn:holdfast:problem:body-timeout" in answer
        await shop.counted("closed_body_timeout")
        assert not shop.core.requested
        writer.close()


@pytest.mark.parametrize("framing", [b"Content-Length: 99999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
@on_each_loop
async def test_a_body_that_is_too_large_is_413_before_it_is_read(framing: bytes) -> None:
    async with http_shop() as shop:
        reader, writer = await shop.line(HEAD + framing)
        if b"chunked" in framing:
            writer.write(b"5000\r\n" + b"x" * 0x5000 + b"\r\n")
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"urn:holdfast:problem:too-large" in answer
        writer.close()


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n"])
@on_each_loop
async def test_a_body_that_is_framed_wrongly_is_refused_and_hung_up_on(chunk: bytes) -> None:
    async with http_shop(body_timeout_ms=80) as shop:
        for behind_the_head in (False, True):
            expecting = b"Expect: 100-continue\r\n" if behind_the_head else b""
            reader, writer = await shop.line(HEAD + expecting + b"Transfer-Encoding: chunked\r\n\r\n")
            if behind_the_head:
                assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            writer.write(chunk)
            answer = await closed(reader)
            # aiohttp does not tell a handler that waits for the rest of a body; its deadline does.
            assert (b"body-timeout" if behind_the_head else b"malformed-http") in answer
            assert not shop.core.requested
            writer.close()


@on_each_loop
async def test_an_idle_connection_is_closed_but_not_one_that_waits_for_its_outcome() -> None:
    async with http_shop(idle_timeout_ms=80, head_timeout_ms=80) as shop:
        shop.core.holds = True
        selling = asyncio.ensure_future(shop.sell())
        await until(lambda: bool(shop.core.requested), "taken")
        reader, writer = await shop.line()
        assert await closed(reader) == b""
        await shop.counted("closed_idle")
        shop.core.decide(shop.core.requested[0].key)
        assert (await selling).status == 200
        writer.close()


@on_each_loop
async def test_a_till_that_does_not_take_its_answers_is_cut_off() -> None:
    async with http_shop(write_timeout_ms=100) as shop:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, shop.address)
        asking = b"GET /openapi.json HTTP/1.1\r\nHost: till\r\n\r\n" * 64
        deadline = time.monotonic() + DEADLINE_S
        while not shop.listener.counters()["closed_write_timeout"]:
            assert time.monotonic() < deadline
            try:
                async with asyncio.timeout(0.05):
                    await loop.sock_sendall(client, asking)
            except (TimeoutError, ConnectionError):
                await asyncio.sleep(0.01)
        client.close()
        assert (await shop.sell()).status == 200


@pytest.mark.parametrize(
    ("limit", "counter"),
    [
        ("connections_max", "connections_refused_total"),
        ("connections_per_address_max", "connections_refused_address"),
    ],
)
@on_each_loop
async def test_a_connection_over_the_limit_is_closed_at_once(limit: str, counter: str) -> None:
    async with http_shop(None, None, **{limit: 2}) as shop:
        lines = [await shop.line() for _ in range(3)]
        assert await closed(lines[2][0]) == b""
        assert shop.listener.counters()[counter] == 1
        lines[0][1].close()
        await until(lambda: shop.listener.gauges()["connections"] == 1, "a place is free")
        assert (await shop.sell()).status == 200
        for _, writer in lines:
            writer.close()


@on_each_loop
async def test_a_terminal_that_sends_too_fast_is_429_and_another_one_is_not() -> None:
    async with http_shop(rate_per_s=1, burst=3) as shop:
        told = [await shop.sell(key="once") for _ in range(4)]
        assert [each.status for each in told] == [200, 200, 200, 429]
        assert (told[3].problem, told[3].headers["Retry-After"]) == ("rate-limited", "1")
        assert (await shop.sell(terminal="T0000002")).status == 200


async def _under_way(shop: HttpShop, count: int, terminal: str) -> list[asyncio.Task[object]]:
    before = len(shop.core.requested)
    tasks: list[asyncio.Task[object]] = [
        asyncio.ensure_future(shop.sell(stan=f"{number:06}", terminal=terminal)) for number in range(count)
    ]
    await until(lambda: len(shop.core.requested) == before + count, "all taken")
    return tasks


@on_each_loop
async def test_what_is_under_way_is_bounded_for_each_terminal_and_in_all() -> None:
    async with http_shop(in_flight_max=6, in_flight_per_terminal_max=3) as shop:
        shop.core.holds = True
        tasks = await _under_way(shop, 3, TERMINAL)
        told = await shop.sell(stan="000009")
        assert (told.status, told.problem) == (429, "fair-share")
        tasks += await _under_way(shop, 3, "T0000002")
        told = await shop.sell(terminal="T0000003")
        assert (told.status, told.problem) == (503, "overloaded")
        for request in list(shop.core.requested):
            shop.core.decide(request.key)
        await asyncio.gather(*tasks)
        shop.core.holds = False
        assert (await shop.sell(terminal="T0000003")).status == 200


@on_each_loop
async def test_a_thousand_silent_sockets_do_not_hold_up_a_till() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))
    async with http_shop(idle_timeout_ms=60_000, head_timeout_ms=60_000) as shop:
        silent = []
        for number in range(1_000):
            sock = socket.create_connection(shop.address)
            if number % 2:
                sock.send(HEAD)
            silent.append(sock)
            if not number % 50:
                await asyncio.sleep(0)
        await until(lambda: shop.listener.gauges()["connections"] >= 1_000, "all are there")
        began = time.monotonic()
        for number in range(50):
            assert (await shop.sell(stan=f"{number:06}")).status == 200
        assert time.monotonic() - began < 5
        for sock in silent:
            sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_each_loop
async def test_a_connection_carries_one_request_after_another() -> None:
    async with http_shop(head_timeout_ms=200) as shop:
        for number in range(5):
            assert (await shop.sell(stan=f"{number:06}")).status == 200
        assert shop.listener.counters()["connections_accepted"] == 1


def test_a_rate_allows_a_burst_and_then_its_rate() -> None:
    rates = Rates(rate_per_s=10, burst=3, terminals_max=2)
    assert [rates.spend("A", 0) for _ in range(3)] == [0, 0, 0]
    assert rates.spend("A", 0) == 100
    assert rates.spend("A", 99) == 1
    assert rates.spend("A", 100) == 0
    assert rates.spend("A", 100) == 100
    assert rates.spend("B", 100) == rates.spend("C", 100) == 0
    assert len(rates) == 2


def test_a_share_shrinks_as_terminals_come() -> None:
    places = InFlight(total_max=8, per_terminal_max=8)
    assert [places.enter("A") for _ in range(5)] == [None] * 5
    assert places.enter("B") is None
    assert places.enter("A") is Share.TERMINAL  # two terminals: four each
    assert [places.enter("B"), places.enter("C")] == [None, None]
    assert places.enter("D") is Share.FULL
    places.leave("A")
    assert places.enter("A") is Share.TERMINAL
    assert places.enter("D") is None


def test_settings_tell_all_their_mistakes_at_once() -> None:
    with pytest.raises(ValueError, match=r"connections_max must be above 0; .*burst must be above 0; port must lie"):
        HttpListenerSettings(connections_max=0, burst=0, port=70_000)
    assert sale()["terminal"] == TERMINAL


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/9\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: till\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: till\r\n\r\n",
        HEAD + b"Content-Length: 500\r\n\r\n" + b"x" * 400,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2_000 + b"zz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n{}\r\n0\r\n\r\n",
    ],
)
@on_each_loop
async def test_what_a_stranger_sent_is_freed_with_his_connection_and_waits_for_no_garbage_collection(
    sent: bytes,
) -> None:
    async with http_shop(body_timeout_ms=80) as shop:
        gc.collect()
        gc.disable()  # a full collection comes after millions of objects only (gateway.collecting)
        try:
            for hangs_up in (True, False):
                reader, writer = await shop.line(sent)
                async with asyncio.timeout(DEADLINE_S):
                    await (asyncio.sleep(0.02) if hangs_up else reader.read(1))
                writer.close()
                del reader, writer
            await until(lambda: not kept(), "nothing of the connections is left")
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("request_line", "status"), [(HEAD, b"413"), (HEAD.replace(b"/v1/transactions", b"/nothing"), b"404")]
)
@on_each_loop
async def test_a_body_that_does_not_end_is_read_by_nobody_and_its_answer_arrives(
    request_line: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk of a byte costs aiohttp microseconds, during which nobody else is served."""
    parsed = 0
    read = Exchange.data_received

    def counting(exchange: Exchange, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        read(exchange, data)

    monkeypatch.setattr(Exchange, "data_received", counting)
    async with http_shop(body_timeout_ms=1_000) as shop:
        reader, writer = await shop.line(request_line + b"Transfer-Encoding: chunked\r\n\r\n")
        sent, flood = 0, b"1\r\na\r\n" * 10_000
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                while sent < 100 * len(flood):
                    writer.write(flood)
                    await writer.drain()
                    sent += len(flood)
        assert parsed <= HttpListenerSettings().request_bytes_max + 65_536  # of the turn before it was served
        assert sent >= 10 * parsed
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).split()[1] == status
        writer.close()
        await until(lambda: not kept(), "aiohttp has ended, which waits a second for the rest of a body")


@on_each_loop
async def test_a_body_of_the_most_bytes_is_taken_in_chunks_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_shop(body_bytes_max=4_096) as shop:
        body = json.dumps(sale()).encode().ljust(4_096)
        chunks = b"".join(b"8\r\n" + body[at : at + 8] + b"\r\n" for at in range(0, len(body), 8))
        reader, writer = await shop.line(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).split()[1] not in {b"408", b"413"}
        writer.close()


def kept() -> int:
    """Connections that lie about in memory."""
    return sum(isinstance(each, (HttpConnection, Exchange)) for each in gc.get_objects())


@on_each_loop
async def test_what_comes_behind_a_broken_body_is_not_kept_while_that_is_waited_for() -> None:
    async with http_shop(body_timeout_ms=1_000) as shop:
        reader, writer = await shop.line(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100)
        await asyncio.sleep(0.05)
        for _ in range(100):
            writer.write(b"zz\r\n" * 100)
            await asyncio.sleep(0.002)
        assert sum(isinstance(each, HttpProcessingError) for each in gc.get_objects()) <= 2
        writer.close()
        del reader
