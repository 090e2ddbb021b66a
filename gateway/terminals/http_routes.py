"""What the HTTP listener answers: each operation as one coroutine, each refusal as problem details.

Order within an operation: body in time and size - who is it - may it send now - what does it say - for whom - then the
core. What is cheap to refuse is refused first, and nothing is kept of what is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

import msgspec
from aiohttp import ClientError, web

from gateway.core.events import Lookup
from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from gateway.terminals.http_admission import Rates
from gateway.terminals.http_connection import HttpConnection, connection_of
from gateway.terminals.http_heartbeats import Heartbeats
from gateway.terminals.http_identity import Identities, NotProved
from gateway.terminals.http_mapping import is_shown, key_of, request_of, reversal_of, transaction_id, view
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from gateway.terminals.http_signatures import SignatureRefused, Signed
from gateway.tls import TerminalNames
from protocol.http_api import (
    IDEMPOTENCY_KEY,
    MEDIA_TYPE,
    TERMINAL_PATTERN,
    BadBody,
    Heartbeat,
    HeartbeatAnswer,
    Mode,
    NewReversal,
    NewTransaction,
    ProblemKind,
    TransactionPage,
    TransactionType,
    decode,
    idempotency_key,
)
from protocol.iso8583.rules import TerminalRules
from protocol.response_codes import IN_PROGRESS, KEY_REUSED, OUR_FAULT

_T = TypeVar("_T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Find = Callable[[tuple[str, ...]], Awaitable[list[Stored | Lookup]]]
"""Looks transactions up by key: one result per key, the newest where a key comes again."""

Search = Callable[[str, str, int, int], Awaitable[list[Transaction]]]
"""Transactions of a terminal, oldest first: terminal, STAN or "", after this id, at most so many."""

_BY_STATUS: Final = {
    HTTPStatus.NOT_FOUND: (ProblemKind.NOT_FOUND, "paths are those of /openapi.json"),
    HTTPStatus.METHOD_NOT_ALLOWED: (ProblemKind.METHOD_NOT_ALLOWED, "the Allow header names the methods"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (ProblemKind.TOO_LARGE, "send a smaller body"),
}
_AFTER_MAX: Final = 10**15


class Refused(Exception):
    """An answer that is a problem.

    Attributes:
        kind: which.
        detail: what would be right; never a value that the peer sent.
        reason: what is reported beside; from a small fixed set.
        retry_after_ms: when the same request may do better.
    """

    def __init__(self, kind: ProblemKind, detail: str, reason: str = "", *, retry_after_ms: int = 1_000) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.retry_after_ms = retry_after_ms


@dataclass(slots=True, frozen=True)
class Asks:
    """What a request that is to be recorded asks for.

    Attributes:
        key: its Idempotency-Key.
        address: of the peer.
        refused_first: whether it is new business; else it tells of something done, or undoes it (D15, D18).
    """

    key: str
    address: str
    refused_first: bool


class Desk(Protocol):
    """The listener, as its operations see it."""

    @property
    def admitting(self) -> bool:
        """Whether new requests are taken."""

    def now_ms(self) -> int:
        """Monotonic time."""

    def count(self, count: HttpCount) -> None:
        """Count something."""

    def refusal(self, refused: Refused, peer: str) -> web.Response:
        """Count and report a refusal; returns the answer."""

    def place(self, terminal: str, asks: Asks | None = None) -> AbstractContextManager[None]:
        """Hold one of the places for what is under way; `asks` is None for what only looks.

        Raises: Refused where there is none.
        """

    async def ask(self, request: Request) -> Answer:
        """Hand a request to the core and wait for its outcome. Raises: Refused when that takes too long."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Core:
    """What the operations ask of the rest of the gateway."""

    rules: TerminalRules
    hashing: KeyedHash
    find: Find
    search: Search
    mode: Callable[[], Mode]
    utc_ms: Callable[[], int]


@dataclass(slots=True, frozen=True)
class _Received:
    """A request that has been read in full and comes from somebody."""

    request: web.Request
    line: HttpConnection
    body: bytes
    names: TerminalNames


