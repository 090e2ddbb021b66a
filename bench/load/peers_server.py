"""Somebody else's server as a child on loopback, and what every peer of a comparison can do.

A peer does the durable part of the gateway's work: it keeps a record under a unique key and acknowledges once a sync
has covered it. Its clients are driven by the same closed loop as the gateway's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from bench.load.closed_loop import Client
from bench.load.tally import Outcome

LOCALHOST: Final = "127.0.0.1"
_READY_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 10.0
_LOG_END_BYTES: Final = 600
_LOG_NAME: Final = "server.log"


class PeerMissing(Exception):
    """The server is not installed; the message says how to get it."""


class PeerBroken(Exception):
    """The server did not do what it was started for; the message has the end of its log."""


class Loop(Protocol):
    """Whom a client reports to: the closed loop, or what sends one request at a time."""

    def add(self, client: Client) -> int:
        """Take a client in; returns the index by which it reports."""

    def acknowledged(self, index: int, outcome: int = Outcome.APPROVED) -> None:
        """The answer to the client's request is there."""

    def failed(self, index: int, why: str) -> None:
        """The client's request will have no answer."""


class PeerClient(asyncio.Protocol):
    """One connection with one request in flight. Subclasses write requests and read acknowledgements.

    Attributes:
        last: number of the newest request; -1 before the first.
        unkept: requests that were not approved, so that nothing is stored of them.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.index = loop.add(self)
        self.last = -1
        self.unkept = 0
        self.transport = cast("asyncio.Transport", None)  # until `connection_made`, and nothing is sent before
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False

    def send(self, number: int) -> None:
        """Write request `number`. Subclasses do."""
        raise NotImplementedError

    def answered(self, outcome: Outcome) -> None:
        """Report an acknowledgement; the next request is sent before this returns."""
        if outcome:
            self.unkept += 1
        self._loop.acknowledged(self.index, outcome)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast("asyncio.Transport", transport)
        self.greet()

    def greet(self) -> None:
        """Say what comes before the first request; by default nothing, and the client is ready."""
        self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._closing:
            return
        why = f"the connection was lost{f': {exc}' if exc else ''}"
        if not self.ready.done():
            self.ready.set_exception(PeerBroken(why))
        elif self.last >= 0:
            self._loop.failed(self.index, why)

    def refuse(self, why: str) -> None:
        """Give up: what came is no acknowledgement."""
        self._closing = True
        if self.ready.done():
            self._loop.failed(self.index, why)
        else:
            self.ready.set_exception(PeerBroken(why))
        self.transport.abort()

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        self.transport.close()


class Peer(Protocol):
    """One server in a comparison.

    Attributes:
        name: as it is shown.
        note: how it is configured, in a sentence.
        keeps: whether it stores anything; if so, what it stores is counted.
    """

    name: str
    note: str
    keeps: bool

    async def start(self) -> None:
        """Start the server, ready to take records.

        Raises:
            PeerMissing: it is not installed.
            PeerBroken: it did not come up.
        """

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        """Connect clients, whose keys no other batch uses. Raises: PeerBroken, OSError."""

    async def stored(self) -> int:
        """How many records it holds. Raises: PeerBroken, OSError."""

    def ended(self) -> str:
        """Empty while the server is there; else how it ended and the end of its log."""

    async def stop(self) -> None:
        """Stop the server. Safe to call twice, and without a start."""


def transaction_key(batch: int, client: int) -> bytes:
    """What the keys of one client's requests begin with; the request's number completes one, as a STAN does."""
    return b"B%06d|HOLDFASTBENCH01|T%07d|P|" % (batch, client)


@contextlib.contextmanager
def measuring_folder(parent: Path | None) -> Iterator[Path]:
    """A temporary folder that servers under other users may pass through, and that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="holdfast-peers-", dir=parent, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def unprivileged() -> str | None:
    """The user that a server runs as which refuses to run as root; None where we are nobody special ourselves."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


class ChildServer:
    """A server's process, its log, and its end."""

    def __init__(self, folder: Path, *, user: str | None = None) -> None:
        self.folder = folder
        self._user = user
        self._child: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(folder, user)

    @property
    def pid(self) -> int:
        """Of the child. Raises: PeerBroken, where there is none."""
        if self._child is None:
            raise PeerBroken("the server was not started")
        return self._child.pid

    def run_once(self, *command: str) -> None:
        """Run a command of the server's to its end. Raises: PeerBroken, where it fails."""
        user, group, extra_groups = self._identity()
        done = subprocess.run(  # noqa: S603 - our own arguments
            command,
            check=False,
            cwd=self.folder,
            capture_output=True,
            env=_environment(),
            user=user,
            group=group,
            extra_groups=extra_groups,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise PeerBroken(f"{Path(command[0]).name} failed with {done.returncode}: {said[-_LOG_END_BYTES:]}")

    def spawn(self, *command: str) -> None:
        """Start the server. Ctrl-C on our terminal does not reach it: we stop it ourselves, and so does our death."""
        keeper = shutil.which("setpriv")  # where it is missing, `kill -9` of the bench leaves its servers behind
        if keeper is not None:
            command = (keeper, "--pdeathsig", "TERM", "--", *command)
        user, group, extra_groups = self._identity()
        with (self.folder / _LOG_NAME).open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
                user=user,
                group=group,
                extra_groups=extra_groups,
            )

    async def listening(self, port: int, within_s: float = _READY_WITHIN_S) -> None:
        """Wait until somebody takes connections. Raises: PeerBroken, when the child ends or is not there in time."""
        until = time.monotonic() + within_s
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(LOCALHOST, port)
                writer.close()
                return
            if problem := self.ended():
                raise PeerBroken(problem)
            if time.monotonic() > until:
                raise PeerBroken(f"the server did not listen within {within_s:g} s: {self._log_end()}")
            await asyncio.sleep(0.02)

    def ended(self) -> str:
        """Empty while the child is there; else how it ended, and the end of its log."""
        if self._child is None:
            return "the server was not started"
        status = self._child.poll()
        return "" if status is None else f"the server ended with {status}: {self._log_end()}"

    async def stop(self, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, kill it where that does not help in time, and reap it. Safe to call twice."""
        child = self._child
        if child is None:
            return
        if child.poll() is None:
            child.send_signal(with_signal)
            try:
                await asyncio.to_thread(child.wait, _STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                pass
            finally:  # also when we are cancelled meanwhile
                if child.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()

    def _identity(self) -> tuple[str | None, int | None, list[str] | None]:
        """User, group and further groups of the child; None of each is ours."""
        if self._user is None:
            return None, None, None
        return self._user, pwd.getpwnam(self._user).pw_gid, []

    def _log_end(self) -> str:
        try:
            log = (self.folder / _LOG_NAME).read_bytes()
        except OSError:
            return "it left no log"
        return log[-_LOG_END_BYTES:].decode(errors="replace").strip() or "its log is empty"


async def connected(clients: Sequence[PeerClient], port: int) -> None:
    """Connect clients to a port of loopback, and wait until each is ready for its first request.

    Raises:
        OSError: nobody listens; PeerBroken: a client was turned away. The others are closed.
    """
    loop = asyncio.get_running_loop()
    try:
        for client in clients:
            await loop.create_connection(lambda client=client: client, LOCALHOST, port)  # type: ignore[misc]
        await asyncio.wait_for(asyncio.gather(*(client.ready for client in clients)), _READY_WITHIN_S)
    except TimeoutError:
        raise PeerBroken(f"clients were not ready within {_READY_WITHIN_S:g} s") from None
    finally:
        if not all(client.ready.done() and not client.ready.exception() for client in clients):
            hang_up(clients)


def hang_up(clients: Sequence[PeerClient]) -> None:
    """Close all that were connected."""
    for client in clients:
        if client.ready.done() and not client.ready.cancelled():
            client.ready.exception()  # looked at: whoever waited has had the first of them
        if client.transport is not None:
            client.close()


def _environment() -> dict[str, str]:
    """Ours, without what would configure a server behind our back; messages in English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "NATS_", "REDIS", "HOLDFAST_", "LC_"))}
    return {**kept, "LC_ALL": "C"}
