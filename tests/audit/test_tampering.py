"""Ciphertexts that were swapped, cut, replayed or edited are refused, every one, and each kind is told apart.

The journal is read through the path that serves terminals and operators. Two kinds of forger work on it: one who can
write into the database only, and one who also makes the entries and their leaf hashes fit. The second is found by the
tree as well (`holdfast audit verify`); here it is shown that not even before that anything of it is served.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.events import Lookup
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Stored
from gateway.journal import key_changes
from gateway.journal.keyring import KeyPurpose, Keyring, create_keyring
from gateway.journal.reader import open_for_reading
from gateway.journal.reading import RecordDamaged, RecordReader
from gateway.journal.rows import RowCodec
from gateway.journal.sealing import Sealer
from protocol.journal_entry import Entry, PartCommitment, decode_entry, encode_entry
from protocol.transparency.tree import leaf_hash
from tests.journal.conformance import loaded
from tests.journal.rig import PAN, START_MS, TRACK, Rig, evolved, sale, sqlite_make

ACCOUNT, SENSITIVE = 1, 2
EPOCH: Final = 6
"""So many sales have been sealed under the first epoch keys, and as many under the second."""

NOT_COMMITTED: Final = "the ciphertext is not the one that the entry commits to"
OTHER_KEY: Final = "the key is not the one that the entry commits to"
NOT_OPENED: Final = "the ciphertext does not open"

changes = settings(max_examples=120, deadline=None)


@dataclass
class Journal:
    """A closed journal of two epochs, in memory; `fork` is what a restored backup went on with."""

    pristine: sqlite3.Connection
    fork: sqlite3.Connection
    path: Path
    keyring: Keyring
    ids: tuple[int, ...]
    answered: int

    def copy(self) -> sqlite3.Connection:
        """One to tamper with."""
        made = sqlite3.connect(":memory:")
        self.pristine.backup(made)
        return made

    def read(self, connection: sqlite3.Connection, number: int) -> Stored:
        """A transaction as the gateway reads it. Raises RecordDamaged."""
        reader = RecordReader(connection, RowCodec(self.keyring.row_key), Sealer(self.keyring))
        row = reader.row(number)
        assert row is not None
        return reader.stored(row)

    def refused(self, connection: sqlite3.Connection, number: int) -> str:
        """What is said of a damaged one; fails where it is served."""
        with pytest.raises(RecordDamaged) as told:
            self.read(connection, number)
        assert PAN not in str(told.value)
        assert TRACK not in str(told.value)
        return told.value.what


def filled(rig: Rig, keys: Path, keyring: Keyring, told: str) -> tuple[list[int], Keyring]:
    """Sell in two epochs; ids, and the keyring at the end."""
    ids = []
    for number in range(2 * EPOCH):
        if number == EPOCH:
            for purpose in (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE):
                keyring = key_changes.rotate(keys, None, purpose, "test", told, START_MS)
            rig.run(rig.journal.adopt_keys(keyring))
        made = sale(f"k|{number:06}", sensitive={35: TRACK}, amount_minor=1000 + number + len(told))
        rig.write(made)
        ids.append(next(id_ for id_ in rig.listed() if id_ not in ids))
    return ids, keyring


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder = tmp_path_factory.mktemp("tampering")
    keyring = create_keyring(folder / "keys")
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    ids, keyring = filled(rig, folder / "keys", keyring, "one")
    rig.write(evolved(loaded(rig, ids[1]).transaction, State.ASKING, answer=Answer("0210", {2: PAN, 39: "00"})))
    answered = rig.run(rig.journal.health()).entries
    rig.close()
    rig = Rig(sqlite_make(folder / "fork.db", keyring)).open()  # the same keys and sequences, other contents
    for number in range(2 * EPOCH):
        rig.write(sale(f"k|{number:06}", sensitive={35: TRACK}, amount_minor=9000 + number))
    rig.close()
    with sqlite3.connect(folder / "journal.db") as pristine, sqlite3.connect(folder / "fork.db") as fork:
        made = Journal(pristine, fork, folder / "journal.db", keyring, tuple(ids), answered)
        for number in ids:
            stored = made.read(made.copy(), number)
            assert stored.request.fields[2] == PAN
        assert stored.sensitive == {35: TRACK}
        yield made
    pristine.close()
    fork.close()


def ciphertext(connection: sqlite3.Connection, sequence: int, part: int) -> bytes:
    table = "SELECT account FROM entry" if part == ACCOUNT else "SELECT ciphertext FROM sensitive"
    (found,) = connection.execute(f"{table} WHERE sequence = ?", (sequence,)).fetchone()
    return bytes(found)


def put(connection: sqlite3.Connection, sequence: int, part: int, content: bytes | None) -> None:
    table = "UPDATE entry SET account" if part == ACCOUNT else "UPDATE sensitive SET ciphertext"
    assert connection.execute(f"{table} = ? WHERE sequence = ?", (content, sequence)).rowcount == 1


def entry(connection: sqlite3.Connection, sequence: int) -> Entry:
    (body,) = connection.execute("SELECT body FROM entry WHERE sequence = ?", (sequence,)).fetchone()
    return decode_entry(body)


def forge(connection: sqlite3.Connection, sequence: int, said: PartCommitment) -> None:
    """Have an entry commit to something else, its leaf hash made to fit."""
    old = entry(connection, sequence)
    parts = tuple(said if each.part == said.part else each for each in old.parts)
    body = encode_entry(replace(old, parts=parts))
    connection.execute("UPDATE entry SET body = ?, leaf = ? WHERE sequence = ?", (body, leaf_hash(body), sequence))


def commitment(connection: sqlite3.Connection, sequence: int, part: int) -> PartCommitment:
    return next(each for each in entry(connection, sequence).parts if each.part == part)


def what(part: int) -> str:
    return "account part" if part == ACCOUNT else "sensitive part"


places = st.integers(0, 2 * EPOCH - 1)
parts = st.sampled_from([ACCOUNT, SENSITIVE])


@changes
@given(first=places, second=places, first_part=parts, second_part=parts)
def test_swapped_ciphertexts_are_refused_within_and_across_records_parts_and_epochs(
    journal: Journal, first: int, second: int, first_part: int, second_part: int
) -> None:
    one, other = (journal.ids[first], first_part), (journal.ids[second], second_part)
    if one == other:
        return
    copy = journal.copy()
    mine, theirs = ciphertext(copy, *one), ciphertext(copy, *other)
    put(copy, *one, theirs)
    put(copy, *other, mine)
    for sequence, part in (one, other):
        said = journal.refused(copy, sequence)
        assert said in {f"{what(each)}: {NOT_COMMITTED}" for each in (part, ACCOUNT)}


@changes
@given(first=places, second=places, first_part=parts, second_part=parts)
def test_ciphertexts_swapped_with_all_that_entries_say_of_them_are_refused_too(
    journal: Journal, first: int, second: int, first_part: int, second_part: int
) -> None:
    one, other = (journal.ids[first], first_part), (journal.ids[second], second_part)
    if one == other:
        return
    copy = journal.copy()
    mine, theirs = ciphertext(copy, *one), ciphertext(copy, *other)
    my_word, their_word = commitment(copy, *one), commitment(copy, *other)
    put(copy, *one, theirs)
    forge(copy, one[0], their_word._replace(part=one[1]))
    put(copy, *other, mine)
    forge(copy, other[0], my_word._replace(part=other[1]))
    for sequence in (one[0], other[0]):
        assert journal.refused(copy, sequence).endswith(OTHER_KEY)


@changes
@given(place=places, part=parts, size=st.integers(0, 400), behind=st.binary(max_size=20))
def test_a_ciphertext_that_is_cut_or_lengthened_is_refused(
    journal: Journal, place: int, part: int, size: int, behind: bytes
) -> None:
    copy, sequence = journal.copy(), journal.ids[place]
    whole = ciphertext(copy, sequence, part)
    changed = whole[: size % len(whole)] + behind
    put(copy, sequence, part, changed)
    assert journal.refused(copy, sequence) == f"{what(part)}: {NOT_COMMITTED}"
    forge(copy, sequence, commitment(copy, sequence, part)._replace(digest=sha256(changed).digest()))
    assert journal.refused(copy, sequence) == f"{what(part)}: {NOT_OPENED}"


@changes
@given(place=places, part=parts, at=st.integers(0, 10**6), flip=st.integers(1, 255), forged=st.booleans())
def test_any_edited_byte_of_nonce_ciphertext_or_tag_is_refused(
    journal: Journal, place: int, part: int, at: int, flip: int, forged: bool
) -> None:
    copy, sequence = journal.copy(), journal.ids[place]
    content = bytearray(ciphertext(copy, sequence, part))
    content[at % len(content)] ^= flip
    put(copy, sequence, part, bytes(content))
    if forged:
        forge(copy, sequence, commitment(copy, sequence, part)._replace(digest=sha256(content).digest()))
    assert journal.refused(copy, sequence) == f"{what(part)}: {NOT_OPENED if forged else NOT_COMMITTED}"


@pytest.mark.parametrize("part", [ACCOUNT, SENSITIVE])
def test_every_byte_of_a_ciphertext_counts(journal: Journal, part: int) -> None:
    """Each place once, so that none is left to chance: the nonce's 12, the contents, the tag's 16."""
    copy, sequence = journal.copy(), journal.ids[3]
    whole = ciphertext(copy, sequence, part)
    for at in range(len(whole)):
        put(copy, sequence, part, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert journal.refused(copy, sequence) == f"{what(part)}: {NOT_COMMITTED}"


@changes
@given(place=places, part=parts, at=st.integers(0, 31), flip=st.integers(1, 255))
def test_an_edited_commitment_is_refused(journal: Journal, place: int, part: int, at: int, flip: int) -> None:
    copy, sequence = journal.copy(), journal.ids[place]
    said = commitment(copy, sequence, part)
    changed = bytearray(said.commitment)
    changed[at] ^= flip
    forge(copy, sequence, said._replace(commitment=bytes(changed)))
    assert journal.refused(copy, sequence) == f"{what(part)}: {OTHER_KEY}"


@changes
@given(place=places, part=parts, key_id=st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1)))
def test_an_edited_key_id_is_refused(journal: Journal, place: int, part: int, key_id: int) -> None:
    copy, sequence = journal.copy(), journal.ids[place]
    said = commitment(copy, sequence, part)
    if key_id == said.key_id:
        return
    forge(copy, sequence, said._replace(key_id=key_id))
    record = journal.keyring.records.get(key_id)
    sealing = record is not None and record.purpose in (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE)
    expected = OTHER_KEY if sealing else f"epoch key {key_id} is not in the keyring"
    assert journal.refused(copy, sequence) == f"{what(part)}: {expected}"


@changes
@given(place=places, at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_any_edited_byte_of_an_entry_is_refused(journal: Journal, place: int, at: int, flip: int) -> None:
    copy, sequence = journal.copy(), journal.ids[place]
    (body,) = copy.execute("SELECT body FROM entry WHERE sequence = ?", (sequence,)).fetchone()
    changed = bytearray(body)
    changed[at % len(body)] ^= flip
    copy.execute("UPDATE entry SET body = ? WHERE sequence = ?", (bytes(changed), sequence))
    assert journal.refused(copy, sequence) == "entry"


@changes
@given(first=places, second=places)
def test_swapped_entries_are_refused(journal: Journal, first: int, second: int) -> None:
    if first == second:
        return
    one, other = journal.ids[first], journal.ids[second]
    copy = journal.copy()
    rows = {
        s: copy.execute("SELECT body, leaf, account FROM entry WHERE sequence = ?", (s,)).fetchone()
        for s in (one, other)
    }
    for sequence, row in ((one, rows[other]), (other, rows[one])):
        copy.execute("UPDATE entry SET body = ?, leaf = ?, account = ? WHERE sequence = ?", (*row, sequence))
    assert journal.refused(copy, one) == journal.refused(copy, other) == "entry under another sequence"


def test_an_older_ciphertext_of_the_same_transaction_is_refused(journal: Journal) -> None:
    created, answered = journal.ids[1], journal.answered
    assert entry(journal.copy(), answered).transaction == created
    for into, out_of in ((answered, created), (created, answered)):
        copy = journal.copy()
        put(copy, into, ACCOUNT, ciphertext(copy, out_of, ACCOUNT))
        assert journal.refused(copy, created) == f"account part: {NOT_COMMITTED}"
        forge(copy, into, commitment(copy, out_of, ACCOUNT))
        assert journal.refused(copy, created) == f"account part: {OTHER_KEY}"


@pytest.mark.parametrize("part", [ACCOUNT, SENSITIVE])
def test_what_a_restored_backup_has_sealed_under_the_same_sequence_and_key_is_refused(
    journal: Journal, part: int
) -> None:
    """The same key opens both: only the entry's hash of the ciphertext tells them apart."""
    copy = journal.copy()
    tried = 0
    for sequence in journal.ids:
        other = journal.fork.execute("SELECT body FROM entry WHERE sequence = ?", (sequence,)).fetchone()
        said = None if other is None else next((e for e in decode_entry(other[0]).parts if e.part == part), None)
        if said is None or said.key_id != commitment(copy, sequence, part).key_id:
            continue
        tried += 1
        assert said.commitment == commitment(copy, sequence, part).commitment
        put(copy, sequence, part, ciphertext(journal.fork, sequence, part))
        assert journal.refused(copy, sequence) == f"{what(part)}: {NOT_COMMITTED}"
    assert tried


