"""Tills over real sockets, and what stands in the place of the core behind the HTTP listener."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from msgspec.structs import replace

from gateway.core.acceptance import new_transaction, stored_message
from gateway.core.answers import local_answer
from gateway.core.events import Lookup, Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from gateway.terminals.http import HttpListener
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.http_signatures import Signed, authorization
from protocol.iso8583.rules import TerminalRules
from tests.acquirers.waiting import DEADLINE_S, until
from tests.terminals.terminal import since_long

PAN = "4111111111111111"  # a published test number
OTHER_PAN = "5555555555554444"
MERCHANT = "M00000000000001"
TERMINAL = "T0000001"
UTC_MS = 1_795_000_000_000
SECRET = bytes(range(32))
LOCAL_DATE = "1118"


def sale(stan: str | None = "000001", amount_minor: int = 1000, **more: Any) -> dict[str, Any]:
    """The body of a sale; `more` are members of it."""
    body = {
        "type": "sale",
        "merchant": MERCHANT,
        "terminal": TERMINAL,
        "amount_minor": amount_minor,
        "currency": "156",
        "card": {"pan": PAN, "expiry": "3012"},
        "local_date": LOCAL_DATE,
        **more,
    }
    return body if stan is None else {**body, "stan": stan}


@dataclass
class CoreDouble:
    """Keeps the contract between listener and core: keys, aliases, fingerprints, joining. In memory.

    Attributes:
        holds: whether requests wait until `decide`.
        response, state, advised: what becomes of a request.
        loses: answers as the core does when the journal does not write.
        names_rows: tells with an answer which row it is about, as the core does where it has it at hand.
    """

    reply: Callable[[int, Answer, Transaction | None], None]
    utc_ms: Callable[[], int]
    holds: bool = False
    response: str = "00"
    state: State = State.APPROVED
    advised: bool = False
    loses: bool = False
    names_rows: bool = False
    requested: list[Request] = field(default_factory=list)
    rows: dict[str, Stored | Lookup] = field(default_factory=dict)
    aliases: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    running: dict[str, tuple[Request, list[int]]] = field(default_factory=dict)
    sends: int = 0

    def submit(self, requested: Requested) -> None:
        request, token = requested.request, requested.terminal_token
        self.requested.append(request)
        if self.loses:
            self.reply(token, self._local(request, "96"), None)
            return
        known = self.aliases.get(request.alias)
        if request.alias and known is not None and known != (request.key, request.alias_digest):
            self.reply(token, self._local(request, "94"), None)
        elif (running := self.running.get(request.key)) is not None:
            if running[0].fingerprint == request.fingerprint:
                running[1].append(token)
            else:
                self.reply(token, self._local(request, "94"), None)
        elif (stored := self.rows.get(request.key)) is not None:
            self.reply(token, self._again(request, stored), self._row(request, stored))
        else:
            self.aliases[request.alias] = (request.key, request.alias_digest)
            self.running[request.key] = (request, [token])
            if not self.holds:
                self.decide(request.key)

    def decide(self, key: str) -> None:
        """Settle a request that is under way."""
        request, tokens = self.running.pop(key)
        self.sends += 1
        row = new_transaction(request, self.state, self.utc_ms())
        row.id = self.sends
        row.response, row.advised = self.response, self.advised
        row.stan = request.stan or request.assigned[0]
        if request.kind is Kind.REVERSAL:
            row.state, row.response, row.advised = State.APPROVED, "00", False
            for original in request.original_keys:
                before = self.rows[original]
                assert isinstance(before, Stored)
                undone = before.transaction.evolved(self.utc_ms(), State.REVERSING)
                self.rows[original] = replace(before, transaction=undone)
        answer = self._local(request, row.response)
        answer.fields[11] = row.stan
        if row.response == "00":
            answer.fields.update({37: "612345678901", 38: "123456"})
        self.rows[key] = Stored(row, stored_message(request), {}, answer)
        for token in tokens:
            self.reply(token, answer, row if self.names_rows else None)

    def _row(self, request: Request, stored: Stored | Lookup) -> Transaction | None:
        if isinstance(stored, Lookup) or stored.transaction.fingerprint != request.fingerprint:
            return None
        return stored.transaction if self.names_rows else None

    def _again(self, request: Request, stored: Stored | Lookup) -> Answer:
        if isinstance(stored, Lookup):
            return self._local(request, "96")
        row = stored.transaction
        if row.fingerprint != request.fingerprint:
            return self._local(request, "94")
        if row.state in {State.REVERSING, State.REVERSED, State.CANCELLED} and row.response == "00":
            return self._local(request, "12")
        assert stored.answer is not None
        return stored.answer

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self.utc_ms())

    async def find(self, keys: tuple[str, ...]) -> list[Stored | Lookup]:
        await asyncio.sleep(0)
        named = [self.aliases[key][0] if key in self.aliases else key for key in keys]
        return [self.rows.get(key, Lookup.ABSENT) for key in named]

    async def load(self, number: int, key: str) -> Stored | Lookup:
        await asyncio.sleep(0)
        found = self.rows.get(key, Lookup.ABSENT)
        return Lookup.ABSENT if isinstance(found, Stored) and found.transaction.id != number else found

    async def search(self, terminal: str, stan: str, after: int, limit: int) -> list[Transaction]:
        await asyncio.sleep(0)
        rows = [stored.transaction for stored in self.rows.values() if isinstance(stored, Stored)]
        rows = [row for row in rows if row.terminal == terminal and row.id > after and stan in ("", row.stan)]
        return sorted(rows, key=lambda row: row.id)[:limit]


@dataclass(frozen=True)
class Told:
    """An HTTP answer."""

    status: int
    body: Any
    headers: dict[str, str]
    text: str

    @property
    def problem(self) -> str:
        """The end of the problem's type."""
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        assert self.body["status"] == self.status
        assert set(self.body) == {"type", "title", "status", "detail"}
        return str(self.body["type"]).removeprefix("urn:holdfast:problem:")


