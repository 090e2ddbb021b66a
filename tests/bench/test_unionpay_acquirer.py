"""The UnionPay acquirer: MACs, keys, totals, uploads, and a ledger from which its books can be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.batches import check_batches
from bench.books import NORMALLY
from bench.unionpay import Seal
from bench.unionpay_books import UnionPayBooks
from bench.unionpay_memory import Counted
from bench.unionpay_sessions import Sessions
from bench.unionpay_terminal import UnionPayTerminal
from protocol.iso8583.message import Fields, Message
from protocol.settlement import Balance, Totals, details_text, result_of, totals_text
from protocol.work_keys import open_work_keys
from tests.bench.unionpay_shop import CARD, MASTER_KEY, UNIONPAY, Shop, in_shop

TPDU, HEADER = bytes.fromhex("6000030000"), bytes.fromhex("603100310100")


def message(mti: str, stan: int, *, kind: str = "22", code: str = "000", batch: int = 1, **more: str) -> Message:
    """A message without MAC; further fields as `f4="..."`."""
    fields: Fields = {11: f"{stan:06d}", 41: "T0000001", 42: "HOLDFASTBENCH01", 60: f"{kind}{batch:06d}{code}"}
    fields |= {int(name[1:]): value for name, value in more.items()}
    return Message(mti, fields, TPDU, HEADER)


def sale(stan: int, amount: int = 1000) -> Message:
    return message("0200", stan, f2=CARD, f3="000000", f4=f"{amount:012d}", f49="156")


def settlement(stan: int, totals: Totals) -> Message:
    return message("0500", stan, kind="00", code="201", f48=totals_text(totals))


def opened(sealed: bytes) -> Seal:
    return Seal(UNIONPAY, open_work_keys(MASTER_KEY, sealed).mac)


def test_a_mac_passes_under_the_right_key_only_and_for_these_very_bytes() -> None:
    sessions = Sessions(UNIONPAY, {"T0000001": MASTER_KEY})
    seal = opened(sessions.sign_on("T0000001", "003"))
    frame = seal.sealed(sale(1))
    assert sessions.genuine("T0000001", frame)
    assert not sessions.genuine("T0000001", frame[:-1] + bytes([frame[-1] ^ 1]))
    assert not sessions.genuine("T0000001", frame[:30] + bytes([frame[30] ^ 1]) + frame[31:])
    assert not sessions.genuine("T0000001", Seal(UNIONPAY, bytes(16)).sealed(sale(1)))
    assert not sessions.genuine("T0000001", UNIONPAY.codec.encode(sale(1))), "a message without a MAC"
    assert not Sessions(UNIONPAY, {"T0000001": MASTER_KEY}).genuine("T0000001", frame), "nobody has signed on"


def test_keys_before_a_sign_on_pass_until_the_first_message_under_the_new_ones() -> None:
    sessions = Sessions(UNIONPAY, {"GW": MASTER_KEY}, gateway="GW")
    old = opened(sessions.sign_on("GW", "003"))
    new = opened(sessions.sign_on("GW", "003"))
    assert sessions.genuine("T0000009", old.sealed(sale(1))), "a terminal of the gateway"
    assert sessions.genuine("T0000009", new.sealed(sale(2)))
    assert not sessions.genuine("T0000009", old.sealed(sale(3)))


def test_wrong_totals_are_told_95_and_right_ones_00(tmp_path: Path) -> None:
    books = UnionPayBooks()
    for stan, amount in ((1, 1000), (2, 3000)):
        assert books.decide(sale(stan, amount), 0).answer == "00"
    for wrong in (Totals(), Totals(4000, 1), Totals(4001, 2), Totals(4000, 2, 1, 1)):
        assert books.decide(settlement(3, wrong), 0).answer == "95"
    assert books.decide(settlement(4, Totals(4000, 2)), 0).answer == "00"
    assert books.decide(settlement(4, Totals(4000, 2)), 0).act == "duplicate"


def test_what_is_reversed_voided_or_held_counts_as_it_should() -> None:
    books = UnionPayBooks()
    books.decide(sale(1), 0)
    books.decide(sale(2, 500), 0)
    books.decide(message("0400", 2, f3="000000", f4=f"{500:012d}", f39="98"), 0)
    void = message("0200", 3, kind="23", f2=CARD, f3="200000", f4=f"{1000:012d}", f61="0000010000010101")
    assert books.decide(void, 0).answer == "00"
    books.decide(message("0100", 4, kind="10", f2=CARD, f3="030000", f4=f"{700:012d}"), 0)
    books.decide(message("0200", 5, kind="01", f2=CARD, f3="310000"), 0)
    assert books.decide(settlement(6, Totals(1000, 1, 1000, 1)), 0).answer == "00"


def test_an_upload_closes_the_batch_and_is_compared_with_what_is_booked() -> None:
    def uploaded(*counted: Counted) -> UnionPayBooks:
        books = UnionPayBooks()
        books.decide(sale(1), 0)
        assert books.decide(settlement(2, Totals()), 0).answer == "95"
        text = details_text([one.detail for one in counted])
        for _ in range(2):  # a repeat is no second detail
            assert books.decide(message("0320", 3, kind="00", code="201", f48=text), 0).answer == "00"
        assert books.decide(message("0320", 4, kind="00", code="202"), 0).answer == "00"
        return books

    right = uploaded(Counted("000001", 1000, "debit", CARD)).batches["HOLDFASTBENCH01/T0000001/000001"]
    assert right.closed
    assert right.compared
    for wrong in (
        [Counted("000001", 1001, "debit", CARD)],
        [Counted("000009", 1000, "debit", CARD)],
        [Counted("000001", 1000, "debit", "4111111111111111")],
        [Counted("000001", 1000, "debit", CARD), Counted("000002", 1, "debit", CARD)],
        [],
    ):
        assert not uploaded(*wrong).batches["HOLDFASTBENCH01/T0000001/000001"].compared


def test_a_doubted_terminal_must_upload_although_it_balances() -> None:
    books = UnionPayBooks(doubts=frozenset({"T0000001"}))
    books.decide(sale(1), 0)
    for stan in (2, 3):
        assert books.decide(settlement(stan, Totals(1000, 1)), 0).answer == "95"
    details = details_text([Counted("000001", 1000, "debit", CARD).detail])
    assert books.decide(message("0320", 4, kind="00", code="201", f48=details), 0).answer == "00"
    assert books.decide(message("0320", 5, kind="00", code="202"), 0).act == "uploaded"
    books.decide(message("0200", 6, batch=2, f2=CARD, f3="000000", f4=f"{500:012d}"), 0)
    second = message("0500", 7, kind="00", code="201", batch=2, f48=totals_text(Totals(500, 1)))
    assert books.decide(second, 0).answer == "00", "once is enough"


def test_only_the_batch_keeps_two_uses_of_a_stan_apart() -> None:
    books = UnionPayBooks()
    first = books.decide(sale(1), 0)
    again = books.decide(sale(1), 0)
    assert (first.act, again.act, again.answer) == ("booked", "duplicate", "94")
    other = message("0200", 1, batch=2, f2=CARD, f3="000000", f4=f"{1000:012d}")
    assert books.decide(other, 0).act == "booked"


def test_books_are_made_again_from_the_ledger(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        for number in range(3):
            shop.terminal.lose_power_at_totals = number == 1
            await shop.terminal.ask(lambda: shop.terminal.till.sale(1000, CARD))
        await shop.terminal.settle()
        again = UnionPayBooks(keeps_batches=True)
        for event in shop.booked():
            again.apply(event)
        assert again.batches == shop.acquirer.books.batches
        assert again.current_batch("HOLDFASTBENCH01", "T0000001") == "000002"

    in_shop(tmp_path, story)


def test_a_terminal_without_a_master_key_gets_no_keys(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        stranger = UnionPayTerminal(
            UNIONPAY, ("127.0.0.1", shop.acquirer.port), shop.history, master_key=MASTER_KEY, terminal="T0000002"
        )
        told = await stranger.line.attempt(stranger.till.sign_on("003"))
        stranger.line.hang_up()
        assert told is not None
        assert told.response == "97"
        assert 62 not in told.message.fields

    in_shop(tmp_path, story)


@pytest.mark.parametrize(("code", "result"), [("00", Balance.BALANCED), ("95", Balance.OUT_OF_BALANCE)])
def test_an_answer_to_a_settlement_has_the_result_in_the_totals(tmp_path: Path, code: str, result: Balance) -> None:
    async def story(shop: Shop) -> None:
        terminal = shop.terminal
        await terminal.ask(lambda: terminal.till.sale(1000, CARD))
        if code == "95":
            terminal.memory.batch.totals = Totals(1, 1)
        told = await terminal.line.attempt(terminal.till.settlement())
        assert told is not None
        assert told.response == code
        assert result_of(told.message.fields[48]) is result

    in_shop(tmp_path, story)


def test_the_ledger_holds_no_pin_block_no_chip_data_and_no_whole_card_number(tmp_path: Path) -> None:
    async def story(shop: Shop) -> None:
        ended = await shop.terminal.ask(lambda: shop.terminal.till.sale(1000, CARD, pin=True))
        shop.terminal.memory.batch.totals = Totals()
        await shop.terminal.settle()
        shop.history.flush()
        kept = (tmp_path / "ledger.jsonl").read_text() + (tmp_path / "history.jsonl").read_text()
        assert CARD not in kept
        assert ended.draft.message.fields[52] not in kept
        assert check_batches(shop.terminal.memory.batches(), shop.booked()).unbalanced == 0

    in_shop(tmp_path, story)


def test_a_refused_mac_is_in_the_ledger_and_books_nothing() -> None:
    books = UnionPayBooks()
    event = books.refuse_mac(sale(1), 0, NORMALLY)
    assert (event.act, event.answer, books.booked, books.batches) == ("mac-refused", "A0", 0, {})
