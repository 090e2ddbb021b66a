"""Redis: a stream in an append-only file that is synced before any answer of the same turn leaves.

SET NX and XADD run in one script, so that a repeat adds nothing and no crash keeps one without the other. Redis syncs
once for all clients that it read in one turn of its loop. Everything it stores stays in memory, too.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
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
)
from bench.load.tally import Outcome
from bench.ports import free_ports

_SCRIPT: Final = (
    b"if redis.call('SET',KEYS[1],'','NX') then redis.call('XADD',KEYS[2],'*','r',ARGV[1]) return 1 end return 0"
)
_STREAM: Final = b"stored"
_ANSWER_WITHIN_S: Final = 10.0


class RedisClient(PeerClient):
    """Calls the script; its answers are `:1` for stored and `:0` for known already."""

    def __init__(self, loop: Loop, batch: int, payload: bytes, script: bytes) -> None:
        super().__init__(loop)
        self._key = transaction_key(batch, self.index)
        self._head = b"*6\r\n$7\r\nEVALSHA\r\n$%d\r\n%s\r\n$1\r\n2\r\n$" % (len(script), script)
        self._tail = b"\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(_STREAM), _STREAM, len(payload), payload)
        self._unread = b""

    def send(self, number: int) -> None:
        """Call the script."""
        self.last = number
        key = b"%s%06d" % (self._key, number)
        self.transport.write(b"%s%d\r\n%s%s" % (self._head, len(key), key, self._tail))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if data != b":1\r\n":
            self._unread += data
            if not self._unread.endswith(b"\r\n"):
                return
            data, self._unread = self._unread, b""
        if data == b":1\r\n":
            self.answered(Outcome.APPROVED)
        elif data == b":0\r\n":
            self.answered(Outcome.DECLINED)
        else:
            self.refuse(data.decode(errors="replace").strip())


class RedisPeer:
    """A server with one stream."""

    name = "Redis streams"
    note = "appendonly yes, appendfsync always, SET NX and XADD in one script, one stream; all of it stays in memory"
    keeps = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: ChildServer | None = None
        self._port = 0
        self._script = b""

    async def start(self) -> None:
        """Start the server and load the script. Raises: PeerMissing, PeerBroken."""
        program = shutil.which("redis-server")
        if program is None:
            raise PeerMissing("no redis-server: apt-get install redis-server")
        self._server = ChildServer(self._folder)
        (self._port,) = free_ports(1)
        settings = self._folder / "redis.conf"
        settings.write_text(
            f"bind {LOCALHOST}\nport {self._port}\ndir {self._folder}\n"
            "appendonly yes\nappendfsync always\n"
            'save ""\n'
            "auto-aof-rewrite-percentage 0\n"  # no fork in the middle of a measurement: in its favour
            "daemonize no\nmaxclients 20000\n",
            encoding="utf-8",
        )
        self._server.spawn(program, str(settings))
        await self._server.listening(self._port)
        answer = await self._ask(
            b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%d\r\n%s\r\n" % (len(_SCRIPT), _SCRIPT), lines=2
        )
        self._script = answer.split(b"\r\n")[1]

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        """Connect clients. Raises: PeerBroken, OSError."""
        joined = [RedisClient(loop, batch, payload, self._script) for _ in range(clients)]
        await connected(joined, self._port)
        return joined

    async def stored(self) -> int:
        """Entries of the stream. Raises: PeerBroken, OSError."""
        return int(await self._ask(b"*2\r\n$4\r\nXLEN\r\n$%d\r\n%s\r\n" % (len(_STREAM), _STREAM), lines=1))

    def ended(self) -> str:
        """How the server ended, if it did."""
        return self._server.ended() if self._server is not None else "the server was not started"

    async def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            await self._server.stop()

    async def _ask(self, command: bytes, *, lines: int) -> bytes:
        """One command; the answer without the mark of its type."""
        reader, writer = await asyncio.open_connection(LOCALHOST, self._port)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                writer.write(command)
                answer = b"".join([await reader.readuntil(b"\r\n") for _ in range(lines)])
        except (TimeoutError, asyncio.IncompleteReadError):
            raise PeerBroken(f"Redis does not answer within {_ANSWER_WITHIN_S:g} s") from None
        finally:
            writer.close()
        if answer[:1] not in (b":", b"$"):
            raise PeerBroken(answer.decode(errors="replace").strip())
        return answer[1:]
