"""Tills that speak JSON over HTTP, made for load: requests patched in place, answers read by their status and state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.load.frames import MERCHANT, STAN_MAX, VERIFIED_EVERY, Amounts, FrameWrong, terminal_name
from bench.load.lines import Dialled, Line
from bench.load.tally import Outcome
from bench.load.terminals import Reports, Told
from bench.till import CURRENCY, TEST_CARDS
from protocol.http_api import NewTransaction, TransactionView

_STATE: Final = b'"state":"'
_LENGTH: Final = b"content-length:"
_APPROVED: Final = frozenset({b"approved", b"approved-offline"})
_REFUSED: Final = frozenset({b"429", b"503"})
_AGAIN: Final = frozenset({b"409"})
_AMOUNT_DIGITS: Final = 5


class SaleRequests:
    """The sales of one till, each the last one with a few bytes patched."""

    def __init__(self, index: int, amounts: Amounts) -> None:
        """Find the offsets and prove them.

        Raises:
            FrameWrong: a patched request is not what the JSON encoder makes.
        """
        self.terminal = terminal_name(index)
        self._card = TEST_CARDS[index % len(TEST_CARDS)]
        self._amounts = amounts
        self._buffer = bytearray(self._made(1))
        self._key_at = self._buffer.index(b"-000001\r\n") + 1
        self._stan_at = self._buffer.index(b'"stan":"') + 8
        self._amount_at = self._buffer.index(b'"amount_minor":') + 15
        for stan in (1, 987_654):
            if self.request(stan) != self._made(stan):
                raise FrameWrong("a patched request is not what the encoder makes of it")

    def request(self, stan: int) -> bytes:
        """A sale of this STAN, and of the amount that follows from it."""
        buffer = self._buffer
        digits = b"%06d" % stan
        buffer[self._key_at : self._key_at + 6] = digits
        buffer[self._stan_at : self._stan_at + 6] = digits
        buffer[self._amount_at : self._amount_at + _AMOUNT_DIGITS] = b"%05d" % self._amounts.minor(stan)
        return bytes(buffer)

    def _made(self, stan: int) -> bytes:
        body = msgspec.json.encode(
            {
                "type": "sale",
                "merchant": MERCHANT,
                "terminal": self.terminal,
                "stan": f"{stan:06}",
                "batch": "000001",
                "amount_minor": self._amounts.minor(stan),
                "currency": CURRENCY,
                "card": {"pan": self._card, "expiry": "3012"},
                "entry_mode": "022",  # as over ISO 8583: keyed sales do not stand in
            }
        )
        msgspec.json.decode(body, type=NewTransaction)
        head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: till\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {self.terminal}-{stan:06}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class HttpTill(Line):
    """One till with its connection; asks until it is told something, as a terminal does.

    Attributes:
        terminal: field 41.
        told, pending, sent_at, resent, stale, disagreed: as of `terminals.Terminal`.
        retries: how often each sale is sent again once it is answered; the answers must agree.
    """

    def __init__(
        self, index: int, requests: SaleRequests, loop: Reports, dialled: Dialled, *, retries: Sequence[int] = (0,)
    ) -> None:
        super().__init__(dialled)
        self.index = index
        self.told = bytearray()
        self.pending = b""
        self.sent_at = 0.0
        self.resent = self.stale = self.disagreed = self.verified = 0
        self.terminal = requests.terminal
        self._requests = requests
        self._reports = loop
        self._retries = retries
        self._left = 0
        self._stan = 0
        self._first: tuple[bytes, bytes] | None = None
        self._last = b""
        self._buffer = b""
        self._until_verified = 1
        self._await_again = 0  # answers still to come to requests that were written twice on this connection

    @property
    def asking(self) -> Sequence[HttpTill]:
        """Itself."""
        return (self,)

    def send(self, number: int) -> None:  # noqa: ARG002 - the STAN is the till's own
        """The next sale, or the last one again."""
        if self._left:
            self._left -= 1
            self.pending = self._last
        else:
            self._stan += 1
            if self._stan > STAN_MAX:
                self._reports.failed(self.index, "its STANs are used up: take more terminals")
                return
            self.pending = self._last = self._requests.request(self._stan)
            self._left = self._retries[self._stan % len(self._retries)]
            self._first = None
        self._write()

    def ask_again(self) -> None:
        """The same request once more; on a connection that is still open, once that has answered."""
        self.resent += 1
        self._write()

    def give_up(self) -> None:
        """Ask no more; nobody knows what became of it."""
        if self.pending:
            self.pending = b""
            if self._first is None:
                self.told.append(Told.UNKNOWN)

    def _write(self) -> None:
        self.sent_at = time.monotonic()
        if self._transport is not None:
            self._await_again += 1
            self._transport.write(self.pending)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._buffer = b""
        self._await_again = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._buffer:
            data = self._buffer + data
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            at = data[:end].lower().find(_LENGTH)
            length = 0 if at < 0 else int(data[at + len(_LENGTH) : end + 2].split(b"\r\n", 1)[0])
            whole = end + 4 + length
            if len(data) < whole:
                break
            answer, data = data[:whole], data[whole:]
            self._answered(answer, end + 4)
        self._buffer = data

    def _answered(self, answer: bytes, body_at: int) -> None:
        self._await_again -= 1
        if not self.pending or self._await_again > 0:  # asked again meanwhile: the newest answer counts
            self.stale += 1
            return
        status = answer[9:12]
        if status in _AGAIN:
            return  # still under way; Patience asks again
        at = answer.find(_STATE, body_at) + len(_STATE)
        state = answer[at : answer.find(b'"', at)] if status == b"200" else b""
        self._until_verified -= 1
        if not self._until_verified:
            self._until_verified = VERIFIED_EVERY
            self._verify(status, state, answer[body_at:])
        self.pending = b""
        outcome = Outcome.APPROVED if state in _APPROVED else Outcome.DECLINED
        if status in _REFUSED:
            outcome = Outcome.REFUSED
        if self._first is None:
            self._first = status, state
            self.told.append(Told(outcome + 1))
        elif self._first != (status, state):
            self.disagreed += 1
        self._reports.acknowledged(self.index, outcome)

    def _verify(self, status: bytes, state: bytes, body: bytes) -> None:
        self.verified += 1
        if status != b"200":
            return
        try:
            view = msgspec.json.decode(body, type=TransactionView)
        except msgspec.DecodeError as error:
            self._dialled.broken(FrameWrong(f"an answer is no transaction: {error}"))
            return
        if (view.state.value.encode(), int(view.stan)) != (state, self._stan):
            self._dialled.broken(FrameWrong("an answer's state or STAN is not what was read of it"))
