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
from gateway.core.transaction import Request
from gateway.terminals.http_admission import Place
from gateway.terminals.http_answers import AnswerWriter, Made
from gateway.terminals.http_connection import HttpConnection
from gateway.terminals.http_desk import SALES, Desk, Refused, Steps, Told, key_from, refused
from gateway.terminals.http_head import Plain
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from protocol.http_api import MEDIA_TYPE, NewTransaction, ProblemKind

_JSON: Final = frozenset({MEDIA_TYPE, f"{MEDIA_TYPE}; charset=utf-8", f"{MEDIA_TYPE};charset=utf-8"})
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
        return (
            plain.target == SALES
            and plain.method == "POST"
            and plain.headers.get("content-type") in _JSON
            and len(plain.body) <= self._settings.body_bytes_max
            and self._desk.admitting
        )

    def take(self, line: HttpConnection, plain: Plain) -> None:
        """Hand a sale to the core, or refuse it. A supervision boundary: nothing escapes to the connection."""
        headers, steps = plain.headers, self._steps
        key = headers.get("idempotency-key")
        keys = () if key is None else (key,)
        try:
            authorization = headers.get("authorization", "")
            names = steps.proved(line.transport, plain.method, plain.target, authorization, keys, plain.body)
            known = key_from(keys)
            body = steps.decoded(plain.body, NewTransaction)
            request, place = steps.begin(names, known, body, line.address)
        except Exception as error:  # noqa: BLE001 - a terminal's request must never take the listener down
            self._write(line, self._desk.refusal(refused(error), line.name))
            return
        token = next(self._tokens)
        sale = _Sale(line, request, place, self._desk.now_ms())
        self._under_way[token] = sale
        self._desk.count(_REQUESTS)
        try:
            self._submit(Requested(token, request))
        except Exception as error:  # noqa: BLE001
            if self._under_way.pop(token, None) is not None:
                self._refuse(sale, error)

    def told(self, token: int, told: Told) -> bool:
        """Answer the sale of this token; returns whether there is one that waits."""
        sale = self._under_way.pop(token, None)
        if sale is None:
            return False
        if told.recorded is None:  # a refusal, seldom: the journal tells what of
            looking = asyncio.get_running_loop().create_task(self._look(sale, told))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
            return True
        try:
            answer = self._steps.outcome_of(sale.request, told.answer, told.recorded)
        except Exception as error:  # noqa: BLE001
            self._refuse(sale, error)
        else:
            self._end(sale, answer)
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
