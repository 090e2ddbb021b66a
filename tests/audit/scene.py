"""A journal as a gateway writes it, with what an auditor and an attacker have of it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gateway.audit.damage import Damage
from gateway.audit.heads import checkpoint_path
from gateway.audit.verifying import Verdict, Wanted, verify
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Kind, Transaction
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.log_tree import insert_subtrees
from gateway.journal.rows import TAG_BYTES, Row, RowCodec
from gateway.journal.schema import PAGE_BYTES, newest_head, write_head
from protocol.journal_entry import Entry, decode_entry, encode_entry
from protocol.transparency.checkpoints import Checkpoint, sign_checkpoint
from protocol.transparency.notes import SignerKey
from protocol.transparency.tree import Frontier, leaf_hash
from tests.journal.rig import APPROVED_ANSWER, TRACK, Rig, evolved, sale, sqlite_make

ORIGIN: Final = "example.org/shop"
SIGNER: Final = SignerKey(ORIGIN, bytes(range(32)))
SALES: Final = 210
"""Of three entries each, and a few more: two complete tiles and a part of a third."""

SIZE: Final = 3 * SALES + 4
"""Entries altogether."""

OWED: Final = 3 * SALES + 1
"""The transaction that is still owed upstream."""

MERCHANT: Final = "MERCHANT0000001"

NAMED_TWICE: Final = 28
"""Id of the sale that has a second key."""
SECOND_KEY: Final = f"idem|{MERCHANT}|TERMINA0|order-9"


@dataclass(frozen=True)
class Scene:
    """A journal that nobody uses, its keys, and what each party has."""

    journal: Path
    keyring: Keyring

    @property
    def held(self) -> Path:
        """A checkpoint of the whole journal that the auditor has kept elsewhere."""
        return self.journal.with_name("held")

    def copied(self, folder: Path) -> Scene:
        """The same journal in another folder, to be damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.journal.parent.iterdir():
            if path.is_file():
                shutil.copy(path, folder / path.name)
        return replace(self, journal=folder / self.journal.name)

    def verified(self, **wanted: Any) -> Verdict:
        """What the auditor finds with the checkpoint and the key, unless told otherwise."""
        asked = {"checkpoint": self.held, "keys": (SIGNER.verifier,), **wanted}
        return verify(Wanted(journal=self.journal, **asked), lambda _what, _part: None)

    def changed(self, *statements: tuple[str, Sequence[object]]) -> Scene:
        """The journal after somebody has been at it with SQL."""
        with Attack(self) as attack:
            for sql, values in statements:
                attack.connection.execute(sql, values)
        return self


class Attack:
    """Writing access to a journal file behind the gateway's back."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.connection = sqlite3.connect(scene.journal, isolation_level=None)

    def __enter__(self) -> Attack:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()

    @property
    def size(self) -> int:
        (newest,) = self.connection.execute("SELECT max(sequence) FROM entry").fetchone()
        return int(newest)

    def body(self, sequence: int) -> bytes:
        (body,) = self.connection.execute("SELECT body FROM entry WHERE sequence = ?", (sequence,)).fetchone()
        assert isinstance(body, bytes)
        return body

    def entry(self, sequence: int) -> Entry:
        return decode_entry(self.body(sequence))

    def edit(self, sequence: int, /, *, leaf: bool, **values: Any) -> None:
        """Put another entry in the place of one, with its leaf hash made to fit, or not."""
        body = encode_entry(replace(self.entry(sequence), **values))
        self.connection.execute("UPDATE entry SET body = ? WHERE sequence = ?", (body, sequence))
        if leaf:
            self.connection.execute("UPDATE entry SET leaf = ? WHERE sequence = ?", (leaf_hash(body), sequence))

    def edit_row(self, number: int, *, tagged: bool = False, **values: Any) -> None:
        """Change a row, its tag left as it was: who has no key cannot make another. `tagged` is by who has the keys."""
        (stored,) = self.connection.execute("SELECT row FROM tx WHERE id = ?", (number,)).fetchone()
        import msgspec  # noqa: PLC0415

        row = msgspec.structs.replace(msgspec.msgpack.decode(stored[:-TAG_BYTES], type=Row), **values)
        packed = msgspec.msgpack.encode(row) + stored[-TAG_BYTES:]
        if tagged:
            packed = RowCodec(self.scene.keyring.row_key).pack(row)
        self.connection.execute("UPDATE tx SET row = ? WHERE id = ?", (packed, number))

    def make_fit(self) -> Frontier:
        """Make everything stored fit the entries as they are now: leaves, subtrees, the head. Needs the keys."""
        self.connection.execute("DELETE FROM subtree")
        leaves = []
        for sequence, body in self.connection.execute("SELECT sequence, body FROM entry ORDER BY sequence").fetchall():
            leaves.append(leaf_hash(body))
            self.connection.execute("UPDATE entry SET leaf = ? WHERE sequence = ?", (leaves[-1], sequence))
        frontier, levels = Frontier().append(leaves)
        insert_subtrees(self.connection, 0, levels)
        codec = RowCodec(self.scene.keyring.row_key)
        head = newest_head(self.connection, codec)
        assert head is not None
        head.sequence, head.frontier = frontier.size, frontier.encode()
        write_head(self.connection, codec, head)
        return frontier

    def sign(self, frontier: Frontier) -> None:
        """Sign what it has become, with the log's own key."""
        checkpoint_path(self.scene.journal).write_bytes(signed(frontier.size, frontier.root()))


