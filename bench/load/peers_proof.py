"""Whether a peer really keeps what it acknowledged, once, before any figure of it is believed."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.load.closed_loop import Client
from bench.load.peers_server import Peer, PeerBroken, hang_up
from bench.load.tally import Outcome

_ANSWER_WITHIN_S: Final = 10.0


class OneByOne:
    """Stands in for the closed loop where single requests are sent, and one is sent again."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._client: Client | None = None

    def add(self, client: Client) -> int:
        """Take the one client in."""
        self._client = client
        return 0

    def acknowledged(self, index: int, outcome: int = Outcome.APPROVED) -> None:  # noqa: ARG002 - as the loop has it
        """The answer is there."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(outcome)

    def failed(self, index: int, why: str) -> None:  # noqa: ARG002 - as the loop has it
        """There will be none."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(PeerBroken(why))

    async def sent(self, number: int) -> int:
        """Send a request and wait for its outcome. Raises: PeerBroken, where there is none."""
        assert self._client is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._client.send(number)
        try:
            return await asyncio.wait_for(self._answer, _ANSWER_WITHIN_S)
        except TimeoutError:
            raise PeerBroken(f"no acknowledgement within {_ANSWER_WITHIN_S:g} s") from None


async def prove(peer: Peer, payload: bytes, *, batch: int = 0) -> None:
    """Store two records and send the last of them again: two must be there, and each request must be answered.

    Raises:
        PeerBroken: it stored more or fewer, or did not answer as it should.
    """
    before = await peer.stored()
    one = OneByOne()
    clients = await peer.join(one, 1, batch, payload)
    try:
        for number in (0, 1):
            outcome = await one.sent(number)
            if outcome != Outcome.APPROVED:
                raise PeerBroken(f"a new record was not taken: {Outcome(outcome).name.lower()}")
        again = await one.sent(1)
        if again == Outcome.REFUSED:
            raise PeerBroken("a repeat was answered with an error, not as known")
    finally:
        hang_up(clients)
    if (there := await peer.stored() - before) != 2:
        raise PeerBroken(f"two records and one repeat were acknowledged, {there} are stored")
