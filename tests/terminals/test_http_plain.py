"""Plain requests: what is read without aiohttp is read as aiohttp reads it, and answered as aiohttp answers it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from gateway.core.acceptance import new_transaction, retained, stored_message
from gateway.core.fingerprint import KeyedHash
from gateway.core.lifecycle import State
from gateway.core.outgoing import advice_message
from gateway.core.parts import BadRequest
from gateway.core.transaction import Stored
from gateway.terminals import http_mapping as mapping
from gateway.terminals.http_connection import Phase
from gateway.terminals.http_head import Plain, _known, plain_request
from gateway.terminals.http_mapping import fitting, request_of
from protocol.http_api import Card, NewTransaction, TransactionType
from protocol.iso8583.codec import CodecError
from protocol.iso8583.covering import always_fitting
from protocol.iso8583.dialect import Dialect, load_dialect, shipped_dialects
from protocol.iso8583.message import Message
from protocol.masking import contains_pan
from tests.acquirers.waiting import DEADLINE_S, on_each_loop, until
from tests.terminals.http_shop import OTHER_PAN, PAN, UTC_MS, HttpShop, http_shop, sale

_FIRST = ("POST /v1/transactions HTTP/1.1", "GET /v1/x?a=%20b HTTP/1.1", "POST /v1/transactions HTTP/1.0")
_PLAIN = ("Host: till", "Content-Type: application/json", "Idempotency-Key: key-1", "User-Agent: till/1", "Accept: */*")
_ODD = (
    "Host: other", "Content-Length: 2", "Content-Length: +2", "content-length: 002", "Transfer-Encoding: chunked",
    "Connection: close", "Connection: Keep-Alive", "Upgrade: h2c", "Expect: 100-continue", "Idempotency-Key:key-2",
    "Idempotency-Key:  spaced  ", "Idempotency-Key:", "X-Unknown: 1", "Accept : */*", " folded: 1", "\tfolded",
    "Authorization: Holdfast-HMAC a=\"b\"", "Content-Encoding: gzip", "Cookie: a=b", "Host: ti\tll", "Via: 1.1 x",
)  # fmt: skip
_BODIES = (b"", b"{}", b"[1]", b"GET / HTTP/1.1\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"\r\n")


def request(body: bytes, *more: str, key: str = "key-1") -> bytes:
    """A sale of the plain form; `more` are further lines of its head."""
    lines = ["POST /v1/transactions HTTP/1.1", "Host: till", "Content-Type: application/json"]
    lines += [f"Idempotency-Key: {key}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def of_sale(number: int = 1, **more: Any) -> bytes:
    """A plain request for a sale of its own."""
    return request(json.dumps(sale(f"{number:06}", **more)).encode(), key=f"key-{number}")


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """The next answer: status, headers, body."""
    async with asyncio.timeout(DEADLINE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:-2])
        return int(head[0][9:12]), headers, json.loads(await reader.readexactly(int(headers["Content-Length"])))


Said = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers by name in lower case, body."""


def said(plain: Plain) -> Said:
    """What a plain request says."""
    method, target, media_type = plain.head.asks
    headers = dict(plain.head.headers)
    assert media_type == headers.get("content-type", "")
    assert plain.head.authorization == headers.get("authorization", "")
    assert "idempotency-key" not in headers
    return method, target, headers if plain.key is None else {**headers, "idempotency-key": plain.key}, plain.body


def read_by_aiohttp(received: bytes, loop: asyncio.AbstractEventLoop) -> Said | None:
    """The one request that aiohttp reads, and keeps the connection open behind; None where it reads anything else."""
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=2_048, max_field_size=2_048)
    try:
        messages, upgraded, tail = parser.feed_data(received)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or upgraded or tail:
        return None
    head, payload = messages[0]
    if head.should_close or head.chunked or head.version != (1, 1) or not payload.is_eof():
        return None
    body = b"".join(payload._buffer) if hasattr(payload, "_buffer") else b""
    headers = {name.lower(): value for name, value in head.headers.items()}
    return (head.method, head.path, headers, body) if len(headers) == len(head.headers) else None


