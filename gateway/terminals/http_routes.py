"""What the HTTP listener answers: each operation as one coroutine, each refusal as problem details.

Their steps are in http_desk.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from aiohttp import ClientError, web

from gateway.core.events import Lookup
from gateway.core.parts import BadRequest
from gateway.core.transaction import Request, Stored
from gateway.terminals.http_connection import HttpConnection, connection_of, forget_frames
from gateway.terminals.http_desk import SALES, Asks, Core, Desk, Refused, Steps, damaged, key_from, made, refused
from gateway.terminals.http_heartbeats import Heartbeats
from gateway.terminals.http_mapping import is_shown, named_by, reversal_of, transaction_id, view
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from gateway.terminals.receipts import RECEIPT_MEDIA_TYPE, ReceiptLater
from gateway.tls import TerminalNames
from protocol.http_api import (
    IDEMPOTENCY_KEY,
    MEDIA_TYPE,
    TERMINAL_PATTERN,
    Heartbeat,
    HeartbeatAnswer,
    NewReversal,
    NewTransaction,
    ProblemKind,
    TransactionPage,
)

_T = TypeVar("_T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BY_STATUS: Final = {
    HTTPStatus.NOT_FOUND: (ProblemKind.NOT_FOUND, "paths are those of /openapi.json"),
    HTTPStatus.METHOD_NOT_ALLOWED: (ProblemKind.METHOD_NOT_ALLOWED, "the Allow header names the methods"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (ProblemKind.TOO_LARGE, "send a smaller body"),
}
_AFTER_MAX: Final = 10**15


@dataclass(slots=True, frozen=True)
class _Received:
    """A request that has been read in full and comes from somebody."""

    request: web.Request
    line: HttpConnection
    body: bytes
    names: TerminalNames
    keys: list[str]


class Routes:
    """The listener's operations."""

    def __init__(self, desk: Desk, settings: HttpListenerSettings, steps: Steps, core: Core, document: bytes) -> None:
        self._desk = desk
        self._settings = settings
        self._steps = steps
        self._core = core
        self._document = document
        self.heartbeats = Heartbeats(settings.terminals_max)

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        application = web.Application(
            middlewares=[self._answer_problems], client_max_size=self._settings.body_bytes_max
        )
        application.add_routes(
            [
                web.post(SALES, self._submit),
                web.get(SALES, self._list),
                web.get("/v1/transactions/{id}", self._show),
                *([web.get("/v1/transactions/{id}/receipt", self._receipt)] if self._settings.receipts else ()),
                web.post("/v1/transactions/{id}/reversal", self._reverse),
                web.post("/v1/terminals/{id}/heartbeat", self._heartbeat),
                web.get("/openapi.json", self._describe),
            ]
        )
        return application

    @web.middleware
    async def _answer_problems(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn every error into problem details. A supervision boundary: nothing escapes to aiohttp."""
        line = connection_of(request)
        line.serving()
        try:
            response = await handler(request)
        except web.HTTPException as error:
            otherwise = (ProblemKind.INVALID_REQUEST, "the request is not taken")
            kind, detail = _BY_STATUS.get(HTTPStatus(error.status), otherwise)
            response = self._desk.refusal(Refused(kind, detail), line.name).response()
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            forget_frames(error)
        except Exception as error:  # noqa: BLE001 - a terminal's request must never take the listener down
            response = self._desk.refusal(refused(error), line.name).response()
            forget_frames(error)
        if not self._desk.admitting:
            response.force_close()
        return response

    # --- operations ------------------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request, records=True)
        key = key_from(received.keys)
        body = self._decoded(received, NewTransaction)
        asked, place = self._steps.begin(received.names, key, body, received.line.address, self._desk.now_ms())
        with place:
            return await self._outcome(asked)

    async def _reverse(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request, records=True)
        idempotent = key_from(received.keys)
        body = self._decoded(received, NewReversal)
        named, terminal = self._named(received)
        asks = Asks(idempotent, received.line.address, refused_first=False, now_ms=self._desk.now_ms())
        with self._desk.place(terminal, asks):
            original = await self._stored(*named, request.match_info["id"], ProblemKind.IN_PROGRESS)
            core = self._core
            try:
                asked = reversal_of(original, body, idempotent, core.rules, core.hashing, core.utc_ms())
            except BadRequest as error:
                raise Refused(ProblemKind.NOT_REVERSIBLE, error.reason) from None
            if asked is None:
                raise Refused(ProblemKind.NOT_REVERSIBLE, "only a sale, an authorisation or an advice can be reversed")
            return await self._outcome(asked)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        named, terminal = self._named(received)
        with self._desk.place(terminal):
            stored = await self._stored(*named, request.match_info["id"])
        return _json(view(stored.transaction, stored.answer, self._settings.approved_codes))

    async def _receipt(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        named, terminal = self._named(received)
        receipt_of = self._core.receipt_of
        with self._desk.place(terminal):
            stored = await self._stored(*named, request.match_info["id"])
            try:
                proof = await self._steps.in_time(receipt_of(stored.transaction.id)) if receipt_of else None
            except ReceiptLater:
                raise Refused(ProblemKind.RECEIPT_LATER, "ask again when Retry-After tells") from None
        if proof is None:
            raise _unknown()
        return web.Response(body=proof, content_type=RECEIPT_MEDIA_TYPE, charset="utf-8")

    async def _list(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        query = request.query
        known = {"terminal", "stan", "after", "limit"}
        if set(query) - known or len(query) != len(set(query)):
            raise Refused(ProblemKind.INVALID_REQUEST, "known are terminal, stan, after and limit, each once")
        terminal, stan = query.get("terminal", ""), query.get("stan", "")
        if not _is_terminal(terminal):
            raise Refused(ProblemKind.INVALID_REQUEST, "terminal is needed: 1 to 8 characters, as in field 41")
        if "stan" in query and not re.fullmatch("[0-9]{6}", stan):
            raise Refused(ProblemKind.INVALID_REQUEST, "stan has six digits")
        after = _number(query.get("after", "0"), "after", 0, _AFTER_MAX)
        limit = _number(query.get("limit", str(self._settings.list_max)), "limit", 1, self._settings.list_max)
        self._steps.admit(received.names, terminal, self._desk.now_ms())
        with self._desk.place(terminal):
            rows = await self._steps.in_time(self._core.search(terminal, stan, after, limit))
        views = [view(row, None, self._settings.approved_codes) for row in rows if is_shown(row)]
        return _json(TransactionPage(transactions=views, next=rows[-1].id if len(rows) == limit else None))

    async def _heartbeat(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        terminal = request.match_info["id"]
        if not _is_terminal(terminal):
            raise Refused(ProblemKind.NOT_FOUND, "a terminal id has 1 to 8 characters, as field 41")
        body = self._decoded(received, Heartbeat)
        self._steps.admit(received.names, terminal, self._desk.now_ms())
        utc_ms = self._core.utc_ms()
        self.heartbeats.put(terminal, body, utc_ms)
        self._desk.count(HttpCount.HEARTBEATS)
        now = datetime.fromtimestamp(utc_ms / 1000, UTC)
        offset_ms = round((body.clock - now).total_seconds() * 1000)
        return _json(HeartbeatAnswer(server_time=now, mode=self._core.mode(), clock_offset_ms=offset_ms))

    async def _describe(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._document, content_type=MEDIA_TYPE)

    # --- steps -----------------------------------------------------------------------------------------------------

    async def _receive(self, request: web.Request, *, records: bool = False) -> _Received:
        """Read a request in full, and see who it comes from.

        While the gateway stops, what only looks is refused at once. Of what is to be recorded the listener must know
        who asks for what: STOPPING says that nothing was recorded, and an earlier send of it may be.
        """
        line = connection_of(request)
        if not records and not self._desk.admitting:
            raise Refused(ProblemKind.STOPPING, "connect again in a while")
        body = await self._body(request, line)
        keys = request.headers.getall(IDEMPOTENCY_KEY, [])
        authorization = request.headers.get("Authorization", "")
        names = self._steps.proved(line.certified, request.method, request.raw_path, authorization, keys, body)
        return _Received(request, line, body, names, keys)

    async def _body(self, request: web.Request, line: HttpConnection) -> bytes:
        length = request.content_length
        if length is not None and length > self._settings.body_bytes_max:
            raise Refused(ProblemKind.TOO_LARGE, f"a body has at most {self._settings.body_bytes_max} bytes")
        try:
            async with asyncio.timeout(self._settings.body_timeout_ms / 1000):
                body = await request.read()
        except TimeoutError:
            self._desk.count(HttpCount.CLOSED_BODY_TIMEOUT)
            raise Refused(ProblemKind.BODY_TIMEOUT, "send the body at once, behind the head") from None
        except (ClientError, web.RequestPayloadError, ConnectionError):
            raise Refused(ProblemKind.MALFORMED_HTTP, "the body is not framed as it should be") from None
        line.body_complete()
        return body

    def _decoded(self, received: _Received, wanted: type[_T]) -> _T:
        request = received.request
        encoding = request.headers.get("Content-Encoding", "identity")
        return self._steps.decoded(received.body, wanted, request.content_type, encoding)

    def _named(self, received: _Received) -> tuple[tuple[str, int], str]:
        """Key and sequence of the transaction in the path, and its terminal. One of another terminal is as one that
        does not exist."""
        named = named_by(received.request.match_info["id"])
        terminal = named[0].split("|")[2] if named is not None else ""
        if named is None or terminal not in received.names:
            raise _unknown()
        self._steps.admit(received.names, terminal, self._desk.now_ms())
        return named, terminal

    async def _stored(
        self, key: str, number: int, identifier: str, late: ProblemKind = ProblemKind.OVERLOADED
    ) -> Stored:
        """The transaction of an id. What has a number is read by it: its key may be a newer one's by now (D1)."""
        found: Stored | Lookup
        if number:
            found = await self._steps.in_time(self._core.load(number, key), late)
        else:
            (found,) = await self._steps.in_time(self._core.find((key,)), late)
        if found is Lookup.DAMAGED:
            raise damaged()
        if isinstance(found, Lookup) or not is_shown(found.transaction):
            raise _unknown()
        if transaction_id(found.transaction) != identifier:  # a second key, or an id that is written in another way
            raise _unknown()
        return found

    async def _outcome(self, request: Request) -> web.StreamResponse:
        """Have the core decide; tell what it has recorded, or why it has recorded nothing."""
        answer = await self._steps.outcome(request, await self._desk.ask(request))
        return answer.response()


def _is_terminal(text: str) -> bool:
    return bool(re.fullmatch(TERMINAL_PATTERN, text)) and "\n" not in text


def _number(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise Refused(ProblemKind.INVALID_REQUEST, f"{name} is a whole number from {low} to {high}")
    return int(text)


def _unknown() -> Refused:
    return Refused(ProblemKind.TRANSACTION_UNKNOWN, "ids are those of answers; look by terminal and stan otherwise")


def _json(value: msgspec.Struct) -> web.Response:
    return made(value).response()
