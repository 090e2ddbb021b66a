"""The least that keeps an acknowledged sale: what this Python, this SQLite and this disk allow such a path at all.

Run as a module it is the server. It hears the gateway's terminals, reads their frames with the gateway's codec, and
does once for each sale what nobody can leave out: one encryption under one key, one hash over the one before, one row,
one unique key; one synced commit for all that came during the last one, and then the answers. It has no policy, lanes,
queue, limits, keys of records, fingerprints, tree or second lookup, forwards nothing, and cannot be asked afterwards.
So it is a ceiling for the gateway, and its distance to others tells what no work on the gateway can change.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, cast

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.load.peers_gateway import Terminals
from bench.load.peers_own import OwnPeer
from bench.load.peers_server import LOCALHOST, Loop, PeerClient
from gateway.collecting import spare_the_collector
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import answer_mti

_FILE: Final = "bare.sqlite3"
_BACKLOG: Final = 1024
_CHECKPOINT_PAGES: Final = 2_000
_NONCE_BYTES: Final = 12
_ECHOED: Final = (3, 4, 11, 41, 42, 49)

_Taken = tuple["_Terminal", Message]


class BarePeer(OwnPeer):
    """The bare path in a process of its own."""

    name = "bare path"
    note = (
        "the gateway's frames and codec; one encryption, one hash, one row, one unique key; a commit for all that wait"
    )

    def __init__(self, folder: Path, dialect: str, *, commit_delay_ms: float = 0.0) -> None:
        super().__init__(folder / _FILE, commit_delay_ms=commit_delay_ms)
        self._dialect = dialect
        self._terminals = Terminals(load_dialect(dialect))

    async def start(self) -> None:
        """Start its process. Raises: PeerBroken."""
        await self._run("bench.load.peers_bare", self._dialect)

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:  # noqa: ARG002 - sales
        """Connect terminals. Raises: PeerBroken, OSError."""
        return await self._terminals.join(loop, clients, self._port)


class _Store:
    """The table, on a thread of its own: takes what has gathered, commits, and hands the answers back."""

    def __init__(self, file: Path, dialect: Dialect, delay_s: float) -> None:
        self._file = file
        self._dialect = dialect
        self._delay_s = delay_s
        self._seal = AESGCM(os.urandom(32)).encrypt
        self._pack = msgspec.msgpack.Encoder().encode
        self._sequence = 0
        self._newest = bytes(32)
        self._gathered: list[_Taken] = []
        self._handed: queue.SimpleQueue[list[_Taken]] = queue.SimpleQueue()
        self._busy = False

    def start(self) -> None:
        """Begin, on the running loop."""
        self._loop = asyncio.get_running_loop()
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = WAL", "synchronous = FULL", f"wal_autocheckpoint = {_CHECKPOINT_PAGES}"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        connection.execute("CREATE TABLE stored (sequence INTEGER PRIMARY KEY, hash BLOB, record BLOB)")
        connection.execute("CREATE TABLE by_key (key TEXT PRIMARY KEY, sequence INTEGER) WITHOUT ROWID")
        threading.Thread(target=self._keep_on, args=(connection,), name="store", daemon=True).start()

    def take(self, terminal: _Terminal, sale: Message) -> None:
        """Keep a sale, with what else comes until the commit under way is over."""
        if not self._gathered and not self._busy:
            self._loop.call_soon(self._hand_over)
        self._gathered.append((terminal, sale))

    def _hand_over(self) -> None:
        if self._gathered and not self._busy:
            self._busy = True
            gathered, self._gathered = self._gathered, []
            self._handed.put(gathered)

    def _answer(self, answers: list[tuple[_Terminal, bytes]]) -> None:
        for terminal, answer in answers:
            terminal.write(answer)
        self._busy = False
        self._hand_over()

    def _keep_on(self, connection: sqlite3.Connection) -> None:
        while True:
            answers = self._kept(connection, self._handed.get())
            self._loop.call_soon_threadsafe(self._answer, answers)

    def _kept(self, connection: sqlite3.Connection, sales: list[_Taken]) -> list[tuple[_Terminal, bytes]]:
        rows, taken, answers = [], [], []
        keys = [f"{sale.fields[42]}|{sale.fields[41]}|{sale.fields[11]}" for _, sale in sales]
        asked = f"SELECT key FROM by_key WHERE key IN ({','.join('?' * len(keys))})"  # noqa: S608 - question marks
        known = {key for (key,) in connection.execute(asked, keys).fetchall()}
        for (terminal, sale), key in zip(sales, keys, strict=True):
            repeat = key in known
            if not repeat:
                known.add(key)
                self._sequence += 1
                nonce = os.urandom(_NONCE_BYTES)
                record = nonce + self._seal(nonce, self._pack((sale.mti, sale.fields)), self._sequence.to_bytes(8))
                self._newest = sha256(self._newest + record).digest()
                rows.append((self._sequence, self._newest, record))
                taken.append((key, self._sequence))
            answers.append((terminal, self._answer_to(sale, "94" if repeat else "00")))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO stored (sequence, hash, record) VALUES (?, ?, ?)", rows)
        connection.executemany("INSERT INTO by_key (key, sequence) VALUES (?, ?)", taken)
        connection.execute("COMMIT")
        if self._delay_s:
            time.sleep(self._delay_s)
        return answers

    def _answer_to(self, sale: Message, code: str) -> bytes:
        told: dict[int, str] = {number: sale.fields[number] for number in _ECHOED if number in sale.fields}
        told |= {12: "120000", 13: "0101", 37: f"{self._sequence:012}", 39: code}
        answer = Message(answer_mti(sale.mti), told, sale.tpdu, sale.header)
        return self._dialect.framing.wrap(self._dialect.codec.encode(answer))


class _Terminal(asyncio.Protocol):
    """A connection of a terminal."""

    def __init__(self, dialect: Dialect, store: _Store) -> None:
        self._decode = dialect.codec.decode
        self._reader = dialect.framing.reader()
        self._store = store

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self._store.take(self, self._decode(frame))


async def _serve(dialect: Dialect, file: Path, port: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    store = _Store(file, dialect, delay_s)
    store.start()
    await loop.create_server(lambda: _Terminal(dialect, store), LOCALHOST, port, backlog=_BACKLOG)
    spare_the_collector()
    await ended.wait()


def main() -> None:
    """Be the server, until SIGTERM."""
    import uvloop  # noqa: PLC0415 - for the server's process only

    arguments = argparse.ArgumentParser(description="Keep the sales of terminals, and do nothing else for them.")
    arguments.add_argument("dialect")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("port", type=int)
    arguments.add_argument("--commit-delay-ms", type=float, default=0.0)
    given = arguments.parse_args()
    uvloop.run(_serve(load_dialect(given.dialect), given.file, given.port, given.commit_delay_ms / 1000))


if __name__ == "__main__":
    main()