def made_up(rng: random.Random) -> bytes:
    """A request that is plain, or nearly."""
    body = rng.choice(_BODIES)
    lines = [rng.choice(_FIRST)]
    lines += rng.sample(_PLAIN, rng.randint(1, len(_PLAIN)))
    if rng.random() < 0.9:
        lines.append(f"Content-Length: {len(body) + rng.choice((0, 0, 0, 0, 1, -1))}")
    if rng.random() < 0.5:
        lines.insert(rng.randint(1, len(lines)), rng.choice(_ODD))
    received = bytearray("\r\n".join([*lines, "", ""]).encode() + body)
    if rng.random() < 0.3:
        at = rng.randrange(len(received))
        received[at : at + rng.randint(0, 1)] = rng.choice((b"\r", b"\n", b" ", b"\x00", b"\x80", b":", b"\t", b"a"))
    return bytes(received)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_read_as_plain_aiohttp_reads_the_same(seed: int) -> None:
    rng = random.Random(f"plain/{seed}")
    loop = asyncio.new_event_loop()
    taken = 0
    try:
        for _ in range(2_000):
            received = made_up(rng)
            plain = plain_request(received, 2_048, 32)
            if plain is not None:
                taken += 1
                assert read_by_aiohttp(received, loop) == said(plain), (seed, received)
    finally:
        loop.close()
    assert taken > 100


def test_what_a_till_sends_is_plain() -> None:
    received = of_sale()
    plain = plain_request(received, 2_048, 32)
    assert plain is not None
    method, target, _, body = said(plain)
    assert (method, target, body) == ("POST", "/v1/transactions", json.dumps(sale()).encode())
    assert plain.key == "key-1"
    assert plain_request(received, 100, 32) is None
    assert plain_request(received, 2_048, 3) is None
    assert plain_request(received[:-1], 2_048, 32) is None
    assert plain_request(received + b"P", 2_048, 32) is None


def _with_lines(*more: str, key: str = "key-1") -> bytes:
    return request(b"{}", "Accept: */*", *more, key=key)


def test_a_head_that_is_known_is_read_with_the_key_and_within_the_limits_of_each_request() -> None:
    for key in ("key-1", "key-2", "key 3  ", "KEY-4", "k"):
        plain = plain_request(_with_lines(key=key), 2_048, 32)
        assert plain is not None
        assert said(plain)[2] == {
            "host": "till", "content-type": "application/json", "content-length": "2", "accept": "*/*",
            "idempotency-key": key.rstrip(),
        }  # fmt: skip
        assert plain.body == b"{}"
    known = _with_lines(key="key-6")
    head_bytes = len(known) - 2
    assert plain_request(known, head_bytes, 5) is not None
    assert plain_request(known, head_bytes - 1, 5) is None
    assert plain_request(known, head_bytes, 4) is None
    assert plain_request(known + b" ", 2_048, 32) is None
    assert plain_request(known[:-1], 2_048, 32) is None
    for key in ("", " key", "k\x7f", "k\x00", "k\ty", "k\n"):
        assert plain_request(_with_lines(key=key), 2_048, 32) is None, key
    for name in ("Idempotency-Key", "idempotency-key", "IDEMPOTENCY-KEY"):
        assert plain_request(_with_lines(f"{name}: key-7"), 2_048, 32) is None, name


def test_a_request_read_leaves_nothing_of_its_headers_to_the_next() -> None:
    first, second = (plain_request(_with_lines(key=key), 2_048, 32) for key in ("key-1", "key-2"))
    assert first is not None
    assert second is not None
    assert first.head is second.head
    with pytest.raises(TypeError, match="item assignment"):
        first.head.headers["host"] = "another"  # type: ignore[index]
    unlike = plain_request(_with_lines("X-Real-IP: 192.0.2.7", key="key-1"), 2_048, 32)
    assert unlike is not None
    assert "x-real-ip" not in second.head.headers
    assert unlike.head.headers["x-real-ip"] == "192.0.2.7"


def test_of_heads_with_what_is_of_one_request_and_of_keys_nothing_is_kept() -> None:
    _known.cache_clear()
    for number in range(5):
        for name in ("Authorization", "authorization", "X-Request-ID", "traceparent"):
            own = plain_request(_with_lines(f"{name}: of-{number}", key=f"key-{number}"), 2_048, 32)
            assert own is not None
            assert said(own)[2][name.lower()] == f"of-{number}"
            assert own.key == f"key-{number}"
    assert _known.cache_info().currsize == 0
    for number in range(5):
        assert plain_request(_with_lines(key=f"key-{number}"), 2_048, 32) is not None
    assert _known.cache_info().currsize == 1


@on_each_loop
async def test_a_plain_sale_is_taken_as_it_is_and_answered_as_any_other() -> None:
    async with http_shop() as shop:
        plain = plain_request(of_sale(), 2_048, 32)
        assert plain is not None
        assert shop.listener.takes(plain)
        reader, writer = await shop.line(of_sale())
        first = await answer(reader)
        assert first[0] == 200
        writer.write(request(json.dumps(sale()).encode(), "X-Unknown: 1"))
        assert await answer(reader) == first
        writer.write(request(b"{}"))
        refused = await answer(reader)
        writer.write(request(b"{}", "X-Unknown: 1"))
        assert await answer(reader) == refused
        assert (refused[0], refused[1]["Content-Type"]) == (400, "application/problem+json")
        assert len(shop.core.requested) == 2
        writer.close()


