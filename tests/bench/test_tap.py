"""The tap: it finds a card number in every form when the line is plain, and none when it is TLS; it changes no byte."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench.acquirer import Acquirer
from bench.certificates import Authority
from bench.tap import Tap, Watch, patterns
from bench.terminal import STEADY, History, Terminal
from bench.till import TEST_CARDS
from bench.unionpay_acquirer import UnionPayAcquirer
from bench.unionpay_terminal import UnionPayTerminal
from tests.bench.unionpay_shop import MASTER_KEY, UNIONPAY

ODD = "6212345678900000003"
EVEN = "4111111111111111"


def packed(pan: str) -> bytes:
    """Two digits in a byte, filled up behind."""
    return bytes.fromhex(pan + "0" * (len(pan) % 2))


def packed_later(pan: str) -> bytes:
    """Two digits in a byte, from the second half of the first one on."""
    return bytes.fromhex(f"0{pan}" + "0" * (1 - len(pan) % 2))


@pytest.mark.parametrize("pan", [ODD, EVEN, "378282246310005"])
@pytest.mark.parametrize(
    "form",
    [
        str.encode,
        packed,
        packed_later,
        lambda pan: pan.encode().hex().encode(),
        lambda pan: pan.encode().hex().upper().encode(),
        *(lambda pan, n=n: base64.b64encode(b"x" * n + pan.encode() + b"yz") for n in range(3)),
        *(lambda pan, n=n: base64.urlsafe_b64encode(b"\xff" * n + packed(pan) + b"\xff\xff") for n in range(3)),
        *(lambda pan, n=n: base64.b64encode(b"\xff" * n + packed_later(pan) + b"q") for n in range(3)),
    ],
)
def test_every_form_of_a_card_number_is_found(pan: str, form: Callable[[str], bytes]) -> None:
    watch = Watch((pan,))
    stream = watch.stream()
    stream.feed(b"\x60\x00" + form(pan) + b"\x15")
    assert watch.finish() >= 1


def test_other_digits_are_not_taken_for_a_card_number() -> None:
    watch = Watch((EVEN,))
    stream = watch.stream()
    stream.feed(b"4111111111111112 411111******1111 " + bytes.fromhex("4111111111111112"))
    assert watch.finish() == 0
    assert min(map(len, patterns("378282246310005"))) >= 7, "no form is so short that chance would find it"


def test_a_number_is_found_once_wherever_the_pieces_of_a_stream_are_cut() -> None:
    text = b"\x00" * 70_000 + EVEN.encode() + b"\x00" * 70_000
    for size in (1_000, 65_536, 70_008, 70_001):
        watch = Watch((EVEN,))
        stream = watch.stream()
        for start in range(0, len(text), size):
            stream.feed(text[start : start + size])
        assert watch.finish() == 1
        assert watch.tapped_bytes == len(text)


def tapped(folder: Path, story: Callable[[Tap, Path], Awaitable[None]], target: Acquirer) -> Watch:
    """Run a story through a tap in front of an acquirer."""
    watch = Watch(TEST_CARDS)

    async def run() -> None:
        await target.start()
        tap = Tap(watch, ("127.0.0.1", target.port))
        await tap.start()
        try:
            await story(tap, folder / "history.jsonl")
        finally:
            await tap.stop()
            await target.stop()

    asyncio.run(run())
    watch.finish()
    return watch


def test_a_plain_line_shows_its_card_numbers(tmp_path: Path) -> None:
    async def story(tap: Tap, path: Path) -> None:
        history = History(path)
        terminal = Terminal(UNIONPAY, ("127.0.0.1", tap.port), history, habits=STEADY)
        for card in (ODD, EVEN):
            assert (await terminal.sell(1000, card)).told is not None
        terminal.hang_up()
        history.close()

    watch = tapped(tmp_path, story, Acquirer(tmp_path / "ledger.jsonl", dialect="unionpay"))
    assert watch.found[TEST_CARDS.index(ODD)] == 2, "in the request and in the answer"
    assert watch.found[TEST_CARDS.index(EVEN)] >= 2
    assert len(watch.found) == 2


def test_a_line_by_tls_shows_none(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")

    async def story(tap: Tap, path: Path) -> None:
        history = History(path)
        terminal = UnionPayTerminal(
            UNIONPAY,
            ("127.0.0.1", tap.port),
            history,
            master_key=MASTER_KEY,
            tls=authority.client_context(authority.client("T0000001")),
        )
        assert (await terminal.ask(lambda: terminal.till.sale(1000, EVEN))).approved is not None
        terminal.line.hang_up()
        history.close()

    acquirer = UnionPayAcquirer(
        tmp_path / "ledger.jsonl",
        {"T0000001": MASTER_KEY},
        tls=authority.server_context(authority.server("acquirer")),
    )
    watch = tapped(tmp_path, story, acquirer)
    assert watch.tapped_bytes > 1000
    assert watch.pans_on_wire == 0


def test_whoever_dials_learns_that_nobody_is_there() -> None:
    async def run() -> None:
        tap = Tap(Watch(()), ("127.0.0.1", 1))
        await tap.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.close()
        await tap.stop()

    asyncio.run(run())
