"""Whether what terminals were told is what the host has: the same judgement for every scenario.

A terminal that was told "approved" is booked once and stays booked; one that was told anything else is not, or was
reversed; and each lane's first messages came in the order of their STANs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.load.books import BOOKED, DOUBLED, REVERSED, SavedLane
from bench.load.terminals import Told

_EXAMPLES_MAX: Final = 10
_NET: Final = {
    Told.APPROVED: (1,),
    Told.DECLINED: (0,),
    Told.REFUSED: (0,),
    Told.UNKNOWN: (0, 1),
    Told.REVERSED: (0,),
    Told.NOTHING: (0,),
}


@dataclass(slots=True, kw_only=True)
class Truth:
    """The judgement.

    Attributes:
        approvals: told, and not reversed since.
        lost: told approved, and not booked or reversed behind the terminal's back.
        doubled: booked twice, or booked although nobody sold it.
        unsettled: told declined, refused or reversed, and booked all the same.
        unknown: nobody was told anything.
        undone: sales that were approved and then reversed by their terminals.
        compared: False where it did not come to that: every count is then 0 because nobody looked.
        counted_only: only sums were compared, so that one lost and one doubled cancel out.
        examples: some of them, for a person.
    """

    approvals: int = 0
    booked: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    changed: int = 0
    unsettled: int = 0
    unknown: int = 0
    undone: int = 0
    disagreed: int = 0
    counted_only: bool = False
    compared: bool = True
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether it was compared, and nothing is wrong."""
        wrong = self.lost, self.doubled, self.out_of_order, self.changed, self.unsettled, self.disagreed
        return self.compared and not any(wrong)

    def sentence(self) -> str:
        """The judgement in a line."""
        if not self.compared:
            return "what was told was not compared with what is booked: nothing is known of either"
        if self.counted_only:
            return (
                f"{self.approvals:,} approvals told, {self.booked:,} booked: {self.lost} too few are booked or owed, "
                f"{self.doubled} too many; order, amounts and single sales were not compared"
                + (f", {self.disagreed} retries told otherwise" if self.disagreed else "")
            )
        return (
            f"{self.approvals:,} approvals told, {self.booked:,} booked: {self.lost} lost, {self.doubled} doubled, "
            f"{self.out_of_order} out of order, {self.changed} changed, {self.unsettled} unsettled"
            + (f", {self.disagreed} retries told otherwise" if self.disagreed else "")
            + (f"; {self.undone} reversed by their terminals" if self.undone else "")
            + (f"; {self.unknown} of unknown outcome" if self.unknown else "")
        )

    def example(self, what: str, terminal: str, stan: int) -> None:
        """Keep it, if there are not enough yet."""
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(f"{what}: terminal {terminal}, STAN {stan}")


def judge(told: Mapping[str, bytes], lanes: Mapping[str, SavedLane]) -> Truth:
    """Compare what each terminal was told, by STAN from 1, with what the host has of it."""
    truth = Truth()
    for terminal, outcomes in told.items():
        lane = lanes.get(terminal)
        bits = lane.bits if lane is not None else b""
        _lane(truth, terminal, outcomes, bits)
    for terminal, lane in lanes.items():
        truth.out_of_order += lane.out_of_order
        truth.changed += lane.changed
        if lane.out_of_order or lane.changed:
            truth.example("out of order or changed", terminal, 0)
        if terminal not in told:
            strangers = sum(bit & BOOKED for bit in lane.bits)
            truth.doubled += strangers
            if strangers:
                truth.example("booked for a terminal that sold nothing", terminal, 0)
    return truth


_EXPECTED: Final = BOOKED << 8 | Told.APPROVED
"""What nearly all are: booked, and told so."""


def _lane(truth: Truth, terminal: str, outcomes: bytes, bits: bytes) -> None:
    size = max(len(outcomes) + 1, len(bits))
    padded = b"\0" + outcomes + bytes(size - 1 - len(outcomes))
    bits = bits + bytes(size - len(bits))
    for stan, (outcome, had) in enumerate(zip(padded, bits, strict=True)):
        if had << 8 | outcome == _EXPECTED:
            truth.approvals += 1
            truth.booked += 1
        elif outcome or had:
            _one(truth, terminal, stan, outcome, had)


def _one(truth: Truth, terminal: str, stan: int, outcome: int, had: int) -> None:
    net = int(bool(had & BOOKED) and not had & REVERSED)
    truth.booked += net
    if had & DOUBLED:
        truth.doubled += 1
        truth.example("doubled", terminal, stan)
    if not outcome:
        truth.doubled += net
        if net:
            truth.example("booked, though nobody was told so", terminal, stan)
        return
    told = Told(outcome)
    truth.approvals += told is Told.APPROVED
    truth.unknown += told is Told.UNKNOWN
    truth.undone += told is Told.REVERSED
    if net in _NET[told]:
        return
    if told is Told.APPROVED:
        truth.lost += 1
        truth.example("lost", terminal, stan)
    else:
        truth.unsettled += 1
        truth.example(f"booked, though told {told.name.lower()}", terminal, stan)
