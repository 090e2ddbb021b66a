"""Transactions that wait for a person."""

from __future__ import annotations

import json
from typing import Final

from bench.acquirer import Behaviour, Mode
from bench.till import Prepared
from tests.gateway.shop import Counter, Shop, comes_true

REFUSED: Final = Behaviour(mode=Mode.CODE, code="05", booking=False)


async def park(shop: Shop, terminal: Counter, card: str) -> tuple[Prepared, int]:
    """A stand-in sale whose advice the acquirer declines: the sale, and its id once it waits for a person."""
    await shop.host_leaves()
    sale = terminal.till.sale(1000, card)
    assert (await terminal.ask(sale)).response == "00"
    shop.host.next_messages(REFUSED)
    await shop.host_returns()
    found: list[int] = []

    async def parked() -> bool:
        _, body = await shop.get(f"/v1/queue?state=parked&terminal={terminal.till.terminal}")
        found[:] = [row["id"] for row in json.loads(body)["transactions"] if row["stan"] == sale.stan]
        return bool(found)

    await comes_true("it is parked", parked)
    return sale, found[0]
