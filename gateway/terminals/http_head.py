"""Requests that are quickly read: whole, in one piece, and of the plainest form there is.

What a till sends nearly always is. Such a request is read here in one look, without aiohttp's stream, task and request
of its own; whatever is not of this form is none of our business and goes to aiohttp byte by byte. The form is strict
where parsers differ (framing, names that come twice, blanks, control characters), so that aiohttp would read the same.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

_FORM: Final = re.compile(
    rb"(GET|POST) (/[!-~]*+) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]++: [!-~][ -~]*+\r\n)++)"
    rb"\r\n"
)
_VALUE: Final = re.compile(rb"[!-~][ -~]*+")
_TAKEN: Final = frozenset(
    {
        "host", "content-type", "content-length", "idempotency-key", "authorization", "connection",
        "user-agent", "accept", "accept-encoding", "accept-language", "cache-control",
        "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "traceparent",
    }
)  # fmt: skip
"""Names that are known not to change how a message is framed or understood. None of them may come twice."""

_LENGTH_DIGITS_MAX: Final = 9
_END: Final = b"\r\n\r\n"
_KEY: Final = "idempotency-key"
_KEY_BEGINS: Final = b"\r\nIdempotency-Key: "
_SECRET: Final = b"authorization"
_HEADS: Final = 256


class Plain(msgspec.Struct, frozen=True, gc=False):
    """A request of the plain form.

    Attributes:
        target: path and query as they stand there.
        headers: by name in lower case, without blanks around the values.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class _NotPlain(Exception):
    """A head of another form. It is raised where heads are kept, for what raises is not kept."""


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What a head says; never changed once made, for it may be that of many requests."""

    method: str
    target: str
    headers: dict[str, str]
    length: int


def plain_request(received: bytes, head_bytes_max: int, headers_max: int) -> Plain | None:
    """The one request that `received` is from its first byte to its last; None where it is anything else."""
    at = received.find(_END) + len(_END)
    if not len(_END) <= at <= head_bytes_max:
        return None
    # A till's heads differ in their Idempotency-Key alone: what they have in common is read once. Heads with an
    # Authorization are each of their own, and nothing of them is kept.
    found: _Head | None
    head, key = received[:at], b""
    begins = head.find(_KEY_BEGINS)
    if begins >= 0 and _SECRET not in head.lower():
        value = begins + len(_KEY_BEGINS)
        ends = head.index(b"\r", value)
        key = head[value:ends]
        if not _VALUE.fullmatch(key):
            return None
        try:
            found = _known(head[:begins] + head[ends:])
        except _NotPlain:
            return None
    else:
        found = _read(head)
    if found is None or found.length != len(received) - at:
        return None
    headers = found.headers
    if key:
        if _KEY in headers:
            return None
        headers = {**headers, _KEY: key.decode("ascii").rstrip(" ")}
    if len(headers) > headers_max:
        return None
    return Plain(found.method, found.target, headers, received[at:])


def _read(head: bytes) -> _Head | None:
    """A head up to and with its empty line; None where it is not of the plain form."""
    found = _FORM.fullmatch(head)
    if found is None:
        return None
    headers: dict[str, str] = {}
    for line in found[3].decode("ascii").split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        name = name.lower()
        if name not in _TAKEN or name in headers:
            return None
        headers[name] = value.rstrip(" ")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > _LENGTH_DIGITS_MAX:
        return None
    if "host" not in headers or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return _Head(found[1].decode(), found[2].decode(), headers, int(length))


@lru_cache(maxsize=_HEADS)
def _known(head: bytes) -> _Head:
    """As `_read`, of a head without its Idempotency-Key, of at most `head_bytes_max` bytes. Raises: _NotPlain."""
    found = _read(head)
    if found is None:
        raise _NotPlain
    return found
