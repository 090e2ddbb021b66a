"""The journal's leaf format: what an auditor hashes and reads without the gateway.

An entry tells of one change of one transaction (or of an act that belongs to none). It holds no card data: of the
encrypted parts it holds commitments only, so that a part may be destroyed and the proof still stands (AUDIT.md).

Version 1, all integers big-endian, in this order and with nothing between or after:

    offset  bytes  meaning
         0      1  version, 1
         1      1  kind: what the entry tells of, 1..255
         2      1  state of the transaction after it, 1..255; 0 where the entry is about no transaction
         3      8  sequence, from 1 and dense
        11      8  time, UTC, milliseconds since 1970-01-01
        19      8  transaction id: sequence of the entry that created it; 0 where there is none
        27      4  attempts: sends committed so far, this entry included
        31      8  amount in minor units
        39      1  K, length of the transaction key in bytes
        40      1  F, length of the keyed fingerprint, and of what stands behind it
        41      1  C, length of the currency: 0 or 3
        42      1  R, length of the response code
        43      1  N, length of the reason
        44      2  D, length of the operator's detail
        46      1  P, number of parts
        47      K  transaction key, UTF-8
         .      F  keyed fingerprint, 16 bytes. Where the transaction has a second key: then a keyed digest of what was
                   asked under that, 16 bytes, and the second key itself, UTF-8
         .      C  currency, ISO 4217, ASCII
         .      R  response code that the terminal was told, UTF-8
         .      N  reason, UTF-8
         .      D  operator's detail, UTF-8
         .   69*P  the parts, in ascending order of part number, each:
                     1  part number
                     4  id of the epoch key that the part's key is derived from
                    32  SHA-256 of the ciphertext
                    32  commitment to the part's key

An entry has at most 65,535 bytes. There is one encoding of an entry and the decoder takes no other. The leaf hash is
SHA-256(00 | entry), RFC 6962 section 2.1 (transparency/tree.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 65_535

_HEAD: Final = Struct(">BBBQQQIQBBBBBHB")
_PART: Final = Struct(">BI32s32s")
PART_BYTES: Final = _PART.size
_FINGERPRINT_BYTES: Final = 16
_SECOND_KEY_AT: Final = 32
SECOND_KEY_BYTES_MAX: Final = 255 - _SECOND_KEY_AT
"""The second key's place is the end of a field of at most 255 bytes."""


class EntryError(ValueError):
    """An entry that cannot be encoded, or bytes that are not an entry. `offset` is where the fault was met."""

    def __init__(self, fault: str, offset: int = 0) -> None:
        super().__init__(f"{fault} (at byte {offset})")
        self.offset = offset


class PartCommitment(NamedTuple):
    """What an entry tells of one encrypted part.

    Attributes:
        part: number of the part within the entry; 1 is account data, 2 is sensitive authentication data.
        key_id: the epoch key that the part's own key is derived from.
        digest: SHA-256 of the ciphertext as stored.
        commitment: binds the one key that opens it (AES-GCM alone does not).
    """

    part: int
    key_id: int
    digest: bytes
    commitment: bytes


@dataclass(slots=True)
class Entry:
    """One entry of the journal; the module's docstring gives each value's meaning and bounds."""

    kind: int
    state: int
    sequence: int
    time_ms: int
    transaction: int
    attempts: int
    amount_minor: int
    key: str
    fingerprint: bytes
    currency: str
    response: str
    reason: str
    detail: str
    parts: tuple[PartCommitment, ...]

    @property
    def second_key(self) -> str:
        """The transaction's second key; empty where it has none."""
        return self.fingerprint[_SECOND_KEY_AT:].decode(errors="replace")


def with_second_key(fingerprint: bytes, digest: bytes, second_key: str) -> bytes:
    """What stands in the place of the fingerprint where a transaction has a second key.

    Args:
        digest: of what was asked under it.
    Raises:
        EntryError: fingerprint or digest has not 16 bytes, or the key is too long or no text that can be encoded.
    """
    try:
        octets = second_key.encode()
    except UnicodeEncodeError:
        raise EntryError("a second key that cannot be encoded") from None
    if len(octets) > SECOND_KEY_BYTES_MAX:
        raise EntryError(f"a second key has at most {SECOND_KEY_BYTES_MAX} bytes")
    if len(fingerprint) != _FINGERPRINT_BYTES or len(fingerprint) + len(digest) != _SECOND_KEY_AT:
        raise EntryError("a fingerprint and a digest have 16 bytes each where there is a second key")
    return fingerprint + digest + octets


def encode_entry(entry: Entry) -> bytes:
    """The one encoding of `entry`.

    Raises:
        EntryError: a value does not fit its bytes, or the whole is longer than 65,535 bytes.
    """
    return encode_values(
        entry.kind,
        entry.state,
        entry.sequence,
        entry.time_ms,
        entry.transaction,
        entry.attempts,
        entry.amount_minor,
        entry.key,
        entry.fingerprint,
        entry.currency,
        entry.response,
        entry.reason,
        entry.detail,
        tuple([_encode_part(each) for each in entry.parts]),
    )


