"""What a UnionPay terminal does not forget when its power is cut: STAN, batch, journal of the batch, totals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from bench.records import Direction, TerminalBatch, batch_key
from protocol.settlement import Detail, Totals

_STAN_MAX: Final = 999_999


@dataclass(frozen=True, slots=True)
class Counted:
    """A transaction in the journal of a batch: told approved, and not reversed."""

    stan: str
    amount_minor: int
    direction: Direction
    pan: str = field(repr=False)

    @property
    def detail(self) -> Detail:
        """The same in an upload."""
        return Detail(self.stan, self.amount_minor, self.pan)


@dataclass(slots=True)
class Batch:
    """One batch. Its journal and its totals are two records, written one after the other."""

    number: str
    journal: list[Counted] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    closed: bool = False
    uploaded: bool = False

    @property
    def counting(self) -> list[Counted]:
        """What counts in the totals: debits and credits."""
        return [one for one in self.journal if one.direction in ("debit", "credit")]


class Memory:
    """The durable part of one terminal."""

    def __init__(self, terminal: str, merchant: str, *, first_stan: int = 1) -> None:
        self.terminal = f"{terminal:<8}"
        self.merchant = f"{merchant:<15}"
        self.batch = Batch("000001")
        self.past: list[Batch] = []
        self.wrapped = False
        self._next_stan = first_stan

    def take_stan(self) -> str:
        """The next STAN: 000001 follows 999999."""
        stan = self._next_stan
        self._next_stan = stan % _STAN_MAX + 1
        self.wrapped = self.wrapped or stan == _STAN_MAX
        return f"{stan:06d}"

    def enter(self, number: str) -> None:
        """Be in this batch from now on; nothing changes where it is the present one."""
        if number != self.batch.number:
            if self.batch.journal or self.batch.closed:
                self.past.append(self.batch)
            self.batch = Batch(number)

    def count(self, counted: Counted, *, power_lost: bool = False) -> None:
        """Write the journal record, then the totals record.

        Args:
            power_lost: the power goes between the two: the journal has it, the totals do not.
        """
        batch = self.batch
        batch.journal.append(counted)
        if power_lost:
            return
        if counted.direction == "debit":
            batch.totals = replace(
                batch.totals,
                debit_minor=batch.totals.debit_minor + counted.amount_minor,
                debit_count=batch.totals.debit_count + 1,
            )
        elif counted.direction == "credit":
            batch.totals = replace(
                batch.totals,
                credit_minor=batch.totals.credit_minor + counted.amount_minor,
                credit_count=batch.totals.credit_count + 1,
            )

    def batches(self) -> list[TerminalBatch]:
        """Every batch in which something happened, for the check."""
        return [
            TerminalBatch(
                key=batch_key(self.merchant, self.terminal, batch.number),
                entries=tuple(f"{one.stan}:{one.amount_minor}:{one.direction}" for one in batch.journal),
                closed=batch.closed,
                uploaded=batch.uploaded,
            )
            for batch in [*self.past, self.batch]
            if batch.journal or batch.closed
        ]
