"""PostgreSQL: one INSERT under a primary key for each record, each its own synced commit.

Backends that commit at the same time share a flush of the write-ahead log: many connections are group commit. The
statement is prepared once for each connection, and each request is Bind, Execute and Sync in one segment.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from bench.load.peers_server import (
    LOCALHOST,
    ChildServer,
    Loop,
    PeerBroken,
    PeerClient,
    PeerMissing,
    connected,
    transaction_key,
    unprivileged,
)
from bench.load.tally import Outcome
from bench.ports import free_ports

_USER: Final = "bench"
_TABLE: Final = "CREATE TABLE stored (key text PRIMARY KEY, record bytea NOT NULL)"
_INSERT: Final = b"INSERT INTO stored (key, record) VALUES ($1, $2)"
_TEXT_OID: Final = 25
_BYTEA_OID: Final = 17
_LENGTH: Final = Struct(">I")
_STORED: Final = b"2\x00\x00\x00\x04C\x00\x00\x00\x0fINSERT 0 1\x00Z\x00\x00\x00\x05I"
"""BindComplete, CommandComplete and ReadyForQuery, as they come for every row that went in."""
_READY: Final = b"Z\x00\x00\x00\x05I"
_UNIQUE_VIOLATION: Final = b"C23505\x00"
_ANSWER_WITHIN_S: Final = 30.0

SETTINGS: Final = {
    "listen_addresses": LOCALHOST,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "commit_delay": "50",  # microseconds that a flush waits for more commits: a tenth faster with many clients
    "wal_level": "minimal",  # no standby reads it
    "max_wal_senders": "0",
    "shared_buffers": "512MB",
    "wal_buffers": "64MB",
    "min_wal_size": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "log_min_messages": "fatal",
    "log_checkpoints": "off",
    "autovacuum": "on",
}


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + _LENGTH.pack(len(body) + 4) + body


def _startup() -> bytes:
    body = _LENGTH.pack(196_608) + b"user\x00%s\x00database\x00postgres\x00\x00" % _USER.encode()
    return _LENGTH.pack(len(body) + 4) + body


def _parse(statement: bytes) -> bytes:
    """Parse of the statement as "s", and Sync."""
    types = b"\x00\x02" + _LENGTH.pack(_TEXT_OID) + _LENGTH.pack(_BYTEA_OID)
    return _message(b"P", b"s\x00" + statement + b"\x00" + types) + _message(b"S", b"")


class PostgresClient(PeerClient):
    """One backend with the INSERT prepared."""

    def __init__(self, loop: Loop, batch: int, payload: bytes) -> None:
        super().__init__(loop)
        self._key = transaction_key(batch, self.index)
        # Bind: unnamed portal, statement "s", both parameters binary; the key's length and the key come in between.
        self._bind_head = b"\x00s\x00\x00\x01\x00\x01\x00\x02"
        self._bind_tail = _LENGTH.pack(len(payload)) + payload + b"\x00\x00"
        self._run = _message(b"E", b"\x00" + _LENGTH.pack(0)) + _message(b"S", b"")
        self._fixed_bytes = 4 + len(self._bind_head) + 4 + len(self._bind_tail)
        self._unread = b""
        self._began = False

    def greet(self) -> None:
        """Begin the session."""
        self.transport.write(_startup())

    def send(self, number: int) -> None:
        """Insert."""
        self.last = number
        key = b"%s%06d" % (self._key, number)
        pack = _LENGTH.pack
        self.transport.write(
            b"".join(
                (
                    b"B",
                    pack(self._fixed_bytes + len(key)),
                    self._bind_head,
                    pack(len(key)),
                    key,
                    self._bind_tail,
                    self._run,
                )
            )
        )

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if data == _STORED:
            self.answered(Outcome.APPROVED)
            return
        self._unread += data
        if not self._unread.endswith(_READY):
            if not self._began and self._unread[:1] == b"E":
                self.refuse(_error_text(self._unread))
            return
        answer, self._unread = self._unread, b""
        if not self._began:
            self._began = True
            self.transport.write(_parse(_INSERT))
        elif not self.ready.done():
            if answer[:1] == b"E":
                self.refuse(_error_text(answer))
            else:
                self.ready.set_result(None)
        elif answer == _STORED:
            self.answered(Outcome.APPROVED)
        elif _UNIQUE_VIOLATION in answer:
            self.answered(Outcome.DECLINED)
        else:
            self.refuse(_error_text(answer))


def _error_text(answer: bytes) -> str:
    """The M part of an ErrorResponse."""
    _, found, rest = answer.partition(b"\x00M")
    return rest.split(b"\x00", 1)[0].decode(errors="replace") if found else "PostgreSQL said something unexpected"


def _programs() -> Path:
    """Folder of the newest server's programs. Raises: PeerMissing."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("postgres")
    if found is None:
        raise PeerMissing("no PostgreSQL server: apt-get install postgresql")
    return Path(found).parent