def encode_values(
    kind: int,
    state: int,
    sequence: int,
    time_ms: int,
    transaction: int,
    attempts: int,
    amount_minor: int,
    key: str,
    fingerprint: bytes,
    currency: str,
    response: str,
    reason: str,
    detail: str,
    parts: tuple[bytes, ...],
) -> bytes:
    """As `encode_entry`, of an entry's values in their order; spares the objects where each entry is written once.

    Args:
        parts: as they stand in the entry, 69 bytes each (`decode_part`).
    """
    try:
        key_octets = key.encode()
        currency_octets = currency.encode("ascii")
        response_octets = response.encode()
        reason_octets = reason.encode()
        detail_octets = detail.encode()
        head = _HEAD.pack(
            VERSION,
            kind,
            state,
            sequence,
            time_ms,
            transaction,
            attempts,
            amount_minor,
            len(key_octets),
            len(fingerprint),
            len(currency_octets),
            len(response_octets),
            len(reason_octets),
            len(detail_octets),
            len(parts),
        )
        encoded = b"".join(
            (head, key_octets, fingerprint, currency_octets, response_octets, reason_octets, detail_octets, *parts)
        )
    except Exception as error:
        raise EntryError(f"a value does not fit the format: {type(error).__name__}") from error
    if not kind or not sequence or len(currency_octets) not in (0, 3):
        raise EntryError("kind and sequence count from 1, and a currency has three letters")
    if len(encoded) > ENTRY_BYTES_MAX:
        raise EntryError("an entry has at most 65,535 bytes", ENTRY_BYTES_MAX)
    last = -1
    for part in parts:
        if len(part) != PART_BYTES:
            raise EntryError("a part has 69 bytes")
        if part[0] <= last:
            raise EntryError("parts stand in ascending order, each once")
        last = part[0]
    return encoded


def _encode_part(said: PartCommitment) -> bytes:
    if len(said.digest) != 32 or len(said.commitment) != 32:
        raise EntryError("a digest and a commitment have 32 bytes each")
    try:
        return _PART.pack(*said)
    except Exception as error:
        raise EntryError(f"a value does not fit the format: {type(error).__name__}") from error


def decode_entry(encoded: bytes) -> Entry:
    """The entry that `encoded` is, and nothing else: every byte is accounted for.

    Raises:
        EntryError: with the offset of what is wrong; the message holds nothing of the entry's contents.
    """
    if len(encoded) > ENTRY_BYTES_MAX:
        raise EntryError("longer than an entry may be", ENTRY_BYTES_MAX)
    if not encoded or encoded[0] != VERSION:
        raise EntryError("not an entry of version 1", 0)
    if len(encoded) < _HEAD.size:
        raise EntryError("cut off within the head", len(encoded))
    _, kind, state, sequence, time_ms, transaction, attempts, amount_minor, *sizes, count = _HEAD.unpack_from(encoded)
    if not kind:
        raise EntryError("a kind counts from 1", 1)
    if not sequence:
        raise EntryError("a sequence counts from 1", 3)
    if sizes[2] not in (0, 3):
        raise EntryError("a currency has three letters", 41)
    expected = _HEAD.size + sum(sizes) + count * _PART.size
    if len(encoded) != expected:
        raise EntryError(f"has {len(encoded)} bytes where its head says {expected}", min(len(encoded), expected))
    ends = tuple(accumulate(sizes, initial=_HEAD.size))
    at_key, at_fingerprint, at_currency, at_response, at_reason, at_detail, at_parts = ends
    try:
        key = encoded[at_key:at_fingerprint].decode()
        currency = encoded[at_currency:at_response].decode("ascii")
        response = encoded[at_response:at_reason].decode()
        reason = encoded[at_reason:at_detail].decode()
        detail = encoded[at_detail:at_parts].decode()
    except UnicodeDecodeError as error:
        raise _not_text(encoded, ends, error) from None
    return Entry(
        kind,
        state,
        sequence,
        time_ms,
        transaction,
        attempts,
        amount_minor,
        key,
        encoded[at_fingerprint:at_currency],
        currency,
        response,
        reason,
        detail,
        _decode_parts(encoded, at_parts, count),
    )


def decode_parts(encoded: bytes) -> tuple[int, int, tuple[PartCommitment, ...]]:
    """Sequence, transaction and parts of an entry; the rest of it is not looked at.

    For an entry whose leaf hash has been checked: it is as it was written.

    Raises:
        EntryError: as `decode_entry`, where it is no entry at all.
    """
    if len(encoded) < _HEAD.size or encoded[0] != VERSION:
        raise EntryError("not an entry of version 1", 0)
    _, _, _, sequence, _, transaction, *_, count = _HEAD.unpack_from(encoded)
    offset = len(encoded) - count * _PART.size
    if offset < _HEAD.size:
        raise EntryError("cut off within the parts", len(encoded))
    return sequence, transaction, _decode_parts(encoded, offset, count)


def _not_text(encoded: bytes, ends: tuple[int, ...], error: UnicodeDecodeError) -> EntryError:
    """Where the first text is that is none."""
    for place, encoding in ((0, "utf-8"), (2, "ascii"), (3, "utf-8"), (4, "utf-8"), (5, "utf-8")):
        try:
            encoded[ends[place] : ends[place + 1]].decode(encoding)
        except UnicodeDecodeError as found:
            return EntryError(f"not {encoding} text", ends[place] + found.start)
    raise AssertionError("one of them is no text") from error


def decode_part(encoded: bytes, offset: int = 0) -> PartCommitment:
    """The part that stands at `offset`: its number, its key's id, hash of the ciphertext, commitment, 69 bytes in all.

    Raises:
        EntryError: there are fewer bytes than that.
    """
    try:
        return PartCommitment._make(_PART.unpack_from(encoded, offset))
    except struct_error:
        raise EntryError("cut off within the parts", len(encoded)) from None


def _decode_parts(encoded: bytes, offset: int, count: int) -> tuple[PartCommitment, ...]:
    parts = []
    last = -1
    for start in range(offset, offset + count * _PART.size, _PART.size):
        part = decode_part(encoded, start)
        if part.part <= last:
            raise EntryError("parts stand in ascending order, each once", start)
        last = part.part
        parts.append(part)
    return tuple(parts)
