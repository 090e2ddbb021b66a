"""The tables of a SQLite journal, and what is checked before one is trusted.

    entry          every entry by sequence, its leaf hash, and the ciphertext of its account part
    subtree        the Merkle tree over the entries: roots of its complete subtrees of 256**level leaves (log_tree.py)
    sensitive      ciphertexts of sensitive parts, by sequence; a row goes in the commit that makes a transaction final
    tx             one row per transaction, changed in the same commit as the entry that tells of it
    by_key         two lookup tables over two independent hashes of the transaction key (RowCodec.key_hashes); one with
    by_key_again   a second key has a row for that, too. A lookup asks both: a flipped bit hides a transaction from one
                   of them at most, and a hidden one would be charged again (INV-2)
    by_batch       the same for the transactions of a terminal's batch: a hidden one would make its totals wrong
    by_batch_again
    by_terminal    transactions by terminal, and by terminal and STAN, for listings (groups.py). One table only: nothing
                   is charged or counted by a listing
    owing          the queue: (lane, place, id) of what replay has to send
    unsettled      (state, id) of what is not final
                   The newest transactions are not in these seven yet: they are in memory, read back from entries and
                   rows at opening. Once a few thousand have come they go in sorted, slice by slice, because one by one
                   each would rewrite pages of its own (newest.py)
    counter        exposure counters; absent means zero (D21)
    counter_log    values that counters have taken since they were last written to `counter`, one row for each commit
    quarantine     damaged records, for a person; one that two people have settled has a row more that names the entry
    head           two copies of the newest sequence, the number of transactions by state, and the tree's frontier
    meta           two copies of what the journal is: format, name, keys with check values, root pages

Lanes are stored as UTF-8 bytes: text with a flipped bit is no text, and could not even be read to be reported.

`owing` and `unsettled` are tables of their own, not partial indexes over `tx`, because an index entry of a damaged row
cannot be removed through that row.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.lifecycle import FINAL, State
from gateway.journal.keyring import Keyring
from gateway.journal.port import JournalKeysWrong, JournalUnreadable
from gateway.journal.rows import TAG_BYTES, RowCodec
from protocol.transparency.tree import Frontier

FORMAT: Final = 6
APPLICATION_ID: Final = 0x484F4C44  # "HOLD"
PAGE_BYTES: Final = 4096

TABLES: Final = {
    "entry": "CREATE TABLE entry (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, leaf BLOB NOT NULL, account BLOB)",
    "sensitive": "CREATE TABLE sensitive (sequence INTEGER PRIMARY KEY, ciphertext BLOB NOT NULL)",
    "subtree": (
        "CREATE TABLE subtree (level INTEGER, number INTEGER, hash BLOB, PRIMARY KEY (level, number)) WITHOUT ROWID"
    ),
    "tx": "CREATE TABLE tx (id INTEGER PRIMARY KEY, row BLOB NOT NULL)",
    "by_key": "CREATE TABLE by_key (hash INTEGER, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID",
    "by_key_again": "CREATE TABLE by_key_again (hash INTEGER, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID",
    "by_batch": "CREATE TABLE by_batch (hash INTEGER, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID",
    "by_batch_again": "CREATE TABLE by_batch_again (hash INTEGER, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID",
    "by_terminal": "CREATE TABLE by_terminal (hash INTEGER, id INTEGER, PRIMARY KEY (hash, id)) WITHOUT ROWID",
    "owing": "CREATE TABLE owing (lane BLOB, place INTEGER, id INTEGER, PRIMARY KEY (lane, place, id)) WITHOUT ROWID",
    "unsettled": "CREATE TABLE unsettled (state INTEGER, id INTEGER, PRIMARY KEY (state, id)) WITHOUT ROWID",
    "counter": (
        "CREATE TABLE counter (name TEXT PRIMARY KEY, count INTEGER NOT NULL, amount_minor INTEGER NOT NULL, "
        "since_ms INTEGER NOT NULL, tag BLOB NOT NULL) WITHOUT ROWID"
    ),
    "counter_log": "CREATE TABLE counter_log (sequence INTEGER PRIMARY KEY, packed BLOB NOT NULL, tag BLOB NOT NULL)",
    "quarantine": (
        "CREATE TABLE quarantine (id INTEGER, what TEXT, time_ms INTEGER NOT NULL, PRIMARY KEY (id, what)) "
        "WITHOUT ROWID"
    ),
    "head": "CREATE TABLE head (copy INTEGER PRIMARY KEY, packed BLOB NOT NULL, tag BLOB NOT NULL)",
    "meta": "CREATE TABLE meta (copy INTEGER PRIMARY KEY, content BLOB NOT NULL, digest BLOB NOT NULL)",
}

_STATES: Final = len(State) + 1
_EMPTY_TREE: Final = Frontier().encode()


class Head(msgspec.Struct, array_like=True):
    """Where the journal stands, changed in every commit.

    Attributes:
        sequence: of the newest entry.
        counts: transactions by state; the index is the state's number.
        quarantined: rows of the table `quarantine`.
        indexed: transactions up to this sequence are in the lookup tables, and in `owing` and `unsettled` if they
            belong there. Of later ones some rows may be there already.
        commits: so many commits have written a head; 0 for all before this was counted.
        based: `commits` of the head that the database alone had, when the log that this head is in was begun at the
            latest. A database that is before it does not belong to this log.
        frontier: of the Merkle tree over all entries (Frontier.encode); its size is `sequence`.
        settled: records in quarantine that two people have settled.
        closed: rows of `quarantine` that are about these.
    """

    sequence: int
    counts: list[int]
    quarantined: int
    indexed: int = 0
    commits: int = 0
    based: int = 0
    frontier: bytes = _EMPTY_TREE
    settled: int = 0
    closed: int = 0

    @property
    def owed(self) -> int:
        """Transactions that have no outcome yet, those in a person's hands included."""
        return sum(self.counts) - sum(self.counts[state] for state in FINAL)