@pytest.mark.parametrize("part", [ACCOUNT, SENSITIVE])
def test_a_ciphertext_that_was_taken_away_is_refused(journal: Journal, part: int) -> None:
    copy, sequence = journal.copy(), journal.ids[2]
    if part == ACCOUNT:
        put(copy, sequence, part, None)
    else:
        copy.execute("DELETE FROM sensitive WHERE sequence = ?", (sequence,))
    assert journal.refused(copy, sequence) == f"{what(part)} missing"


def test_the_reader_of_a_whole_file_serves_the_rest_and_nothing_of_a_tampered_record(
    journal: Journal, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(journal.path.read_bytes())
    first, second, whole = journal.ids[0], journal.ids[8], journal.ids[4]
    with sqlite3.connect(path) as connection:
        mine, theirs = ciphertext(connection, first, ACCOUNT), ciphertext(connection, second, ACCOUNT)
        put(connection, first, ACCOUNT, theirs)
        put(connection, second, ACCOUNT, mine)
    connection.close()

    async def results() -> list[Stored | Lookup]:
        reader = await open_for_reading(path, journal.keyring)
        try:
            return [await reader.load(number) for number in (first, second, whole)]
        finally:
            await reader.close()

    import asyncio  # noqa: PLC0415

    one, other, untouched = asyncio.run(results())
    assert one is other is Lookup.DAMAGED
    assert isinstance(untouched, Stored)