class HttpShop:
    """A listener with a double of the core behind it."""

    def __init__(self, settings: HttpListenerSettings, rules: TerminalRules, secrets: dict[str, bytes] | None) -> None:
        self.utc_ms = UTC_MS
        self.mode = "online"
        self.reports: list[tuple[str, dict[str, str]]] = []
        self.core = CoreDouble(self._reply, lambda: self.utc_ms)
        self.listener = HttpListener(
            settings, rules, KeyedHash(bytes(32)), self.core.submit, self.core.find, self.core.load,
            self.core.search,
            lambda: self.mode, lambda: self.utc_ms, self._report,
            secret_of=secrets.get if secrets is not None else None, asked=since_long(),
        )  # fmt: skip
        self.address = ("", 0)
        self.client_tls: ssl.SSLContext | None = None
        self.session: aiohttp.ClientSession
        self._keys = (f"key-{number}" for number in itertools.count(1))
        self._nonces = (f"nonce-{number:08}" for number in itertools.count(1))

    @property
    def url(self) -> str:
        """Where the listener is."""
        scheme = "https" if self.client_tls else "http"
        return f"{scheme}://{self.address[0]}:{self.address[1]}"

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Told:
        """Send a request; every answer is checked for what all of them must have, and for what none may hold.

        Args:
            key: the Idempotency-Key; a new one by default, None for none.
            raw: the body's bytes in place of `body`.
        """
        sent = {"Content-Type": "application/json"} if raw is not None or body is not None else {}
        if key is not None and method == "POST":
            sent["Idempotency-Key"] = key or next(self._keys)
        content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        async with asyncio.timeout(DEADLINE_S):
            async with self.session.request(
                method, self.url + path, data=content, headers={**sent, **(headers or {})},
                ssl=self.client_tls or True, server_hostname="localhost" if self.client_tls else None,
            ) as response:  # fmt: skip
                text = await response.text()
        assert PAN not in text + repr(response.headers)
        assert OTHER_PAN not in text
        assert response.headers["X-Gateway-Mode"] == self.mode
        if response.status in (409, 429, 503):
            assert int(response.headers["Retry-After"]) >= 1
        parsed = json.loads(text) if text else None
        return Told(response.status, parsed, dict(response.headers), text)

    async def signed(
        self, method: str, path: str, body: Any = None, *, terminal: str = TERMINAL, key: str = "", **changed: Any
    ) -> Told:
        """Send a signed request; `changed` are `secret`, `utc_s`, `nonce`, or `header`, what to do to the header."""
        raw = json.dumps(body).encode() if body is not None else b""
        key = key or (next(self._keys) if method == "POST" else "")
        signed = Signed(method=method, target=path, idempotency_key=key, body=changed.get("signed_body", raw))
        header = authorization(
            changed.get("secret", SECRET), signed, terminal, changed.get("utc_s", self.utc_ms // 1000),
            changed.get("nonce", "") or next(self._nonces),
        )  # fmt: skip
        alter: Callable[[str], str] = changed.get("header", lambda text: text)
        return await self.ask(
            method, changed.get("sent_path", path), key=changed.get("sent_key", key) or None,
            raw=raw if body is not None else None, headers={"Authorization": alter(header)},
        )  # fmt: skip

    async def sell(self, key: str = "", **body: Any) -> Told:
        """A sale."""
        return await self.ask("POST", "/v1/transactions", sale(**body), key=key)

    async def line(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of bytes."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(sent)
        return reader, writer

    async def counted(self, name: str, count: int = 1) -> None:
        """Wait for a counter."""
        await until(lambda: self.listener.counters()[name] >= count, f"{name} reaches {count}")

    def _reply(self, token: int, answer: Answer, recorded: Transaction | None) -> None:
        self.listener.reply(token, answer, recorded)

    def _report(self, name: str, facts: dict[str, str]) -> None:
        assert PAN not in repr((name, facts))
        assert OTHER_PAN not in repr((name, facts))
        self.reports.append((name, facts))


@asynccontextmanager
async def http_shop(
    rules: TerminalRules | None = None, secrets: dict[str, bytes] | None = None, **settings: Any
) -> AsyncIterator[HttpShop]:
    """A started listener; nothing of it may be left when it is closed."""
    chosen = {
        "allow_unauthenticated": secrets is None and "tls" not in settings, "sweep_interval_ms": 20,
        "rate_per_s": 10_000, **settings,
    }  # fmt: skip
    made = HttpShop(HttpListenerSettings(**chosen), rules or TerminalRules(), secrets)
    made.address = await made.listener.start()
    try:
        async with aiohttp.ClientSession() as session:
            made.session = session
            yield made
    finally:
        await made.listener.close()
        await made.listener.close()
        assert made.listener.gauges()["connections"] == 0
        assert made.listener.gauges()["in_flight"] == 0
        assert PAN not in repr(made.listener.counters())


__all__ = ["OTHER_PAN", "PAN", "SECRET", "TERMINAL", "CoreDouble", "HttpShop", "Told", "http_shop", "sale"]
