"""HTTP over TLS: whom a certificate may speak for, alone and together with a signature."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.tls import ReloadableServerContext, TerminalNames
from tests.acquirers.certificates import Authority, Issued, client, server
from tests.acquirers.waiting import on_each_loop
from tests.terminals.http_shop import SECRET, TERMINAL, HttpShop, http_shop, sale
from tests.terminals.test_http_plain import answer, request

OTHER = "T0000002"
TRANSACTIONS = "/v1/transactions"


@asynccontextmanager
async def shop_behind_tls(
    folder: Path, shown: str, secrets: dict[str, bytes] | None = None, **tls: bool
) -> AsyncIterator[HttpShop]:
    """A listener that asks for certificates, and a till that shows one of `shown`, or none where that is empty."""
    authority = Authority(folder)
    own = authority.issue("gateway", dns=["localhost"])
    certificate: Issued | None = authority.issue("till", common_name=shown) if shown else None
    async with http_shop(None, secrets, tls=server(own, authority, **tls)) as shop:
        shop.client_tls = client(authority, certificate)
        yield shop


@on_each_loop
async def test_a_certificate_speaks_for_the_terminal_that_it_names_and_no_other(tmp_path: Path) -> None:
    async with shop_behind_tls(tmp_path, TERMINAL) as shop:
        sold = await shop.sell()
        assert sold.body["state"] == "approved"
        told = await shop.sell(terminal=OTHER)
        assert (told.status, told.problem) == (403, "terminal-not-allowed")
        assert shop.reports[-1][1]["detail"] == f"{TERMINAL} speaks for another terminal"
        assert (await shop.ask("GET", f"{TRANSACTIONS}?terminal={OTHER}")).problem == "terminal-not-allowed"
        document = (await shop.ask("GET", "/openapi.json")).body
        assert document["components"]["securitySchemes"] == {
            "certificate": {"type": "mutualTLS", "description": "The certificate names its terminals."}
        }
        assert len(shop.core.requested) == 1


@on_each_loop
async def test_without_a_certificate_the_handshake_fails_and_is_reported(tmp_path: Path) -> None:
    async with shop_behind_tls(tmp_path, "") as shop:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await shop.sell()
        await shop.counted("handshake_no_certificate")
        assert not shop.core.requested


@on_each_loop
async def test_where_certificates_are_optional_a_signature_proves_it_too_and_nothing_does_not(tmp_path: Path) -> None:
    async with shop_behind_tls(tmp_path, "", {TERMINAL: SECRET}, require_client_certificate=False) as shop:
        assert (await shop.signed("POST", TRANSACTIONS, sale())).status == 200
        told = await shop.sell()
        assert (told.status, told.problem) == (401, "unauthenticated")
        assert "certificate" in told.body["detail"]


@on_each_loop
async def test_certificate_and_signature_must_agree(tmp_path: Path) -> None:
    secrets = {TERMINAL: SECRET, OTHER: SECRET}
    async with shop_behind_tls(tmp_path, TERMINAL, secrets) as shop:
        assert (await shop.signed("POST", TRANSACTIONS, sale())).status == 200
        other: dict[str, Any] = sale(terminal=OTHER)
        told = await shop.signed("POST", TRANSACTIONS, other, terminal=OTHER)
        assert (told.status, told.problem) == (403, "terminal-not-allowed")


@on_each_loop
async def test_a_certificate_that_is_not_bound_speaks_for_every_terminal(tmp_path: Path) -> None:
    async with shop_behind_tls(tmp_path, "the shop", bind_terminal_ids=False) as shop:
        assert (await shop.sell(terminal=OTHER)).status == 200


class CountingContext(ReloadableServerContext):
    """A listener's context that counts how often a certificate's names are worked out."""

    asked = 0

    def names_of(self, peercert: Mapping[str, Any] | None) -> TerminalNames | None:
        """As its base has it."""
        self.asked += 1
        return super().names_of(peercert)


@on_each_loop
async def test_the_names_of_a_certificate_are_those_of_each_request_of_its_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = CountingContext(server(authority.issue("gateway", dns=["localhost"]), authority).settings)
    shown = client(authority, authority.issue("till", common_name=TERMINAL))
    async with http_shop(tls=context) as shop:
        host, port = shop.address
        reader, writer = await asyncio.open_connection(host, port, ssl=shown, server_hostname="localhost")
        for number, (terminal, more, status) in enumerate(
            [(TERMINAL, (), 200), (OTHER, (), 403), (TERMINAL, ("X-Unknown: 1",), 200), (OTHER, ("X-Unknown: 1",), 403)]
        ):
            body = json.dumps(sale(f"{number:06}", terminal=terminal)).encode()
            writer.write(request(body, *more, key=f"key-{number}"))
            assert (await answer(reader))[0] == status, (terminal, more)
        writer.close()
        assert [asked.terminal for asked in shop.core.requested] == [TERMINAL, TERMINAL]
        assert context.asked == 1
