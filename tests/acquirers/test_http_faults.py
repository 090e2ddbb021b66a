"""What an HTTP host may do wrong, and that it never costs a second payment or a wrong outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.acquirers.http import HttpLink
from gateway.acquirers.http_endpoint import ExchangeBrokenError
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.port import EndpointState
from gateway.acquirers.settings import EndpointSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, LateAnswered, NotSent, TimedOut
from protocol.iso8583.message import Message
from tests.acquirers.conformance import PAN, SHORT_MS, Core, sale
from tests.acquirers.http_host import MAPPING, HttpExchange, HttpHost, response
from tests.acquirers.http_scene import NAME, scene, tls_ends
from tests.acquirers.test_http import DIALLED_MS, QUICK, UTC_MS, mapping
from tests.acquirers.waiting import mono_ms, on_each_loop, until

UNNAMED = MAPPING.replace('42 = { path = "f42" }\n37', "37")  # an answer that leaves the merchant out


def body(exchange: HttpExchange, **more: Any) -> bytes:
    return json.dumps({"f11": exchange.json["f11"], "f41": "T0000001", "f42": "M00000000000001", **more}).encode()


# --- what proves nothing -------------------------------------------------------------------------------------------

BAD: dict[str, Callable[[HttpExchange], bytes]] = {
    "no JSON": lambda _: response(b'{"code":"00"'),
    "a name twice": lambda e: response(body(e, code="05")[:-1] + b',"code":"00"}'),
    "too deep": lambda e: response(body(e, code="00")[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}"),
    "very deep": lambda _: response(b"[" * 60_000),
    "NaN": lambda e: response(body(e, code="00")[:-1] + b',"x":NaN}'),
    "no UTF-8": lambda e: response(body(e, code="00")[:-1] + b',"x":"\xff"}'),
    "another content type": lambda e: response(body(e, code="00"), kind="text/html"),
    "a huge body": lambda e: response(body(e, code="00", x="y" * 70_000)),
    "a compressed body": lambda e: response(body(e, code="00"), more="Content-Encoding: gzip\r\n"),
    "no body": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "no outcome": lambda e: response(body(e)),
    "an outcome that is a number": lambda e: response(body(e, code=0)),
    "an outcome of four characters": lambda e: response(body(e, code="0000")),
    "another payment": lambda e: response(body(e, code="00", f11="424242")),
    "no payment": lambda _: response(b'{"code":"00"}'),
    "a redirect": lambda _: response(b"", "307 Temporary Redirect", more="Location: /elsewhere\r\n"),
    "a permanent redirect": lambda _: response(b"", "308 Permanent Redirect", more="Location: /elsewhere\r\n"),
    "408": lambda e: response(body(e, code="05"), "408 Request Timeout"),
    "429": lambda e: response(body(e, code="05"), "429 Too Many Requests"),
    "500": lambda e: response(body(e, code="05"), "500 Internal Server Error"),
    "a status that nobody has named": lambda e: response(body(e, code="05"), "418 Teapot"),
    "an approval under a failure": lambda e: response(body(e, code="00"), "402 Payment Required"),
    "something else than HTTP": lambda _: b"SSH-2.0-host\r\n\r\n",
    "a header without end": lambda _: b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000,
    "headers without end": lambda _: b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(500)),
}


@pytest.mark.parametrize("what", BAD)
@on_each_loop
async def test_a_reply_that_proves_nothing_is_in_doubt_at_once_and_nothing_is_sent_again(what: str) -> None:
    async with scene(hosts=2) as s:
        s.send(1)
        exchange = await s.host.next()
        exchange.write(BAD[what](exchange))
        await s.core.wait(TimedOut, 1)
        s.hosts[0].answers_at_once = s.hosts[1].answers_at_once = True
        s.send(2)
        await s.core.wait(Answered, 2)
        assert [type(e) for e in s.core.of(1)] == [TimedOut]
        stans = [message.fields.get(11) for host in s.hosts for message in host.received]
        assert stans.count("000001") == 1
        assert PAN not in repr(s.core.reports)
        if "redirect" in what:
            assert s.link.counters()["status_in_doubt"] == 1, "looked at, and not followed"


@on_each_loop
async def test_interim_responses_are_skipped() -> None:
    async with scene() as s:
        s.send(1)
        exchange = await s.host.next()
        exchange.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3)
        exchange.answer()
        assert (await s.core.wait(Answered, 1)).fields[39] == "00"


@on_each_loop
async def test_statuses_that_the_mapping_names_are_answers() -> None:
    async with scene() as s:
        for token, (status, code) in enumerate({"422 No": "30", "503 Away": "91"}.items(), 1):
            s.send(token)
            (await s.host.next()).write(response(b"<html>", status, kind="text/html"))
            answered = await s.core.wait(Answered, token)
            assert (answered.mti, answered.fields) == ("0210", {
                11: f"{token:06}", 41: "T0000001", 42: "M00000000000001", 39: code,
            })  # fmt: skip
        s.send(3)
        exchange = await s.host.next()
        exchange.write(response(body(exchange, code="51"), "402 Payment Required"))
        assert (await s.core.wait(Answered, 3)).fields[39] == "51"


@on_each_loop
async def test_a_probe_is_answered_by_success_alone() -> None:
    async with scene() as s:
        s.probe(1)
        exchange = await s.host.next()
        assert (exchange.method, exchange.path, "idempotency-key" in exchange.headers) == ("GET", "/health", False)
        exchange.write(response(b"", "503 Away"))
        await s.core.wait(TimedOut, 1)
        s.probe(2)
        (await s.host.next()).write(response(b"ok", kind="text/plain"))
        assert (await s.core.wait(Answered, 2)).mti == "0810"


# --- time ----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_body_that_drips_is_in_doubt_at_the_deadline_and_its_end_is_a_late_answer() -> None:
    async with scene() as s:
        s.send(1, timeout_ms=DIALLED_MS)
        exchange = await s.host.next()
        whole = body(exchange, code="00")
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(len(whole) - 1):
            exchange.write(b"1\r\n" + whole[at : at + 1] + b"\r\n")
        await s.core.wait(TimedOut, 1)
        exchange.write(b"1\r\n" + whole[-1:] + b"\r\n0\r\n\r\n")
        assert (await s.core.wait(LateAnswered, 1)).fields[39] == "00"


@on_each_loop
async def test_late_answers_are_awaited_for_a_bounded_time_and_on_a_bounded_number_of_connections() -> None:
    async with scene(late_max=2, late_answer_ms=60_000) as s:
        for token in (1, 2, 3):
            s.send(token, timeout_ms=DIALLED_MS)
            await s.host.next()
            await s.core.wait(TimedOut, token)
        assert s.link.gauges()["late_awaited"] == 2
        assert s.link.counters()["late_given_up"] == 1
    async with scene(late_answer_ms=SHORT_MS) as s:
        s.send(1, timeout_ms=DIALLED_MS)
        await s.core.wait(TimedOut, 1)
        await until(lambda: s.link.counters()["late_given_up"] == 1, "given up")
        await until(lambda: len(s.host.tcp) == 1, "only the watch is left")


# --- sent once, or not at all (D6, D7) -----------------------------------------------------------------------------


@pytest.mark.parametrize("probe", [False, True])
@on_each_loop
async def test_a_kept_connection_that_the_host_closes_on_a_request_is_in_doubt_and_never_sent_again(
    probe: bool,
) -> None:
    """aiohttp sends GET again by itself in this case."""
    async with scene() as s:
        s.send(1)
        first = await s.host.next()
        first.answer()
        await s.core.wait(Answered, 1)
        if probe:
            s.probe(2)
        else:
            s.send(2)
        second = await s.host.next()
        assert second.tcp is first.tcp, "the connection is kept"
        second.tcp.transport.close()
        await s.core.wait(TimedOut, 2)
        await s.core.wait(Connected, nth=3)
        s.send(3)
        (await s.host.next()).answer()
        await s.core.wait(Answered, 3)
        await until(lambda: mono_ms() - s.link.endpoints()[0].since_ms > 150, "it stays connected")
        assert [e.connected for e in s.core.events if isinstance(e, Connected)] == [True, False, True]
        assert [m.fields.get(11) for m in s.host.received] == ["000001", None if probe else "000002", "000003"]


@on_each_loop
async def test_a_kept_connection_that_the_host_closed_in_time_is_not_used() -> None:
    async with scene() as s:
        s.send(1)
        first = await s.host.next()
        first.answer()
        await s.core.wait(Answered, 1)
        first.tcp.transport.close()
        await until(lambda: len(s.host.tcp) == 1, "closed")
        s.send(2)
        (await s.host.next()).answer()
        await s.core.wait(Answered, 2)
        assert [e for e in s.core.events if isinstance(e, Connected)] == [Connected(True)]


@on_each_loop
async def test_an_answer_that_lies_ready_is_never_taken_for_the_next_payments() -> None:
    """aiohttp would: it keeps what comes behind a response for the next request on that connection."""
    async with scene(sweep_interval_ms=60_000) as s:
        s.send(1)
        first = await s.host.next()
        first.answer()
        await s.core.wait(Answered, 1)
        first.answer("00", f11="000002")  # an approval of what nobody has asked yet
        probed = s.link.counters()["unmatched_answers"]
        connector = s.link._endpoints[0]._connector
        await until(lambda: any(len(p) for p in connector._idle), "the bytes are there")
        s.send(2)
        second = await s.host.next()
        assert second.tcp is not first.tcp
        second.answer("51")
        assert (await s.core.wait(Answered, 2)).fields[39] == "51"
        assert s.link.counters()["unmatched_answers"] == probed + 1


@on_each_loop
async def test_where_answers_do_not_name_their_payment_each_request_has_a_connection_of_its_own() -> None:
    async with scene(text=UNNAMED) as s:
        used = set()
        for token in (1, 2, 3):
            s.send(token)
            exchange = await s.host.next()
            used.add(id(exchange))
            assert exchange.tcp.requests == 1
            exchange.answer()
            await s.core.wait(Answered, token)
        assert not mapping(UNNAMED).answers_name_their_payment
        assert mapping().answers_name_their_payment


@on_each_loop
async def test_where_no_connection_can_be_made_the_next_endpoint_gets_the_request() -> None:
    async with scene(hosts=2) as s:
        s.host.refuse_new()  # the watch stays, so nobody knows yet
        s.send(1)
        (await s.hosts[1].next()).answer()
        await s.core.wait(Answered, 1)
        assert [e.sent for e in s.link.endpoints()] == [0, 1]
        assert s.link.endpoints()[0].state is not EndpointState.CONNECTED
        s.hosts[1].refuse_new()
        for exchange in tuple(s.hosts[1].tcp):
            exchange.transport.close()
        await s.core.wait(Connected, nth=2)
        s.send(2)
        await s.core.wait(NotSent, 2)


@on_each_loop
async def test_where_no_endpoint_takes_a_connection_it_is_not_sent_and_the_key_is_free_again() -> None:
    async with scene() as s:
        s.host.refuse_new()
        s.send(1, f11="000009")
        assert (await s.core.wait(NotSent, 1)).reason == "no connection could be made"
        assert s.core.events[-2:] == [Connected(False), NotSent(1, "no connection could be made")]
        await s.host.stop()
        await s.host.start()
        await s.core.wait(Connected, nth=3)
        s.send(2, f11="000009", f4="000000000077")
        (await s.host.next()).answer()
        await s.core.wait(Answered, 2)


@on_each_loop
async def test_a_silent_endpoint_is_asked_where_no_connection_can_be_made_to_the_other_and_no_late_answer_counts() -> (
    None
):
    async with scene(hosts=2, unheard_max=2) as s:
        s.send(1, timeout_ms=DIALLED_MS)
        late = await s.hosts[0].next()
        await s.core.wait(TimedOut, 1)
        s.send(2)
        (await s.hosts[0].next()).write(response(b"", "502 Bad Gateway"))
        await s.core.wait(TimedOut, 2)
        assert [facts["reason"] for _, facts in s.core.reports].count("silent") == 1
        late.answer()
        await s.core.wait(LateAnswered, 1)
        s.hosts[1].refuse_new()
        s.send(3)
        (await s.hosts[0].next()).answer()
        await s.core.wait(Answered, 3)
        assert [e.sent for e in s.link.endpoints()] == [3, 0]
        assert s.link.endpoints()[1].state is not EndpointState.CONNECTED, "it was tried first"


class _Relay(asyncio.Protocol):
    """Passes the first connection on to a host; the TLS handshakes of all others go nowhere."""

    def __init__(self, host: HttpHost, taken: list[_Relay]) -> None:
        self._host, self._first = host, not taken
        self._there: asyncio.Transport | None = None
        self._early = b""
        taken.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._first:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        back = _Back(self.transport)
        self._there, _ = await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self._host.port)
        self._there.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._there is not None:
            self._there.write(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._there is not None:
            self._there.abort()


class _Back(asyncio.Protocol):
    def __init__(self, to: asyncio.Transport) -> None:
        self._to = to

    def data_received(self, data: bytes) -> None:
        self._to.write(data)


@on_each_loop
async def test_a_connection_that_is_never_finished_is_not_sent_when_the_time_is_over(tmp_path: Path) -> None:
    host_tls, tls = tls_ends(tmp_path, trusted=True)
    host = HttpHost()
    host.tls = host_tls
    await host.start()
    taken: list[_Relay] = []
    server = await asyncio.get_running_loop().create_server(lambda: _Relay(host, taken), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = EndpointSettings(host="127.0.0.1", port=port, tls=tls, server_hostname=NAME)
    core = Core()
    settings = HttpLinkSettings(name="acquirer", endpoints=(endpoint,), **cast("Any", QUICK))
    link = HttpLink(settings, mapping(), core.deliver, mono_ms, lambda: UTC_MS, core.report)
    await link.start()
    await core.wait(Connected)
    link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), 2 * SHORT_MS))
    assert "in time" in (await core.wait(NotSent, 1)).reason
    await link.close()
    for relay in taken:
        relay.transport.abort()
    server.close()
    await server.wait_closed()
    await host.stop()
    assert host.received == []
    assert [type(e) for e in core.of(1)] == [NotSent]


@on_each_loop
async def test_what_is_settled_is_not_written_even_if_a_connection_is_there() -> None:
    async with scene() as s:
        s.send(1, timeout_ms=DIALLED_MS)
        await s.host.next()
        await s.core.wait(TimedOut, 1)
        (late,) = s.link._late.values()
        assert not s.link._may_write(late)
        endpoint = late.endpoint
        with pytest.raises(ExchangeBrokenError, match="withdrawn"):
            await endpoint.ask(late.request, lambda: s.link._may_write(late), lambda: True)
        assert len(s.host.received) == 1


@on_each_loop
async def test_a_host_that_talks_without_end_where_nothing_was_asked_is_hung_up_on() -> None:
    async with scene() as s:
        (watch,) = s.host.tcp
        watch.transport.write(b"x" * 100_000)
        await until(lambda: watch not in s.host.tcp, "hung up")
