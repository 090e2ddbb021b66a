"""The checker on UnionPay days: batches keep STANs apart, and PIN blocks and chip data arrive as they were sent."""

from __future__ import annotations

import pytest

from bench.history import Defect, check
from bench.records import Business, LedgerAct, LedgerEvent, TerminalEvent, batch_key


def sold(batch: int, *, response: str = "00", pin: str = "", chip: str = "", business: Business = "sale",
         kind: str = "sale", mti: str = "0200") -> list[TerminalEvent]:  # fmt: skip
    """A transaction with STAN 000001, sent and answered."""
    sent = TerminalEvent(
        at=0, event="sent", business=business, terminal="T", merchant="M", stan="000001", key=key(batch), mti=mti,
        amount_minor=100, currency="156", card_hash="c", batch=f"{batch:06d}", kind=kind, pin_hash=pin, chip_hash=chip,
    )  # fmt: skip
    answer = TerminalEvent(
        at=0, event="answered", business=business, terminal="T", merchant="M", stan="000001", key=key(batch),
        mti=f"{mti[:2]}{int(mti[2]) + 1}0", amount_minor=100, currency="156", card_hash="c", response=response,
    )  # fmt: skip
    return [sent, answer]


def booked(batch: int, *, pin: str = "", chip: str = "", mti: str = "0200", kind: str = "sale",
           act: LedgerAct = "booked") -> LedgerEvent:  # fmt: skip
    business: Business = "advice" if mti[2] == "2" else "sale"
    return LedgerEvent(
        at=0, act=act, business=business, mti=mti, terminal="T", merchant="M", stan="000001", key=key(batch),
        amount_minor=100, currency="156", card_hash="c", answer="00", kind=kind, pin_hash=pin, chip_hash=chip,
    )  # fmt: skip


def key(batch: int) -> str:
    return f"{batch_key('M', 'T', f'{batch:06d}')}/000001"


def test_a_stan_of_two_batches_is_two_transactions() -> None:
    history = [*sold(1), *sold(2)]
    assert check(history, [booked(1), booked(2)]).clean
    found = check(history, [booked(1), booked(1)])
    assert [(one.defect, one.key) for one in found.findings] == [(Defect.DOUBLED, key(1)), (Defect.LOST, key(2))]


@pytest.mark.parametrize(("sent", "arrived"), [("a", "b"), ("a", ""), ("", "b")])
@pytest.mark.parametrize("name", ["pin", "chip"])
def test_a_pin_block_or_chip_data_that_is_not_what_was_sent_is_a_change(name: str, sent: str, arrived: str) -> None:
    assert check(sold(1, **{name: sent}), [booked(1, **{name: sent})]).clean  # type: ignore[arg-type]
    found = check(sold(1, **{name: sent}), [booked(1, **{name: arrived})])  # type: ignore[arg-type]
    assert found.count(Defect.CHANGED) == 1
    assert found.count(Defect.LOST) == 0


def test_the_advice_of_a_stand_in_may_leave_a_pin_block_out_and_not_change_it() -> None:
    assert check(sold(1, pin="a", chip="c"), [booked(1, mti="0220")]).clean
    assert check(sold(1, pin="a"), [booked(1, mti="0220", pin="b")]).count(Defect.CHANGED) == 1


def test_a_refund_is_handed_on_as_it_is_although_it_is_0220() -> None:
    history = sold(1, pin="a", business="advice", kind="refund", mti="0220")
    assert check(history, [booked(1, mti="0220", kind="refund", pin="a")]).clean
    assert check(history, [booked(1, mti="0220", kind="refund")]).count(Defect.CHANGED) == 1


def test_a_message_whose_mac_was_refused_is_no_effect() -> None:
    refused = LedgerEvent(at=0, act="mac-refused", business="other", mti="0200", key="M/T/000001/?", answer="A0")
    assert check(sold(1), [refused, booked(1)]).clean
    assert check(sold(1), [refused]).count(Defect.LOST) == 1
