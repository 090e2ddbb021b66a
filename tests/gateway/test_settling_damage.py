"""Two people settle a damaged record of a running gateway, by commands; while none runs, they are told to start it."""

from __future__ import annotations

import json
from pathlib import Path

from bench.till import TEST_CARDS
from gateway.operations.approvals import make_approver_key
from tests.gateway.shop import House, Ran, Shop, comes_true, open_shop, play, setup
from tests.gateway.test_damage import COLUMNS, flip_a_byte


def with_approvers(folder: Path) -> House:
    named = [f"{name}:{make_approver_key(folder / f'{name}.pem')}" for name in ("ann", "bob")]
    return setup(overrides={"operations": {"approvers": named}})


def signed_by(shop: Shop, who: str) -> tuple[str, ...]:
    return ("--who", who, "--key", str(shop.folder / f"{who}.pem"))


async def asked(shop: Shop, number: int) -> Ran:
    return await shop.holdfast(
        "queue", "settle-damaged", str(number), "--why", "booked by hand, reference 7", *signed_by(shop, "ann")
    )


async def approved(shop: Shop, request: str, who: str) -> Ran:
    return await shop.holdfast("keys", "approve", request, "--yes", *signed_by(shop, who))


async def open_ones(shop: Shop) -> float:
    return await shop.metric("holdfast_journal_quarantined_records")


def test_a_damaged_record_is_settled_by_commands_and_a_retry_of_its_sale_is_still_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, with_approvers(tmp_path)) as shop:
            terminal = shop.terminal("T0000001")
            await shop.host_leaves()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            await terminal.ask(sale)
            _, queue = await shop.get("/v1/queue")
            number = json.loads(queue)["transactions"][0]["id"]
            assert await shop.gateway.stop() == 0
            flip_a_byte(tmp_path / "journal.sqlite3", next(iter(COLUMNS.values())), number)
            ran = await asked(shop, number)
            assert (ran.code, "start it with" in ran.err) == (1, True)

            await shop.start(online=False)
            assert (await terminal.ask(sale)).response == "96"

            async def counted() -> bool:
                return await open_ones(shop) == 1

            await comes_true("it is counted", counted)
            ran = await asked(shop, number)
            assert ran.code == 0, ran.err
            (request,) = (await shop.holdfast("keys", "requests", "--json")).json
            name = request["request"]["id"]
            ran = await approved(shop, name, "ann")
            assert (ran.code, "another person" in ran.err) == (1, True)
            ran = await approved(shop, name, "bob")
            assert ran.code == 0, ran.err
            assert await open_ones(shop) == 0
            journal = (await shop.status())["journal"]
            assert (journal["quarantined"], journal["settled"]) == (0, 1)
            assert "1 damaged records settled" in (await shop.holdfast("status")).out
            (listed,) = (await shop.holdfast("queue", "damaged", "--json")).json["records"]
            assert (listed["id"], bool(listed["settled"])) == (number, True)
            assert (await terminal.ask(sale)).response == "96"
            assert not shop.host.arrivals(sale)
            ran = await asked(shop, number)
            assert (ran.code, "settled already" in ran.err) == (1, True)
            assert await shop.gateway.stop() == 0
            ran = await shop.holdfast("audit", "verify")
            assert (ran.code, f"transaction {number}: by ann, bob" in ran.out) == (1, True), ran.out

    play(story())
