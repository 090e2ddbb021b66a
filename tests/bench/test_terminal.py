"""The simulated terminal's rules of retrying, and what the checker says of a shop without a gateway."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from bench.acquirer import Acquirer, Behaviour, Mode
from bench.history import Defect, check
from bench.records import LedgerEvent, TerminalEvent, read_lines
from bench.terminal import STEADY, GaveUp, Habits, History, Terminal
from bench.till import TEST_CARDS
from protocol.iso8583.dialect import load_dialect
from tests.bench.test_acquirer import CARD, QUICK, with_acquirer

SILENT = Behaviour(mode=Mode.SILENT)


def history(folder: Path) -> list[TerminalEvent]:
    return list(read_lines(folder / "history.jsonl", TerminalEvent))


def steps(folder: Path) -> list[str]:
    return [f"{event.business} {event.event}" for event in history(folder)]


def test_a_sale_without_an_answer_is_sent_again_and_then_reversed(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        acquirer.next_messages(SILENT, SILENT, SILENT, SILENT)
        sold = await terminal.sell(1000, CARD)
        assert sold.told is None
        assert sold.reversal is not None
        assert acquirer.books.net(sold.sale.key) == 0

    with_acquirer(tmp_path, story)
    tries = ["sale sent", "sale timed_out"] * 3
    assert steps(tmp_path) == [*tries, "reversal sent", "reversal timed_out", "reversal sent", "reversal answered"]


def test_a_retry_has_the_same_bytes_and_the_same_key(tmp_path: Path) -> None:
    digests: list[str] = []

    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        acquirer.next_messages(SILENT)
        await terminal.sell(1000, CARD)
        digests.extend(event.digest for event in acquirer.recent)

    with_acquirer(tmp_path, story)
    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert len({event.key for event in history(tmp_path)}) == 1
    assert [event.attempt for event in history(tmp_path) if event.event == "sent"] == [1, 2]


@pytest.mark.parametrize(
    "habits",
    [
        Habits(power_loss=1, answer_loss=0, double_send=0, reversal_after_loss=0),
        Habits(power_loss=0, answer_loss=1, double_send=0, reversal_after_loss=0),
    ],
)
def test_faults_of_the_shop_floor_end_in_a_retry(tmp_path: Path, habits: Habits) -> None:
    async def story(_: Acquirer, terminal: Terminal) -> None:
        await terminal.sell(1000, CARD)

    with_acquirer(tmp_path, story, habits=habits)
    events = history(tmp_path)
    assert [event.attempt for event in events if event.event == "sent"] == [1, 2]
    assert [event.attempt for event in events if event.event == "answered" and not event.lost] == [2]
    assert ("sale disconnected" in steps(tmp_path)) == bool(habits.power_loss)


def test_a_terminal_may_reverse_at_once_after_a_loss(tmp_path: Path) -> None:
    async def story(acquirer: Acquirer, terminal: Terminal) -> None:
        sold = await terminal.sell(1000, CARD)
        assert sold.reversal is not None
        assert acquirer.books.net(sold.sale.key) == 0

    habits = Habits(power_loss=0, answer_loss=1, double_send=0, reversal_after_loss=1)
    with_acquirer(tmp_path, story, habits=habits)
    assert steps(tmp_path) == ["sale sent", "sale answered", "reversal sent", "reversal answered"]


def test_a_message_sent_twice_records_both_answers(tmp_path: Path) -> None:
    async def story(_: Acquirer, terminal: Terminal) -> None:
        await terminal.attempt(terminal.till.sale(1000, CARD), twice=True)
        await terminal.attempt(terminal.till.sale(1000, CARD))

    with_acquirer(tmp_path, story, habits=STEADY)
    answered = [event for event in history(tmp_path) if event.event == "answered"]
    assert [(event.stan, event.response, event.late) for event in answered] == [
        ("000001", "00", False),
        ("000001", "94", True),
        ("000002", "00", False),
    ]


def test_a_terminal_gives_up_only_when_its_time_is_over(tmp_path: Path) -> None:
    async def run() -> None:
        log = History(tmp_path / "history.jsonl")
        terminal = Terminal(load_dialect("unionpay"), ("127.0.0.1", 1), log, habits=QUICK)
        terminal.finish_by = time.monotonic() + 0.1
        with pytest.raises(GaveUp):
            await terminal.sell(1000, CARD)
        log.close()
        assert log.counts["connect_failed"] > 1

    asyncio.run(run())
    assert steps(tmp_path) == []


def test_no_card_number_is_in_the_history(tmp_path: Path) -> None:
    async def story(_: Acquirer, terminal: Terminal) -> None:
        for pan in TEST_CARDS:
            await terminal.sell(1000, pan)

    with_acquirer(tmp_path, story)
    written = (tmp_path / "history.jsonl").read_text() + (tmp_path / "ledger.jsonl").read_text()
    assert not [pan for pan in TEST_CARDS if pan in written]


def shop(folder: Path, behaviour: Behaviour, habits: Habits) -> dict[str, int]:
    """Terminals straight at the acquirer, without a gateway between; what the checker says of that."""

    async def run() -> None:
        acquirer = Acquirer(folder / "ledger.jsonl", dialect="unionpay", seed=5)
        await acquirer.start()
        await acquirer.set_behaviour(behaviour)
        log = History(folder / "history.jsonl")
        stop = asyncio.Event()
        endpoint = ("127.0.0.1", acquirer.port)
        dialect = load_dialect("unionpay")
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                terminal = Terminal(dialect, endpoint, log, terminal=f"T{number:07d}", habits=habits, seed=5)
                group.create_task(terminal.keep_selling(stop))
            await asyncio.sleep(0.7)
            stop.set()
        await acquirer.stop()
        log.close()

    asyncio.run(run())
    verdict = check(
        read_lines(folder / "history.jsonl", TerminalEvent), read_lines(folder / "ledger.jsonl", LedgerEvent)
    )
    assert verdict.transactions > 50
    return {defect.value: verdict.count(defect) for defect in Defect if verdict.count(defect)}


def test_a_shop_on_a_good_day_needs_no_gateway(tmp_path: Path) -> None:
    steady = Habits(pause_s=0.01, power_loss=0, answer_loss=0, double_send=0)
    assert shop(tmp_path, Behaviour(), steady) == {}


def test_without_a_gateway_lost_answers_are_told_as_no_and_the_checker_sees_it(tmp_path: Path) -> None:
    habits = Habits(pause_s=0.01, power_loss=0, answer_loss=0.3, double_send=0, reversal_after_loss=0)
    found = shop(tmp_path, Behaviour(), habits)
    assert found.keys() == {"changed", "unsettled"}
    assert min(found.values()) > 5


def test_without_a_gateway_an_approval_that_was_never_booked_is_found_lost(tmp_path: Path) -> None:
    habits = Habits(pause_s=0.01, power_loss=0, answer_loss=0, double_send=0)
    found = shop(tmp_path, Behaviour(mode=Mode.CODE, code="00", booking=False, share=0.2), habits)
    assert found.keys() == {"lost"}
    assert found["lost"] > 5
