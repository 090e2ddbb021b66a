"""The key commands of the operations listener. Everything that changes something asks for the operations token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from gateway.config.key_source import IN_FOLDER, KeySourceWrong, open_key_source, parse_key_source
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.key_token import TokenKek
from gateway.journal.keyring import KeyPurpose
from gateway.journal.port import JournalError
from gateway.operations.approvals import ApprovalRefused, Approving, Asking
from gateway.operations.keys import Keys
from gateway.operations.problems import ProblemError
from gateway.operations.view import CommandResult
from protocol.masking import contains_pan

_WHO_MAX = 64
_WHY_MAX = 500
_T = TypeVar("_T")


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new key for a purpose."""

    purpose: str
    who: str
    why: str


class Rewrapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another key-encryption key; `generate` makes it in a token first."""

    to: str
    who: str
    why: str
    generate: bool = False


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who steers and why."""

    who: str
    why: str


class KeyRoutes:
    """Reading and changing keys."""

    def __init__(
        self,
        keys: Keys,
        may_read: Callable[[web.Request], None],
        check_token: Callable[[web.Request], None],
        *,
        loopback: bool,
    ) -> None:
        """`may_read` and `check_token` raise ProblemError where a request may not.

        Args:
            loopback: nobody but this machine's own users reaches the listener.
        """
        self._keys = keys
        self._may_read = may_read
        self._check_token = check_token
        self._loopback = loopback

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/v1/keys", self._list),
            web.post("/v1/keys/rotate", self._rotate),
            web.post("/v1/keys/rewrap", self._rewrap),
            web.post(r"/v1/keys/{id:\d{1,9}}/retire", self._retire),
            web.post("/v1/keys/requests", self._ask),
            web.post(r"/v1/keys/requests/{request:[0-9a-f]{16}}/approve", self._approve),
            web.post(r"/v1/keys/requests/{request:[0-9a-f]{16}}/withdraw", self._withdraw),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        self._may_read(request)
        return _json(await _told(self._keys.listed()))

    async def _rotate(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Rotation)
        _check(asked.who, asked.why)
        purposes = {each.value for each in KeyPurpose}
        if asked.purpose not in purposes:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "body", f"purpose is one of {', '.join(sorted(purposes))}"
            )
        return await _done(self._keys.rotate(KeyPurpose(asked.purpose), asked.who, asked.why))

    async def _rewrap(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Rewrapping)
        _check(asked.who, asked.why)
        if not self._loopback:  # it names libraries and files of this machine, and where all keys go
            raise ProblemError(
                HTTPStatus.CONFLICT,
                "not-done",
                "the key-encryption key is not changed from a listener that other machines reach: stop the gateway, "
                "and run `holdfast keys rewrap` on its machine",
            )
        return await _done(rewrapped(self._keys, asked))

    async def _retire(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Steering)
        _check(asked.who, asked.why)
        return await _done(self._keys.retire(int(request.match_info["id"]), asked.who, asked.why))

    async def _ask(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Asking)
        return await _done(self._keys.ask(asked.request, asked.signature))

    async def _approve(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Approving)
        return await _done(self._keys.approve(request.match_info["request"], asked.who, asked.signature))

    async def _withdraw(self, request: web.Request) -> web.Response:
        asked = await self._body(request, Steering)
        _check(asked.who, asked.why)
        return await _done(self._keys.withdraw(request.match_info["request"], asked.who, asked.why))

    async def _body(self, request: web.Request, kind: type[_T]) -> _T:
        self._check_token(request)
        if request.content_type != "application/json":
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "body", "a JSON body; `holdfast keys` sends one")
        try:
            return msgspec.json.decode(await request.read(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", f"the JSON body is wrong: {error}") from None


async def rewrapped(keys: Keys, asked: Rewrapping) -> CommandResult:
    """Find the other key-encryption key as this process sees it, and wrap with it.

    Raises:
        KeyChangeRefused, JournalError: it cannot be had, or nothing was changed.
    """
    try:
        source = parse_key_source(asked.to)
        kek = open_key_source(source)
    except KeySourceWrong as wrong:
        raise KeyChangeRefused(f"the new key-encryption key: {wrong}") from None
    if asked.generate:
        if not isinstance(kek, TokenKek):
            raise KeyChangeRefused("only in a token a key can be generated; for others, `openssl rand -hex 32`")
        await asyncio.to_thread(kek.generate)
    return await keys.rewrap(str(IN_FOLDER) if kek is None else str(source), kek, asked.who, asked.why)


def _check(who: str, why: str) -> None:
    right = f"who has 1 to {_WHO_MAX} printable characters, why 1 to {_WHY_MAX}"
    if not (1 <= len(who.strip()) <= _WHO_MAX and 1 <= len(why.strip()) <= _WHY_MAX and (who + why).isprintable()):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", right)
    if contains_pan(who) or contains_pan(why):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "card-number", "who and why are kept in clear: no card number in them"
        )


async def _told(asked: Awaitable[_T]) -> _T:
    try:
        return await asked
    except (KeyChangeRefused, ApprovalRefused) as refused:
        raise ProblemError(HTTPStatus.CONFLICT, "not-done", str(refused)) from None
    except JournalError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "keys", str(error)) from None


async def _done(act: Awaitable[CommandResult]) -> web.Response:
    return _json(await _told(act))


def _json(value: Any) -> web.Response:
    return web.Response(status=HTTPStatus.OK, body=msgspec.json.encode(value), content_type="application/json")
