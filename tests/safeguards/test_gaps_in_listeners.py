"""Checks of the listeners that nobody had, until a safeguard was taken away and nothing noticed."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.acquirers import waiting
from tests.acquirers.waiting import on_each_loop
from tests.terminals.http_shop import HttpShop, http_shop

_HEAD: Final = b"GET /openapi.json HTTP/1.1\r\nHost: till\r\nConnection: close\r\n"


async def _status(shop: HttpShop, lines: int) -> bytes:
    """What a head with so many lines more is answered."""
    reader, writer = await shop.line(_HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(lines)) + b"\r\n")
    async with asyncio.timeout(waiting.DEADLINE_S):
        answer = await reader.read()
    writer.close()
    return answer.split(b" ")[1]


@on_each_loop
async def test_a_head_of_more_lines_than_are_taken_is_refused_for_their_number_alone() -> None:
    async with http_shop(headers_max=8) as shop:
        assert await _status(shop, 4) == b"200"
        assert await _status(shop, 40) in {b"400", b"431"}
        assert await _status(shop, 4) == b"200"
