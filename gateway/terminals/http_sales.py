"""Sales in plain requests: taken, handed to the core and answered in plain calls, without a task for each.

It is what a till does nearly always, and what the listener's rate depends on. The steps are those of every operation
(http_desk.py); all that differs is who waits: here nobody does, the core's reply writes the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from gateway.core.events import Requested
from gateway.core.transaction import Answer, Request, Transaction
from gateway.terminals.http_admission import Place
from gateway.terminals.http_answers import AnswerWriter, Made
from gateway.terminals.http_connection import HttpConnection
from gateway.terminals.http_desk import SALES, Desk, Refused, Steps, Told, key_from, refused
from gateway.terminals.http_head import Plain
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from protocol.http_api import MEDIA_TYPE, NewTransaction, ProblemKind, decode

_SALES: Final = frozenset(("POST", SALES, MEDIA_TYPE + more) for more in ("", "; charset=utf-8", ";charset=utf-8"))
"""What the heads of sales ask (http_head.Head)."""

UNKNOWN_YET: Final = "the outcome is not known yet; send the same request again, with the same Idempotency-Key"
CLOSING: Final = "send the same request again in a while"
_REQUESTS: Final = HttpCount.REQUESTS


class _Sale(msgspec.Struct, frozen=True):
    line: HttpConnection
    request: Request
    place: Place
    since_ms: int


class Sales:
    """Those that are under way, by token."""

    def __init__(
        self,
        desk: Desk,
        settings: HttpListenerSettings,
        steps: Steps,
        writer: AnswerWriter,
        submit: Callable[[Requested], None],
        tokens: Iterator[int],
    ) -> None:
        """`submit` and `tokens` as of HttpListener."""
        self._desk = desk
        self._settings = settings
        self._steps = steps
        self._writer = writer
        self._submit = submit
        self._tokens = tokens
        self._under_way: dict[int, _Sale] = {}  # the oldest first
        self._looking: set[asyncio.Task[None]] = set()

    def takes(self, plain: Plain) -> bool:
        """Whether a request is a sale to be taken here. What is refused by its head is refused by the others."""
        return plain.head.asks in _SALES and len(plain.body) <= self._settings.body_bytes_max and self._desk.admitting

    def take(self, line: HttpConnection, plain: Plain) -> None:
        """Hand a sale to the core, or refuse it. A supervision boundary: nothing escapes to the connection."""
        head, steps, now_ms = plain.head, self._steps, self._desk.now_ms()
        keys = () if plain.key is None else (plain.key,)
        try:
            method, target, _ = head.asks
            names = steps.proved(line.certified, method, target, head.authorization, keys, plain.body)
            known = key_from(keys)
            body = decode(plain.body, NewTransaction, self._settings.json_depth_max)
            request, place = steps.begin(names, known, body, line.address, now_ms)
        except Exception as error:  # noqa: BLE001 - a terminal's request must never take the listener down
            self._write(line, self._desk.refusal(refused(error), line.name))
            return
        token = next(self._tokens)
        sale = _Sale(line, request, place, now_ms)
        self._under_way[token] = sale
        self._desk.count(_REQUESTS)
        try:
            self._submit(Requested(token, request))
        except Exception as error:  # noqa: BLE001
            if self._under_way.pop(token, None) is not None:
                self._refuse(sale, error)

    def told(self, token: int, answer: Answer, recorded: Transaction | None) -> bool:
        """Answer the sale of this token, as of HttpListener.reply; returns whether there is one that waits."""
        sale = self._under_way.pop(token, None)
        if sale is None:
            return False
        if recorded is None:  # a refusal, seldom: the journal tells what of
            looking = asyncio.get_running_loop().create_task(self._look(sale, Told(answer, None)))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
            return True
        try:
            made = self._steps.outcome_of(sale.request, answer, recorded)
        except Exception as error:  # noqa: BLE001
            self._refuse(sale, error)
        else:
            self._end(sale, made)
        return True

    def sweep(self, now_ms: int) -> None:
        """Tell whoever has waited for `reply_wait_ms` to ask again."""
        latest_ms = now_ms - self._settings.reply_wait_ms
        late = []
        for token, sale in self._under_way.items():
            if sale.since_ms > latest_ms:
                break
            late.append(token)
        for token in late:
            self._desk.count(HttpCount.UNANSWERED)
            self._refuse(self._under_way.pop(token), Refused(ProblemKind.IN_PROGRESS, UNKNOWN_YET))

    async def close(self) -> None:
        """Tell whoever still waits to ask again. Safe to call twice."""
        waiting = list(self._under_way.values())
        self._under_way.clear()
        for sale in waiting:
            self._refuse(sale, Refused(ProblemKind.IN_PROGRESS, CLOSING))
        for task in self._looking:
            task.cancel()
        if self._looking:
            await asyncio.wait(self._looking)

    async def _look(self, sale: _Sale, told: Told) -> None:
        """Answer with what the journal has of it. Cancellation: as at the end of the listener."""
        try:
            self._end(sale, await self._steps.outcome(sale.request, told))
        except asyncio.CancelledError:
            self._refuse(sale, Refused(ProblemKind.IN_PROGRESS, CLOSING))
            raise
        except Exception as error:  # noqa: BLE001
            self._refuse(sale, error)

    def _refuse(self, sale: _Sale, error: Exception) -> None:
        self._end(sale, self._desk.refusal(refused(error), sale.line.name))

    def _end(self, sale: _Sale, answer: Made) -> None:
        sale.place.leave()
        self._write(sale.line, answer)

    def _write(self, line: HttpConnection, answer: Made) -> None:
        last = not self._desk.admitting
        line.answer(self._writer.written(answer, last=last), last=last)
