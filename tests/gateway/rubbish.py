"""What terminals must not send, and what such a sender is told; a gateway with a port for each of two dialects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.ports import free_ports
from bench.till import Prepared
from protocol.iso8583.dialect import load_dialect
from tests.gateway.shop import DEADLINE_S, House, setup

FRAME_TIMEOUT_MS: Final = 300


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that a terminal must not send.

    Attributes:
        make: from a good sale of the dialect, its length in front, to what is sent.
        answer: field 39 of the answer, or empty where the line is closed without one.
        counted: the event that counts it.
    """

    name: str
    dialect: str
    make: Callable[[Prepared], bytes]
    answer: str
    counted: str


def _binary_length(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


def _ascii_length(body: bytes) -> bytes:
    return b"%04d" % len(body) + body


def _body(sale: Prepared) -> bytes:
    return sale.frame[2:]


def with_bit(sale: Prepared, number: int) -> bytes:
    """The bitmap (behind TPDU, header and MTI) promises one field more."""
    body = bytearray(_body(sale))
    body[13 + (number - 1) // 8] |= 0x80 >> (number - 1) % 8
    return _binary_length(bytes(body))


def _with_letters_in_60(sale: Prepared) -> bytes:
    body = bytearray(_body(sale))
    body[-2] = 0xBB
    return _binary_length(bytes(body))


def _with_letters_in_4(sale: Prepared) -> bytes:
    packed = bytes.fromhex(sale.message.fields[4])
    return _binary_length(_body(sale).replace(packed, b"\xaa" * len(packed)))


def _with_mti(mti: str) -> Callable[[Prepared], bytes]:
    def make(sale: Prepared) -> bytes:
        body = _body(sale)
        return _binary_length(body[:11] + bytes.fromhex(mti) + body[13:])

    return make


def _ascii_sale_with(old: bytes, new: bytes) -> Callable[[Prepared], bytes]:
    def make(sale: Prepared) -> bytes:
        body = sale.frame[4:]
        assert old in body
        return _ascii_length(body.replace(old, new))

    return make


BAD = [
    Bad("a frame over the limit", "unionpay", lambda sale: b"\x10\x01" + _body(sale), "", "bad_framing"),
    Bad("a length that is too short", "unionpay", lambda s: _binary_length(_body(s))[:1] + b"\x20" + _body(s), "", ""),
    Bad("a bitmap that promises more", "unionpay", lambda sale: with_bit(sale, 64), "30", "bad_message"),
    Bad("letters in a packed field", "unionpay", _with_letters_in_60, "30", "bad_message"),
    Bad("letters in a packed amount", "unionpay", _with_letters_in_4, "30", "bad_message"),
    Bad("an unknown type", "unionpay", _with_mti("0600"), "30", "bad_request"),
    Bad("an answer", "unionpay", _with_mti("0210"), "", "bad_mti_closed"),
    Bad("a type that is none", "unionpay", _with_mti("0BAD"), "", ""),
    Bad("bytes behind the message", "unionpay", lambda sale: _binary_length(_body(sale) + b"\x41" * 9), "", ""),
    Bad("too little to answer", "unionpay", lambda sale: _binary_length(_body(sale)[:16]), "", "bad_message_closed"),
    Bad("a length of letters", "iso87-ascii", lambda sale: b"12AB" + sale.frame[4:], "", "bad_framing"),
    Bad("a packed frame", "iso87-ascii", lambda _: b"\x00\x50" + b"\x60" * 80, "", "bad_framing"),
    Bad("HTTP", "iso87-ascii", lambda _: b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", "", "bad_framing"),
    Bad("TLS", "unionpay", lambda _: bytes.fromhex("16030100f5010000f10303") + bytes(240), "", "bad_framing"),
    Bad("letters in an amount", "iso87-ascii", _ascii_sale_with(b"000000001000", b"00000000IOOO"), "30", "bad_message"),
    Bad("no terminal", "iso87-ascii", _ascii_sale_with(b"T0000009", b"        "), "30", "bad_request"),
    Bad("a bitmap of letters", "iso87-ascii", lambda s: _ascii_length(s.frame[4:8] + b"Z" * 16), "", ""),
]


def two_listeners() -> House:
    """UnionPay terminals on one port, ASCII ones on another."""
    (ascii_port,) = free_ports(1)
    other = {"listen": f"127.0.0.1:{ascii_port}", "dialect": "iso87-ascii"}
    return setup(overrides={"terminals": {"frame_timeout_ms": FRAME_TIMEOUT_MS}}, more_terminals=(other,))


def port_of(house: House, dialect: str) -> int:
    """Where terminals of that dialect connect."""
    return house.terminal_port if dialect == "unionpay" else int(str(house.more_terminals[0]["listen"]).split(":")[1])


async def answer_to(house: House, dialect: str, sent: bytes, *, pause_s: float = 0.0) -> str:
    """Field 39 of the answer to some bytes; empty where the line is closed without one.

    Args:
        pause_s: between one byte and the next; 0 sends all at once.
    """
    rules = load_dialect(dialect)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(house, dialect))
    frames = rules.framing.reader()
    reading = asyncio.ensure_future(reader.read(4096))
    try:
        async with asyncio.timeout(DEADLINE_S):
            if pause_s:
                for number in range(len(sent)):
                    writer.write(sent[number : number + 1])
                    if (await asyncio.wait({reading}, timeout=pause_s))[0]:
                        break
            else:
                writer.write(sent)
            while data := await reading:
                if answers := frames.feed(data):
                    return rules.codec.decode(answers[0]).fields[39]
                reading = asyncio.ensure_future(reader.read(4096))
            return ""
    except ConnectionError:
        return ""
    finally:
        reading.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