class PostgresPeer:
    """A cluster with one table."""

    name = "PostgreSQL"
    note = (
        "fsync on, synchronous_commit on, full_page_writes on, commit_delay 50 us, "
        "prepared INSERT under a primary key, a connection for each client: their commits share flushes"
    )
    keeps = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: ChildServer | None = None
        self._port = 0

    async def start(self) -> None:
        """Make a cluster, start it, make the table. Raises: PeerMissing, PeerBroken."""
        programs = _programs()
        user = unprivileged()
        server = self._server = ChildServer(self._folder, user=user)
        cluster = self._folder / "cluster"
        initdb = (str(programs / "initdb"), "-D", str(cluster), "-U", _USER, "-A", "trust", "-E", "UTF8")
        await asyncio.to_thread(server.run_once, *initdb, "--locale=C")
        (self._port,) = free_ports(1)
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        server.spawn(
            str(programs / "postgres"),
            "-D",
            str(cluster),
            "-p",
            str(self._port),
            "-c",
            "max_connections=2000",
            *settings,
        )
        await server.listening(self._port)
        await self._opened()
        await self._query(_TABLE)

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        """Connect clients, each with a backend of its own. Raises: PeerBroken, OSError."""
        joined = [PostgresClient(loop, batch, payload) for _ in range(clients)]
        await connected(joined, self._port)
        return joined

    async def stored(self) -> int:
        """Rows of the table. Raises: PeerBroken, OSError."""
        return int(await self._query("SELECT count(*) FROM stored"))

    def ended(self) -> str:
        """How the server ended, if it did."""
        return self._server.ended() if self._server is not None else "the server was not started"

    async def stop(self) -> None:
        """Stop it at once: its data goes, too."""
        if self._server is not None:
            await self._server.stop(with_signal=signal.SIGQUIT)

    async def _opened(self) -> None:
        """Wait until it takes queries: it listens a little before."""
        until = time.monotonic() + _ANSWER_WITHIN_S
        while True:
            try:
                await self._query("SELECT 1")
            except PeerBroken as broken:
                if "starting up" not in str(broken) or time.monotonic() > until:
                    raise
                await asyncio.sleep(0.02)
            else:
                return

    async def _query(self, statement: str) -> str:
        """A simple query; the first column of its first row, or nothing."""
        reader, writer = await asyncio.open_connection(LOCALHOST, self._port)
        first = ""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                writer.write(_startup())
                asked = False
                while True:
                    kind = await reader.readexactly(1)
                    body = await reader.readexactly(_LENGTH.unpack(await reader.readexactly(4))[0] - 4)
                    if kind == b"E":
                        raise PeerBroken(_error_text(b"\x00" + body))
                    if kind == b"D":
                        first = body[6:].decode()
                    if kind == b"Z":
                        if asked:
                            return first
                        asked = True
                        writer.write(_message(b"Q", statement.encode() + b"\x00"))
        except (TimeoutError, asyncio.IncompleteReadError):
            raise PeerBroken(f"PostgreSQL did not answer: {self.ended() or 'no end of it in sight'}") from None
        finally:
            writer.close()
