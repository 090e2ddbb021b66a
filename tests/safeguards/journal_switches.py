"""How the safeguards of the journal are taken away, where that takes more than a line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.journal import batch, connections, draft, leaving, reading, rows, sealing
from tests.safeguards import test_power
from tests.safeguards.switches import (
    Equal,
    Switch,
    altered,
    replaced,
    statements,
    wrapped,
)

_TAGS: Final = {"row": b"holdfast row", "counter": b"holdfast counter", "head": b"holdfast head"}


def broken(name: str) -> Switch:
    """A child that the check starts takes it away, by a name of tests/crash/safeguards.py."""
    return replaced(test_power, "BROKEN", name)


class Unverified:
    """AES-GCM that decrypts without looking at the tag."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, plaintext: bytes, bound: bytes) -> bytes:
        return AESGCM(self._key).encrypt(nonce, plaintext, bound)

    def decrypt(self, nonce: bytes, ciphertext: bytes, _bound: bytes) -> bytes:
        counter = modes.CTR(nonce + b"\x00\x00\x00\x02")
        return Cipher(algorithms.AES(self._key), counter).decryptor().update(ciphertext[:-16])


def open_with(said: Callable[[Any, int, Any, bytes], Any]) -> Switch:
    """A sealer that believes another commitment than the entry's."""

    def around(whole: Callable[..., bytes]) -> object:
        def opened(self: Any, sequence: int, entry_said: Any, ciphertext: bytes) -> bytes:
            return whole(self, sequence, said(self, sequence, entry_said, ciphertext), ciphertext)

        return opened

    return wrapped(sealing.Sealer, "open", around)


def own_digest(_: Any, __: int, said: Any, ciphertext: bytes) -> Any:
    return said._replace(digest=sha256(ciphertext).digest())


def own_commitment(sealer: Any, sequence: int, said: Any, _: bytes) -> Any:
    key = sealer.record_key(sequence, said.part, said.key_id)
    return said._replace(commitment=sealing.key_commitment(sequence, said.part, key))


class _Constant:
    """A hash that is the same whatever is hashed."""

    def copy(self) -> _Constant:
        return self

    def update(self, _: bytes) -> None:
        return None

    def digest(self) -> bytes:
        return b"\x55" * rows.TAG_BYTES


def untagged(what: str) -> Switch:
    """Tags of one use are all the same, so that every record has the right one."""

    def blake2b(*values: Any, person: bytes = b"", **named: Any) -> Any:
        return _Constant() if person == _TAGS[what] else hashlib.blake2b(*values, person=person, **named)

    return altered(rows, "hashlib", blake2b=blake2b)


def any_sequence() -> None:
    """An entry is taken for the one that was asked for."""

    def around(whole: Callable[[bytes], Any]) -> object:
        def decoded(body: bytes) -> Any:
            entry = whole(body)
            object.__setattr__(entry, "sequence", Equal(entry.sequence))
            return entry

        return decoded

    wrapped(reading, "decode_entry", around)()


def any_end() -> None:
    """The newest entry is taken for the one that the head names."""

    def around(whole: Callable[..., Any]) -> object:
        def execute(self: object, sql: str, *values: object) -> object:
            if sql == "SELECT max(sequence) FROM entry":
                return SimpleNamespace(fetchone=lambda: (Equal(1),))
            return whole(self, sql, *values)

        return execute

    wrapped(connections.GatheringConnection, "execute", around)()


def made_with(target: type, **attributes: Callable[[], object]) -> Switch:
    """Objects that begin with other attributes."""

    def around(make: Callable[..., None]) -> object:
        def made(self: object, *values: object, **named: object) -> None:
            make(self, *values, **named)
            for name, value in attributes.items():
                setattr(self, name, value())

        return made

    return wrapped(target, "__init__", around)


def any_revision() -> None:
    """The stored row is taken for the one before the update."""

    def around(whole: Callable[..., int]) -> object:
        def update(self: Any, change: Any) -> int:
            number, revision = change.transaction.id, change.transaction.revision - 1
            for known in (self.rows, self.before):
                if known.get(number) is not None:
                    known[number] = msgspec.structs.replace(known[number], revision=revision)
            return whole(self, change)

        return update

    wrapped(draft.Draft, "update", around)()


def early_frontier() -> None:
    """The tree's frontier moves as soon as the new leaves are known, whatever becomes of their commit."""
    module: Any = batch

    def around(commit: Callable[..., Any]) -> object:
        def committed(self: Any, *values: Any, **named: Any) -> Any:
            write_entries = module.write_entries

            def written(connection: Any, drafted: Any, frontier: Any) -> Any:
                self.frontier, _ = frontier.append(drafted.leaves)
                return write_entries(connection, drafted, frontier)

            module.write_entries = written
            try:
                return commit(self, *values, **named)
            finally:
                module.write_entries = write_entries

        return committed

    wrapped(batch.Batcher, "commit", around)()


def without_table(name: str) -> Switch:
    """Lookups find nothing in one table."""
    table = re.compile(rf"\b{name} WHERE hash")
    return statements(lambda sql: table.sub(f"{name} WHERE 0 AND hash", sql) if sql.startswith("SELECT") else sql)


def without(prefix: str) -> Switch:
    """Statements that begin so are not carried out."""
    return statements(lambda sql: None if sql.startswith(prefix) else sql)


def quarantined_again() -> None:
    def again(sql: str) -> str:
        if not sql.startswith("INSERT INTO quarantine"):
            return sql
        assert " WHERE NOT EXISTS" in sql
        return sql.partition(" WHERE NOT EXISTS")[0].replace("INSERT", "INSERT OR REPLACE", 1)

    statements(again)()


def kept_in_queue() -> None:
    """What is damaged keeps its place in the queue; what is settled still leaves it, many at a time."""

    def around(whole: Callable[..., Any]) -> object:
        def execute(self: object, sql: str, *values: object) -> object:
            return whole(self, "SELECT 0 WHERE 0") if sql.startswith("DELETE FROM owing") else whole(self, sql, *values)

        return execute

    wrapped(connections.GatheringConnection, "execute", around)()


def setting(right: str, wrong: str) -> Switch:
    """A connection with another setting."""

    def around(connect: Callable[..., Any]) -> object:
        async def connect_carelessly(database: str, settings: Sequence[str]) -> Any:
            return await connect(database, tuple(wrong if each == right else each for each in settings))

        return connect_carelessly

    return wrapped(connections, "_connect", around)


def unchecked_place(self: Any, place: tuple[bytes, int, int]) -> Any:
    return self.row(place[2])


async def opened(*_: object) -> None:
    """Whatever is there is opened."""


async def not_scanned(records: Any, _: object, asked: Callable[..., Any], limit: int) -> Any:
    return await asked(lambda: records.in_doubt(limit))


def early_indexed() -> None:
    """The stored head says of a generation that it is in the tables as soon as the first slice is."""
    module: Any = batch
    begun = [0]

    def around_begin(begin: Callable[..., None]) -> object:
        def leave(self: Any, through: int) -> None:
            begin(self, through)
            begun[0] = through

        return leave

    def around_write(write: Callable[..., None]) -> object:
        def written(connection: Any, codec: Any, head: Any) -> None:
            claimed = msgspec.structs.replace(head, indexed=max(head.indexed, begun[0]))
            write(connection, codec, claimed)

        return written

    wrapped(leaving.Leaving, "begin", around_begin)()
    wrapped(module, "write_head", around_write)()
