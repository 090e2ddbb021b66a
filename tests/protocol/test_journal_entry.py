"""An entry has one encoding, and nothing else decodes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.journal_entry import (
    ENTRY_BYTES_MAX,
    SECOND_KEY_BYTES_MAX,
    Entry,
    EntryError,
    PartCommitment,
    decode_entry,
    decode_part,
    encode_entry,
    encode_values,
    with_second_key,
)
from protocol.transparency.tree import leaf_hash

SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PARTS = st.lists(
    st.builds(
        PartCommitment,
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    ),
    max_size=4,
    unique_by=lambda part: part.part,
).map(lambda parts: tuple(sorted(parts)))
ENTRIES = st.builds(
    Entry,
    kind=st.integers(1, 255),
    state=st.integers(0, 255),
    sequence=st.integers(1, 2**64 - 1),
    time_ms=st.integers(0, 2**64 - 1),
    transaction=st.integers(0, 2**64 - 1),
    attempts=st.integers(0, 2**32 - 1),
    amount_minor=st.integers(0, 2**64 - 1),
    key=SHORT,
    fingerprint=st.binary(max_size=255),
    currency=st.sampled_from(["", "156", "EUR"]),
    response=SHORT,
    reason=SHORT,
    detail=SHORT,
    parts=PARTS,
)
PLAIN = Entry(5, 3, 7, 1_700_000_000_000, 2, 1, 12_345, "M" * 15 + "|" + "T" * 8 + "|000001|200|000001", b"f" * 16,
              "156", "00", "", "", ())  # fmt: skip


def test_the_head_of_a_known_entry_stays_as_the_docstring_says() -> None:
    encoded = encode_entry(replace(PLAIN, key="k", fingerprint=b"", response="", reason=""))
    assert encoded.hex() == (
        "01" "05" "03" "0000000000000007" "0000018bcfe56800" "0000000000000002" "00000001" "0000000000003039"
        "01" "00" "03" "00" "00" "0000" "00" "6b" "313536"
    )  # fmt: skip


@given(ENTRIES)
def test_what_is_encoded_decodes_to_the_same(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(st.binary(max_size=300))
def test_bytes_either_are_the_encoding_of_what_they_decode_to_or_are_refused(encoded: bytes) -> None:
    try:
        entry = decode_entry(b"\x01" + encoded)
    except EntryError:
        return
    assert encode_entry(entry) == b"\x01" + encoded


@given(ENTRIES, st.data())
def test_a_cut_or_a_longer_entry_is_refused(entry: Entry, data: st.DataObject) -> None:
    encoded = encode_entry(entry)
    with pytest.raises(EntryError):
        decode_entry(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(EntryError):
        decode_entry(encoded + b"\x00")


@given(ENTRIES, st.data())
def test_any_flipped_bit_changes_the_leaf(entry: Entry, data: st.DataObject) -> None:
    encoded = bytearray(encode_entry(entry))
    leaf = leaf_hash(bytes(encoded))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    assert leaf_hash(bytes(encoded)) != leaf


def test_a_second_key_stands_behind_the_fingerprint_and_the_digest_of_what_was_asked() -> None:
    said = with_second_key(b"f" * 16, b"d" * 16, "idem|M|T|Zoë")
    assert said == b"f" * 16 + b"d" * 16 + "idem|M|T|Zoë".encode()
    assert decode_entry(encode_entry(replace(PLAIN, fingerprint=said))).second_key == "idem|M|T|Zoë"
    assert PLAIN.second_key == ""


@pytest.mark.parametrize(
    ("fingerprint", "digest", "second_key"),
    [
        (b"f" * 15, b"d" * 16, "k"),
        (b"f" * 15, b"d" * 17, "k"),
        (b"f" * 16, b"d" * 17, "k"),
        (b"", b"d" * 16, "k"),
        (b"f" * 16, b"d" * 16, "k" * (SECOND_KEY_BYTES_MAX + 1)),
        (b"f" * 16, b"d" * 16, "\ud800"),
    ],
)
def test_a_second_key_that_would_not_be_read_back_is_refused(
    fingerprint: bytes, digest: bytes, second_key: str
) -> None:
    with pytest.raises(EntryError):
        with_second_key(fingerprint, digest, second_key)


def test_the_longest_second_key_fits() -> None:
    said = with_second_key(b"f" * 16, b"d" * 16, "k" * SECOND_KEY_BYTES_MAX)
    assert decode_entry(encode_entry(replace(PLAIN, fingerprint=said))).second_key == "k" * SECOND_KEY_BYTES_MAX


def test_a_leaf_is_hashed_as_rfc_6962_says() -> None:
    assert leaf_hash(b"") == bytes.fromhex("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
    assert leaf_hash(b"entry") == hashlib.sha256(b"\x00entry").digest()


def test_an_entry_without_parts_is_small() -> None:
    assert len(encode_entry(PLAIN)) < 150


PART = PartCommitment(1, 1, bytes(32), bytes(32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": 0},
        {"kind": 256},
        {"sequence": 0},
        {"sequence": 2**64},
        {"amount_minor": -1},
        {"key": "k" * 256},
        {"currency": "EU"},
        {"currency": "E€R"},
        {"reason": "\ud800"},
        {"detail": "d" * 65_536},
        {"detail": "d" * 65_500},
        {"parts": (PART, PART)},
        {"parts": (PART._replace(part=2), PART)},
        {"parts": (PART._replace(digest=b""),)},
    ],
)
def test_what_does_not_fit_is_not_encoded(wrong: dict[str, object]) -> None:
    with pytest.raises(EntryError):
        encode_entry(replace(PLAIN, **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [(b"",), (b"\x01" * 68,), (b"\x01" * 69, b"\x01" * 69), (b"\x02" * 69, b"\x01" * 69)])
def test_encoded_parts_of_another_size_or_out_of_order_are_not_taken(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(EntryError, match="part"):
        encode_values(5, 3, 7, 0, 2, 1, 12_345, "key", b"", "156", "", "", "", parts)


def test_a_part_is_read_from_where_it_stands() -> None:
    encoded = encode_entry(replace(PLAIN, parts=(PART,)))
    assert decode_part(encoded, len(encoded) - 69) == PART
    with pytest.raises(EntryError, match="cut off"):
        decode_part(encoded, len(encoded) - 68)


def test_an_error_says_where_and_shows_nothing_of_the_entry() -> None:
    encoded = bytearray(encode_entry(PLAIN))
    encoded[50] = 0xFF
    with pytest.raises(EntryError) as caught:
        decode_entry(bytes(encoded))
    assert caught.value.offset == 50
    assert "MMM" not in str(caught.value)
    with pytest.raises(EntryError):
        decode_entry(b"\x01" * (ENTRY_BYTES_MAX + 1))
