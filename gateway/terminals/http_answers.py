"""Answers over HTTP: made once, and written by aiohttp or as bytes, with the same headers."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from protocol.http_api import GATEWAY_MODE, MEDIA_TYPE

_FIXED: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "holdfast"}


class Made(msgspec.Struct, frozen=True, gc=False):
    """An answer.

    Attributes:
        headers: what this one has beside those of every answer.
    """

    body: bytes
    status: int = 200
    media_type: str = MEDIA_TYPE
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> web.Response:
        """For aiohttp, which adds length and date."""
        response = web.Response(status=self.status, body=self.body, content_type=self.media_type)
        response.headers.update(self.headers)
        return response


class AnswerWriter:
    """Writes what every answer carries: the gateway's mode, the date, and how it may be kept."""

    def __init__(self, mode: Callable[[], str], utc_ms: Callable[[], int]) -> None:
        """`mode` is one of those of protocol.http_api.Mode."""
        self._mode = mode
        self._utc_ms = utc_ms

    def complete(self, response: web.StreamResponse) -> None:
        """Put it on an answer that aiohttp writes."""
        response.headers[GATEWAY_MODE] = self._mode()
        response.headers.update(_FIXED)
        response.headers["Date"] = _date(self._utc_ms() // 1000)  # the clock that signatures are judged by

    def written(self, made: Made, *, last: bool) -> bytes:
        """An answer as bytes; `last` says that the connection is closed behind it."""
        body = made.body
        head = _head(made.status, made.media_type, self._mode(), self._utc_ms() // 1000)
        if last or made.headers:
            more = "".join([f"{name}: {value}\r\n" for name, value in made.headers])
            head += f"{more}Connection: close\r\n".encode() if last else more.encode()
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


@lru_cache(maxsize=4)
def _date(utc_s: int) -> str:
    return formatdate(utc_s, usegmt=True)


@lru_cache(maxsize=64)
def _head(status: int, media_type: str, mode: str, utc_s: int) -> bytes:
    """Status line and headers that do not depend on the body; alike for all answers of a second."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"{GATEWAY_MODE}: {mode}"]
    lines += [f"{name}: {value}" for name, value in _FIXED.items()]
    lines += [f"Content-Type: {media_type}", f"Date: {_date(utc_s)}", ""]
    return "\r\n".join(lines).encode()
