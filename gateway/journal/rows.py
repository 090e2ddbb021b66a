"""Rows and messages as bytes: what a journal stores beside its entries, whatever the database.

A row is MessagePack of the transaction's values, in the order of `Row`, and then a 16-byte keyed tag (BLAKE2b under the
row-integrity key). The tag covers the row's own id, so that neither a flipped bit nor a row under a wrong id can pass
for a transaction: SQLite notices neither. Numbers and order are stored: add at the end only.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from struct import Struct
from typing import Final

import msgspec

from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Kind, StoredMessage, Transaction
from protocol.iso8583.message import Fields
from protocol.journal_entry import with_second_key

TAG_BYTES: Final = 16
_HASHES: Final = Struct("<qq")
_SENT: Final = (1 << 52) - 1
"""Bits of a key's number below its period."""
_NAMED: Final = (1 << 32) - 1
"""Bits that tell second keys of a terminal apart."""
_STAN: Final = (1 << 20) - 1
_STAN_DIGITS: Final = 6
_REGIONS_KEPT: Final = 8_192
_COUNTER_KEY: Final = Struct("<qqqq")


class RowDamaged(Exception):
    """Stored bytes that are not what was written. The message says what, and holds no contents."""


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A transaction as stored: its values, and what the journal needs to find its parts.

    Attributes beside those of `Transaction`:
        answered_at: sequence of the entry whose account part holds what the terminal was told last, or 0.
        retained: a sensitive part is stored.
    """

    id: int
    revision: int
    state: State
    kind: Kind
    position: int
    attempts: int
    not_before_ms: int
    accepted_ms: int
    changed_ms: int
    amount_minor: int
    original: int
    resume: State | None
    exposed: bool
    answered_at: int
    retained: bool
    key: str
    lane: str
    terminal: str
    merchant: str
    stan: str
    fingerprint: bytes
    card: bytes
    card_mask: str
    currency: str
    response: str
    reason: str
    advised: bool
    approval: str
    alias: str
    alias_digest: bytes
    booked: bool = False  # of rows from before there was this value: not known

    @property
    def payment(self) -> bytes:
        """What its entries say in the place of the fingerprint: with it the second key, if it has one."""
        if not self.alias:
            return self.fingerprint
        return with_second_key(self.fingerprint, self.alias_digest, self.alias)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key or the two keys that it is found by."""
        return (self.key, self.alias) if self.alias else (self.key,)

    @property
    def place(self) -> int:
        """Its effective place in the lane (D14)."""
        return self.position or self.id

    @property
    def sent_stan(self) -> str:
        """Field 11 upstream (Transaction.sent_stan)."""
        return self.stan or self.transaction().sent_stan

    def transaction(self) -> Transaction:
        """The transaction as the core knows it."""
        return Transaction(
            key=self.key,
            kind=self.kind,
            state=self.state,
            lane=self.lane,
            terminal=self.terminal,
            merchant=self.merchant,
            stan=self.stan,
            fingerprint=self.fingerprint,
            card=self.card,
            card_mask=self.card_mask,
            amount_minor=self.amount_minor,
            currency=self.currency,
            accepted_ms=self.accepted_ms,
            changed_ms=self.changed_ms,
            id=self.id,
            position=self.position,
            attempts=self.attempts,
            not_before_ms=self.not_before_ms,
            response=self.response,
            reason=self.reason,
            resume=self.resume,
            exposed=self.exposed,
            original=self.original,
            advised=self.advised,
            approval=self.approval,
            revision=self.revision,
            alias=self.alias,
            alias_digest=self.alias_digest,
            booked=self.booked,
        )


def row_of(
    transaction: Transaction, number: int, position: int, original: int, *, answered_at: int, retained: bool
) -> Row:
    """The row of `transaction`, with what only the commit knows: its id, its place, its original."""
    t = transaction
    return Row(
        number,
        t.revision,
        t.state,
        t.kind,
        position,
        t.attempts,
        t.not_before_ms,
        t.accepted_ms,
        t.changed_ms,
        t.amount_minor,
        original,
        t.resume,
        t.exposed,
        answered_at,
        retained,
        t.key,
        t.lane,
        t.terminal,
        t.merchant,
        t.stan,
        t.fingerprint,
        t.card,
        t.card_mask,
        t.currency,
        t.response,
        t.reason,
        t.advised,
        t.approval,
        t.alias,
        t.alias_digest,
        t.booked,
    )


def same_payment(stored: Row, next_row: Transaction) -> bool:
    """Whether an update leaves alone what must never change once acknowledged (INV-5), and what it is listed under."""
    return (
        stored.amount_minor == next_row.amount_minor
        and stored.key == next_row.key
        and stored.alias == next_row.alias
        and stored.alias_digest == next_row.alias_digest
        and stored.currency == next_row.currency
        and stored.terminal == next_row.terminal
        and stored.card == next_row.card
        and stored.lane == next_row.lane
        and stored.stan == next_row.stan
    )


