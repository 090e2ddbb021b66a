"""Requests that are quickly read: whole, in one piece, and of the plainest form there is.

What a till sends nearly always is. Such a request is read here in one look, without aiohttp's stream, task and request
of its own; whatever is not of this form is none of our business and goes to aiohttp byte by byte. The form is strict
where parsers differ (framing, names that come twice, blanks, control characters), so that aiohttp would read the same.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

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


class Plain(NamedTuple):
    """A request of the plain form.

    Attributes:
        target: path and query as they stand there.
        headers: by name in lower case, without blanks around the values.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def plain_request(received: bytes, head_bytes_max: int, headers_max: int) -> Plain | None:
    """The one request that `received` is from its first byte to its last; None where it is anything else."""
    found = _FORM.match(received)
    if found is None:
        return None
    at = found.end()
    lines = found[3].decode("ascii").split("\r\n")
    if at > head_bytes_max or len(lines) - 1 > headers_max:
        return None
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(": ")
        name = name.lower()
        if name not in _TAKEN or name in headers:
            return None
        headers[name] = value.rstrip(" ")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > _LENGTH_DIGITS_MAX or int(length) != len(received) - at:
        return None
    if "host" not in headers or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return Plain(found[1].decode(), found[2].decode(), headers, received[at:])
