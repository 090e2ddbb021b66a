"""The lean host answers as the codec would, and its books are kept."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from bench.load.books import BOOKED, DECLINED, REVERSED
from bench.load.frames import Amounts, Now, SaleFrames, sale_message
from bench.load.host import ECHOED, Host, HostSettings
from bench.load.host_process import HostBroken, HostProcess
from bench.till import TEST_CARDS
from protocol.iso8583.message import Message

SEED = 11
NOW = Now()


@pytest.fixture
def host() -> Host:
    return Host(HostSettings("iso87-binary", 0))


def _told(host: Host, frame: bytes) -> Message:
    answer = host.answer(frame)
    assert int.from_bytes(answer[:2], "big") == len(answer) - 2
    return host.dialect.codec.decode(answer[2:])


def _frame(host: Host, message: Message) -> bytes:
    return host.dialect.framing.wrap(host.dialect.codec.encode(message))


def _sale(host: Host, stan: int, mti: str = "0200", amount: int | None = None) -> Message:
    minor = Amounts().minor(stan) if amount is None else amount
    message = sale_message(host.dialect, "L0000001", TEST_CARDS[0], stan, minor, NOW)
    message.mti = mti
    return message


def test_patched_answers_repeat_what_they_answer_and_are_whole_for_every_card(host: Host) -> None:
    dice = random.Random(SEED)
    for index in range(len(TEST_CARDS)):
        frames = SaleFrames(host.dialect, index, NOW, Amounts())
        stans = sorted(dice.sample(range(1, 999_999), 50))
        for stan in stans:
            frame = frames.frame(stan)
            asked = host.dialect.codec.decode(frame[2:]).fields
            answer = _told(host, frame)
            assert answer.mti == "0210"
            assert answer.fields[39] == "00", f"seed {SEED}, STAN {stan}"
            assert answer.fields[38] == asked[11]
            assert {n: asked[n] for n in ECHOED if n in asked} == {
                n: value for n, value in answer.fields.items() if n not in (37, 38, 39)
            }
    assert host.books.booked == 50 * len(TEST_CARDS)
    assert all(not lane.out_of_order and not lane.changed for lane in host.books.lanes.values())


def test_an_advice_that_carries_its_approval_is_answered_by_patching_with_one_of_the_hosts_own(host: Host) -> None:
    for stan in (1, 2, 999):
        advice = _sale(host, stan, "0220")
        advice.fields |= {37: "900000000001", 38: "555555", 39: "00"}
        answer = _told(host, _frame(host, advice))
        assert host.patched == (stan > 1)  # the first of a shape is answered by the codec
        assert answer.mti == "0230"
        assert (answer.fields[38], answer.fields[39]) == (f"{stan:06}", "00")
        assert answer.fields[37] == f"{host.messages:012}"
        assert {n: advice.fields[n] for n in ECHOED if n in advice.fields} == {
            n: value for n, value in answer.fields.items() if n not in (37, 38, 39)
        }
        host.patched = 0
    assert host.books.booked == 3


def test_a_sale_with_the_cents_of_a_decline_is_declined_and_not_booked(host: Host) -> None:
    _told(host, _frame(host, _sale(host, 1)))  # so that the next is of a shape that is known
    answer = _told(host, _frame(host, _sale(host, 2, amount=Amounts().minor(2) + 51)))
    assert answer.fields[39] == "51"
    assert host.books.lane(b"L0000001").bits[2] == DECLINED
    assert host.books.lane(b"L0000001").changed == 0


def test_an_advice_a_repeat_and_a_reversal_are_booked_as_what_they_are(host: Host) -> None:
    lane = host.books.lane(b"L0000001")
    assert _told(host, _frame(host, _sale(host, 1, "0220"))).mti == "0230"
    assert _told(host, _frame(host, _sale(host, 1, "0221"))).fields[39] == "00"
    assert (lane.bits[1], host.books.booked) == (BOOKED, 1)
    reversal = _sale(host, 2, "0400")
    reversal.fields[90] = f"0200{1:06}{'':0>32}"
    assert _told(host, _frame(host, reversal)).fields[39] == "00"
    assert (lane.bits[1], host.books.reversed) == (BOOKED | REVERSED, 1)


def test_echo_tests_and_inquiries_are_answered_and_book_nothing(host: Host) -> None:
    echo = Message("0800", {7: "1122010203", 11: "000001", 70: "301"})
    assert _told(host, _frame(host, echo)).fields[39] == "00"
    inquiry = _sale(host, 1)
    inquiry.fields[3] = "310000"
    del inquiry.fields[4]
    assert _told(host, _frame(host, inquiry)).fields[39] == "00"
    assert host.books.booked == 0


def test_what_cannot_be_read_is_a_problem_and_not_answered(host: Host) -> None:
    assert host.answer(b"\x00\x04\xff\xff\xff\xff") == b""
    assert host.problem


async def _exchange(port: int, frames: list[bytes]) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(frames))
    answers = [await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in frames]
    writer.close()
    return answers


def test_the_process_answers_goes_away_comes_back_and_keeps_its_books(tmp_path: Path) -> None:
    async def play() -> None:
        process = HostProcess(HostSettings("iso87-binary", 0))
        await process.start()
        try:
            port = (await process.back()).port
            frames = SaleFrames(Host(HostSettings("iso87-binary", 0)).dialect, 1, NOW, Amounts())
            await _exchange(port, [frames.frame(stan) for stan in range(1, 101)])
            await process.away()
            with pytest.raises(OSError, match=r"."):
                await asyncio.open_connection("127.0.0.1", port)
            assert (await process.back()).port == port
            await _exchange(port, [frames.frame(stan) for stan in range(101, 201)])
            assert (await process.counts()).booked == 200
            books = await process.books(tmp_path / "books")
            assert sum(books[frames.terminal].bits) == 200 * BOOKED
        finally:
            await process.close()
            await process.close()
        with pytest.raises(HostBroken):
            await process.counts()

    asyncio.run(play())