class Routes:
    """The listener's operations."""

    def __init__(
        self, desk: Desk, settings: HttpListenerSettings, identities: Identities, core: Core, document: bytes
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._identities = identities
        self._core = core
        self._document = document
        self._rates = Rates(settings.rate_per_s, settings.burst, settings.terminals_max)
        self.heartbeats = Heartbeats(settings.terminals_max)

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        application = web.Application(
            middlewares=[self._answer_problems], client_max_size=self._settings.body_bytes_max
        )
        application.add_routes(
            [
                web.post("/v1/transactions", self._submit),
                web.get("/v1/transactions", self._list),
                web.get("/v1/transactions/{id}", self._show),
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
        except Refused as refused:
            response = self._desk.refusal(refused, line.name)
        except (SignatureRefused, NotProved) as unproved:
            reason = unproved.reason if isinstance(unproved, SignatureRefused) else "no proof"
            response = self._desk.refusal(Refused(unproved.kind, unproved.detail, reason), line.name)
        except BadBody as bad:
            response = self._desk.refusal(Refused(bad.kind, bad.detail), line.name)
        except web.HTTPException as error:
            otherwise = (ProblemKind.INVALID_REQUEST, "the request is not taken")
            kind, detail = _BY_STATUS.get(HTTPStatus(error.status), otherwise)
            response = self._desk.refusal(Refused(kind, detail), line.name)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception as error:  # noqa: BLE001 - a terminal's request must never take the listener down
            detail = "the gateway's log says more"
            response = self._desk.refusal(Refused(ProblemKind.INTERNAL, detail, type(error).__name__), line.name)
        if not self._desk.admitting:
            response.force_close()
        return response

    # --- operations ------------------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request, records=True)
        key = _idempotency_key(request)
        body = self._decoded(received, NewTransaction)
        self._admit(received.names, body.terminal)
        new = body.type is not TransactionType.ADVICE
        with self._desk.place(body.terminal, Asks(key, received.line.address, refused_first=new)):
            core = self._core
            try:
                asked = request_of(body, key, core.rules, core.hashing, core.utc_ms())
            except BadRequest as error:
                raise Refused(ProblemKind.INVALID_REQUEST, error.reason) from None
            return await self._outcome(asked)

    async def _reverse(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request, records=True)
        idempotent = _idempotency_key(request)
        body = self._decoded(received, NewReversal)
        key, terminal = self._named(received)
        with self._desk.place(terminal, Asks(idempotent, received.line.address, refused_first=False)):
            original = await self._stored(key, request.match_info["id"], ProblemKind.IN_PROGRESS)
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
        key, terminal = self._named(received)
        with self._desk.place(terminal):
            stored = await self._stored(key, request.match_info["id"])
        return _json(view(stored.transaction, stored.answer, self._settings.approved_codes))

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
        self._admit(received.names, terminal)
        with self._desk.place(terminal):
            rows = await self._in_time(self._core.search(terminal, stan, after, limit))
        views = [view(row, None, self._settings.approved_codes) for row in rows if is_shown(row)]
        return _json(TransactionPage(transactions=views, next=rows[-1].id if len(rows) == limit else None))

    async def _heartbeat(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        terminal = request.match_info["id"]
        if not _is_terminal(terminal):
            raise Refused(ProblemKind.NOT_FOUND, "a terminal id has 1 to 8 characters, as field 41")
        body = self._decoded(received, Heartbeat)
        self._admit(received.names, terminal)
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
        signed = Signed(method=request.method, target=request.raw_path, idempotency_key=", ".join(keys), body=body)
        authorization = request.headers.get("Authorization", "")
        names = self._identities.check(request.transport, authorization, signed, self._desk.now_ms())
        return _Received(request, line, body, names)

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
        headers = received.request.headers
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(ProblemKind.MEDIA_TYPE, "send the body without Content-Encoding")
        if received.request.content_type != MEDIA_TYPE:
            raise Refused(ProblemKind.MEDIA_TYPE, f"send Content-Type: {MEDIA_TYPE}")
        return decode(received.body, wanted, self._settings.json_depth_max)

    def _admit(self, names: TerminalNames, terminal: str) -> None:
        """Check that the request may speak for a terminal, and that the terminal does not send too fast."""
        if terminal not in names:
            detail = "speak only for the terminals that the certificate or the signature names"
            raise Refused(ProblemKind.TERMINAL_NOT_ALLOWED, detail, f"{names} speaks for another terminal")
        if wait_ms := self._rates.spend(terminal, self._desk.now_ms()):
            raise Refused(ProblemKind.RATE_LIMITED, "Retry-After tells how long to wait", retry_after_ms=wait_ms)

    def _named(self, received: _Received) -> tuple[str, str]:
        """Key and terminal of the transaction in the path. One of another terminal is as one that does not exist."""
        key = key_of(received.request.match_info["id"])
        terminal = key.split("|")[2] if key is not None else ""
        if key is None or terminal not in received.names:
            raise _unknown()
        self._admit(received.names, terminal)
        return key, terminal

    async def _stored(self, key: str, identifier: str, late: ProblemKind = ProblemKind.OVERLOADED) -> Stored:
        (found,) = await self._in_time(self._core.find((key,)), late)
        if found is Lookup.DAMAGED:
            raise _damaged()
        if isinstance(found, Lookup) or not is_shown(found.transaction):
            raise _unknown()
        if transaction_id(found.transaction) != identifier:  # a later one of the same key
            raise _unknown()
        return found

    async def _outcome(self, request: Request) -> web.StreamResponse:
        """Have the core decide; tell what it has recorded, or why it has recorded nothing.

        The record is read back: the answer alone does not tell whether an approval was ours.
        """
        answer = await self._desk.ask(request)
        code = answer.fields.get(39, "")
        (found,) = await self._in_time(self._core.find((request.key,)), ProblemKind.IN_PROGRESS)
        if found is Lookup.DAMAGED:
            raise _damaged()
        recorded = found.transaction if not isinstance(found, Lookup) else None
        if recorded is not None and recorded.kind is not Kind.UNSEEN and recorded.fingerprint != request.fingerprint:
            recorded = None  # a STAN used again
        if recorded is None or code != recorded.response:
            if code == KEY_REUSED:
                raise Refused(ProblemKind.KEY_REUSED, "use a new Idempotency-Key and STAN for each new transaction")
            if code == IN_PROGRESS:
                raise Refused(ProblemKind.IN_PROGRESS, "send the same request again, with the same Idempotency-Key")
            if code == OUR_FAULT or recorded is None:
                if code in self._settings.approved_codes:  # cannot be; "nothing was sent" would be a lie
                    raise Refused(ProblemKind.INTERNAL, "look for the transaction by terminal and stan", "no record")
                detail = "nothing was recorded or sent; the same request may be sent again"
                raise Refused(ProblemKind.NOT_RECORDED, detail, f"code {code}")
        return _json(view(recorded, answer, self._settings.approved_codes, code))

    async def _in_time(self, asked: Awaitable[_T], late: ProblemKind = ProblemKind.OVERLOADED) -> _T:
        """Wait for the journal; `late` is IN_PROGRESS where something may have been recorded."""
        try:
            async with asyncio.timeout(self._settings.reply_wait_ms / 1000):
                return await asked
        except TimeoutError:
            detail = "the journal does not answer; send the same request again"
            raise Refused(late, detail, "look-up timed out") from None


def _idempotency_key(request: web.Request) -> str:
    headers = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not headers:
        raise Refused(ProblemKind.KEY_MISSING, f"send an {IDEMPOTENCY_KEY}, and the same one with each retry")
    if len(headers) > 1:
        raise Refused(ProblemKind.KEY_INVALID, f"send one {IDEMPOTENCY_KEY}")
    try:
        return idempotency_key(headers[0])
    except ValueError as error:
        raise Refused(ProblemKind.KEY_INVALID, str(error)) from None


def _is_terminal(text: str) -> bool:
    return bool(re.fullmatch(TERMINAL_PATTERN, text)) and "\n" not in text


def _number(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise Refused(ProblemKind.INVALID_REQUEST, f"{name} is a whole number from {low} to {high}")
    return int(text)


def _unknown() -> Refused:
    return Refused(ProblemKind.TRANSACTION_UNKNOWN, "ids are those of answers; look by terminal and stan otherwise")


def _damaged() -> Refused:
    return Refused(ProblemKind.RECORD_DAMAGED, "call the operator: whether it was paid must be looked up", "damaged")


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=MEDIA_TYPE)
