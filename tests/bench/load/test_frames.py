"""Frames that are patched and sliced are those of the real codec."""

from __future__ import annotations

import random

import pytest

from bench.load.frames import (
    DECLINED_CENTS,
    VERIFIED_EVERY,
    Amounts,
    AnswerReader,
    FrameWrong,
    Now,
    SaleFrames,
    cut,
    sale_message,
)
from bench.load.http_clients import SaleRequests
from bench.till import TEST_CARDS
from protocol.http_api import NewTransaction, decode
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Fields, Message

DIALECTS = ["unionpay", "iso87-binary"]
SEED = 20


def _answer(dialect: Dialect, sale: Message, code: str, more: Fields | None = None) -> bytes:
    """An answer as the gateway gives it, with its length in front."""
    fields = {n: sale.fields[n] for n in dialect.terminal.answer_echo if n in sale.fields}
    fields |= {37: "000000000123", 38: "654321", 39: code} | (more or {})
    answer = Message("0210", fields, sale.tpdu, sale.header)
    return dialect.framing.wrap(dialect.codec.encode(answer))


@pytest.mark.parametrize("name", DIALECTS)
def test_a_patched_sale_is_what_the_codec_makes_of_it_for_any_stan_card_and_time(name: str) -> None:
    dialect, dice, now, amounts = load_dialect(name), random.Random(SEED), Now(), Amounts()
    for index in range(len(TEST_CARDS)):
        frames = SaleFrames(dialect, index, now, amounts)
        for _ in range(200):
            stan = dice.randint(1, 999_999)
            declined = dice.random() < 0.2
            now.time, now.date = f"{dice.randrange(240_000):06}", f"{dice.randrange(1, 1300):04}"
            amount = amounts.minor(stan) + (DECLINED_CENTS if declined else 0)
            whole = sale_message(dialect, frames.terminal, frames.card, stan, amount, now)
            expected = dialect.framing.wrap(dialect.codec.encode(whole))
            assert frames.frame(stan, declined=declined) == expected, f"seed {SEED}, STAN {stan}"


def test_offsets_that_are_wrong_are_noticed_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SaleFrames._wire
    monkeypatch.setattr(SaleFrames, "_wire", lambda self, digits: right(self, digits[::-1]))
    with pytest.raises(FrameWrong):
        SaleFrames(load_dialect("unionpay"), 0, Now(), Amounts())


@pytest.mark.parametrize("name", DIALECTS)
def test_answers_that_are_read_by_slices_say_what_the_codec_says(name: str) -> None:
    dialect, dice, now, amounts = load_dialect(name), random.Random(SEED), Now(), Amounts()
    reader = AnswerReader(dialect)
    for turn in range(1_000):
        index, stan = turn % 40, dice.randint(1, 999_999)
        frames = SaleFrames(dialect, index, now, amounts)
        sale = sale_message(dialect, frames.terminal, frames.card, stan, amounts.minor(stan), now)
        code = dice.choice(("00", "51", "96", "A2"))
        told = reader.read(_answer(dialect, sale, code))
        assert (told.stan, told.terminal, told.code) == (
            frames.wire_stan(stan),
            frames.terminal.encode(),
            code.encode(),
        ), f"seed {SEED}, turn {turn}"
    assert reader.decoded == len({len(card) for card in TEST_CARDS}), "one for each shape"
    assert reader.verified >= (1_000 - reader.decoded) // VERIFIED_EVERY


def test_an_answer_whose_front_has_a_part_of_any_length_is_always_decoded_whole() -> None:
    dialect = load_dialect("unionpay")
    reader = AnswerReader(dialect)
    for stan, institution in ((1, "12"), (2, "123456"), (3, "1234")):
        sale = sale_message(dialect, "L0000001", TEST_CARDS[0], stan, 10_000, Now())
        told = reader.read(_answer(dialect, sale, "00", {32: institution}))
        assert (told.stan.hex(), told.code) == (f"{stan:06}", b"00")
    assert reader.decoded == 3


def test_a_slice_that_is_not_what_the_codec_reads_is_noticed() -> None:
    dialect = load_dialect("unionpay")
    reader = AnswerReader(dialect)
    sale = sale_message(dialect, "L0000001", TEST_CARDS[0], 7, 10_000, Now())
    frame = _answer(dialect, sale, "00")
    reader.read(frame)
    (head, shape), *_ = reader._shapes.items()
    assert shape is not None
    reader._shapes[head] = type(shape)(shape.stan, shape.terminal, slice(shape.code.start - 1, shape.code.stop - 1))
    reader._until_verified = 1
    with pytest.raises(FrameWrong):
        reader.read(frame)


def test_rubbish_is_not_taken_for_an_answer() -> None:
    with pytest.raises(CodecError):
        AnswerReader(load_dialect("unionpay")).read(b"\x00\x05rubbi")


def test_frames_are_cut_wherever_the_stream_was() -> None:
    frames = [len(body).to_bytes(2, "big") + body for body in (b"a", b"bc" * 300, b"", b"d" * 255)]
    stream = b"".join(frames)
    for size in (1, 2, 3, 7, 500, len(stream)):
        found: list[bytes] = []
        rest = b""
        for at in range(0, len(stream), size):
            rest = cut(rest + stream[at : at + size], found)
        assert found == [frame for frame in frames if len(frame) > 2]
        assert rest == b""


def test_a_patched_http_sale_is_a_transaction_with_its_stan_amount_and_key() -> None:
    amounts, dice = Amounts(), random.Random(SEED)
    for index in (0, 5, 4_000):
        requests = SaleRequests(index, amounts)
        for _ in range(50):
            stan = dice.randint(1, 999_999)
            head, _, body = requests.request(stan).partition(b"\r\n\r\n")
            sale = decode(body, NewTransaction, 8)
            assert (sale.stan, sale.amount_minor) == (f"{stan:06}", amounts.minor(stan)), f"seed {SEED}"
            assert f"Idempotency-Key: {requests.terminal}-{stan:06}".encode() in head
            assert f"Content-Length: {len(body)}".encode() in head
