"""`audit balance`: does what terminals were told add up, from the journal's entries alone?

A *payment* is a transaction that a terminal asked for or told of: a sale, an authorisation, an advice. Reversals,
settlements, uploads and stand-ins for unknown originals are none; what they did to a payment is in the
payment's own entries. Of each payment, by the newest entry that says it:

    approved    its terminal was told a code, and none that declines (protocol.response_codes.DECLINES)
    reversed    and has reversed it since: a TAKEN or CANCELLED entry behind the first (D15)
    ended       or a person has voided or cancelled it: an OPERATOR entry that says so (D18)
    told        approved, and neither reversed nor ended: what the terminal believes it has sold

    booked      its state is approved: the acquirer has it
    owed        its state is stored: an advice is owed
    parked      its state is parked, and it is told: a person decides
    settled     it is told, and two people have settled its damaged record, which is sent no more: booked by hand

It adds up where, for every day, terminal and currency, the amounts are

    approved = told + reversed + ended          by definition
    told     = booked + owed + parked + settled this is checked, payment by payment

So a payment makes a difference if its terminal believes in it and nothing stands behind that; or the acquirer has it,
or is owed it, and its terminal was told no, has reversed it, or a person has ended it. The day is that of the first
entry, in UTC. Amounts are counted as the terminal named them, refunds too: entries do not say which way money goes.

An entry that does not hash to its leaf is not what was written. It is named, and what it says is not counted: a journal
with such an entry does not add up, whatever its sums are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.audit.entry_checks import HEAD
from gateway.audit.entry_reports import place_of
from gateway.audit.lives import state_word
from gateway.audit.standings import Standings
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.settled_damage import SettlementDetail
from protocol.journal_entry import EntryError, decode_entry
from protocol.masking import mask_pans
from protocol.response_codes import DECLINES
from protocol.transparency.tree import leaf_hash

PORTION: Final = 4096

_PAYMENT: Final = struct.Struct("<BBxxIq")
"""State, flags, group, amount."""

_APPROVED: Final = 1
_REVERSED: Final = 2
_ENDED: Final = 4
_SETTLED: Final = 8
_NONE: Final = 255
"""In the place of a state: the transaction is not a payment."""

_NO_PAYMENTS: Final = ("terminal.reversal", "settlement.")
_TOLD_NO: Final = frozenset((b"", *(code.encode() for code in DECLINES)))
_ACTS_THAT_END: Final = (b"void by ", b"cancel by ")
_UNDOES: Final = frozenset({EntryKind.TAKEN, EntryKind.CANCELLED})

Tell = Callable[[str, float], None]


@dataclass(slots=True, kw_only=True)
class Sums:
    """Amounts in minor units, and how many payments, of one group. The module's docstring defines each."""

    day: str = ""
    merchant: str = ""
    terminal: str = ""
    currency: str = ""
    payments: int = 0
    approved: int = 0
    reversed: int = 0
    ended: int = 0
    told: int = 0
    booked: int = 0
    owed: int = 0
    parked: int = 0
    settled: int = 0
    difference: int = 0

    def add(self, other: Sums) -> None:
        """Add another group's figures to these."""
        for each in fields(self):
            if each.type == "int":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A payment that does not add up."""

    transaction: int
    day: str
    merchant: str
    terminal: str
    currency: str
    amount_minor: int
    difference_minor: int
    text: str


@dataclass(slots=True, kw_only=True)
class Balance:
    """The sums, and what does not add up.

    Attributes:
        adds_up: no payment makes a difference, and no entry is damaged.
        damaged: entries that do not hash to their leaf; they are not in the sums.
        damaged_entries: the sequences of the first of them.
        groups: by what was asked for, in order; totals by currency.
        differences: the first ones; `differing` counts all.
    """

    journal: str
    size: int
    adds_up: bool = True
    differing: int = 0
    damaged: int = 0
    damaged_entries: list[int] = field(default_factory=list)
    groups: list[Sums] = field(default_factory=list)
    totals: list[Sums] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


class Balancing:
    """Adds one journal up. Memory grows with days times terminals, not with payments."""

    def __init__(self, reader: LogReader, tell: Tell) -> None:
        self._reader = reader
        self._tell = tell
        self._groups: dict[tuple[str, str, str, str], int] = {}
        self._balance = Balance(journal=str(reader.path), size=reader.size)
        self._limit = 0

    def run(self, by: Iterable[str], limit: int) -> Balance:
        """Add up, grouped `by` any of "day" and "terminal"; keep the first `limit` differences and damaged entries.

        Raises:
            LogDamaged: an entry is missing, or is none: verify the journal first.
        """
        self._limit = limit
        payments = Standings(self._reader.size, _PAYMENT)
        try:
            self._read(payments)
            return self._sum(payments, frozenset(by))
        finally:
            payments.close()

    def _read(self, payments: Standings) -> None:
        size, memory = self._reader.size, payments.memory
        expected = 1
        for sequence, body, leaf in self._reader.select("SELECT sequence, body, leaf FROM entry ORDER BY sequence"):
            if sequence != expected:
                raise LogDamaged(f"entry {expected} is missing: run audit verify", expected)
            expected += 1
            if not isinstance(body, bytes) or leaf_hash(body) != leaf:
                self._note_damaged(sequence)
                continue
            head: tuple[Any, ...] = HEAD.unpack_from(body) if len(body) >= HEAD.size else ()
            if not head or head[3] != sequence or head[5] > sequence:
                raise LogDamaged(f"entry {sequence} is damaged: run audit verify", sequence)
            if head[5]:
                self._entry(memory, head, body)
            elif head[1] == EntryKind.DAMAGE_SETTLED:
                self._settle(memory, sequence, body)
            if not sequence % PORTION:
                payments.let_go(sequence)
                self._tell("adding up", sequence / size)
        told = self._reader.told_sizes() or [size]
        if expected != size + 1 or max(told) > size:
            raise LogDamaged(f"entry {expected} is missing: run audit verify", expected)
        if max(told) < size:
            raise LogDamaged(f"entry {size} is behind the journal's own head, which has {max(told)}: run audit verify")

    def _note_damaged(self, sequence: int) -> None:
        balance = self._balance
        balance.adds_up = False
        balance.damaged += 1
        if len(balance.damaged_entries) < self._limit:
            balance.damaged_entries.append(sequence)

    def _entry(self, memory: Any, head: tuple[Any, ...], body: bytes) -> None:
        _, kind, state, sequence, time_ms, transaction, _, amount, key, fingerprint, currency, response = head[:12]
        reason_bytes, detail_bytes, _ = head[12:]
        offset = transaction * _PAYMENT.size
        told = HEAD.size + key + fingerprint + currency
        reason = told + response
        if transaction == sequence:
            if body[reason : reason + reason_bytes].decode(errors="replace").startswith(_NO_PAYMENTS):
                _PAYMENT.pack_into(memory, offset, _NONE, 0, 0, 0)
                return
            flags = 0
            group = self._group(time_ms, body[HEAD.size : HEAD.size + key], body[told - currency : told])
        else:
            before, flags, group, amount = _PAYMENT.unpack_from(memory, offset)
            if before == _NONE:
                return
            if not before:
                if self._balance.damaged:
                    return  # the entry that created it may be one that is not counted
                raise LogDamaged(
                    f"entry {sequence} tells of a transaction that none created: run audit verify", sequence
                )
            if kind in _UNDOES:
                flags |= _REVERSED
            elif kind == EntryKind.OPERATOR:
                detail = reason + reason_bytes
                flags |= _ENDED if body[detail : detail + detail_bytes].startswith(_ACTS_THAT_END) else 0
        flags = flags | _APPROVED if body[told:reason] not in _TOLD_NO else flags & ~_APPROVED
        _PAYMENT.pack_into(memory, offset, state, flags, group, amount)

    def _settle(self, memory: Any, sequence: int, body: bytes) -> None:
        """Two people have settled a damaged record; `verify` says if they have."""
        try:
            number = msgspec.json.decode(decode_entry(body).detail, type=SettlementDetail).transaction
        except (EntryError, msgspec.DecodeError, UnicodeDecodeError):
            return
        if not 0 < number < sequence:
            return
        state, flags, group, amount = _PAYMENT.unpack_from(memory, number * _PAYMENT.size)
        if state not in {0, _NONE}:
            _PAYMENT.pack_into(memory, number * _PAYMENT.size, state, flags | _SETTLED, group, amount)

    def _group(self, time_ms: int, key: bytes, currency: bytes) -> int:
        day = f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"
        merchant, terminal = place_of(key.decode(errors="replace"))
        return self._groups.setdefault((day, merchant, terminal, currency.decode(errors="replace")), len(self._groups))

    def _sum(self, payments: Standings, by: frozenset[str]) -> Balance:
        names = list(self._groups)
        sums = [
            Sums(day=day, merchant=mask_pans(merchant), terminal=mask_pans(terminal), currency=currency)
            for day, merchant, terminal, currency in names
        ]
        balance = self._balance
        for transaction in payments.left():
            state, flags, group, amount = _PAYMENT.unpack_from(payments.memory, transaction * _PAYMENT.size)
            if state == _NONE:
                continue
            difference = _count(sums[group], state, flags, amount)
            if difference is None:
                continue
            balance.adds_up = False
            balance.differing += 1
            if len(balance.differences) < self._limit:
                balance.differences.append(_told_of(transaction, sums[group], state, flags, amount, difference))
        balance.groups = _grouped(sums, by)
        balance.totals = _grouped(sums, frozenset())
        return balance


def _count(sums: Sums, state: int, flags: int, amount: int) -> int | None:
    """Count one payment; returns by how much it does not add up, None where it does, if of an amount of 0."""
    approved = bool(flags & _APPROVED)
    undone = flags & _REVERSED or flags & _ENDED
    told = approved and not undone
    stands = 0
    sums.payments += 1
    if approved:
        sums.approved += amount
        if flags & _REVERSED:
            sums.reversed += amount
        elif flags & _ENDED:
            sums.ended += amount
        else:
            sums.told += amount
    if state == State.APPROVED:
        sums.booked += amount
        stands = 1
    elif flags & _SETTLED:
        sums.settled += amount if told else 0
        stands = int(told)
    elif state == State.STORED:
        sums.owed += amount
        stands = 1
    elif state == State.PARKED and told:
        sums.parked += amount
        stands = 1
    if bool(stands) is told:
        return None
    difference = amount if told else -amount
    sums.difference += difference
    return difference


def _told_of(transaction: int, sums: Sums, state: int, flags: int, amount: int, difference: int) -> Difference:
    believed = (
        "its terminal was told that it is approved" if flags & _APPROVED else "its terminal was told no, or nothing"
    )
    if flags & _REVERSED:
        believed = "its terminal has reversed it"
    elif flags & _ENDED:
        believed = "a person has ended it"
    return Difference(
        transaction=transaction,
        day=sums.day,
        merchant=sums.merchant,
        terminal=sums.terminal,
        currency=sums.currency,
        amount_minor=amount,
        difference_minor=difference,
        text=f"{believed}, and its state is {state_word(state)}",
    )


def _grouped(sums: list[Sums], by: frozenset[str]) -> list[Sums]:
    groups: dict[tuple[str, str, str, str], Sums] = {}
    for each in sums:
        day = each.day if "day" in by else ""
        merchant, terminal = (each.merchant, each.terminal) if "terminal" in by else ("", "")
        name = (day, merchant, terminal, each.currency)
        group = groups.setdefault(name, Sums(day=day, merchant=merchant, terminal=terminal, currency=each.currency))
        group.add(each)
    return [groups[name] for name in sorted(groups)]
