"""A till that speaks JSON over HTTP, with the patience of a real one and the history of a terminal.

It asks with one Idempotency-Key until it is told an outcome; an answer that is a problem is none. Where that took too
long the customer has left, and what was approved is reversed, again until it is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.history import APPROVED_CODES, REVERSAL_DONE_CODES
from bench.records import TerminalAct, TerminalEvent, card_hash, card_mask, transaction_key
from bench.terminal import Habits, History
from bench.till import CURRENCY, MERCHANT, TEST_CARDS
from protocol.http_api import TransactionView

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_LEAVES_AFTER: Final = 3
"""Sends after which the customer does not wait any longer."""
_CHANGES_MIND: Final = 0.03
"""Share of approved sales that are reversed all the same."""
_STAN_MAX: Final = 999_999


class TillGaveUp(Exception):
    """The till's time is over: nobody told it an outcome."""


@dataclass(slots=True)
class _Post:
    """One request, sent until it is told an outcome."""

    event: TerminalEvent
    target: str
    body: bytes
    idempotency_key: str
    attempts: int = 0


class HttpTill:
    """One till on the event loop. It does one thing at a time, like a terminal."""

    def __init__(self, endpoint: tuple[str, int], history: History, *, name: str, habits: Habits, seed: int) -> None:
        self.name = name
        self.finish_by: float | None = None  # monotonic; when even an unfinished sale is given up
        self._endpoint, self._history, self._habits = endpoint, history, habits
        self._dice = random.Random(f"{seed}/{name}")
        self._stan = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def hang_up(self) -> None:
        """Drop the connection as a power cut would."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def keep_selling(self, stop: asyncio.Event) -> None:
        """Sell at random until `stop`, then finish the sale that is under way, if `finish_by` leaves time for it."""
        dice, habits = self._dice, self._habits
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), habits.pause_s * (0.5 + dice.random()))
                if not stop.is_set():
                    await self.sell(dice.randint(100, habits.amount_minor_max), dice.choice(TEST_CARDS))
        except TillGaveUp:
            self._history.counts["gave_up"] += 1
        finally:
            self.hang_up()

    async def sell(self, amount_minor: int, pan: str) -> None:
        """One sale, and its reversal where the customer has left.

        Raises:
            TillGaveUp: `finish_by` has passed.
        """
        sale = self._sale(amount_minor, pan)
        told = await self._until_told(sale)
        approved = told.response_code in APPROVED_CODES
        self._history.counts["approved" if approved else "refused"] += 1
        if approved and (sale.attempts > _LEAVES_AFTER or self._dice.random() < _CHANGES_MIND):
            reversal = self._reversal(sale, told.id)
            while (await self._until_told(reversal)).response_code not in REVERSAL_DONE_CODES:
                await self._pause()
            self._history.counts["reversed"] += 1

    def _sale(self, amount_minor: int, pan: str) -> _Post:
        self._stan = self._stan % _STAN_MAX + 1
        stan = f"{self._stan:06d}"
        body = {
            "type": "sale",
            "merchant": MERCHANT,
            "terminal": self.name,
            "stan": stan,
            "batch": "000001",
            "amount_minor": amount_minor,
            "currency": CURRENCY,
            "card": {"pan": pan, "expiry": "3012"},
        }
        event = TerminalEvent(
            at=0.0,
            event="sent",
            business="sale",
            terminal=self.name,
            merchant=MERCHANT,
            stan=stan,
            key=transaction_key(MERCHANT, self.name, stan),
            mti="0200",
            amount_minor=amount_minor,
            currency=CURRENCY,
            card=card_mask(pan),
            card_hash=card_hash(pan),
        )
        return _Post(event, "/v1/transactions", msgspec.json.encode(body), f"{self.name}-{stan}")

    def _reversal(self, sale: _Post, identifier: str) -> _Post:
        event = msgspec.structs.replace(sale.event, business="reversal", mti="0400", original=sale.event.key)
        body = msgspec.json.encode({"reason": "cancelled"})
        return _Post(event, f"/v1/transactions/{identifier}/reversal", body, f"{sale.idempotency_key}-reversal")

    async def _until_told(self, post: _Post) -> TransactionView:
        """Send a request again and again, on new connections where the old one fails, until it has an outcome."""
        while True:
            post.attempts += 1
            try:
                async with asyncio.timeout(self._habits.answer_timeout_s):
                    told = await self._told(post)
            except TimeoutError:
                self._record("timed_out", post)
                self.hang_up()
            except (OSError, EOFError, asyncio.LimitOverrunError):
                self._record("disconnected", post)
                self.hang_up()
            else:
                if told is not None:
                    self._record("answered", post, told)
                    return told
            if self.finish_by is not None and time.monotonic() > self.finish_by:
                raise TillGaveUp
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._habits.connect_pause_s * (1 + self._dice.random()))

    async def _told(self, post: _Post) -> TransactionView | None:
        """Send once. None where the answer is a problem, which decides nothing."""
        if self._streams is not None and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.hang_up()  # the other side has hung up since the last sale
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(*self._endpoint)
            except OSError:
                self._history.counts["connect_failed"] += 1
                raise
        reader, writer = self._streams
        self._record("sent", post)  # before the first byte leaves
        head = (
            f"POST {post.target} HTTP/1.1\r\nHost: till\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {post.idempotency_key}\r\nContent-Length: {len(post.body)}\r\n\r\n"
        )
        writer.write(head.encode() + post.body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        body = await reader.readexactly(int(length[1]) if length else 0)
        status = answer[9:12].decode(errors="replace")
        if b"\r\nconnection: close\r\n" in answer.lower():
            self.hang_up()
        self._history.counts[f"http {status}"] += 1
        if status == "200":
            return msgspec.json.decode(body, type=TransactionView)
        if status not in ("409", "429", "503"):  # 500 and refusals: the gateway's fault or the bench's, never weather
            self._history.counts[f"unexpected http {status}"] += 1
        return None

    def _record(self, event: TerminalAct, post: _Post, told: TransactionView | None = None) -> None:
        line = msgspec.structs.replace(
            post.event,
            at=time.time(),
            event=event,
            attempt=post.attempts,
            response=told.response_code if told is not None else "",
            approval=told.approval_code if told is not None else "",
            rrn=told.rrn if told is not None else "",
        )
        self._history.write(line)
        self._history.counts[event] += 1
        if told is not None:
            self._history.counts[f"code {told.response_code or 'none'}"] += 1
