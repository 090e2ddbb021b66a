"""The simulated acquirer over TCP: every mode, every dialect, and a ledger that survives a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench.acquirer import NORMAL, Acquirer, Behaviour, Mode
from bench.ledger import Ledger
from bench.line import dial
from bench.ports import free_ports
from bench.records import LedgerEvent, read_lines
from bench.terminal import Habits, History, Terminal
from protocol.iso8583.dialect import load_dialect, shipped_dialects
from protocol.iso8583.message import Message

CARD = "4111111111111111"
QUICK = Habits(answer_timeout_s=1.0, power_loss=0, answer_loss=0, double_send=0, connect_pause_s=0.01)


def with_acquirer(
    folder: Path,
    story: Callable[[Acquirer, Terminal], Awaitable[None]],
    *,
    dialect: str = "iso87-binary",
    habits: Habits = QUICK,
) -> None:
    """Run a story between one terminal and the simulated acquirer."""

    async def run() -> None:
        acquirer = Acquirer(folder / "ledger.jsonl", dialect=dialect)
        await acquirer.start()
        history = History(folder / "history.jsonl")
        endpoint = ("127.0.0.1", acquirer.port)
        terminal = Terminal(load_dialect(dialect), endpoint, history, habits=habits)
        try:
            await story(acquirer, terminal)
        finally:
            terminal.hang_up()
            await acquirer.stop()
            history.close()

    asyncio.run(run())


def acts(folder: Path) -> list[str]:
    return [event.act for event in read_lines(folder / "ledger.jsonl", LedgerEvent)]


@pytest.mark.parametrize("dialect", shipped_dialects())
def test_every_shipped_dialect_sells_reverses_and_signs_on(tmp_path: Path, dialect: str) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        signed_on = await terminal.attempt(terminal.till.sign_on())
        sold = await terminal.sell(1250, CARD)
        undone = await terminal.reverse(sold.sale)
        assert signed_on is not None
        assert signed_on.response == "00"
        assert sold.told is not None
        assert sold.told.approved
        assert len(sold.told.approval) == 6
        assert undone.response == "00"
        assert acquirer.books.net(sold.sale.key) == 0

    with_acquirer(tmp_path, story, dialect=dialect)
    assert acts(tmp_path) == ["echo", "booked", "reversed"]


@pytest.mark.parametrize("mode", [Mode.SILENT, Mode.DROP])
def test_a_booking_without_an_answer_is_in_the_ledger(tmp_path: Path, mode: Mode) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        acquirer.next_messages(Behaviour(mode=mode))
        sale = terminal.till.sale(1000, CARD)
        assert await terminal.attempt(sale) is None
        assert acquirer.books.net(sale.key) == 1

    with_acquirer(tmp_path, story)
    [event] = read_lines(tmp_path / "ledger.jsonl", LedgerEvent)
    assert (event.act, event.answered) == ("booked", False)


def test_a_black_hole_reads_and_does_nothing_and_not_even_echoes(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        await acquirer.set_mode(Mode.BLACKHOLE)
        assert await terminal.attempt(terminal.till.sale(1000, CARD)) is None
        assert await terminal.attempt(terminal.till.sign_on()) is None

    with_acquirer(tmp_path, story)
    assert acts(tmp_path) == ["ignored", "ignored"]


def test_a_late_answer_comes_late_and_an_echo_in_time(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        await acquirer.set_behaviour(Behaviour(mode=Mode.LATE, delay_ms=1_500))
        assert await terminal.attempt(terminal.till.sign_on()) is not None
        assert await terminal.attempt(terminal.till.sale(1000, CARD)) is None

    with_acquirer(tmp_path, story)
    assert acts(tmp_path) == ["echo", "booked"]


def test_away_refuses_connections_and_comes_back_at_the_same_port(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        port = acquirer.port
        assert (await terminal.sell(1000, CARD)).told is not None
        await acquirer.set_mode(Mode.AWAY)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await dial(load_dialect("iso87-binary"), ("127.0.0.1", port), _nothing, _nothing)
        await acquirer.set_behaviour(NORMAL)
        assert acquirer.port == port
        assert (await terminal.sell(1000, CARD)).told is not None

    with_acquirer(tmp_path, story)
    assert acts(tmp_path) == ["booked", "booked"]


def test_a_mode_for_a_time_ends_by_itself(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        await acquirer.set_mode(Mode.AWAY, for_s=0.1)
        assert (await terminal.sell(1000, CARD)).told is not None
        assert acquirer.behaviour == NORMAL

    with_acquirer(tmp_path, story)


def test_a_share_of_messages_is_drawn_by_seed(tmp_path: Path) -> None:
    def run(folder: Path) -> list[bool]:
        folder.mkdir()

        async def story(acquirer: Acquirer, terminal: Terminal) -> None:
            await acquirer.set_behaviour(Behaviour(mode=Mode.CODE, code="91", share=0.5))
            for _ in range(40):
                await terminal.attempt(terminal.till.sale(1000, CARD))

        with_acquirer(folder, story)
        return [event.answer == "91" for event in read_lines(folder / "ledger.jsonl", LedgerEvent)]

    first, second = run(tmp_path / "1"), run(tmp_path / "2")
    assert first == second
    assert 5 < sum(first) < 35


def test_bytes_that_are_no_message_do_no_harm(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        dialect = load_dialect("iso87-binary")
        line = await dial(dialect, ("127.0.0.1", acquirer.port), _nothing, _nothing)
        line.send(dialect.framing.wrap(b"\xff" * 40) + b"\xff\xff rest")
        assert (await terminal.sell(1000, CARD)).told is not None
        assert acquirer.counts["unreadable"] == 1
        line.abort()

    with_acquirer(tmp_path, story)


def test_a_ledger_cut_in_the_middle_of_a_line_goes_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    event = LedgerEvent(at=1.0, act="booked", business="sale", mti="0200", key="M/T/1")
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append([event, event])
    ledger.close()
    os.truncate(path, path.stat().st_size - 5)
    ledger = Ledger(path)
    ledger.append([event])
    assert list(ledger.events()) == [event, event]
    ledger.close()


def test_a_killed_acquirer_knows_afterwards_everything_that_it_had_answered(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    [port] = free_ports(1)
    command = [sys.executable, "-m", "bench", "acquirer", "--ledger", str(ledger), "--listen", f"127.0.0.1:{port}"]
    command += ["--dialect", "iso87-binary"]

    async def sell(history: History, count: int, kill: Callable[[], None]) -> list[str]:
        habits = Habits(answer_timeout_s=2, tries=1, power_loss=0, answer_loss=0, double_send=0)
        terminal = Terminal(load_dialect("iso87-binary"), ("127.0.0.1", port), history, habits=habits)
        approved: list[str] = []
        for number in range(count):
            sale = terminal.till.sale(1000, CARD)
            if await terminal.attempt(sale) is not None:
                approved.append(sale.key)
            if number == count // 2:
                kill()
        terminal.hang_up()
        return approved

    history = History(tmp_path / "history.jsonl")
    children = [_started(command)]

    def kill_and_restart() -> None:
        children[-1].send_signal(signal.SIGKILL)
        children[-1].wait()
        children.append(_started(command))

    try:
        approved = asyncio.run(sell(history, 200, kill_and_restart))
    finally:
        children[-1].terminate()
        assert children[-1].wait(10) == 0
        history.close()
    booked = [event.key for event in read_lines(ledger, LedgerEvent) if event.act == "booked"]
    assert len(approved) > 190
    assert set(approved) <= set(booked)
    assert len(booked) == len(set(booked))


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program


def _nothing(_: Message | None = None) -> None:
    return None
