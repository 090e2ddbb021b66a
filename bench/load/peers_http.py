"""A lean HTTP client for the closed loop: one kept connection, one POST in flight, no more parsed than is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from bench.load.frames import MERCHANT, STAN_MAX, terminal_name
from bench.load.peers_server import LOCALHOST, Loop, PeerClient, connected, transaction_key
from bench.load.tally import Outcome
from bench.till import CURRENCY, TEST_CARDS
from protocol.http_api import NewTransaction

PATH: Final = "/v1/transactions"
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_APPROVED_OFFLINE: Final = b'"approved-offline"'


class HttpClient(PeerClient):
    """Posts: 2xx is approved, 409 known already, anything else refused.

    Args:
        request: makes the whole request of a number, head and body.
        expected: what the body of a 2xx must have in it, too; otherwise it counts as declined.
    """

    def __init__(self, loop: Loop, request: Callable[[int], bytes], expected: bytes = b"") -> None:
        super().__init__(loop)
        self._request = request
        self._expected = expected
        self._unread = b""

    def send(self, number: int) -> None:
        """Post."""
        self.last = number
        self.transport.write(self._request(number))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._unread:
            data = self._unread + data
        head_end = data.find(_HEAD_END)
        if head_end < 0:
            self._unread = data
            return
        at = data[:head_end].lower().find(_LENGTH)
        if at < 0:
            self.refuse(f"an answer without a length: {data[:80].decode(errors='replace')}")
            return
        length = int(data[at + len(_LENGTH) : head_end + 2].split(b"\r\n", 1)[0])
        if len(data) < head_end + 4 + length:
            self._unread = data
            return
        self._unread = b""
        status = data[9:12]
        if status[:1] == b"2":
            outcome = Outcome.APPROVED if data.find(self._expected, head_end) >= 0 else Outcome.DECLINED
        else:
            outcome = Outcome.DECLINED if status == b"409" else Outcome.REFUSED
        self.answered(outcome)


def record_requests(batch: int, client: int, payload: bytes) -> Callable[[int], bytes]:
    """Requests that post the same record under a key of each one's own."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {LOCALHOST}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(payload)}\r\nIdempotency-Key: "
    ).encode() + transaction_key(batch, client)
    return lambda number: b"%s%06d\r\n\r\n%s" % (head, number, payload)


def sale_requests(terminal: str, first_stan: int) -> Callable[[int], bytes]:
    """Requests that sell as the gateway's HTTP API has it, by a swiped card: a keyed one would not be taken offline."""
    before = (
        f'{{"type":"sale","merchant":"{MERCHANT}","terminal":"{terminal}","amount_minor":10000,"currency":"{CURRENCY}",'
        f'"card":{{"pan":"{TEST_CARDS[0]}","expiry":"3012"}},"entry_mode":"022","batch":"000001","stan":"'
    )
    msgspec.json.decode(f'{before}000001"}}', type=NewTransaction)  # so that a change of the API is met here
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {LOCALHOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(before) + 8}\r\nIdempotency-Key: {terminal}-"
    )
    return partial(_sale, head.encode(), before.encode(), first_stan)


def _sale(head: bytes, before: bytes, first_stan: int, number: int) -> bytes:
    stan = b"%06d" % ((first_stan + number - 1) % STAN_MAX + 1)
    return b'%s%s\r\n\r\n%s%s"}' % (head, stan, before, stan)


class Tills:
    """Tills that sell in JSON, in as many rounds as wanted: each goes on counting STANs where its last round ended."""

    def __init__(self, first_index: int, *, stored: bool) -> None:
        """`first_index` numbers their terminals; `stored`: answers must say that a sale was approved offline."""
        self._first_index = first_index
        self._expected = _APPROVED_OFFLINE if stored else b""
        self._last: list[HttpClient] = []
        self._stans: list[int] = []

    async def join(self, loop: Loop, clients: int, port: int) -> Sequence[PeerClient]:
        """Connect the first so many tills. Raises: PeerBroken, OSError."""
        for index, client in enumerate(self._last):
            self._stans[index] += client.last + 1
        self._stans += [1] * (clients - len(self._stans))
        joined = [HttpClient(loop, self._sales(index), self._expected) for index in range(clients)]
        await connected(joined, port)
        self._last = joined
        return joined

    def _sales(self, index: int) -> Callable[[int], bytes]:
        return sale_requests(terminal_name(self._first_index + index), self._stans[index])
