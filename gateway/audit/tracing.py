"""`audit trace`: one transaction's life as its entries tell it, with the rules that decided, and what is linked to it.

The whole log behind the first entry is looked through: an entry that was hidden from an index would not be hidden here.
Links (a terminal's reversal of it) stand in rows only and are not proved by an entry; each says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.audit.browsing import TRANSACTION, matching
from gateway.audit.entry_reports import decoded, place_of, row_of, utc_text
from gateway.audit.lives import kind_word, state_word
from gateway.audit.rules import decision
from gateway.core.lifecycle import OBLIGATION, EntryKind, Obligation, State
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.quarantine import LISTS
from gateway.journal.settled_damage import MARK, settlements
from protocol.journal_entry import Entry
from protocol.masking import mask_pans
from protocol.response_codes import response_text
from protocol.transparency.tree import leaf_hash

Tell = Callable[[str, float], None]

_ACT: Final = re.compile(r"(?P<act>[a-z-]+) by (?P<who>.*?): (?P<why>.*)", re.DOTALL)
_OWES: Final = {
    Obligation.NONE: "nothing",
    Obligation.ANSWER: "an answer to await",
    Obligation.ADVICE: "an advice",
    Obligation.REVERSAL: "a reversal",
    Obligation.PERSON: "a person's decision",
}


class NotFound(Exception):
    """There is no such transaction; the message says what was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One entry of a transaction's life.

    Attributes:
        told: what the terminal was told by the commit of this entry, in words; empty where it was told nothing then.
        rule, why: the rule that decided and what it says; empty where this release knows none.
        act, who, because: of a person's act.
        fits_leaf: the entry hashes to its leaf.
    """

    sequence: int
    time: str
    after_ms: int
    kind: str
    state: str
    owes: str
    attempts: int
    response: str
    reason: str
    told: str
    rule: str
    why: str
    act: str = ""
    who: str = ""
    because: str = ""
    fits_leaf: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Another transaction that this one is linked to, as rows say it: how, in words."""

    transaction: int
    how: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledBy:
    """Two people have settled its damaged record: which entry tells of it, who, and why."""

    entry: int
    time: str
    who: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A transaction's life. Amounts in minor units; times UTC. `second_key` is empty where it has none.

    Attributes:
        damage: for what its record was put in quarantine, as the table of it says; nothing is sent for it then.
        settled: None where its damage is not settled. It owes nothing afterwards, whatever its state says.
    """

    transaction: int
    key: str
    second_key: str
    merchant: str
    terminal: str
    what: str
    amount_minor: int
    currency: str
    card: str
    state: str
    owes: str
    steps: list[Step] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    settled: SettledBy | None = None


def find(reader: LogReader, named: str, tell: Tell) -> int:
    """The id of a transaction that is named by its id, its key or its second key; of a key used again, the newest.

    Raises:
        NotFound: there is none. LogDamaged: the file cannot be read.
    """
    if named.isascii() and named.isdigit():
        number = int(named)
        if not 1 <= number <= reader.size:
            raise NotFound(f"there is no transaction {named}: the journal has {reader.size} entries")
        entry = decoded(reader.entry(number - 1))
        if entry.transaction == number:
            return number
        if entry.transaction:
            raise NotFound(f"entry {number} tells of transaction {entry.transaction}: audit trace {entry.transaction}")
        raise NotFound(f"entry {number} is about no transaction: audit show {number}")
    for stored in matching(reader, "instr(body, ?) > 0", [named.encode()], oldest=False, tell=tell) if named else ():
        entry = decoded(stored)
        if named in (entry.key, entry.second_key):
            return entry.transaction
    raise NotFound(f"no entry tells of a transaction with the key {mask_pans(named)}")


def trace(reader: LogReader, transaction: int, tell: Tell) -> Trace:
    """The life of a transaction, out of every entry that tells of it.

    Raises:
        NotFound: no entry does. LogDamaged: one of them is damaged.
    """
    steps: list[Step] = []
    entries: list[Entry] = []
    for stored in matching(reader, f"{TRANSACTION} = ?", [transaction.to_bytes(8)], start=transaction, tell=tell):
        entry = decoded(stored)
        steps.append(_step(entry, entries[-1] if entries else None, fits=leaf_hash(stored.body) == stored.leaf))
        entries.append(entry)
    if not entries:
        raise NotFound(f"no entry tells of transaction {transaction}")
    first, newest = entries[0], entries[-1]
    row = row_of(reader, transaction)
    merchant, terminal = place_of(first.key)
    damage, settled = _put_aside(reader, transaction)
    return Trace(
        transaction=transaction,
        key=mask_pans(first.key),
        second_key=mask_pans(first.second_key),
        merchant=mask_pans(merchant),
        terminal=mask_pans(terminal),
        what=row.kind.name.lower() if row is not None else "",
        amount_minor=first.amount_minor,
        currency=first.currency,
        card=mask_pans(row.card_mask) if row is not None else "",
        state=state_word(newest.state),
        owes=_owes(newest.state) if settled is None else _OWES[Obligation.NONE],
        steps=steps,
        links=list(_links(reader, transaction, first, tell)),
        damage=damage,
        settled=settled,
    )


def _put_aside(reader: LogReader, transaction: int) -> tuple[list[str], SettledBy | None]:
    """For what a record was put in quarantine, and who has settled it; a table that cannot be read tells nothing."""
    try:
        rows = reader.select("SELECT what FROM quarantine WHERE id = ? ORDER BY time_ms, what", transaction)
        said = [what.decode(errors="replace") if isinstance(what, bytes) else str(what) for (what,) in rows]
        by = settlements(reader.select)[0].get(transaction)
    except LogDamaged:
        return [], None
    damage = [each for each in said if not each.startswith(MARK) and each not in LISTS]
    if by is None:
        return damage, None
    who, why = mask_pans(by.said.who), mask_pans(by.said.why)
    return damage, SettledBy(entry=by.entry, time=utc_text(by.time_ms), who=who, why=why)


def _step(entry: Entry, before: Entry | None, *, fits: bool) -> Step:
    decided = decision(entry.kind, entry.state, entry.reason)
    act = _ACT.fullmatch(entry.detail) if entry.kind == EntryKind.OPERATOR else None
    return Step(
        sequence=entry.sequence,
        time=utc_text(entry.time_ms),
        after_ms=0 if before is None else entry.time_ms - before.time_ms,
        kind=kind_word(entry.kind),
        state=state_word(entry.state),
        owes=_owes(entry.state),
        attempts=entry.attempts,
        response=entry.response,
        reason=entry.reason,
        told=_told(entry, before),
        rule=decided.rule,
        why=decided.words if not entry.detail or act else f"{decided.words} ({mask_pans(entry.detail)})",
        act=act["act"] if act else "",
        who=mask_pans(act["who"]) if act else "",
        because=mask_pans(act["why"]) if act else "",
        fits_leaf=fits,
    )


def _told(entry: Entry, before: Entry | None) -> str:
    """What the terminal was told by this commit: an account part after the first is an answer and nothing else."""
    if not entry.response:
        return ""
    if before is None or entry.parts or before.response != entry.response:
        return f"{entry.response} ({response_text(entry.response)})"
    return ""


def _owes(state: int) -> str:
    return _OWES[OBLIGATION[State(state)]] if state in set(State) else ""


def _links(reader: LogReader, transaction: int, first: Entry, tell: Tell) -> Iterator[Link]:
    own = row_of(reader, transaction)
    if own is not None and own.original:
        original = row_of(reader, own.original)
        key = mask_pans(original.key) if original is not None else ""
        yield Link(transaction=own.original, how="this is a terminal's reversal of it", key=key)
    lane = "|".join(place_of(first.key))
    if lane == "|":
        return
    # What may refer to it was created later, for the same terminal, by a reversal.
    condition = "substr(body, 4, 8) = substr(body, 20, 8) AND instr(body, ?) > 0 AND instr(body, ?) > 0"
    values: list[object] = [f"|{lane}|".encode(), b"terminal.reversal"]
    for stored in matching(reader, condition, values, start=transaction + 1, tell=tell):
        row = row_of(reader, stored.sequence)
        if row is not None and row.original == transaction:
            how = "a terminal's reversal of this one"
            yield Link(transaction=stored.sequence, how=how, key=mask_pans(row.key))
