"""What the operations listener answers: health, metrics, status, queue, and steering with a token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.config.values import Address
from gateway.core.events import Lookup, OperatorAct
from gateway.core.lifecycle import State, named
from gateway.journal.port import Listing
from gateway.operations import report
from gateway.operations.disclosures import Disclosures
from gateway.operations.key_routes import KeyRoutes
from gateway.operations.keys import Keys
from gateway.operations.metrics import exposition
from gateway.operations.problems import ProblemError, RequestHandler, answer_problems
from gateway.operations.settlements import Settlements
from gateway.operations.view import CommandResult, GatewayView
from protocol.masking import contains_pan

BODY_BYTES_MAX = 8192
LISTING_MAX = 1000
_ID_DIGITS = 18
"""So many digits a transaction's number has at most; SQLite's greatest has 19."""

ACT_WAIT_S: Final = 10.0
"""What an act that is not durable after this is told of; shorter than a connection lives (server.REQUEST_TIMEOUT_S)."""


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who steers and why: both go into the journal with the act (D18)."""

    who: str
    why: str


class Routes:
    """The listener's application.

    Args:
        listen: the configured address: whether it is loopback decides if reading asks for the token too.
        token: what steering asks for; empty refuses all steering.
        keys: the gateway's keys; None where there are none to look after.
        disclosures: approves what an auditor is shown; None where nothing can be.
        settlements: has damaged records settled; None where there is no journal to ask.
        act_wait_s: how long an act may take before it is answered that it is under way.
    """

    def __init__(
        self,
        view: GatewayView,
        listen: Address,
        token: str,
        keys: Keys | None = None,
        disclosures: Disclosures | None = None,
        settlements: Settlements | None = None,
        *,
        act_wait_s: float = ACT_WAIT_S,
    ) -> None:
        self._view = view
        self._keys = keys
        self._disclosures = disclosures
        self._settlements = settlements
        self._listen = listen
        self._act_wait_s = act_wait_s
        self._acting: set[asyncio.Task[CommandResult]] = set()
        self._token_hash = hashlib.sha256(token.encode()).digest() if token else b""

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        application = web.Application(
            middlewares=[one_request_per_connection, answer_problems, self._check_host],
            client_max_size=BODY_BYTES_MAX,
        )
        application.add_routes(
            [
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/v1/status", self._status),
                web.get("/v1/queue", self._queue),
                web.get(r"/v1/queue/{id:[0-9]+}", self._show),
                web.get(r"/v1/queue/{id:[0-9]+}/explain", self._explain),
                web.post(r"/v1/queue/{id:[0-9]+}/{act:release|cancel|void}", self._steer),
                web.post(r"/v1/maintenance/{switch:on|off}", self._maintain),
                web.post("/v1/audit/checkpoint", self._sign_head),
                web.post("/v1/audit/continue", self._continue_log),
            ]
        )
        if self._keys is not None:
            keys = KeyRoutes(self._keys, self._may_read, self._check_token, loopback=self._listen.loopback)
            application.add_routes(keys.routes())
        if self._disclosures is not None:
            application.add_routes(self._disclosures.routes(self._check_token))
        if self._settlements is not None:
            application.add_routes(self._settlements.routes(self._may_read, self._check_token))
        return application

    @web.middleware
    async def _check_host(self, request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        """Refuse names that we do not go by: a web page may have rebound its own name to this address."""
        host = request.headers.get("Host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if not self._goes_by(name.strip("[]").lower()):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST, "host", "ask by address, by localhost or by the configured name"
            )
        return await handler(request)

    def _goes_by(self, name: str) -> bool:
        if name in ("localhost", self._listen.host.lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _live(self, _: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        ready, reasons = self._view.ready()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json({"ready": ready, "reasons": reasons}, status)

    async def _metrics(self, request: web.Request) -> web.Response:
        status = await self._view.status()
        body, content_type = exposition(status, self._view.ready()[0], request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, request: web.Request) -> web.Response:
        self._may_read(request)
        status = await self._view.status()
        ready, reasons = self._view.ready()
        return _json(report.status_report(status, ready, reasons))

    async def _queue(self, request: web.Request) -> web.Response:
        self._may_read(request)
        listing = _listing(request)
        rows = await self._view.queue(listing)
        return _json(report.queue_page(rows, listing.limit))

    async def _show(self, request: web.Request) -> web.Response:
        self._may_read(request)
        found = await self._view.show(_id(request))
        if found is Lookup.DAMAGED:
            raise _damaged()
        if isinstance(found, Lookup):
            raise _unknown(_id(request))
        return _json(report.stored_report(found))

    async def _explain(self, request: web.Request) -> web.Response:
        self._may_read(request)
        explanation = await self._view.explain(_id(request))
        if explanation is Lookup.DAMAGED:
            raise _damaged()
        if isinstance(explanation, Lookup):
            raise _unknown(_id(request))
        return _json(report.explanation_report(explanation))

    async def _steer(self, request: web.Request) -> web.Response:
        return await self._command(request, OperatorAct(request.match_info["act"]), _id(request))

    async def _maintain(self, request: web.Request) -> web.Response:
        return await self._command(request, OperatorAct(f"maintenance-{request.match_info['switch']}"), 0)

    async def _sign_head(self, request: web.Request) -> web.Response:
        self._check_token(request)
        head = await self._view.sign_head()
        if isinstance(head, str):
            raise ProblemError(HTTPStatus.CONFLICT, "not-done", head)
        return _json(head)

    async def _continue_log(self, request: web.Request) -> web.Response:
        self._check_token(request)
        steering = await _steering(request)
        if "|" in steering.who + steering.why:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "body", "no | in who and why: it parts what the entry says of the log"
            )
        result = await self._view.continue_log(steering.who, steering.why)
        if not result.done:
            raise ProblemError(HTTPStatus.CONFLICT, "not-done", result.text)
        return _json(result)

    async def _command(self, request: web.Request, act: OperatorAct, transaction: int) -> web.Response:
        self._check_token(request)
        steering = await _steering(request)
        acting = asyncio.ensure_future(self._view.command(act, transaction, steering.who, steering.why))
        self._acting.add(acting)
        acting.add_done_callback(self._acting.discard)
        done, _ = await asyncio.wait({acting}, timeout=self._act_wait_s)
        if not done:  # a full disk, for one: it is carried out when there is room, whoever still waits for it
            look = f"`holdfast queue show {transaction}`" if transaction else "`holdfast status`"
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "not-yet",
                "it is not done yet, and will be as soon as the journal takes it, unless the gateway stops before: "
                f"`holdfast status` says if there is no room; {look} tells what became of it",
            )
        result = acting.result()
        if not result.done:
            raise ProblemError(HTTPStatus.CONFLICT, "not-done", result.text)
        return _json(result)

    def _may_read(self, request: web.Request) -> None:
        if not self._listen.loopback:
            self._check_token(request)

    def _check_token(self, request: web.Request) -> None:
        """Compare hashes in constant time: neither length nor content of the token shows in the time it takes.

        Without a configured token there is no hash that anything could be equal to.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token_hash):
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED, "token", "send the operations token: Authorization: Bearer TOKEN"
            )


@web.middleware
async def one_request_per_connection(request: web.Request, handler: RequestHandler) -> web.StreamResponse:
    """Close after each answer, so that a connection's deadline is a request's deadline."""
    response = await handler(request)
    response.force_close()
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _listing(request: web.Request) -> Listing:
    query = request.query
    unknown = set(query) - {"state", "lane", "terminal", "after", "limit"}
    if unknown:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "query", "known are state, lane, terminal, after and limit")
    if not (query.get("lane", "") + query.get("terminal", "")).isprintable():
        raise ProblemError(HTTPStatus.BAD_REQUEST, "query", "lane and terminal are text without control characters")
    states = {report.state_named(name) for name in query.getall("state", [])}
    if None in states:
        known = ", ".join(named(state) for state in State)
        raise ProblemError(HTTPStatus.BAD_REQUEST, "query", f"state is one of {known}")
    return Listing(
        states=frozenset(state for state in states if state is not None) or report.OWING,
        lane=query.get("lane", ""),
        terminal=query.get("terminal", ""),
        after_id=_number(query.get("after", "0"), "after", 0, 10**18),
        limit=_number(query.get("limit", "100"), "limit", 1, LISTING_MAX),
    )


def _number(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "query", f"{name} is a whole number from {low} to {high}")
    return int(text)


async def _steering(request: web.Request) -> Steering:
    right = (
        "who is a name of 1 to 64 printable characters without a colon, why has 1 to 500 printable characters; "
        'a JSON body {"who": "...", "why": "..."}'
    )
    if request.content_type != "application/json":
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "body", right)
    try:
        steering = msgspec.json.decode(await request.read(), type=Steering)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", right) from None
    who, why = steering.who.strip(), steering.why.strip()
    # The entry says "ACT by WHO: WHY": a colon in the name would move words of one person into another's.
    if not (1 <= len(who) <= 64 and 1 <= len(why) <= 500 and (who + why).isprintable() and ":" not in who):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", right)
    if contains_pan(who) or contains_pan(why):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "card-number", "who and why are kept in clear: no card number in them"
        )
    return Steering(who, why)


def _id(request: web.Request) -> int:
    digits = request.match_info["id"]
    if len(digits) > _ID_DIGITS:
        raise ProblemError(HTTPStatus.NOT_FOUND, "unknown", f"no transaction's number has {len(digits)} digits")
    return int(digits)


def _damaged() -> ProblemError:
    why = "the record is damaged and in quarantine (`holdfast queue damaged`), or its key was destroyed"
    return ProblemError(HTTPStatus.GONE, "damaged", why)


def _unknown(transaction: int) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "unknown", f"there is no transaction {transaction}")


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
