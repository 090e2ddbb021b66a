"""`audit verify`: is this journal whole, unchanged, and the one whose heads were signed?

In this order: the checkpoints are read, then one state of the journal is; every entry is checked by itself and against
those before it (entry_checks.py), the tree over all of them against stored subtrees and heads (tree_checks.py), the
rows against the newest entries (row_checks.py), the tables that rows are found by against the rows (index_checks.py),
and whether look-ups find in every table what is there (table_checks.py). Nothing that is stored is believed where it
can be computed.

What it cannot know of itself: whether the tail was cut or rewritten together with everything beside the journal. Who
holds the signing key can do that to all of it; who has only the file, and an old checkpoint of it, to all that is
behind that checkpoint. It shows against a checkpoint that the auditor has kept, and against nothing else; a verdict
says how far the newest one vouches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from gateway.audit import heads
from gateway.audit.counter_checks import CounterChecks
from gateway.audit.damage import Damage, Finding, Findings
from gateway.audit.entry_checks import EntryChecks, Opener
from gateway.audit.index_checks import IndexChecks
from gateway.audit.published import name_within
from gateway.audit.row_checks import RowChecks
from gateway.audit.standings import Standings
from gateway.audit.table_checks import check_declared, check_tables
from gateway.audit.tree_checks import Head, TreeChecks
from gateway.journal.keyring import Keyring
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.port import JournalKeysWrong, JournalUnreadable
from gateway.journal.rows import RowCodec
from gateway.journal.sealing import KeyDestroyed, SealBroken, Sealer
from gateway.journal.settled_damage import settlements
from protocol.journal_entry import PartCommitment
from protocol.transparency.notes import VerifierKey

PORTION: Final = 2048
NOT_VOUCHED: Final = "WHOLE in itself; no signature and no kept checkpoint was checked"
Tell = Callable[[str, float], None]
"""What is being done, and which part of it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an auditor asks for.

    Attributes:
        journal: the file.
        checkpoint: a checkpoint that the auditor holds; None without one.
        keys: the log's verifier keys, as the auditor holds them; several where its key was rotated.
        start: size from which on entries are checked; what was before is taken from the stored tree.
        published: folder with tiles of this log, as it was published or exported: names the entry where only a range
            would be known.
        keyring: to open what can be opened and to check the tags of rows; None without keys.
        limit: findings of each kind that are kept.
    """

    journal: Path
    checkpoint: Path | None = None
    keys: tuple[VerifierKey, ...] = ()
    start: int = 0
    published: Path | None = None
    keyring: Keyring | None = None
    limit: int = 100


@dataclass(slots=True, kw_only=True)
class HeadCheck:
    """One head that the journal was held against; `fits` is None where entries are missing or were not checked."""

    name: str
    size: int
    root: str
    signature_verified: bool | None
    fits: bool | None

    @property
    def checked(self) -> bool:
        """Whether it is no mere claim of who has the file: its signature was verified, or the auditor has kept it."""
        return bool(self.signature_verified) or self.name == heads.HELD


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledDamage:
    """A damaged record that two people have settled, by which entry, and why."""

    transaction: int
    entry: int
    who: str
    why: str


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was verified and what was found.

    Attributes:
        whole: nothing was found.
        start, size: entries start + 1 up to size were checked.
        root: of the tree of `size`, hexadecimal; empty where entries are missing.
        transactions, rows, parts: created by, checked of, held against their commitments.
        seconds: that it took; cpu_s of the processor alone.
        found: by kind, how often; findings has the first of each.
        settled: damaged records that two people have settled; their damage is found all the same.
    """

    journal: str
    whole: bool = True
    start: int = 0
    size: int = 0
    root: str = ""
    transactions: int = 0
    rows: int = 0
    parts: int = 0
    opened: bool = False
    seconds: float = 0.0
    cpu_s: float = 0.0
    heads: list[HeadCheck] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    settled: list[SettledDamage] = field(default_factory=list)

    @property
    def vouched_size(self) -> int:
        """Entries up to this one are vouched for: by a signature that was verified, or a checkpoint that was kept."""
        newest = self._vouching()
        return 0 if newest is None else newest.size

    @property
    def vouched(self) -> bool:
        """Whether anything that was checked is vouched for; how much is, `vouched_size` says."""
        return self.vouched_size > self.start or self.vouched_size == self.size > 0

    @property
    def summary(self) -> str:
        """The verdict in one line, where nothing was found."""
        newest, first = self._vouching(), self.start + 1
        if not any(head.checked for head in self.heads):
            return NOT_VOUCHED
        if not self.size:
            return "WHOLE, and empty: there is nothing to vouch for"
        if newest is None or not self.vouched:
            what = "the signature or checkpoint that was checked covers none of"
            return f"WHOLE in itself; {what} entries {first:,} to {self.size:,}"
        if newest.size == self.size:
            return "WHOLE: nothing was found"
        by = "a signature" if newest.signature_verified else heads.HELD
        rest = f"{newest.size + 1:,} to {self.size:,} by nothing"
        return f"WHOLE; entries {first:,} to {newest.size:,} are vouched for by {by}, {rest}"

    def _vouching(self) -> HeadCheck | None:
        """The newest head that vouches: whoever has the file can put back an older one, and rewrite what is behind."""
        fit = [head for head in self.heads if head.checked and head.fits]
        return max(fit, key=lambda head: (head.size, bool(head.signature_verified)), default=None)

    @property
    def rate(self) -> float:
        """Entries a second of processor time."""
        return (self.size - self.start) / self.cpu_s if self.cpu_s else 0.0