@on_each_loop
async def test_what_comes_before_the_answer_waits_for_it_and_is_answered_in_order() -> None:
    async with http_shop() as shop:
        shop.core.holds = True
        reader, writer = await shop.line(of_sale(1))
        await until(lambda: len(shop.core.requested) == 1, "the first is taken")
        writer.write(of_sale(2) + of_sale(3))
        other, closing = await shop.line(of_sale(4, terminal="T0000002"))
        await until(lambda: len(shop.core.requested) == 2, "a later one of another till is taken")
        shop.core.decide(shop.core.requested[1].key)
        assert (await answer(other))[2]["stan"] == "000004"
        assert len(shop.core.requested) == 2  # and nothing else meanwhile
        shop.core.holds = False
        shop.core.decide(shop.core.requested[0].key)
        assert [(await answer(reader))[2]["stan"] for _ in range(3)] == ["000001", "000002", "000003"]
        writer.close()
        closing.close()


def _in_a_head(shop: HttpShop) -> bool:
    (connection,) = shop.listener._connections
    return connection._phase in {Phase.HEAD, Phase.SERVING}


@on_each_loop
async def test_a_plain_sale_within_another_request_is_no_sale() -> None:
    async with http_shop() as shop:
        begun = b"POST /v1/terminals/T0000001/heartbeat HTTP/1.1\r\nHost: till\r\n"
        behind = b"GET /openapi.json HTTP/1.1\r\nHost: till\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: till\r\nX-A: "
        length = f"Content-Length: {len(of_sale())}\r\n\r\n".encode()
        for opening in (begun + length, begun + b"X-A: ", behind):
            reader, writer = await shop.line(opening)
            if opening is behind:
                assert (await answer(reader))[0] == 200  # the first; of the second there is a part
            else:
                await until(lambda: _in_a_head(shop), "the opening has been read")
            writer.write(of_sale())
            await answer(reader)
            assert not shop.core.requested
            writer.close()
            await until(lambda: not shop.listener.gauges()["connections"], "it is gone")


@on_each_loop
async def test_a_connection_is_idle_again_behind_a_plain_sale() -> None:
    async with http_shop(idle_timeout_ms=80) as shop:
        reader, writer = await shop.line(of_sale())
        assert (await answer(reader))[0] == 200
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        await shop.counted("closed_idle")
        writer.close()


@on_each_loop
async def test_a_till_that_does_not_take_its_answers_to_plain_sales_is_cut_off() -> None:
    async with http_shop(write_timeout_ms=100, write_buffer_limit_bytes=4_096) as shop:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, shop.address)
        deadline = time.monotonic() + DEADLINE_S
        number = 0
        while not shop.listener.counters()["closed_write_timeout"]:
            assert time.monotonic() < deadline
            number += 1
            try:
                async with asyncio.timeout(0.05):
                    await loop.sock_sendall(client, of_sale(number))
                    await until(lambda count=number: len(shop.core.requested) >= count, "taken")  # type: ignore[misc]
            except (TimeoutError, ConnectionError):
                number = len(shop.core.requested)
        client.close()
        assert (await shop.sell()).status == 200


@on_each_loop
async def test_a_listener_that_stops_answers_the_plain_sale_and_hangs_up_behind_it() -> None:
    async with http_shop() as shop:
        shop.core.holds = True
        reader, writer = await shop.line(of_sale())
        await until(lambda: bool(shop.core.requested), "taken")
        shop.listener.stop_admitting()
        shop.core.decide(shop.core.requested[0].key)
        status, headers, _ = await answer(reader)
        assert (status, headers["Connection"]) == (200, "close")
        assert await reader.read() == b""
        assert shop.listener.gauges()["in_flight"] == 0
        writer.close()


async def _told_in_the_end(shop: HttpShop) -> tuple[int, str]:
    reader, writer = await shop.line(of_sale())
    status, _, body = await answer(reader)
    writer.close()
    assert shop.listener.gauges()["in_flight"] == 0
    return status, body["type"].rpartition(":")[2]


@on_each_loop
async def test_whoever_waits_too_long_or_for_a_core_that_fails_is_told_and_leaves_its_place() -> None:
    async with http_shop(reply_wait_ms=60) as shop:
        shop.core.holds = True
        assert await _told_in_the_end(shop) == (409, "in-progress")
        assert shop.listener.counters()["requests_unanswered"] == 1
    async with http_shop() as shop:
        rows = shop.core.running
        shop.core.running = None  # type: ignore[assignment]
        assert await _told_in_the_end(shop) == (500, "internal")
        shop.core.running = rows
        shop.core.loses = True
        assert await _told_in_the_end(shop) == (503, "not-recorded")


