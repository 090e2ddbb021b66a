"""Servers that store nothing: what an event loop and aiohttp can do at most with the same requests.

Run as a module it is one of them: `echo` sends back what arrives, with the gateway's event loop and nothing else;
`http` answers a POST with its own body.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from bench.load.peers_gateway import Terminals
from bench.load.peers_http import PATH, Tills
from bench.load.peers_server import LOCALHOST, ChildServer, Loop, PeerClient
from bench.ports import free_ports
from protocol.iso8583.dialect import load_dialect

ECHO: Final = "echo"
HTTP: Final = "http"
_BACKLOG: Final = 1024


class _Answering:
    """A server of this module in a process of its own."""

    keeps = False
    what = ECHO

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: ChildServer | None = None
        self._port = 0

    async def start(self) -> None:
        """Start the process. Raises: PeerBroken."""
        self._server = ChildServer(self._folder)
        (self._port,) = free_ports(1)
        self._server.spawn(sys.executable, "-m", "bench.load.limits_servers", self.what, str(self._port))
        await self._server.listening(self._port)

    async def stored(self) -> int:
        """Nothing ever."""
        return 0

    def ended(self) -> str:
        """How the process ended, if it did."""
        return self._server.ended() if self._server is not None else "the server was not started"

    async def stop(self) -> None:
        """Stop the process."""
        if self._server is not None:
            await self._server.stop()


class EchoPeer(_Answering):
    """The ceiling of the loop: the gateway's frames, sent back as they are."""

    name = "event-loop echo"
    note = "the same frames sent back by a uvloop protocol in a process of its own"

    def __init__(self, folder: Path, dialect: str) -> None:
        super().__init__(folder)
        self._terminals = Terminals(load_dialect(dialect), echo=True)

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:  # noqa: ARG002 - sales
        """Connect terminals. Raises: PeerBroken, OSError."""
        return await self._terminals.join(loop, clients, self._port)


class BareHttpPeer(_Answering):
    """What aiohttp costs: the same JSON, sent back as it is."""

    name = "bare aiohttp"
    note = "the same JSON posted to an aiohttp handler that sends it back, on uvloop"
    what = HTTP

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tills = Tills(0, stored=False)

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:  # noqa: ARG002 - sales
        """Connect tills. Raises: PeerBroken, OSError."""
        return await self._tills.join(loop, clients, self._port)


class _Echo(asyncio.Protocol):
    """Sends back what arrives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


async def _serve_echo(port: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(_Echo, LOCALHOST, port, backlog=_BACKLOG)
    await ended.wait()


def _serve_http(port: int) -> None:
    import uvloop  # noqa: PLC0415 - heavy, and for the server's process only
    from aiohttp import web  # noqa: PLC0415

    async def sent_back(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    application = web.Application()
    application.router.add_post(PATH, sent_back)
    loop = uvloop.new_event_loop()
    web.run_app(application, host=LOCALHOST, port=port, access_log=None, print=lambda *_: None, loop=loop)


def main() -> None:
    """Be one of the servers, until SIGTERM."""
    import uvloop  # noqa: PLC0415 - for the server's process only

    arguments = argparse.ArgumentParser(description="Send back what arrives.")
    arguments.add_argument("what", choices=(ECHO, HTTP))
    arguments.add_argument("port", type=int)
    given = arguments.parse_args()
    if given.what == ECHO:
        uvloop.run(_serve_echo(given.port))
    else:
        _serve_http(given.port)


if __name__ == "__main__":
    main()
