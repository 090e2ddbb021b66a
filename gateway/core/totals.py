"""What a batch comes to: plain functions over the journal's rows of it (UnionPay session, settlement).

A transaction counts from the moment its terminal was told that it is approved, and counts no more once it is undone. A
voided sale counts as a debit, and its void as a credit.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from gateway.core.lifecycle import State
from gateway.core.transaction import Kind, Stored, UploadedDetail
from protocol.iso8583.mti import first_mti
from protocol.iso8583.rules import HostRules, TerminalRules
from protocol.settlement import Totals

_COUNTED_KINDS = frozenset({Kind.AUTHORISATION, Kind.SALE, Kind.ADVICE})
_STANDING = frozenset({State.APPROVED, State.STORED})


@dataclass(frozen=True, slots=True)
class Difference:
    """What a terminal's details and the journal's rows do not agree on; STANs in their order.

    Attributes:
        unknown: uploaded, and not approved here.
        missing: approved here, and not uploaded.
        changed: known to both, with another amount or card.
    """

    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words, as it is kept with a parked settlement."""
        named = (("unknown", self.unknown), ("missing", self.missing), ("changed", self.changed))
        return "; ".join(f"{name} {' '.join(stans)}" for name, stans in named if stans)

    @property
    def none(self) -> bool:
        """Whether the batch is balanced."""
        return not (self.unknown or self.missing or self.changed)


def counted(
    rows: Iterable[Stored], rules: TerminalRules | HostRules, approved_codes: Container[str], *, booked: bool = False
) -> list[Stored]:
    """The transactions of a batch that its totals are made of.

    Args:
        booked: only those that the acquirer has booked, for a settlement with it.
    """
    types = rules.debit_types | rules.credit_types
    return [
        stored
        for stored in rows
        if stored.transaction.kind in _COUNTED_KINDS
        and _type_of(stored) in types
        and _stands(stored, approved_codes, booked=booked)
    ]


def _stands(stored: Stored, approved_codes: Container[str], *, booked: bool) -> bool:
    transaction = stored.transaction
    if booked:
        # What is to be reversed behind the settlement is booked until then, so that a repeat has its totals (D8, D14).
        waits = transaction.state is State.REVERSING and transaction.booked and not transaction.attempts
        return transaction.state is State.APPROVED or waits
    state = transaction.resume or transaction.state
    return state in _STANDING and transaction.response in approved_codes


def _type_of(stored: Stored) -> str:
    return f"{first_mti(stored.request.mti)}/{stored.request.fields.get(3, '')[:2]}"


def totals_of(rows: Iterable[Stored], rules: TerminalRules | HostRules) -> Totals:
    """The sums of rows that count."""
    debits: list[int] = []
    credits_: list[int] = []
    for stored in rows:
        (debits if _type_of(stored) in rules.debit_types else credits_).append(stored.transaction.amount_minor)
    return Totals(sum(debits), len(debits), sum(credits_), len(credits_))


def uploaded(rows: Iterable[Stored], rules: TerminalRules) -> list[UploadedDetail]:
    """What a terminal has uploaded of its batch, as the journal kept it; the last word on a STAN counts."""
    details = {
        detail.stan: detail
        for stored in rows
        if stored.transaction.kind is Kind.UPLOAD
        for detail in details_from_text(stored.request.fields.get(rules.totals_field, ""))
    }
    return list(details.values())


def difference(rows: Sequence[Stored], said: Sequence[UploadedDetail]) -> Difference:
    """Compare the rows that count with what their terminal uploaded."""
    ours: dict[str, list[tuple[int, bytes]]] = {}
    for stored in rows:
        row = stored.transaction
        ours.setdefault(row.stan, []).append((row.amount_minor, row.card))
    unknown, changed = [], []
    for detail in said:
        candidates = ours.get(detail.stan)
        if candidates is None:
            unknown.append(detail.stan)
            continue
        same = next((row for row in candidates if _same(row, detail)), None)
        if same is None:
            changed.append(detail.stan)
        candidates.remove(same if same is not None else candidates[0])
        if not candidates:
            del ours[detail.stan]
    return Difference(tuple(unknown), tuple(ours), tuple(changed))


def _same(row: tuple[int, bytes], detail: UploadedDetail) -> bool:
    """A side that does not know the card does not contradict the other."""
    amount_minor, card = row
    return amount_minor == detail.amount_minor and (not card or not detail.card or card == detail.card)


def details_as_text(details: Iterable[UploadedDetail]) -> str:
    """Details as the journal keeps them: no card number, its keyed hash."""
    return " ".join(f"{detail.stan},{detail.amount_minor},{detail.card.hex()}" for detail in details)


def details_from_text(text: str) -> list[UploadedDetail]:
    """What `details_as_text` has written."""
    details = []
    for word in text.split():
        stan, amount_minor, card = word.split(",")
        details.append(UploadedDetail(stan, int(amount_minor), bytes.fromhex(card)))
    return details
