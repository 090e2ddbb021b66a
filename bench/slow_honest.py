"""The honest callers of a slow-clients run: terminals and tills that sell at their own pace, whatever the others do.

The load is open: a sale is due when its time has come, and one that had to wait for the sale before it has waited from
then on. Nothing is tried twice: an honest sale that is not approved at once has failed.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from bench.history import APPROVED_CODES
from bench.line import Line
from bench.till import CURRENCY, MERCHANT, TEST_CARDS, Till
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message

ANSWER_WITHIN_S: Final = 10.0
_AMOUNT_MAX_MINOR: Final = 50_000
_RETRY_CONNECT_S: Final = 0.2
_PAID: Final = "approved"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class SaleFailed(Exception):
    """The sale was not approved; the message says why, from a small set of words."""


class Caller(Protocol):
    """One honest terminal or till, with one connection."""

    async def connect(self) -> None:
        """Connect. Raises: OSError."""

    async def sell(self, amount_minor: int, pan: str) -> None:
        """One sale, approved by the acquirer. Raises: SaleFailed, OSError."""

    def hang_up(self) -> None:
        """Drop the connection."""


class Terminal:
    """Speaks ISO 8583."""

    def __init__(self, dialect: Dialect, name: str, endpoint: tuple[str, int], source: str) -> None:
        self._till = Till(dialect, name)
        self._dialect, self._endpoint, self._source = dialect, endpoint, source
        self._line: Line | None = None
        self._answer: asyncio.Future[Message] | None = None

    async def connect(self) -> None:
        """Connect. Raises: OSError."""
        loop = asyncio.get_running_loop()
        made = Line(self._dialect, self._answered, self._lost)
        await loop.create_connection(lambda: made, *self._endpoint, local_addr=(self._source, 0))
        self._line = made

    async def sell(self, amount_minor: int, pan: str) -> None:
        """One sale. Raises: SaleFailed, OSError."""
        if self._line is None or not self._line.open:
            await self.connect()
        assert self._line is not None
        prepared = self._till.sale(amount_minor, pan)
        self._answer = asyncio.get_running_loop().create_future()
        self._line.send(prepared.frame)
        try:
            message = await asyncio.wait_for(self._answer, ANSWER_WITHIN_S)
        finally:
            self._answer = None
        if message.fields.get(11) != prepared.stan:
            raise SaleFailed("another sale's answer")
        if (code := message.fields.get(39, "none")) not in APPROVED_CODES:
            raise SaleFailed(f"answered {code}")

    def hang_up(self) -> None:
        """Drop the connection."""
        if self._line is not None:
            self._line.abort()
            self._line = None

    def _answered(self, message: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _lost(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed"))


class _Paid(msgspec.Struct):
    state: str


class HttpTill:
    """Speaks JSON over HTTP."""

    def __init__(self, name: str, endpoint: tuple[str, int], source: str) -> None:
        self._name, self._endpoint, self._source = name, endpoint, source
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._sales = 0

    async def connect(self) -> None:
        """Connect. Raises: OSError."""
        self._streams = await asyncio.open_connection(*self._endpoint, local_addr=(self._source, 0))

    async def sell(self, amount_minor: int, pan: str) -> None:
        """One sale. Raises: SaleFailed, OSError."""
        if self._streams is None:
            await self.connect()
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(self._request(amount_minor, pan))
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("closed") from None
        if (status := head[9:12]) != b"200":
            raise SaleFailed(f"answered {status.decode(errors='replace')}")
        if (state := msgspec.json.decode(body, type=_Paid).state) != _PAID:
            raise SaleFailed(f"answered {state}")

    def hang_up(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def _request(self, amount_minor: int, pan: str) -> bytes:
        self._sales += 1
        body = msgspec.json.encode(
            {
                "type": "sale",
                "merchant": MERCHANT,
                "terminal": self._name,
                "stan": f"{self._sales:06d}",
                "batch": "000001",
                "amount_minor": amount_minor,
                "currency": CURRENCY,
                "card": {"pan": pan, "expiry": "3012"},
            }
        )
        head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: till\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {self._name}-{self._sales}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Tally:
    """Sales of one kind of caller under one condition: how long each took, and why some failed."""

    latencies_ms: array[float] = field(default_factory=lambda: array("d"))
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def sales(self) -> int:
        """All that fell due and came to an end."""
        return len(self.latencies_ms) + self.failed.total()


async def sell_openly(
    caller: Caller, per_s: float, dice: random.Random, stop: asyncio.Event, tally: Callable[[float], Tally]
) -> None:
    """Sell until `stop`, a sale every 1/`per_s` seconds on average.

    Args:
        tally: where a sale is entered, by the time (monotonic) at which it fell due.
    """
    due = time.monotonic() + dice.random() / per_s  # uvloop's own clock knows milliseconds only
    while not stop.is_set():
        if (left_s := due - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
            due = time.monotonic()  # the timer's own lateness is not the gateway's
        amount_minor = 100 * dice.randint(1, _AMOUNT_MAX_MINOR // 100)  # no cents that the acquirer declines
        failure = await _outcome(caller, amount_minor, dice.choice(TEST_CARDS))
        entered = tally(due)
        if failure:
            entered.failed[failure] += 1
            caller.hang_up()
            await asyncio.sleep(_RETRY_CONNECT_S)
        else:
            entered.latencies_ms.append((time.monotonic() - due) * 1000)
        due += dice.uniform(0.5, 1.5) / per_s
    caller.hang_up()


async def _outcome(caller: Caller, amount_minor: int, pan: str) -> str:
    """Why a sale failed; empty where it did not."""
    try:
        await caller.sell(amount_minor, pan)
    except SaleFailed as failed:
        return str(failed)
    except TimeoutError:
        return f"no answer within {ANSWER_WITHIN_S:g} s"
    except OSError:
        return "the connection broke"
    return ""
