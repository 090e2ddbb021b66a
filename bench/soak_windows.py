"""The checker, window by window: what is judged in one window is forgotten after the next.

A window is a round of traffic and the healing behind it. The records of a window are read back from the files, together
with those of the window before, so that a message that comes again for a transaction of that window is still known. One
for an older transaction is a phantom: nobody asks for what was settled two windows ago.

While a round is under way, only what no later event can make right again is a finding: a defect that is no matter of
waiting, and a transaction that was acknowledged, is not booked, and is not in the gateway's queue either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from bench.history import APPROVED_CODES, Checker, Defect, Finding, Verdict
from bench.records import LedgerEvent, Owed, TerminalEvent

DECIDED: Final = frozenset({Defect.DOUBLED, Defect.OUT_OF_ORDER, Defect.CHANGED, Defect.PHANTOM})
"""Defects that stay, whatever still comes."""

_Line = TypeVar("_Line", TerminalEvent, LedgerEvent)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in both files, in bytes."""

    history: int = 0
    ledger: int = 0


def read_between(path: Path, kind: type[_Line], start: int, end: int) -> Iterator[_Line]:
    """Records of a part of a file; a last line that is not complete within it is left out.

    Raises:
        msgspec.DecodeError: a line is damaged, or `start` is not the begin of one.
    """
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            start += len(line)
            if start > end or not line.endswith(b"\n"):
                return
            yield decoder.decode(line)


@dataclass(slots=True)
class Windows:
    """Judges a soak's records as they grow.

    Attributes:
        counts: over all windows that were judged: transactions, acknowledged, booked and so on.
    """

    history: Path
    ledger: Path
    counts: Counter[str] = field(default_factory=Counter)
    _before: Place = field(default_factory=Place)
    _here: Place = field(default_factory=Place)
    _by_person: dict[str, bool] = field(default_factory=dict)
    _by_person_before: dict[str, bool] = field(default_factory=dict)

    def decided_by_person(self, key: str, *, ended: bool) -> None:
        """Take an operator's decision about a transaction; `ended` where it was cancelled or voided."""
        self._by_person[key] = ended

    def end(self) -> Place:
        """How far both files go now. Whoever writes them has to flush first; the ledger is looked at first."""
        ledger = self.ledger.stat().st_size if self.ledger.exists() else 0
        return Place(self.history.stat().st_size, ledger)

    def decided(self, acknowledged: int, end: Place, queue: Iterable[Owed] | None) -> list[Finding]:
        """Findings in the middle of a round.

        Args:
            acknowledged: how far the history went before the queue was listed: an acknowledgement up to there must be
                in that queue, or in the ledger, which is read to `end`, later.
            queue: None where the gateway could not be asked.
        """
        found = self._checked(self._before, end, queue or ()).findings
        wrong = [finding for finding in found if finding.defect in DECIDED]
        lost = [finding for finding in found if finding.defect is Defect.LOST]
        if queue is not None and lost:
            later = self._acknowledged(acknowledged, end.history)
            wrong += [finding for finding in lost if finding.key not in later]
        return wrong

    def settled(self, end: Place, queue: Iterable[Owed]) -> list[Finding]:
        """Findings at the end of a window, when everything is to be settled. The next window begins behind it."""
        findings = self._checked(self._before, end, queue).findings
        figures = self._checked(self._here, end, ()).figures()
        for name in ("transactions", "acknowledged", "booked", "declined", "reversed", "unanswered", "resent"):
            self.counts[name] += figures[name]
        self._before, self._here = self._here, end
        self._by_person, self._by_person_before = {}, self._by_person
        return findings

    def _checked(self, start: Place, end: Place, queue: Iterable[Owed]) -> Verdict:
        checker = Checker()
        for key, ended in (self._by_person_before | self._by_person).items():
            checker.decided_by_person(key, ended=ended)
        for told in read_between(self.history, TerminalEvent, start.history, end.history):
            checker.terminal_event(told)
        if self.ledger.exists():
            for booked in read_between(self.ledger, LedgerEvent, start.ledger, end.ledger):
                checker.ledger_event(booked)
        for owed in queue:
            checker.owed(owed)
        return checker.verdict()

    def _acknowledged(self, start: int, end: int) -> set[str]:
        """Keys of what terminals were told is approved, in a part of the history."""
        events = read_between(self.history, TerminalEvent, start, end)
        return {one.key for one in events if one.event == "answered" and one.response in APPROVED_CODES}