class RowCodec:
    """Packs and checks rows, counters and key hashes under the row-integrity key."""

    def __init__(self, row_key: bytes) -> None:
        self._row_tag = hashlib.blake2b(key=row_key, digest_size=TAG_BYTES, person=b"holdfast row")
        self._counter_tag = hashlib.blake2b(key=row_key, digest_size=TAG_BYTES, person=b"holdfast counter")
        self._key_hash = hashlib.blake2b(key=row_key, digest_size=TAG_BYTES, person=b"holdfast lookup")
        self._head_tag = hashlib.blake2b(key=row_key, digest_size=TAG_BYTES, person=b"holdfast head")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Row).decode
        # A terminal's keys of one day all begin alike.
        self._regions = lru_cache(_REGIONS_KEPT)(self._region)

    def hashes(self, text: str) -> tuple[int, int]:
        """Two independent 64-bit hashes of a text, such as a terminal."""
        hashed = self._key_hash.copy()
        hashed.update(text.encode())
        first, second = _HASHES.unpack(hashed.digest())
        return first, second

    def key_hashes(self, key: str) -> tuple[int, int]:
        """Where a transaction key, or a second key, is found in each of two lookup tables: two independent numbers.

        What one terminal sends in one period lies close together in both, in the order of its STANs: so a few thousand
        transactions change a few pages for each terminal, and not one for each transaction, however many there are.

            key          12 bits of the period's hash | 32 of the hash of all before the STAN | STAN, 20 bits
            second key   12 bits of "idem"            | 20 of the hash of all before the last part | 32 of it all

        Two keys may have one number; every row that is found is verified.
        """
        begins, _, last = key.rpartition("|")
        first, second = self._regions(begins)
        if len(last) == _STAN_DIGITS and last.isascii() and last.isdecimal():
            stan = int(last)
            return first | stan, second | stan
        one, other = self.hashes(key)
        return first & ~_NAMED | one & _NAMED, second & ~_NAMED | other & _NAMED

    def _region(self, begins: str) -> tuple[int, int]:
        """Where the keys lie that begin so."""
        period, period_again = self.hashes(begins.partition("|")[0])
        sender, sender_again = self.hashes(begins)
        return period & ~_SENT | sender & _SENT & ~_STAN, period_again & ~_SENT | sender_again & _SENT & ~_STAN

    def pack(self, row: Row) -> bytes:
        """The stored form of a row."""
        packed = self._encode(row)
        tag = self._row_tag.copy()
        tag.update(packed)
        return packed + tag.digest()

    def unpack(self, number: int, stored: object) -> Row:
        """The row that was stored under `number`.

        Raises:
            RowDamaged: its tag does not fit, or it is another transaction's row.
        """
        if not isinstance(stored, bytes) or len(stored) <= TAG_BYTES:
            raise RowDamaged("row")
        packed = stored[:-TAG_BYTES]
        tag = self._row_tag.copy()
        tag.update(packed)
        if tag.digest() != stored[-TAG_BYTES:]:
            raise RowDamaged("row")
        row = self._decode(packed)
        if row.id != number:
            raise RowDamaged("row under another id")
        return row

    def counter_tag(self, name: str, count: int, amount_minor: int, since_ms: int) -> bytes:
        """The tag of an exposure counter."""
        tag = self._counter_tag.copy()
        tag.update(_COUNTER_KEY.pack(count, amount_minor, since_ms, len(name)) + name.encode())
        return tag.digest()

    def log_tag(self, sequence: int, packed: bytes) -> bytes:
        """The tag of a row of the counters' log."""
        tag = self._counter_tag.copy()
        tag.update(sequence.to_bytes(8, "big") + packed)
        return tag.digest()

    def head_tag(self, packed: bytes) -> bytes:
        """The tag of the journal's head (schema.Head)."""
        tag = self._head_tag.copy()
        tag.update(packed)
        return tag.digest()


_Message = tuple[str, Fields]
_PACKED_NONE: Final[object] = msgspec.Raw(b"\xc0")
_encode_message = msgspec.msgpack.Encoder().encode
_decode_account = msgspec.msgpack.Decoder(tuple[_Message | None, _Message | None]).decode
_decode_sensitive = msgspec.msgpack.Decoder(Fields).decode


def pack_account(request: StoredMessage | msgspec.Raw | None, answer: Answer | msgspec.Raw | None) -> bytes:
    """Plaintext of an account part: the terminal's message, what it was told, or both.

    Either may be packed already, as it came from the gateway's process (wire.PackedCreate): the bytes are the same.
    """
    return _encode_message((request, answer))


def is_told(answer: Answer | msgspec.Raw | None) -> bool:
    """Whether there is an answer at all, packed or not."""
    return answer is not None and answer != _PACKED_NONE


def unpack_account(plaintext: bytes) -> tuple[StoredMessage | None, Answer | None]:
    """What `pack_account` packed.

    Raises:
        RowDamaged: it is not such a part.
    """
    try:
        request, answer = _decode_account(plaintext)
    except msgspec.DecodeError:
        raise RowDamaged("account part") from None
    return (
        None if request is None else StoredMessage(*request),
        None if answer is None else Answer(*answer),
    )


def pack_sensitive(fields: Fields) -> bytes:
    """Plaintext of a sensitive part."""
    return _encode_message(fields)


def unpack_sensitive(plaintext: bytes) -> Fields:
    """What `pack_sensitive` packed.

    Raises:
        RowDamaged: it is not such a part.
    """
    try:
        return _decode_sensitive(plaintext)
    except msgspec.DecodeError:
        raise RowDamaged("sensitive part") from None
