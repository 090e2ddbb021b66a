"""Checks of every entry by itself and against those before it: the inner loop of `audit verify`.

Of each entry: it stands at its sequence, decodes, hashes to its leaf, its ciphertexts hash to what it commits to, its
time does not go back, and what it tells of a transaction may follow what was told before (lives.py), with the same
amount, currency, keys and fingerprint (INV-5).

Written for speed: what is usual is checked here byte by byte, what is not goes to protocol.journal_entry.decode_entry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final

from gateway.audit.approval_checks import ApprovalChecks
from gateway.audit.damage import Damage, Findings
from gateway.audit.lives import ALONE, LEGAL, NEW, change, kind_word, state_word
from gateway.audit.standings import RECORD, Standings
from gateway.core.lifecycle import EntryKind
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART
from protocol.journal_entry import EntryError, PartCommitment, decode_entry
from protocol.transparency.tree import HASH_BYTES

CLOCK_BACK_MS_MAX: Final = 60_000
"""How far a clock that is set may step back without a word."""

HEAD: Final = struct.Struct(">BBBQQQIQBBBBBHB")
"""What every entry begins with (protocol/journal_entry.py), down to the number of its parts."""

_HEAD_BYTES: Final = HEAD.size
_PART_BYTES: Final = 69
_SENDING: Final = EntryKind.SENDING.value
_OF_TWO_PEOPLE: Final = frozenset({EntryKind.KEY.value, EntryKind.DISCLOSED.value, EntryKind.DAMAGE_SETTLED.value})
_LEAF: Final = b"\x00"
_BITS_MAX: Final = 8 * 4096
_ELSEWHERE_MAX: Final = 1000

Opener = Callable[[int, PartCommitment, bytes], str]
"""Tries to open a part: sequence, what the entry says of it, ciphertext. Returns why it does not open, or ""."""


class EntryChecks:
    """Takes entries in order.

    Attributes:
        newest_ms: latest time of an entry so far.
        edited: by sequence, what entries hash to that do not hash to their leaf; emptied by who reads it.
        transactions: created so far.
        parts: ciphertexts that were held against their commitments.
    """

    def __init__(
        self,
        findings: Findings,
        standings: Standings,
        size: int,
        *,
        start: int = 0,
        opener: Opener | None = None,
        keyring: str = "",
    ) -> None:
        """`start` is the size from which on entries are taken: what was before is not known; `keyring` is its name."""
        self.newest_ms = 0
        self.edited: dict[int, bytes] = {}
        self.transactions = 0
        self.parts = 0
        self._findings = findings
        self._standings = standings
        self._size = size
        self._start = start
        self._opener = opener
        self._approvals = ApprovalChecks(findings, keyring, start)
        self._elsewhere: dict[int, int] = {}

    def take(  # noqa: PLR0915  # one loop: a call for each entry would cost as much as the checks
        self, rows: Iterable[tuple[Any, ...]], sensitive: dict[int, bytes]
    ) -> list[bytes | None]:
        """Check entries and return their leaf hashes, None for those that have none to go by.

        Args:
            rows: (sequence, body, leaf, account ciphertext) in order of sequence.
            sensitive: ciphertexts of the sensitive parts that are still there, by sequence.
        """
        unpack, pack_into, unpack_from = HEAD.unpack_from, RECORD.pack_into, RECORD.unpack_from
        memory, record_bytes, size, opener = self._standings.memory, RECORD.size, self._size, self._opener
        newest_ms = self.newest_ms
        earliest_ms = newest_ms - CLOCK_BACK_MS_MAX
        leaves: list[bytes | None] = []
        keep = leaves.append
        for sequence, body, leaf, account in rows:
            try:
                (
                    version, kind, state, own, time_ms, transaction, attempts, amount_minor,
                    key_bytes, fingerprint_bytes, currency_bytes, response_bytes, reason_bytes, detail_bytes, parts,
                ) = unpack(body)  # fmt: skip
                computed = sha256(_LEAF + body).digest()
            except (struct.error, TypeError):
                keep(self._no_entry(sequence, body, leaf))
                continue
            if computed != leaf:
                # Go on with the entry as it was, so that damage is told of once and not with its consequences.
                kept, true_body = self._not_its_leaf(sequence, body, leaf, computed)
                keep(kept)
                self.newest_ms = newest_ms
                self.take([(sequence, true_body, sha256(_LEAF + true_body).digest(), account)], sensitive)
                newest_ms = self.newest_ms
                earliest_ms = newest_ms - CLOCK_BACK_MS_MAX
                continue
            keep(computed)
            key_end = _HEAD_BYTES + key_bytes
            payment_end = key_end + fingerprint_bytes + currency_bytes
            told_end = payment_end + response_bytes + reason_bytes
            part = told_end + detail_bytes
            if (
                own != sequence
                or version != 1
                or not kind
                or currency_bytes not in (0, 3)
                or len(body) != part + parts * _PART_BYTES
                or not body[_HEAD_BYTES:key_end].isascii()
                or not body[key_end + fingerprint_bytes : part].isascii()
            ) and not self._unusual(sequence, own, body):
                continue
            if parts == 1 and body[part] == ACCOUNT_PART and opener is None and sequence not in sensitive:
                self.parts += 1
                if account is None or sha256(account).digest() != body[part + 5 : part + 37]:
                    self._ciphertext(sequence, ACCOUNT_PART, account)
            elif parts or account is not None or sequence in sensitive:
                self._parts(sequence, body, account, sensitive.get(sequence))
            if time_ms > newest_ms:
                newest_ms = time_ms
                earliest_ms = time_ms - CLOCK_BACK_MS_MAX
            elif time_ms < earliest_ms:
                self._goes_back(sequence, newest_ms - time_ms)
                # Said once, not of every entry until then.
                newest_ms = time_ms
                earliest_ms = time_ms - CLOCK_BACK_MS_MAX
            if not transaction or transaction > own or transaction > size:
                self._about_none(sequence, kind, state, transaction)
                if kind in _OF_TWO_PEOPLE:
                    self._approvals.take(sequence, kind, body[told_end:part].decode())
                continue
            offset = transaction * record_bytes
            before, tried, payment_before, _ = unpack_from(memory, offset)
            payment = hash((amount_minor, body[_HEAD_BYTES:payment_end]))
            if (
                (before << 16 | kind << 8 | state) not in LEGAL
                or (before == NEW) is not (transaction == own)
                or (payment != payment_before and before)
                or (attempts != tried + 1 if kind == _SENDING else attempts > tried)
            ):
                self._life(own, transaction, kind, (before, tried, payment_before), (state, attempts, payment))
            if transaction == own:
                self.transactions += 1
            pack_into(memory, offset, state, attempts, payment, hash(body[payment_end:told_end]))
        self.newest_ms = newest_ms
        return leaves

    def finish(self) -> None:
        """All entries were taken: what stands elsewhere is told of, in pairs where two were swapped."""
        self._approvals.finish()
        for place, own in self._elsewhere.items():
            if self._elsewhere.get(own) != place:
                self._misplaced(place, own)
            elif place < own:
                text = f"this entry and entry {own} stand in each other's place"
                self._findings.add(Damage.SWAPPED, text, sequence=place)

    def _misplaced(self, place: int, own: int) -> None:
        if own > place:
            text = (
                f"the entry here says a sequence {own - place} further on: so many were dropped before, the rest moved"
            )
            self._findings.add(Damage.MISSING, text, sequence=place)
        else:
            text = f"the entry here says a sequence {place - own} further back"
            self._findings.add(Damage.MISPLACED, text, sequence=place)

    def _no_entry(self, sequence: int, body: object, leaf: object) -> bytes | None:
        self._findings.add(Damage.MALFORMED, "what is stored is not an entry", sequence=sequence)
        if isinstance(leaf, bytes) and len(leaf) == HASH_BYTES:
            return leaf
        return sha256(_LEAF + body).digest() if isinstance(body, bytes) else None

    def _not_its_leaf(self, sequence: int, body: bytes, leaf: object, computed: bytes) -> tuple[bytes, bytes]:
        """Say how an entry and its leaf hash differ; returns the hash to go by, and the entry as it was.

        Where one bit of either explains it, it is told of here; else it is left to the tree (`edited`).
        """
        if not isinstance(leaf, bytes) or len(leaf) != HASH_BYTES:
            self._findings.add(Damage.LEAF, "its stored leaf hash is no hash", sequence=sequence)
            return computed, body
        if (int.from_bytes(leaf) ^ int.from_bytes(computed)).bit_count() == 1:
            self._findings.add(Damage.FLIPPED, "one bit of its stored leaf hash is flipped", sequence=sequence)
            return computed, body
        if self._findings.counts[Damage.FLIPPED] < self._findings.limit and (flip := flipped_bit(body, leaf)):
            place, mended = flip
            text = f"bit {place & 7} of byte {place >> 3} is flipped; with it put back, the entry fits its leaf hash"
            self._findings.add(Damage.FLIPPED, text, sequence=sequence)
            return leaf, mended
        self.edited[sequence] = computed
        return leaf, body

    def _unusual(self, sequence: int, own: int, body: bytes) -> bool:
        """Whether an entry that the short way does not know is one after all, if perhaps in a wrong place."""
        try:
            decode_entry(body)
        except EntryError as error:
            self._findings.add(Damage.MALFORMED, f"not an entry: {error}", sequence=sequence)
            return False
        if own != sequence:
            if len(self._elsewhere) < _ELSEWHERE_MAX:
                self._elsewhere[sequence] = own
            else:
                self._misplaced(sequence, own)
        return True

    def _parts(self, sequence: int, body: bytes, account: object, sensitive: bytes | None) -> None:
        entry = decode_entry(body)
        said = {each.part: each for each in entry.parts}
        for part, ciphertext in ((ACCOUNT_PART, account), (SENSITIVE_PART, sensitive)):
            commitment = said.get(part)
            if commitment is None:
                if ciphertext is not None:
                    text = f"the {_part_word(part)} beside it is none that it commits to"
                    self._findings.add(Damage.CIPHERTEXT, text, sequence=sequence)
                continue
            if ciphertext is None and part == SENSITIVE_PART:
                continue  # destroyed, as it must be once its transaction is final
            self.parts += 1
            if not isinstance(ciphertext, bytes) or sha256(ciphertext).digest() != commitment.digest:
                self._ciphertext(sequence, part, ciphertext)
            elif self._opener is not None and (why := self._opener(sequence, commitment, ciphertext)):
                self._findings.add(Damage.UNOPENED, f"{_part_word(part)}: {why}", sequence=sequence)

    def _ciphertext(self, sequence: int, part: int, ciphertext: object) -> None:
        if ciphertext is None:
            text = f"the {_part_word(part)} that it commits to is not there"
            self._findings.add(Damage.CIPHERTEXT_MISSING, text, sequence=sequence)
        else:
            text = f"the {_part_word(part)} beside it is not the one that it commits to"
            self._findings.add(Damage.CIPHERTEXT, text, sequence=sequence)

    def _goes_back(self, sequence: int, back_ms: int) -> None:
        text = f"its time is {back_ms / 1000:.0f} s before that of an entry before it"
        self._findings.add(Damage.TIME, text, sequence=sequence)

    def _about_none(self, sequence: int, kind: int, state: int, transaction: int) -> None:
        if transaction:
            text = f"it tells of transaction {transaction}, which begins after it"
            self._findings.add(Damage.TRANSITION, text, sequence=sequence)
        elif kind not in ALONE or state:
            text = f"an entry of kind {kind_word(kind)} that is about no transaction"
            self._findings.add(Damage.TRANSITION, text, sequence=sequence)

    def _life(
        self, sequence: int, transaction: int, kind: int, before: tuple[int, int, int], after: tuple[int, int, int]
    ) -> None:
        """Say which rule an entry breaks. Of transactions from before `start`, nothing is known at first."""
        if before[0] == NEW and transaction <= self._start:
            return
        if change(before[0], kind, after[0]) not in LEGAL or (before[0] == NEW) is not (transaction == sequence):
            text = f"{kind_word(kind)} leads from {state_word(before[0])} to {state_word(after[0])}, by no rule"
            self._findings.add(Damage.TRANSITION, text, sequence=sequence, transaction=transaction)
        elif before[0] and before[2] != after[2]:
            text = "amount, currency, keys or fingerprint are others than when the transaction was accepted (INV-5)"
            self._findings.add(Damage.PAYMENT, text, sequence=sequence, transaction=transaction)
        else:
            text = f"{kind_word(kind)} makes {after[1]} attempts of {before[1]} (D9)"
            self._findings.add(Damage.TRANSITION, text, sequence=sequence, transaction=transaction)


def flipped_bit(body: bytes, leaf: bytes) -> tuple[int, bytes] | None:
    """Which one bit of `body` has to be flipped for it to hash to `leaf`, counted from the lowest of the first byte.

    With the body as it was. None where no single bit does it, or the body is too long to try.
    """
    if len(body) * 8 > _BITS_MAX:
        return None
    tried = bytearray(_LEAF + body)
    for place in range(8, len(tried) * 8):
        tried[place >> 3] ^= 1 << (place & 7)
        if sha256(tried).digest() == leaf:
            return place - 8, bytes(tried[1:])
        tried[place >> 3] ^= 1 << (place & 7)
    return None


def _part_word(part: int) -> str:
    return "account part" if part == ACCOUNT_PART else "sensitive part"