class MetaKey(msgspec.Struct, frozen=True):
    """A key that this journal uses or used."""

    purpose: str
    check: str


class Meta(msgspec.Struct, frozen=True):
    """What a journal says of itself, outside ciphertext.

    Attributes:
        format: of the tables.
        journal: random name of this journal.
        keyring: name of the keyring that its keys lie in.
        keys: by id.
        roots: root page of each table: a flipped root page would show another table's rows.
    """

    format: int
    journal: str
    keyring: str
    keys: dict[str, MetaKey]
    roots: dict[str, int]


def refuse_foreign_file(path: Path) -> None:
    """Look at the 100 bytes that every SQLite file starts with, before SQLite acts on them.

    A flipped bit there can make SQLite write with another page size or over pages in use. Must be called before the
    file is opened by SQLite in this process: closing any descriptor of it drops SQLite's locks.

    Raises:
        JournalUnreadable: not a journal of ours, or its header is damaged, or this user may not read it.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise JournalUnreadable(f"{path} cannot be read: {error.strerror}") from error
    if _never_finished(path, header):
        return  # SQLite recovers it, and `check_tables` looks at what comes of it
    fixed = (
        (0, b"SQLite format 3\x00"),
        (16, PAGE_BYTES.to_bytes(2, "big") + b"\x02\x02\x00\x40\x20\x20"),
        (44, b"\x00\x00\x00\x04"),
        (52, b"\x00\x00\x00\x00"),
        (56, b"\x00\x00\x00\x01"),
        (60, FORMAT.to_bytes(4, "big") + b"\x00\x00\x00\x00" + APPLICATION_ID.to_bytes(4, "big") + bytes(20)),
    )
    for offset, expected in fixed:
        if header[offset : offset + len(expected)] != expected:
            written = int.from_bytes(header[60:64], "big")
            other = f": it says {written}, which only the release that wrote it reads" if written != FORMAT else ""
            raise JournalUnreadable(f"{path} is not a journal of format {FORMAT}{other}, or its header is damaged")


def _never_finished(path: Path, header: bytes) -> bool:
    """Whether a power cut met the making of a journal: its header is not written yet, and nothing was acknowledged.

    The identity is in the header from the first checkpoint on, which ends the first opening.
    """
    page_bytes = int.from_bytes(header[16:18], "big")  # 0 where not even that has reached the disk
    if page_bytes not in (0, PAGE_BYTES) or any(header[60:64]) or any(header[68:72]):
        return False
    beside = (path.with_name(path.name + ending) for ending in ("-wal", "-journal"))
    return path.stat().st_size <= PAGE_BYTES or any(one.exists() and one.stat().st_size > 0 for one in beside)


def create_tables(connection: sqlite3.Connection, keyring: Keyring, codec: RowCodec) -> None:
    """Make an empty journal, in one commit. A crash leaves an empty file or a whole journal."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES.values():
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    meta = Meta(
        format=FORMAT,
        journal=secrets.token_hex(16),
        keyring=keyring.name,
        keys=_keys_of(keyring),
        roots=_roots(connection),
    )
    _write_meta(connection, meta)
    write_head(connection, codec, Head(0, [0] * _STATES, 0))
    connection.execute("COMMIT")


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """What SQLite says of a damaged file may quote bytes of it that are no UTF-8: an error of the file all the same.

    Raises:
        sqlite3.DatabaseError: it did.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        said = sqlite3.DatabaseError("what it declares is damaged")
        said.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise said from error


def check_tables(connection: sqlite3.Connection, keyring: Keyring, path: Path) -> Meta:
    """Refuse what is not a journal of ours, or not one of these keys.

    Raises:
        JournalUnreadable, JournalKeysWrong: the message names the file or the key.
    """
    declared = _declared(connection)
    if {name: sql for name, (_, sql) in declared.items()} != TABLES:
        raise JournalUnreadable(f"{path}: its tables are not those of format {FORMAT}")
    meta = read_meta(connection, path)
    if meta.roots != {name: root for name, (root, _) in declared.items()}:
        raise JournalUnreadable(f"{path}: the tables do not begin where they did")
    for number, said in meta.keys.items():
        record = keyring.records.get(int(number))
        if record is None:
            raise JournalKeysWrong(f"{said.purpose} key {number} of {path} is missing in keyring {keyring.name}")
        if record.check != said.check or record.purpose != said.purpose:
            raise JournalKeysWrong(
                f"{said.purpose} key {number} of keyring {keyring.name} is not the one that {path} was written with"
            )
    if meta.keyring != keyring.name:
        raise JournalKeysWrong(f"{path} was written with keyring {meta.keyring}, this is keyring {keyring.name}")
    return meta


def adopt_new_keys(connection: sqlite3.Connection, keyring: Keyring, meta: Meta) -> None:
    """Note keys that were added to the keyring since, so that their loss is named at the next opening."""
    keys = _keys_of(keyring)
    if keys != meta.keys:
        connection.execute("BEGIN IMMEDIATE")
        _write_meta(connection, msgspec.structs.replace(meta, keys=keys))
        connection.execute("COMMIT")


def read_head(connection: sqlite3.Connection, codec: RowCodec, path: Path) -> Head:
    """The journal's head, of whichever copy is whole.

    Raises:
        JournalUnreadable: neither is, or the entries do not end where it says: a tail is cut or was added.
    """
    head = newest_head(connection, codec)
    if head is None or int.from_bytes(head.frontier[:8]) != head.sequence:
        raise JournalUnreadable(f"{path}: both copies of the head are damaged")
    (newest,) = connection.execute("SELECT max(sequence) FROM entry").fetchone()
    if (newest or 0) != head.sequence:
        raise JournalUnreadable(f"{path}: the newest entry is {newest or 0}, the head says {head.sequence}")
    return head


def newest_head(connection: sqlite3.Connection, codec: RowCodec) -> Head | None:
    """The head by itself, of whichever copy is whole, None where neither is. Entries are not looked at."""
    heads = [
        msgspec.msgpack.decode(packed, type=Head)
        for packed, tag in connection.execute("SELECT packed, tag FROM head ORDER BY copy").fetchall()
        if isinstance(packed, bytes) and codec.head_tag(packed) == tag
    ]
    return max(heads, key=lambda each: (each.sequence, each.commits), default=None)


def write_head(connection: sqlite3.Connection, codec: RowCodec, head: Head) -> None:
    """Write both copies of the head, within the commit that changes it."""
    packed = msgspec.msgpack.encode(head)
    both = (bytearray(packed), bytearray(codec.head_tag(packed))) * 2  # bytearrays, in one statement: bulk.py says why
    connection.execute("INSERT OR REPLACE INTO head (copy, packed, tag) VALUES (1, ?, ?), (2, ?, ?)", both)


def _keys_of(keyring: Keyring) -> dict[str, MetaKey]:
    return {str(number): MetaKey(r.purpose.value, r.check) for number, r in keyring.records.items()}


def _roots(connection: sqlite3.Connection) -> dict[str, int]:
    return {name: root for name, (root, _) in _declared(connection).items()}


def _declared(connection: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    declared = connection.execute("SELECT name, rootpage, sql FROM sqlite_schema").fetchall()
    return {name: (root, sql) for name, root, sql in declared}


def _write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    content = msgspec.json.encode(meta)
    digest = hashlib.sha256(content).digest()[:TAG_BYTES]
    connection.executemany(
        "INSERT OR REPLACE INTO meta (copy, content, digest) VALUES (?, ?, ?)",
        ((1, content, digest), (2, content, digest)),
    )


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """What the journal says of itself, of whichever copy is whole.

    Raises:
        JournalUnreadable: neither is.
    """
    for content, digest in connection.execute("SELECT content, digest FROM meta ORDER BY copy").fetchall():
        if isinstance(content, bytes) and hashlib.sha256(content).digest()[:TAG_BYTES] == digest:
            return msgspec.json.decode(content, type=Meta)
    raise JournalUnreadable(f"{path}: both copies of what the journal says of itself are damaged")
