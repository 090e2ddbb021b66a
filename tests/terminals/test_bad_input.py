"""Bad input: a clear answer where the protocol has one, else a closed connection.

It is counted and told of without card data, nothing is stored, and every other terminal is unaffected.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import HEADER, PAN, TPDU, Shop, Terminal, sale, shop

UNIONPAY = load_dialect("unionpay")
ASCII = load_dialect("iso87-ascii")
BINARY = load_dialect("iso87-binary")


async def _unharmed(s: Shop, other: Terminal) -> None:
    """Nothing was submitted, nobody else was disturbed, no card number was told (Shop asserts that of each line)."""
    assert s.requested == []
    await s.serves_others(other)


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        pytest.param(BINARY, b"\xff\xff" + b"x" * 100, id="binary-over-the-limit"),
        pytest.param(UNIONPAY, b"\x10\x01" + b"x" * 100, id="unionpay-over-the-limit"),
        pytest.param(ASCII, b"12x4" + b"x" * 100, id="ascii-not-a-length"),
        pytest.param(ASCII, b"GET / HTTP/1.1\r\n\r\n", id="ascii-http"),
        pytest.param(BINARY, b"GET / HTTP/1.1\r\n\r\n", id="binary-http"),
    ],
)
@on_each_loop
async def test_a_stream_that_cannot_be_cut_closes_the_connection(dialect: Dialect, stream: bytes) -> None:
    async with shop(dialect) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.writer.write(stream)
        await bad.hung_up()
        assert s.listener.counters()["bad_framing"] == 1
        assert s.reports[0][1]["reason"] == "bad_framing"
        assert s.reports[0][1]["peer"].startswith("127.0.0.1:")
        await _unharmed(s, other)


@on_each_loop
async def test_a_wrong_length_prefix_is_answered_as_far_as_it_was_read_and_then_hung_up_on() -> None:
    async with shop(ASCII) as s, await s.terminal() as other, await s.terminal() as bad:
        frame = ASCII.codec.encode(sale(ASCII, 1))
        bad.writer.write(b"%04d" % (len(frame) - 2) + frame)
        first = await bad.receive()  # enough was there to say whom the answer is for
        assert (first.mti, first.fields[11], first.fields[39]) == ("0210", "000001", "30")
        bad.writer.write(b"\xff" * 10)  # the two bytes left over, and these, are no length
        await bad.hung_up()
        await _unharmed(s, other)


@on_each_loop
async def test_good_frames_before_a_bad_prefix_are_still_served() -> None:
    async with shop(BINARY) as s, await s.terminal() as bad:
        s.approves = False
        bad.writer.write(bad.framed(sale(BINARY, 1)) + bad.framed(sale(BINARY, 2)) + b"\xff\xff")
        await s.submitted(2)
        for requested in s.requested:
            s.approve(requested)
        assert [(await bad.receive()).fields[11] for _ in range(2)] == ["000001", "000002"]
        await bad.hung_up()


def _truncated(dialect: Dialect) -> bytes:
    return dialect.codec.encode(sale(dialect, 7))[:-2]


def _bitmap_promises_more(dialect: Dialect) -> bytes:
    frame = bytearray(dialect.codec.encode(sale(dialect, 7)))
    bitmap = dialect.header_bytes + (5 if dialect.tpdu else 0) + 2
    frame[bitmap + 7] |= 0x02  # field 63, which is not there
    return bytes(frame)


def _non_digits(dialect: Dialect) -> bytes:
    frame = dialect.codec.encode(sale(dialect, 7))
    amount = bytes.fromhex("000000001000")
    assert frame.count(amount) == 1
    return frame.replace(amount, bytes.fromhex("00000000a000"))


@pytest.mark.parametrize("dialect", [UNIONPAY, BINARY], ids=lambda d: d.name)
@pytest.mark.parametrize("spoiled", [_truncated, _bitmap_promises_more, _non_digits])
@on_each_loop
async def test_a_message_that_departs_from_the_dialect_is_answered_30_if_it_can_be_told_whose_it_is(
    dialect: Dialect, spoiled: Callable[[Dialect], bytes]
) -> None:
    async with shop(dialect) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.writer.write(dialect.framing.wrap(spoiled(dialect)))
        answer = await bad.receive()
        assert (answer.mti, answer.fields[11], answer.fields[39]) == ("0210", "000007", "30")
        assert answer.fields[41] == "T0000001"
        assert s.listener.counters()["bad_message"] == 1
        await _unharmed(s, other)
        await s.serves_others(bad)  # and the connection goes on


@on_each_loop
async def test_a_departure_is_reported_with_its_place() -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as bad:
        bad.writer.write(UNIONPAY.framing.wrap(_non_digits(UNIONPAY)))
        await bad.receive()
        (name, facts), *_ = s.reports
        assert (name, facts["reason"], facts["field"]) == ("terminal.refused", "bad_message", "4")
        assert int(facts["offset"]) > 0


@on_each_loop
async def test_bytes_behind_the_last_field_close_the_connection() -> None:
    async with shop(BINARY) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.writer.write(BINARY.framing.wrap(BINARY.codec.encode(sale(BINARY, 7)) + b"\x00"))
        await bad.hung_up()
        assert s.listener.counters()["bad_message_closed"] == 1
        await _unharmed(s, other)


@pytest.mark.parametrize("identity", [11, 41])
@on_each_loop
async def test_a_bad_message_that_cannot_be_told_whose_it_is_closes_the_connection(identity: int) -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as other, await s.terminal() as bad:
        message = sale(UNIONPAY, 7)
        del message.fields[identity]
        bad.writer.write(UNIONPAY.framing.wrap(UNIONPAY.codec.encode(message)[:-2]))
        await bad.hung_up()
        assert s.listener.counters()["bad_message_closed"] == 1
        await _unharmed(s, other)


@on_each_loop
async def test_a_frame_of_rubbish_closes_the_connection() -> None:
    async with shop(BINARY) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.writer.write(BINARY.framing.wrap(b"\x00" * 7))
        await bad.hung_up()
        await _unharmed(s, other)


@pytest.mark.parametrize("mti", ["0600", "0300", "0500", "0240"])
@on_each_loop
async def test_a_message_type_that_is_not_supported_is_answered_30(mti: str) -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.send(Message(mti, sale(UNIONPAY, 9).fields, TPDU, HEADER))
        answer = await bad.receive()
        assert answer.fields[39] == "30"
        assert answer.mti == mti[:2] + str(int(mti[2]) + 1) + mti[3]
        assert s.listener.counters()["bad_request"] == 1
        await _unharmed(s, other)


@pytest.mark.parametrize("mti", ["0210", "0430", "0810", "0290", "0277"])
@on_each_loop
async def test_an_answer_or_a_type_that_has_none_closes_the_connection(mti: str) -> None:
    async with shop(UNIONPAY) as s, await s.terminal() as other, await s.terminal() as bad:
        bad.send(Message(mti, sale(UNIONPAY, 9).fields, TPDU, HEADER))
        await bad.hung_up()
        assert s.listener.counters()["bad_mti_closed"] == 1
        await _unharmed(s, other)


@on_each_loop
async def test_a_message_without_what_the_core_needs_is_answered_with_its_code() -> None:
    async with shop(BINARY) as s, await s.terminal() as other, await s.terminal() as bad:
        message = sale(BINARY, 9)
        del message.fields[4]
        bad.send(message)
        answer = await bad.receive()
        assert (answer.fields[11], answer.fields[39]) == ("000009", "30")
        assert s.reports[0][1]["detail"] == "field 4 is missing"
        await _unharmed(s, other)


@on_each_loop
async def test_a_flood_of_bad_messages_is_counted_in_full_and_told_of_now_and_then() -> None:
    async with shop(BINARY, report_interval_ms=200) as s, await s.terminal() as other, await s.terminal() as bad:
        message = sale(BINARY, 9)
        del message.fields[4]
        bad.send(*[message] * 500)
        for _ in range(500):
            await bad.receive()
        assert s.listener.counters()["bad_request"] == 500
        assert len(s.reports) < 100
        await s.counted("bad_request", 500)
        await _until_told(s, 500)
        await _unharmed(s, other)


async def _until_told(s: Shop, count: int) -> None:
    """The lines and what they say was kept back add up to everything."""
    await until(lambda: sum(1 + int(facts["suppressed"]) for _, facts in s.reports) == count, "all told of")


@on_each_loop
async def test_no_report_line_of_any_kind_holds_the_card_number() -> None:
    async with shop(ASCII) as s, await s.terminal() as bad:
        frame = ASCII.codec.encode(sale(ASCII, 1))
        at = frame.index(PAN.encode())
        bad.writer.write(ASCII.framing.wrap(frame[: at + 15] + b"X" + frame[at + 16 :]))
        assert (await bad.receive()).fields[39] == "30"
        assert s.reports
        assert PAN[:8] not in repr(s.reports)
