"""The gateway as one of the peers: sales while its acquirer is away, each stored before it is answered."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.child import Gateway, GatewayBroken
from bench.load.frames import STAN_MAX, Amounts, AnswerReader, FrameWrong, Now, SaleFrames, cut
from bench.load.peers_http import Tills
from bench.load.peers_server import LOCALHOST, Loop, PeerBroken, PeerClient, connected
from bench.load.setup import LoadSetup
from bench.load.tally import Outcome
from bench.load.terminals import outcome_of
from bench.ports import free_ports
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, load_dialect

_TILLS_FROM: Final = 1_000_000
"""Index of the first terminal that speaks JSON: none of them is a terminal that speaks ISO 8583."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSizes:
    """Mean bytes of what the gateway stores of one transaction.

    Attributes:
        body, account: the entry that is logged and hashed, and the ciphertext that it commits to.
        row: the transaction's state.
    """

    body: int
    account: int
    row: int

    @property
    def record(self) -> int:
        """What another store would have to keep: the entry and the ciphertext."""
        return self.body + self.account


class SaleClient(PeerClient):
    """A terminal on a connection of its own, with one sale in flight."""

    def __init__(self, loop: Loop, frames: SaleFrames, answers: AnswerReader, first_stan: int, *, echo: bool) -> None:
        super().__init__(loop)
        self._frames = frames
        self._answers = answers
        self._first = first_stan
        self._echo = echo
        self._unread = b""

    def send(self, number: int) -> None:
        """Send a sale."""
        self.last = number
        stan = self._first + number
        if stan > STAN_MAX:
            self.refuse("the terminal has used all of its STANs: measure in shorter rounds")
            return
        self.transport.write(self._frames.frame(stan))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._unread:
            data = self._unread + data
        answers: list[bytes] = []
        self._unread = cut(data, answers)
        try:
            for answer in answers:
                code = self._answers.read(answer).code
                self.answered(Outcome.APPROVED if self._echo else outcome_of(code))
        except (CodecError, FrameWrong) as error:
            self.refuse(str(error))


class Terminals:
    """The terminals of all rounds: each goes on counting STANs where its last round ended."""

    def __init__(self, dialect: Dialect, *, echo: bool = False) -> None:
        self._dialect = dialect
        self._echo = echo
        self._now = Now()
        self._last: list[SaleClient] = []
        self._stans: list[int] = []

    async def join(self, loop: Loop, clients: int, port: int) -> Sequence[PeerClient]:
        """Connect the first so many terminals. Raises: PeerBroken, OSError."""
        for index, client in enumerate(self._last):
            self._stans[index] += client.last + 1
        self._stans += [1] * (clients - len(self._stans))
        self._now.refresh()
        answers = AnswerReader(self._dialect, echo=self._echo)
        amounts = Amounts()
        joined = [
            SaleClient(
                loop,
                SaleFrames(self._dialect, index, self._now, amounts),
                answers,
                self._stans[index],
                echo=self._echo,
            )
            for index in range(clients)
        ]
        await connected(joined, port)
        self._last = joined
        return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSetup(LoadSetup):
    """The gateway of a load that hears ISO 8583 and JSON."""

    http_port: int

    def toml(self) -> str:
        """The gateway's configuration file."""
        connections = max(2_000, 2 * self.terminals)
        return f"""\
{super(BothSetup, self).toml()}
[[terminals]]
listen = "{LOCALHOST}:{self.http_port}"
speaks = "http"
dialect = "{self.terminal_dialect}"
allow_unauthenticated = true
requests_per_s_max = 100000
connections_max = {connections}
connections_per_address_max = {connections}
in_flight_max = {max(10_000, 4 * self.terminals)}
"""


class GatewayPeer:
    """The gateway with its acquirer away from the start."""

    name = "Holdfast"
    note = "sales over ISO 8583, encrypted, hashed, stored and answered by the gateway while the acquirer is away"
    keeps = True

    def __init__(self, folder: Path, *, terminals: int, commit_delay_ms: float = 0.0) -> None:
        ports = free_ports(4)
        self.setup = BothSetup(
            terminal_port=ports[0],
            operations_port=ports[1],
            acquirer_port=ports[2],
            http_port=ports[3],
            terminals=terminals,
            commit_delay_ms=commit_delay_ms,
        )
        self.gateway = Gateway(folder, self.setup)
        self._terminals = Terminals(load_dialect(self.setup.terminal_dialect))

    async def start(self) -> None:
        """Make its keys and start it. Raises: PeerBroken."""
        try:
            await self.gateway.prepare()
            await self.gateway.start()
        except GatewayBroken as broken:
            raise PeerBroken(str(broken)) from broken

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:  # noqa: ARG002 - it makes its own
        """Connect terminals. Raises: PeerBroken, OSError."""
        return await self._terminals.join(loop, clients, self.setup.terminal_port)

    async def stored(self) -> int:
        """Transactions that it owes to the acquirer. Raises: PeerBroken."""
        depth = await self.gateway.queue_depth()
        if depth is None:
            raise PeerBroken(f"the gateway does not tell its status: {self.gateway.log_end()}")
        return depth

    def ended(self) -> str:
        """How the gateway ended, if it did."""
        return "" if self.gateway.running else f"the gateway has ended: {self.gateway.log_end()}"

    async def stop(self) -> None:
        """Stop the gateway; killed, since its journal goes, too."""
        await self.gateway.kill()

    def sizes(self) -> RecordSizes:
        """What it stores of a transaction, from what is in its journal. Raises: PeerBroken."""
        file = self.gateway.folder / "journal.sqlite3"
        try:
            with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as reader:
                entry = "SELECT avg(length(body)), avg(length(account)) FROM (SELECT * FROM entry LIMIT 1000)"
                body, account = reader.execute(entry).fetchone()
                (row,) = reader.execute("SELECT avg(length(row)) FROM (SELECT * FROM tx LIMIT 1000)").fetchone()
        except sqlite3.Error as error:
            raise PeerBroken(f"the journal cannot be looked at: {error}") from error
        return RecordSizes(body=round(body or 0), account=round(account or 0), row=round(row or 0))


class HttpGatewayPeer:
    """The same gateway, by its other listener; the one that is heard over ISO 8583 starts and stops it."""

    name = "Holdfast, HTTP"
    note = "sales as JSON over HTTP, stored and answered by the gateway while the acquirer is away"
    keeps = True

    def __init__(self, other: GatewayPeer) -> None:
        self._other = other
        self._tills = Tills(_TILLS_FROM, stored=True)

    async def start(self) -> None:
        """Nothing: the other one has started it."""

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:  # noqa: ARG002 - it makes its own
        """Connect tills. Raises: PeerBroken, OSError."""
        return await self._tills.join(loop, clients, self._other.setup.http_port)

    async def stored(self) -> int:
        """Transactions that it owes to the acquirer. Raises: PeerBroken."""
        return await self._other.stored()

    def ended(self) -> str:
        """How the gateway ended, if it did."""
        return self._other.ended()

    async def stop(self) -> None:
        """Nothing: the other one stops it."""
