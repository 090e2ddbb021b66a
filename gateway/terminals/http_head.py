"""Requests that are quickly read: whole, in one piece, and of the plainest form there is.

What a till sends nearly always is. Such a request is read here in one look, without aiohttp's stream, task and request
of its own; whatever is not of this form is none of our business and goes to aiohttp byte by byte. The form is strict
where parsers differ (framing, names that come twice, blanks, control characters), so that aiohttp would read the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

_FORM: Final = re.compile(
    rb"(GET|POST) (/[!-~]*+) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]++: [!-~][ -~]*+\r\n)++)"
    rb"\r\n"
)
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
_AUTHORIZATION: Final = "authorization"
_OF_ONE_REQUEST: Final = frozenset({_AUTHORIZATION, "x-request-id", "traceparent"})
_HEADS: Final = 256


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a head says; it may be that of many requests.

    Attributes:
        asks: method, target (path and query as they stand there), and Content-Type, empty where there is none.
        headers: by name in lower case, without blanks around the values; all but the Idempotency-Key.
        authorization: of `headers`; empty where there is none.
        key: the Idempotency-Key; None where this head has none.
        length: of the body.
    """

    asks: tuple[str, str, str]
    headers: Mapping[str, str]
    authorization: str
    key: str | None
    length: int


class Plain(msgspec.Struct, frozen=True, gc=False):
    """A request of the plain form.

    Attributes:
        key: its Idempotency-Key, without blanks around it; None where it has none.
    """

    head: Head
    key: str | None
    body: bytes


class _NotKept(Exception):
    """A head of which nothing is to be kept; None where it is not plain. What raises is not kept where heads are."""

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        self.head = head


def plain_request(received: bytes, head_bytes_max: int, headers_max: int) -> Plain | None:
    """The one request that `received` is from its first byte to its last; None where it is anything else."""
    at = received.find(_END) + len(_END)
    if not len(_END) <= at <= head_bytes_max:
        return None
    # A till's heads differ in their Idempotency-Key alone: what they have in common is read once.
    head: Head | None
    key: str | None
    begins = received.find(_KEY_BEGINS, 0, at)
    if begins < 0:
        head = _read(received[:at])
        if head is None:
            return None
        key = head.key
    else:
        ends = received.index(b"\r", begins + len(_KEY_BEGINS))
        octets = received[begins + len(_KEY_BEGINS) : ends]
        if not octets.isascii():
            return None
        value = octets.decode()
        if not value.isprintable() or value[:1] in {"", " "}:  # as `_FORM` has it
            return None
        key = value.rstrip()
        try:
            head = _known(received[:begins] + received[ends:at])
        except _NotKept as read:
            head = read.head
        if head is None or head.key is not None:
            return None
    if head.length != len(received) - at or len(head.headers) + (key is not None) > headers_max:
        return None
    return Plain(head, key, received[at:])


def _read(head: bytes) -> Head | None:
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
    key = headers.pop(_KEY, None)
    asks = (found[1].decode(), found[2].decode(), headers.get("content-type", ""))
    return Head(asks, MappingProxyType(headers), headers.get(_AUTHORIZATION, ""), key, int(length))


@lru_cache(maxsize=_HEADS)
def _known(head: bytes) -> Head:
    """As `_read`, of a head without its Idempotency-Key, of at most `head_bytes_max` bytes.

    Raises: _NotKept, of a head that is not plain, and of one that is of one request and will not come again.
    """
    found = _read(head)
    if found is None or not _OF_ONE_REQUEST.isdisjoint(found.headers):
        raise _NotKept(found)
    return found