def signed(size: int, root: bytes, signer: SignerKey = SIGNER) -> bytes:
    """A checkpoint of the shop's log."""
    return sign_checkpoint(Checkpoint(signer.name, size, root), [signer])


@dataclass(frozen=True)
class Page:
    """A page of a B-tree in the bytes of a journal's file that nobody uses.

    Attributes:
        content: the file.
        number: of the page, from 1.
    """

    content: bytearray
    number: int

    @classmethod
    def root(cls, scene: Scene, table: str) -> Page:
        """The root page of a table."""
        with Attack(scene) as attack:
            sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
            (number,) = attack.connection.execute(sql, (table,)).fetchone()
        return cls(bytearray(scene.journal.read_bytes()), number)

    @property
    def start(self) -> int:
        return (self.number - 1) * PAGE_BYTES

    @property
    def inner(self) -> bool:
        return self.content[self.start] in (2, 5)

    @property
    def pointers(self) -> list[int]:
        """Where the file has the two bytes that point to each cell."""
        first = self.start + (12 if self.inner else 8)
        count = int.from_bytes(self.content[self.start + 3 : self.start + 5])
        return list(range(first, first + 2 * count, 2))

    @property
    def cells(self) -> list[int]:
        """Where the file has each cell."""
        return [self.start + int.from_bytes(self.content[at : at + 2]) for at in self.pointers]

    def swap(self, one: int, other: int) -> None:
        """Have two pointers to cells change places."""
        first, second = self.pointers[one], self.pointers[other]
        self.content[first : first + 2], self.content[second : second + 2] = (
            self.content[second : second + 2],
            self.content[first : first + 2],
        )


def root_of(scene: Scene, size: int) -> bytes:
    """The root of the first entries, computed apart from what is tested."""
    with Attack(scene) as attack:
        return Frontier().append([leaf_hash(attack.body(sequence)) for sequence in range(1, size + 1)])[0].root()


def only(verdict: Verdict, *expected: Damage) -> dict[Damage, list[tuple[int, int]]]:
    """What was found, by kind, which is these kinds and no others."""
    found = kinds(verdict)
    assert not verdict.whole
    assert set(found) == set(expected), [str(finding) for finding in verdict.findings]
    return found


def flipped(content: bytes, bit: int) -> bytes:
    """With one bit changed, counted from the lowest of the first byte."""
    changed = bytearray(content)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def kinds(verdict: Verdict) -> dict[Damage, list[tuple[int, int]]]:
    """Which entries each kind of damage was found at."""
    found: dict[Damage, list[tuple[int, int]]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.kind, []).append((finding.sequence, finding.last))
    return found


def key_of(number: int, message_class: int = 2) -> str:
    """The key of the shop's sale of this number; three terminals take turns."""
    return f"B000001|{MERCHANT}|TERMINA{number % 3}|{message_class}|{number:06}"


def build(folder: Path) -> Scene:
    """The shop's journal: sales that stood in and were taken, one that is still owed with its track, one reversed."""
    folder.mkdir(parents=True, exist_ok=True)
    keyring = create_keyring(folder / "keys")
    journal = folder / "journal.sqlite3"
    rig = Rig(sqlite_make(journal, keyring)).open()
    try:
        for number in range(SALES):
            alias = SECOND_KEY if number * 3 + 1 == NAMED_TWICE else ""
            lane = f"{MERCHANT}|T{number % 3}"
            stored = _stored(rig, sale(key_of(number), amount_minor=100 + number, lane=lane, alias=alias))
            rig.now_ms += 1_000
            stored = _next(rig, stored, State.STORED, EntryKind.SENDING, attempts=1)
            _next(rig, stored, State.APPROVED, EntryKind.ANSWERED, reason="answer.code-00")
        owed = sale(key_of(SALES), amount_minor=777, sensitive={35: TRACK})
        rig.write(owed)
        reversed_sale = _stored(rig, sale(key_of(SALES + 1), amount_minor=500))
        undone = sale(
            key_of(SALES + 1, 4), amount_minor=500, state=State.APPROVED, kind=EntryKind.TAKEN, what=Kind.REVERSAL,
            original=reversed_sale.id,
        )  # fmt: skip
        undone.transaction.reason = "terminal.reversal"
        rig.write(
            undone,
            evolved(reversed_sale, State.CANCELLED, kind=EntryKind.CANCELLED, reason="terminal.reversal"),
        )
    finally:
        rig.close()
    scene = Scene(journal, keyring)
    with Attack(scene) as attack:
        size = attack.size
    note = signed(size, root_of(scene, size))
    checkpoint_path(journal).write_bytes(note)
    scene.held.write_bytes(note)
    return scene


def _stored(rig: Rig, create: Any) -> Transaction:
    event = rig.write(create)
    row: Transaction = rig.load(event.ids[0]).transaction  # type: ignore[union-attr]
    return row


def _next(rig: Rig, row: Transaction, state: State, kind: EntryKind, **changes: Any) -> Transaction:
    update = evolved(row, state, kind=kind, answer=APPROVED_ANSWER if state is State.APPROVED else None, **changes)
    rig.write(update)
    return update.transaction