@pytest.mark.parametrize("seed", range(5))
def test_no_card_number_within_a_key_is_passed_over(seed: int) -> None:
    rng = random.Random(f"keys/{seed}")
    hidden = 0
    for _ in range(2_000):
        grouped = "".join(digit + rng.choice(("", "", "", " ", "-")) for digit in rng.choice((PAN, OTHER_PAN)))
        around = ["".join(rng.choices("0123456789 -aT", k=rng.randint(0, 12))) for _ in range(2)]
        key = grouped.join(around)
        if contains_pan(key, inside_runs=True):
            hidden += 1
            assert mapping._presentable(key, KeyedHash(bytes(32))) != key, (seed, key)
    assert hidden > 500


@pytest.mark.parametrize(
    ("key", "stans"),
    [
        ("till-281302", ("852206", "921903", "857186")),
        ("till-69935", ("889183", "756612", "984796")),
        ("till-10054", ("827344", "808855", "933729")),
        ("till-171396", ("981808", "834683", "801501")),
        ("till-1", ("919733", "924028", "982609", "958449")),
    ],
)
def test_the_stans_that_may_be_assigned_under_a_key_are_each_another(key: str, stans: tuple[str, ...]) -> None:
    body = NewTransaction(
        type=TransactionType.SALE, merchant="M00000000000001", terminal="T0000001", amount_minor=1_000, currency="156",
        card=Card(pan=PAN), local_date="1118",
    )  # fmt: skip
    asked = request_of(body, key, load_dialect("iso87-binary").terminal, KeyedHash(bytes(32)), UTC_MS)
    assert asked.assigned == stans
    assert asked.key.endswith(f"|{stans[0]}")


def _some_body(rng: random.Random) -> NewTransaction:
    """A body of any form that the API takes, now and then with what few dialects can carry."""
    text = "0123456789ABCDEFGHabcdefgh._-"
    private = {"48": "x" * rng.randint(1, 255)} if rng.random() < 0.2 else {}
    card = Card(pan="4" * rng.randint(12, 19), expiry="2912") if rng.random() < 0.8 else Card(track2=f"{PAN}=3012101")
    return NewTransaction(
        type=rng.choice(tuple(TransactionType)), merchant="M" + "".join(rng.choices(text, k=rng.randint(0, 14))),
        terminal="T" + "".join(rng.choices(text, k=rng.randint(0, 7))), amount_minor=rng.randrange(10**12),
        currency=f"{rng.randrange(1000):03}", card=card, stan=f"{rng.randrange(10**6):06}",
        batch=f"{rng.randrange(10**6):06}", local_date="1118", local_time="235959", entry_mode="022", fields=private,
    )  # fmt: skip


def _encodable(acquirer: Dialect, message: Message) -> bool:
    tpdu, header = bytes(5 if acquirer.tpdu else 0), bytes(acquirer.header_bytes)
    try:
        acquirer.codec.encode(Message(message.mti, acquirer.carried(message.fields), tpdu, header))
    except CodecError:
        return False
    return True


@pytest.mark.parametrize("tills", shipped_dialects())
@pytest.mark.parametrize("acquirer", shipped_dialects())
def test_what_is_said_to_fit_can_be_forwarded(tills: str, acquirer: str) -> None:
    rng = random.Random(f"fitting/{tills}/{acquirer}")
    dialect, target = load_dialect(tills), load_dialect(acquirer)
    fit = fitting(dialect, always_fitting(dialect, target))
    fits = 0
    for _ in range(300):
        try:
            asked = request_of(_some_body(rng), "key", dialect.terminal, KeyedHash(bytes(32)), UTC_MS, always_fit=fit)
        except BadRequest:
            continue
        if asked.fits:
            fits += 1
            row = new_transaction(asked, State.STORED, UTC_MS)
            row.id, row.response, row.approval, row.advised = 1, "00", "123456", True
            stored = Stored(row, stored_message(asked), retained(asked), None)
            message = advice_message(stored, target.host, repeat=False, utc_ms=UTC_MS)
            assert _encodable(target, message), (tills, acquirer, asked.fields)
    assert fits or 60 not in fit


def test_nothing_is_kept_of_a_head_that_is_not_plain() -> None:
    _known.cache_clear()
    head = (
        b"POST /v1/transactions HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n"
    )
    assert plain_request(head, 4096, 64) is None
    assert _known.cache_info().currsize == 0
    assert plain_request(head.replace(b"Cookie: a=b\r\n", b""), 4096, 64) is not None
    assert _known.cache_info().currsize == 1
