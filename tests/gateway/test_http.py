"""A till that speaks HTTP beside terminals that speak ISO 8583: the same promises, the same journal (D1-D3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from bench.ports import free_ports
from bench.till import TEST_CARDS
from tests.gateway.shop import House, Shop, comes_true, open_shop, outcome, play, setup

SALE: dict[str, Any] = {
    "type": "sale",
    "merchant": "HOLDFAST0000001",
    "terminal": "TILL0001",
    "amount_minor": 1200,
    "currency": "156",
    "card": {"pan": TEST_CARDS[0], "expiry": "2912"},
    "entry_mode": "021",
}


def with_http() -> tuple[House, str]:
    """A shop with a second listener, and the address of its transactions."""
    (port,) = free_ports(1)
    more = ({"listen": f"127.0.0.1:{port}", "speaks": "http", "allow_unauthenticated": True},)
    return setup(more_terminals=more), f"http://127.0.0.1:{port}/v1/transactions"


async def post(address: str, key: str, **changes: object) -> tuple[int, dict[str, Any]]:
    """Send a sale; the status and the answer's body."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, json=SALE | changes, headers={"Idempotency-Key": key}) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


def booked(shop: Shop) -> list[str]:
    """STANs of the till's sales in the acquirer's books, in their order."""
    return [event.stan for event in shop.host.recent if event.terminal == "TILL0001" and event.act == "booked"]


def test_a_sale_over_http_is_booked_once_and_told_the_same_before_and_after_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        house, address = with_http()
        async with open_shop(tmp_path, house) as shop:
            status, first = await post(address, "a-1")
            assert (status, first["state"], first["response_code"]) == (200, "approved", "00")
            assert await post(address, "a-1") == (200, first)
            await shop.kill()
            await shop.start()
            assert await post(address, "a-1") == (200, first)
            status, problem = await post(address, "a-1", amount_minor=1300)
            assert (status, problem["status"]) == (422, 422)
            assert booked(shop) == [first["stan"]]

    play(story())


def test_sales_over_http_stand_in_over_a_power_cut_and_are_booked_in_order_when_the_acquirer_is_back(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        house, address = with_http()
        async with open_shop(tmp_path, house) as shop:
            await shop.host_leaves()
            told = [await post(address, f"b-{number}", amount_minor=1000 + number) for number in range(3)]
            assert [(status, body["state"], body["offline"]) for status, body in told] == [
                (200, "approved-offline", True)
            ] * 3
            await shop.kill()
            await shop.gateway.start()
            assert [await post(address, f"b-{number}", amount_minor=1000 + number) for number in range(3)] == told
            await shop.host_returns()
            await comes_true("all are booked", lambda: len(booked(shop)) == 3)
            assert booked(shop) == [body["stan"] for _, body in told]
            await shop.drained()

    play(story())


def test_the_same_transaction_over_iso_8583_and_over_http_is_one_transaction(tmp_path: Path) -> None:
    async def story() -> None:
        house, address = with_http()
        async with open_shop(tmp_path, house) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1250, TEST_CARDS[0])
            over_iso = outcome(await terminal.ask(sale))
            message = shop.host.messages[0].fields
            status, over_http = await post(
                address,
                "c-1",
                merchant=message[42].strip(),
                terminal=message[41].strip(),
                stan=message[11],
                batch=sale.message.fields[60][2:8],
                amount_minor=1250,
                entry_mode=message[22],
                processing_code=message[3],
            )
            assert status == 200, over_http
            assert (over_http["response_code"], over_http["approval_code"]) == (over_iso.response, over_iso.approval)
            assert shop.host.acts(sale) == ["0200 booked"]

    play(story())
