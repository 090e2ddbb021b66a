"""The batch check can fail: one broken record for each thing that may be wrong with a batch."""

from __future__ import annotations

import msgspec
import pytest

from bench.batches import check_batches
from bench.records import Direction, LedgerEvent, TerminalBatch

KEY = "M/T/000001"


def booked(stan: str, amount: int, direction: Direction = "debit") -> LedgerEvent:
    return LedgerEvent(
        at=0, act="booked", business="sale", mti="0200", terminal="T", merchant="M", stan=stan, key=f"{KEY}/{stan}",
        amount_minor=amount, answer="00", direction=direction, card_hash="c",
    )  # fmt: skip


def settled(act: str, stan: str = "000009") -> LedgerEvent:
    line = {"at": 0, "act": act, "business": "settlement", "mti": "0500", "key": f"{KEY}/{stan}", "stan": stan}
    return msgspec.convert({**line, "terminal": "T", "merchant": "M"}, LedgerEvent)


def details(*rows: str) -> LedgerEvent:
    return msgspec.structs.replace(settled("details", "000010"), details=rows)


OWN = TerminalBatch(key=KEY, entries=("000001:500:debit", "000002:700:none", "000003:100:credit"), closed=True)
LEDGER = [booked("000001", 500), booked("000002", 700, "none"), booked("000003", 100, "credit"), settled("balanced")]
UPLOAD = [*LEDGER[:3], settled("out-of-balance"), details("000001:500:c", "000003:100:c"), settled("uploaded")]


@pytest.mark.parametrize(("ledger", "uploads"), [(LEDGER, 0), (UPLOAD, 1)])
def test_a_batch_that_is_the_same_everywhere_is_sound(ledger: list[LedgerEvent], uploads: int) -> None:
    verdict = check_batches([OWN], ledger)
    assert (verdict.batches, verdict.uploaded, verdict.findings) == (1, uploads, [])


@pytest.mark.parametrize(
    ("terminals", "ledger", "said"),
    [
        ([OWN], LEDGER[1:], "not booked: 000001:500:debit"),
        ([OWN], [booked("000008", 1), *LEDGER], "booked, and not in the terminal's list: 000008:1:debit"),
        ([OWN], [booked("000001", 501), *LEDGER[1:]], "not booked: 000001:500:debit"),
        ([OWN], [booked("000001", 500, "credit"), *LEDGER[1:]], "not booked: 000001:500:debit"),
        ([OWN], LEDGER[:3], "never settled at the acquirer"),
        ([OWN], [*LEDGER[:3], settled("out-of-balance")], "95 was the acquirer's last word"),
        ([OWN], [*UPLOAD[:4], details("000001:500:c"), settled("uploaded")], "its upload to the acquirer is not"),
        ([OWN], [*LEDGER[1:], LEDGER[0]], "1 messages moved money in it after the acquirer had closed it"),
        ([msgspec.structs.replace(OWN, closed=False)], LEDGER, "not told that it is closed"),
        ([], LEDGER, "the terminal knows none"),
        ([OWN, OWN], LEDGER, "two batches of this number"),
        (
            [OWN],
            [*LEDGER, LedgerEvent(at=0, act="reversed", business="reversal", mti="0400", original=f"{KEY}/000001")],
            "not booked: 000001:500:debit",
        ),
    ],
)
def test_a_batch_that_is_not_is_found(terminals: list[TerminalBatch], ledger: list[LedgerEvent], said: str) -> None:
    verdict = check_batches(terminals, ledger)
    assert verdict.unbalanced == 1
    assert said in verdict.findings[0]


def test_a_terminal_that_did_nothing_but_settle_needs_no_settlement_upstream() -> None:
    assert check_batches([TerminalBatch(key=KEY, closed=True)], []).findings == []
