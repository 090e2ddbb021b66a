"""A journal's log on a disk, of any length and with any entries: the journal's own tables, written at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import Keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.log_tree import insert_subtrees
from gateway.journal.rows import RowCodec
from gateway.journal.schema import PAGE_BYTES, create_tables
from protocol.journal_entry import Entry, PartCommitment, encode_entry, with_second_key
from protocol.transparency.checkpoints import Checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tree import Frontier, leaf_hash

ORIGIN: Final = "example.org/gateway-7"
SIGNER: Final = SignerKey(ORIGIN, bytes(range(32)))
KEY_EVENT_EVERY: Final = 500
CIPHERTEXT: Final = b"ciphertext of an account part"
START_MS: Final = 1_700_000_000_000


def entry(sequence: int, *, amount_minor: int = 0) -> bytes:
    """An entry: sales of two entries each, accepted and answered, and now and then one that is about a key.

    Every seventh sale has a second key.
    """
    about_key = sequence % KEY_EVENT_EVERY == 0
    answered = sequence % 2 == 0
    transaction = sequence - 1 if answered else sequence
    number = f"{transaction:06}"
    fingerprint = bytes(16)
    if transaction % 7 == 0:
        fingerprint = with_second_key(fingerprint, bytes(range(16)), f"H|T|Zoë’s key {number}")
    return encode_entry(
        Entry(
            kind=EntryKind.KEY if about_key else EntryKind.ANSWERED if answered else EntryKind.ACCEPTED,
            state=0 if about_key else State.APPROVED if answered else State.ASKING,
            sequence=sequence,
            time_ms=START_MS + 7 * sequence,
            transaction=0 if about_key else transaction,
            attempts=0 if about_key else 1,
            amount_minor=0 if about_key else amount_minor or 100 + sequence,
            key="" if about_key else f"20231114|M|T|{number}|S",
            fingerprint=b"" if about_key else fingerprint,
            currency="" if about_key else "978",
            response="00" if answered and not about_key else "",
            reason="",
            detail=f"key {sequence // KEY_EVENT_EVERY} activated by Zoë: yearly “rotation”" if about_key else "",
            parts=()
            if about_key
            else (PartCommitment(1, 2, leaf_hash(number.encode()), leaf_hash(b"key of " + number.encode())),),
        )
    )


def entries(count: int) -> list[bytes]:
    """The first so many."""
    return [entry(sequence) for sequence in range(1, count + 1)]


def write_log(path: Path, keyring: Keyring, bodies: Sequence[bytes], *, signed: int | None = None) -> Path:
    """Write a journal that has these entries, and beside it a checkpoint of its first `signed`, of all by default."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        create_tables(connection, keyring, RowCodec(keyring.row_key))
        leaves = [leaf_hash(body) for body in bodies]
        _, levels = Frontier().append(leaves)
        rows = ((n, body, leaf, CIPHERTEXT) for n, (body, leaf) in enumerate(zip(bodies, leaves, strict=True), 1))
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO entry (sequence, body, leaf, account) VALUES (?, ?, ?, ?)", rows)
        insert_subtrees(connection, 0, levels)
        connection.execute("COMMIT")
    finally:
        connection.close()
    path.with_name(path.name + "-checkpoint").write_bytes(checkpoint(bodies, signed))
    return path


def checkpoint(bodies: Sequence[bytes], size: int | None = None, *signers: SignerKey) -> bytes:
    """A signed checkpoint of the first `size` entries, of all by default."""
    frontier, _ = Frontier().append([leaf_hash(body) for body in bodies[:size]])
    return sign_checkpoint(Checkpoint(ORIGIN, frontier.size, frontier.root()), signers or [SIGNER])


def execute(path: Path, sql: str, *values: object) -> None:
    """Change a journal behind everybody's back."""
    connection = sqlite3.connect(path)
    try:
        connection.execute(sql, values)
        connection.commit()
    finally:
        connection.close()


def reader_size(path: Path) -> int:
    """How many entries a journal has."""
    with LogReader(path) as reader:
        return reader.size