def verify(wanted: Wanted, tell: Tell) -> Verdict:
    """Verify a journal.

    Raises:
        JournalUnreadable: it is none, or cannot be opened. HeadRefused: the auditor's checkpoint or key is none.
        JournalKeysWrong: the keyring is not the journal's.
    """
    began, began_cpu = time.monotonic(), time.process_time()
    findings = Findings(wanted.limit)
    signed = []
    if wanted.checkpoint is not None:
        signed.append(heads.read_checkpoint(wanted.checkpoint, heads.HELD, wanted.keys))
    if (beside := heads.beside(wanted.journal, wanted.keys, findings)) is not None:
        signed.append(beside)
    with LogReader(wanted.journal) as reader:
        verdict = _Verification(wanted, reader, findings, signed, tell).run()
        reader.check_unchanged()
    verdict.seconds, verdict.cpu_s = time.monotonic() - began, time.process_time() - began_cpu
    return verdict


class _Verification:
    """One reading of a whole journal."""

    def __init__(
        self, wanted: Wanted, reader: LogReader, findings: Findings, signed: list[heads.Signed], tell: Tell
    ) -> None:
        if wanted.start > reader.size:
            raise heads.HeadRefused(f"--from {wanted.start}: the journal ends at entry {reader.size}")
        held = next((each.checkpoint.size for each in signed if each.name == heads.HELD), wanted.start)
        if held < wanted.start:
            raise heads.HeadRefused(f"--from {wanted.start} is behind your checkpoint, which has {held} entries")
        self._wanted = wanted
        self._reader = reader
        self._findings = findings
        self._signed = signed
        self._tell = tell
        self._began = time.monotonic()
        self._heads = [Head(each.name, each.checkpoint.size, each.checkpoint.root) for each in signed]
        if wanted.keyring is not None and (name := reader.keyring_name()) != wanted.keyring.name:
            raise JournalKeysWrong(
                f"{wanted.journal} was written with keyring {name}, this is keyring {wanted.keyring.name}"
            )
        self._size = reader.size
        self._codec = None if wanted.keyring is None else RowCodec(wanted.keyring.row_key)
        self._own = heads.inside(reader, findings, self._codec)
        if self._own is not None:
            witness = heads.witness(self._own)
            self._heads.append(witness)
            self._added(witness)

    def run(self) -> Verdict:
        wanted, reader = self._wanted, self._reader
        opener = None if wanted.keyring is None else _opener(Sealer(wanted.keyring))
        standings = Standings(self._size)
        try:
            entries = EntryChecks(
                self._findings,
                standings,
                self._size,
                start=wanted.start,
                opener=opener,
                keyring=_keyring_name(reader),
            )
            tree = TreeChecks(reader, self._findings, self._heads, wanted.start)
            self._entries(entries, tree, standings)
            rows = self._rows(standings)
            check_declared(reader, self._findings)
            check_tables(reader, self._findings, self._tell)
        finally:
            standings.close()
        self._cut_tail()
        self._foreign()
        settled = self._settled()
        root = tree.root()
        if wanted.published is not None:
            name_within(wanted.published, reader, self._findings)
        return Verdict(
            journal=str(wanted.journal),
            whole=not self._findings,
            start=wanted.start,
            size=self._size,
            root="" if root is None else root.hex(),
            transactions=entries.transactions,
            rows=rows.checked,
            parts=entries.parts,
            opened=opener is not None,
            heads=[self._head_check(head) for head in self._heads],
            found={kind.value: count for kind, count in sorted(self._findings.counts.items())},
            findings=[_with_settlement(each, settled) for each in self._findings.kept],
            settled=list(settled.values()),
        )

    def _settled(self) -> dict[int, SettledDamage]:
        """What two people have settled, by transaction; a mark that no entry bears out is told of."""
        try:
            found, wrong = settlements(self._reader.select)
        except LogDamaged:
            return {}  # told of by the checks of the table
        for number, mark in wrong:
            text = f"quarantine says that record {number} was {mark}, which does not tell of that"
            self._findings.add(Damage.QUEUE, text)
        return {
            number: SettledDamage(transaction=number, entry=each.entry, who=each.said.who, why=each.said.why)
            for number, each in sorted(found.items())
        }

    def _rows(self, standings: Standings) -> RowChecks:
        """Check rows, sensitive data, and the tables that transactions are found by."""
        size = self._size
        indexes = IndexChecks(self._reader, self._findings, size, self._own, self._codec)
        counters = None if self._codec is None else CounterChecks(self._reader, self._findings, self._codec)
        try:
            rows = RowChecks(
                self._reader,
                self._findings,
                standings,
                start=self._wanted.start,
                size=size,
                codec=self._codec,
                indexes=indexes,
                counters=counters,
            )
            self._sensitive(rows)
            rows.run(lambda number: self._tell("rows of transactions", number / max(1, size)))
            indexes.run(lambda table: self._tell(table, 1.0))
            if counters is not None:
                counters.run()
        finally:
            indexes.close()
        return rows

    def _entries(self, entries: EntryChecks, tree: TreeChecks, standings: Standings) -> None:
        start, size = self._wanted.start, self._size
        for first, last, rows in self._portions(start, size):
            leaves: list[bytes | None] = []
            sensitive = self._sensitive_of(first, last)
            expected = first
            if len(rows) == last - first + 1:  # by their keys they are distinct and in order
                leaves = entries.take(rows, sensitive)
            else:
                for row in rows:
                    self._missing(expected, row[0] - 1, leaves)
                    leaves += entries.take((row,), sensitive)
                    expected = row[0] + 1
                self._missing(expected, last, leaves)
            tree.add(leaves, entries.edited)
            entries.edited.clear()
            standings.let_go(last)
            rate = (last - start) / max(time.monotonic() - self._began, 1e-6)
            self._tell(f"entry {last:,} of {size:,}, {rate:,.0f}/s", (last - start) / max(1, size - start))
        entries.finish()
        tree.finish()

    def _missing(self, first: int, last: int, leaves: list[bytes | None]) -> None:
        leaves += [None] * (last - first + 1)
        if last >= first and self._unreadable.isdisjoint(range(first, last + 1)):
            self._findings.add(Damage.MISSING, "is not there", sequence=first, last=last)

    def _portions(self, start: int, size: int) -> Iterator[tuple[int, int, list[tuple[Any, ...]]]]:
        """(first, last, rows) of entries, and what can be read around a page that cannot."""
        sql = "SELECT sequence, body, leaf, account FROM entry WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
        for first in range(start + 1, size + 1, PORTION):
            last = min(first + PORTION - 1, size)
            self._unreadable: set[int] = set()
            try:
                rows = list(self._reader.select(sql, first, last))
            except LogDamaged:
                rows = []
                for sequence in range(first, last + 1):
                    try:
                        rows += self._reader.select(sql, sequence, sequence)
                    except LogDamaged:
                        self._unreadable.add(sequence)
                        self._findings.add(Damage.UNREADABLE, "a page of the file is damaged", sequence=sequence)
            yield first, last, rows

    def _sensitive_of(self, first: int, last: int) -> dict[int, bytes]:
        try:
            return dict(
                self._reader.select(
                    "SELECT sequence, ciphertext FROM sensitive WHERE sequence BETWEEN ? AND ?", first, last
                )
            )
        except LogDamaged:
            self._findings.add(Damage.UNREADABLE, "sensitive parts cannot be read", sequence=first, last=last)
            return {}

    def _sensitive(self, rows: RowChecks) -> None:
        try:
            for (sequence,) in self._reader.select("SELECT sequence FROM sensitive ORDER BY sequence"):
                rows.sensitive_left(sequence)
        except LogDamaged:
            pass  # told of by portion

    def _added(self, own: Head) -> None:
        """What stands behind the journal's own head is told of and not gone into: it may be anything."""
        if self._size > own.size >= self._wanted.start:
            text = f"{own.name} has {own.size} entries only"
            self._findings.add(Damage.ADDED, text, sequence=own.size + 1, last=self._size)
            self._size = own.size

    def _foreign(self) -> None:
        """What stands where no entry can, and stored hashes of more entries than there are."""
        size = max([self._size, *(head.size for head in self._heads)])
        try:
            for sequence, *_ in self._reader.select("SELECT sequence FROM entry WHERE sequence < 1"):
                self._findings.add(Damage.ADDED, f"an entry stands at {sequence}, before the first")
            sql = (
                "SELECT level, number FROM subtree WHERE typeof(level) <> 'integer' OR typeof(number) <> 'integer' "
                "OR level < 1 OR number < 0 OR level > 7 OR number >= (?1 >> (8 * level))"
            )
            for level, number in self._reader.select(sql, size):
                text = f"a hash {number!r} of level {level!r} is stored, and {size:,} entries have no such subtree"
                self._findings.add(Damage.ADDED, text)
        except LogDamaged:
            self._findings.add(Damage.UNREADABLE, "stored hashes of the tree cannot be read")

    def _cut_tail(self) -> None:
        size = self._size
        for head in self._heads:
            if head.size > size:
                text = f"{head.name} has {head.size} entries, the journal ends at entry {size}"
                self._findings.add(Damage.CUT_TAIL, text, sequence=size + 1, last=head.size)

    def _head_check(self, head: Head) -> HeadCheck:
        verified = next((each.verified for each in self._signed if each.name == head.name), None)
        known = head.real is not None or head.told is not None
        fits = head.root == head.real if known else None
        return HeadCheck(name=head.name, size=head.size, root=head.root.hex(), signature_verified=verified, fits=fits)


def _keyring_name(reader: LogReader) -> str:
    """Of the journal's keyring; empty where that is damaged."""
    try:
        return reader.keyring_name()
    except JournalUnreadable:
        return ""


def _with_settlement(finding: Finding, settled: dict[int, SettledDamage]) -> Finding:
    """A finding about a record that two people have settled says so; the first entry of a record has its number."""
    about = settled.get(finding.transaction or finding.sequence)
    if about is None or finding.last > finding.sequence:
        return finding
    return replace(finding, text=f"{finding.text} (settled by two people in entry {about.entry})")


def _opener(sealer: Sealer) -> Opener:
    def why_not(sequence: int, said: PartCommitment, ciphertext: bytes) -> str:
        try:
            sealer.open(sequence, said, ciphertext)
        except KeyDestroyed:
            return ""  # as it was meant to be
        except SealBroken as broken:
            return str(broken)
        return ""

    return why_not
