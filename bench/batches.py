"""The batch check: at the end of the day every batch is the same at its terminal and at the acquirer, and closed.

It reads the terminals' own lists, written by them, and the ledger; it knows nothing of the gateway. A batch is sound
when

    its terminal was told that it is closed;
    the acquirer's bookings of that batch that are not reversed are those of the terminal's list, by STAN, amount and
    direction;
    the acquirer has closed it: by totals that agreed, or by an upload whose details are its bookings;
    nothing moved money in it after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.records import LedgerEvent, TerminalBatch
from bench.unionpay_books import BatchState, UnionPayBooks

_SHOWN_MAX = 5


@dataclass(slots=True)
class BatchVerdict:
    """What the check found.

    Attributes:
        batches: with something in them, at the terminal or at the acquirer.
        uploaded: that needed an upload, by the terminal or towards the acquirer.
        uploaded_upstream: those that needed one towards the acquirer.
        findings: one line for each batch that is not sound.
    """

    batches: int = 0
    uploaded: int = 0
    uploaded_upstream: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def unbalanced(self) -> int:
        """Batches that are not sound."""
        return len(self.findings)


def check_batches(terminals: Iterable[TerminalBatch], ledger: Iterable[LedgerEvent]) -> BatchVerdict:
    """Check every batch of a day."""
    books = UnionPayBooks()
    for event in ledger:
        books.apply(event)
    lists: dict[str, TerminalBatch] = {}
    twice: set[str] = set()
    for batch in terminals:
        if batch.key in lists:
            twice.add(batch.key)
        lists[batch.key] = batch
    verdict = BatchVerdict()
    for key in sorted(lists.keys() | books.batches.keys()):
        own, state = lists.get(key), books.batches.get(key, BatchState())
        if own is None and not state.bookings:
            continue
        verdict.batches += 1
        verdict.uploaded_upstream += state.uploaded
        verdict.uploaded += state.uploaded or (own is not None and own.uploaded)
        wrong = _wrong(own, state)
        if key in twice:
            wrong.append("the terminal had two batches of this number")
        if wrong:
            verdict.findings.append(f"batch {key}: {'; '.join(wrong)}")
    return verdict


def _wrong(own: TerminalBatch | None, state: BatchState) -> list[str]:
    """Everything that is not as it should be with one batch."""
    wrong = []
    if own is None:
        return ["the acquirer has bookings in it, the terminal knows none"]
    if not own.closed:
        wrong.append("its terminal was not told that it is closed")
    booked = Counter(f"{one.stan}:{one.amount_minor}:{one.direction}" for one in state.bookings.values())
    listed = Counter(own.entries)
    if missing := listed - booked:
        wrong.append(f"not booked: {_shown(missing)}")
    if more := booked - listed:
        wrong.append(f"booked, and not in the terminal's list: {_shown(more)}")
    if not state.closed and (own.entries or state.bookings):
        wrong.append("95 was the acquirer's last word" if state.asked else "never settled at the acquirer")
    elif state.uploaded and not state.compared:
        wrong.append("its upload to the acquirer is not what the acquirer has booked")
    if state.late:
        wrong.append(f"{state.late} messages moved money in it after the acquirer had closed it")
    return wrong


def _shown(entries: Counter[str]) -> str:
    shown = ", ".join(sorted(entries.elements())[:_SHOWN_MAX])
    more = entries.total() - _SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown
