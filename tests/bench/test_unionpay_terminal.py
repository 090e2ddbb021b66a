"""The UnionPay terminal at the UnionPay acquirer: each kind of business, and the rules for what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS
from bench.unionpay_acquirer import BALANCE
from bench.unionpay_line import Fault
from bench.unionpay_memory import Memory
from bench.unionpay_till import Entry
from tests.bench.unionpay_shop import CARD, Shop, in_shop

SILENT = Behaviour(mode=Mode.SILENT)
IGNORED = Behaviour(mode=Mode.BLACKHOLE)


@pytest.mark.parametrize(("code", "size"), [("001", 24), ("003", 40), ("004", 60)])
def test_a_terminal_signs_on_with_every_size_of_keys_and_its_macs_pass(tmp_path: Path, code: str, size: int) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        assert shop.history.counts[f"keys of {size} bytes"] == 1
        assert await terminal.download()
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD, pin=True))
        assert ended.approved is not None
        assert shop.acquirer.mac_refused == 0
        assert await terminal.sign_off()

    in_shop(tmp_path, story, key_code=code)


def test_a_whole_day_by_tls_is_balanced_and_every_check_is_zero(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal, till = shop.terminal, shop.terminal.till
        await terminal.sign_on()
        assert await terminal.download()
        stripe = await terminal.ask(lambda: till.sale(1000, CARD, Entry.STRIPE))
        chip = await terminal.ask(lambda: till.sale(2000, TEST_CARDS[0], Entry.CHIP, pin=True))
        declined = await terminal.ask(lambda: till.sale(2051, CARD))
        assert declined.approved is None
        assert chip.told is not None
        assert chip.told.message.fields[55].startswith("910a")
        bought, refunded = stripe.approved, chip.approved
        assert bought is not None
        assert refunded is not None
        assert (await terminal.ask(lambda: till.void(bought))).approved is not None
        assert (await terminal.ask(lambda: till.refund(500, refunded))).approved is not None
        held = (await terminal.ask(lambda: till.pre_authorisation(5000, CARD))).approved
        assert held is not None
        assert (await terminal.ask(lambda: till.completion(4500, held))).approved is not None
        held_too = (await terminal.ask(lambda: till.pre_authorisation(6000, CARD))).approved
        assert held_too is not None
        assert (await terminal.tell(lambda: till.completion(6100, held_too, advice=True))).approved is not None
        let_go = (await terminal.ask(lambda: till.pre_authorisation(7000, CARD))).approved
        assert let_go is not None
        assert (await terminal.ask(lambda: till.void_pre_authorisation(let_go))).approved is not None
        assert await terminal.look_up_balance(CARD) == BALANCE
        assert (await terminal.tell(lambda: till.offline_sale(800, CARD))).approved is not None
        totals = terminal.memory.batch.totals
        assert (totals.debit_minor, totals.debit_count) == (1000 + 2000 + 4500 + 6100 + 800, 5)
        assert (totals.credit_minor, totals.credit_count) == (1000 + 500, 2)
        assert await terminal.settle()
        assert await terminal.sign_off()
        assert shop.acts("settlement") == ["balanced"]
        assert shop.acts("inquiry") == ["inquiry"]
        assert shop.verdict().clean
        batches = shop.batches()
        assert (batches.batches, batches.uploaded, batches.findings) == (1, 0, [])

    in_shop(tmp_path, story, tls=True)


def test_a_pin_block_arrives_as_it_was_sent(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.ask(lambda: terminal.till.sale(1000, CARD, pin=True))
        sent = next(event for event in shop.told() if event.business == "sale")
        assert sent.pin_hash
        assert [event.pin_hash for event in shop.booked() if event.business == "sale"] == [sent.pin_hash]

    in_shop(tmp_path, story)


def test_totals_that_lost_a_record_end_in_an_upload_and_balance(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        for number in range(11):
            terminal.lose_power_at_totals = number == 4
            await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert terminal.memory.batch.totals.debit_count == 10
        assert await terminal.settle()
        assert shop.acts("settlement") == ["out-of-balance", "details", "details", "uploaded"]
        batches = shop.batches()
        assert (batches.uploaded, batches.findings) == (1, [])

    in_shop(tmp_path, story)


def test_the_next_batch_begins_with_a_sign_on_and_stans_go_on(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        for batch in ("000001", "000002"):
            ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD))
            assert ended.draft.batch == batch
            assert await terminal.settle()
        assert shop.batches().batches == 2
        assert shop.batches().findings == []
        assert shop.verdict().clean

    in_shop(tmp_path, story)


def test_stans_wrap_and_the_key_with_the_batch_keeps_apart_what_has_the_same_stan(tmp_path: Path) -> None:
    memory = Memory("T", "M", first_stan=999_998)
    assert [memory.take_stan() for _ in range(4)] == ["999998", "999999", "000001", "000002"]

    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        for _ in range(4):
            await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert [event.stan for event in shop.booked() if event.business == "sale"][-1] < "000010"
        assert await terminal.settle()
        assert shop.verdict().clean
        assert shop.batches().findings == []

    in_shop(tmp_path, story, first_stan=999_997)


def test_a_sale_without_an_answer_is_retried_with_the_same_bytes_and_then_reversed(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        shop.acquirer.next_messages(IGNORED, IGNORED, SILENT, SILENT)
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert ended.told is None
        assert ended.reversal is not None
        assert terminal.memory.batch.journal == []
        tries = ["sale sent", "sale timed_out"] * 3
        assert shop.steps() == [*tries, "reversal sent", "reversal timed_out", "reversal sent", "reversal answered 00"]
        assert len({event.digest for event in shop.booked() if event.business == "sale"}) == 1
        assert await terminal.settle()
        assert shop.acts("settlement") == ["balanced"]
        assert shop.verdict().clean

    in_shop(tmp_path, story)


def test_a_retry_that_is_told_94_was_heard_before_and_is_reversed(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        shop.acquirer.next_messages(SILENT)
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert ended.reversal is not None
        assert shop.acts("reversal") == ["reversed"]

    in_shop(tmp_path, story)


@pytest.mark.parametrize(
    ("fault", "reason"), [(Fault(power_loss=True), "96"), (Fault(answer_loss=True), "98"), (Fault(), "")]
)
def test_a_reversal_says_why(tmp_path: Path, fault: Fault, reason: str) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.ask(lambda: terminal.till.sale(1000, CARD), fault, tries=1)
        counts = shop.acquirer.counts
        assert [name for name in counts if name.startswith("reversals")] == (
            [f"reversals for {reason}"] if reason else []
        )

    in_shop(tmp_path, story)


def test_an_acquirer_that_has_lost_its_keys_refuses_everything_until_a_sign_on(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        shop.acquirer.sessions.forget()
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert ended.approved is not None
        assert shop.acts() == ["signed-on", "booked", "mac-refused", "signed-on", "booked"]
        assert await terminal.settle()
        assert shop.verdict().clean

    in_shop(tmp_path, story)


def test_a_wrong_mac_is_refused_changes_nothing_and_the_terminal_signs_on_again(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD), Fault(wrong_mac=True))
        assert ended.approved is not None
        assert shop.steps() == ["sale sent", "sale answered A0", "sale sent", "sale answered 00"]
        assert shop.acquirer.mac_refused == 1
        assert shop.acquirer.sessions.sign_ons == 2
        assert shop.acts() == ["signed-on", "mac-refused", "signed-on", "booked"]
        assert shop.verdict().clean

    in_shop(tmp_path, story)


def test_an_answer_with_a_wrong_mac_is_not_believed_and_ends_in_a_reversal(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        await shop.terminal.sign_on()
        shop.acquirer.wrong_macs = 1
        ended = await shop.terminal.ask(lambda: shop.terminal.till.sale(1000, CARD), tries=1)
        assert ended.told is None
        assert shop.history.counts["answers with a wrong MAC"] == 1
        assert shop.steps() == ["sale sent", "sale answered 00", "reversal sent", "reversal answered 00"]
        assert shop.acquirer.counts["reversals for A0"] == 1
        assert shop.verdict().clean

    in_shop(tmp_path, story)


def test_an_answer_that_asks_for_a_sign_on_gets_one(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        shop.acquirer.sign_ons_wanted = 1
        for _ in range(2):
            await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert shop.acts() == ["signed-on", "booked", "signed-on", "booked"]

    in_shop(tmp_path, story)


def test_another_batch_at_the_host_means_sign_on_new_batch_new_transaction(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        terminal.memory.enter("000007")
        ended = await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        assert ended.approved is not None
        assert ended.draft.batch == "000001"
        assert shop.steps() == ["sale sent", "sale answered 77", "sale sent", "sale answered 00"]
        assert await terminal.settle()
        assert shop.verdict().clean
        assert shop.batches().findings == []

    in_shop(tmp_path, story)


def test_an_advice_is_sent_until_it_is_taken(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.sign_on()
        shop.acquirer.next_messages(SILENT, Behaviour(mode=Mode.CODE, code="96"), IGNORED)
        ended = await terminal.tell(lambda: terminal.till.offline_sale(1000, CARD))
        assert ended.approved is not None
        assert len({event.digest for event in shop.booked() if event.business == "advice"}) == 1
        assert shop.acquirer.books.booked == 1
        assert await terminal.settle()

    in_shop(tmp_path, story)


def test_what_is_voided_already_cannot_be_voided_again(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        terminal, till = shop.terminal, shop.terminal.till
        bought = (await terminal.ask(lambda: till.sale(1000, CARD))).approved
        assert bought is not None
        told = [(await terminal.ask(lambda: till.void(bought))).told for _ in range(2)]
        assert [one.response for one in told if one is not None] == ["00", "25"]

    in_shop(tmp_path, story)
