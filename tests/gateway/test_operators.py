"""Operators see what is owed and decide about what was parked; and offline, as far as it goes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bench.till import TEST_CARDS
from tests.gateway.parking import park
from tests.gateway.shop import Shop, comes_true, open_shop, outcome, play


async def state_of(shop: Shop, transaction: int) -> str:
    """A transaction's state."""
    _, body = await shop.get(f"/v1/queue/{transaction}")
    return str(json.loads(body)["transaction"]["state"])


async def becomes(shop: Shop, transaction: int, state: str) -> None:
    """Wait until a transaction is in that state."""

    async def so() -> bool:
        return await state_of(shop, transaction) == state

    await comes_true(f"transaction {transaction} is {state}", so)


def test_what_is_owed_is_told_alike_by_the_running_gateway_and_from_its_closed_journal(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal, other = shop.terminal("T0000001"), shop.terminal("T0000002")
            done = other.till.sale(900, TEST_CARDS[1])
            assert (await other.ask(done)).response == "00"
            await shop.host_leaves()
            sales = [terminal.till.sale(1000 + number, TEST_CARDS[number]) for number in range(3)]
            for sale in sales:
                assert (await terminal.ask(sale)).response == "00"

            status, queue = await asyncio.gather(shop.holdfast("status", "--json"), shop.holdfast("queue", "list"))
            assert status.json["running"] is True
            assert status.json["mode"] == "standing-in"
            assert status.json["acquirer"]["link"] == "down"
            assert status.json["ready"] is True, "storing while the acquirer is away is ready"
            assert status.json["queue"]["by_obligation"]["advice"] == 3
            assert status.json["queue"]["by_state"]["approved"] == 1
            listed = (await shop.holdfast("queue", "list", "--json")).json["transactions"]
            assert [row["stan"] for row in listed] == [sale.stan for sale in sales]
            assert [row["amount_minor"] for row in listed] == [1000, 1001, 1002]
            assert {row["state"] for row in listed} == {"stored"}
            assert all(sale.stan in queue.out for sale in sales)
            shown = (await shop.holdfast("queue", "show", str(listed[1]["id"]), "--json")).json
            assert shown["request"]["fields"]["11"] == sales[1].stan
            assert shown["answer"]["fields"]["39"] == "00"
            explained = (await shop.holdfast("queue", "explain", str(listed[1]["id"]), "--json")).json
            assert (explained["state"], explained["rule"]) == ("stored", "D19")
            assert "away" in explained["blocked_by"]

            assert await shop.gateway.stop() == 0
            offline = await shop.holdfast("status", "--json")
            assert (offline.code, offline.json["running"], offline.json["ready"]) == (0, False, False)
            assert offline.json["queue"]["by_state"] == status.json["queue"]["by_state"]
            assert offline.json["journal"]["entries"] == status.json["journal"]["entries"]
            assert (await shop.holdfast("queue", "list", "--json")).json["transactions"] == listed
            assert (await shop.holdfast("queue", "show", str(listed[1]["id"]), "--json")).json == shown
            refused = [
                await shop.holdfast("queue", "explain", str(listed[1]["id"]), "--json"),
                await shop.holdfast("queue", "void", str(listed[1]["id"]), "--why", "no reason"),
            ]
            assert [(ran.code, ran.out) for ran in refused] == [(1, "")] * 2
            assert all("not running" in ran.err and "holdfast run" in ran.err for ran in refused)

    play(story())


def test_a_declined_advice_waits_for_a_person_who_is_told_why_and_released_it_is_booked(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale, number = await park(shop, terminal, TEST_CARDS[0])
            told = outcome(await terminal.ask(sale))
            assert [alarm["id"] for alarm in shop.logged("parked")] == [str(number)]
            explained = (await shop.holdfast("queue", "explain", str(number), "--json")).json
            assert (explained["state"], explained["rule"]) == ("parked", "D18")
            assert "05" in explained["blocked_by"]
            status = await shop.status()
            assert status["queue"]["by_obligation"]["person"] == 1

            newer = terminal.till.sale(1100, TEST_CARDS[1])
            assert (await terminal.ask(newer)).response == "00", "what is parked blocks nobody"
            assert shop.host.acts(newer) == ["0200 booked"]

            await shop.kill()
            await shop.start()
            assert await state_of(shop, number) == "parked"
            ran = await shop.holdfast("queue", "release", str(number), "--why", "host repaired", "--json")
            assert (ran.code, ran.json["done"]) == (0, True)
            await becomes(shop, number, "approved")
            assert shop.host.acts(sale) == ["0220 refused", "0221 booked"]
            assert outcome(await terminal.ask(sale)) == told

    play(story())


def test_a_parked_sale_is_cancelled_or_voided_by_a_person_and_nets_to_zero(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminals = [shop.terminal("T0000001"), shop.terminal("T0000002")]
            cancelled, first = await park(shop, terminals[0], TEST_CARDS[0])
            voided, second = await park(shop, terminals[1], TEST_CARDS[1])
            ran = await shop.holdfast("queue", "cancel", str(first), "--why", "the customer paid in cash")
            assert ran.code == 0, ran.err
            assert await state_of(shop, first) == "cancelled"
            ran = await shop.holdfast("queue", "void", str(second), "--why", "a mistake", "--who", "operator")
            assert ran.code == 0, ran.err
            await becomes(shop, second, "reversed")
            await shop.drained()
            assert shop.host.acts(cancelled) == ["0220 refused"]
            assert shop.host.acts(voided) == ["0220 refused", "0400 reversal-unknown"]
            for terminal, sale in ((terminals[0], cancelled), (terminals[1], voided)):
                assert (await terminal.ask(sale)).response == "12", "nobody is told that it is paid"
                assert shop.host.net(sale) == 0
            again = await shop.holdfast("queue", "release", str(first), "--why", "once more")
            assert again.code == 1
            assert "cancelled" in again.err

    play(story())


def test_a_stored_sale_is_voided_and_an_approved_one_reversed_by_a_person(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            approved = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(approved)).response == "00"
            _, body = await shop.get("/v1/queue?state=approved")
            number = json.loads(body)["transactions"][0]["id"]
            assert (await shop.holdfast("queue", "void", str(number), "--why", "goods came back")).code == 0
            await becomes(shop, number, "reversed")
            assert shop.host.acts(approved) == ["0200 booked", "0400 reversed"]

            await shop.host_leaves()
            stored = terminal.till.sale(1100, TEST_CARDS[1])
            assert (await terminal.ask(stored)).response == "00"
            _, body = await shop.get("/v1/queue")
            number = json.loads(body)["transactions"][0]["id"]
            assert (await shop.holdfast("queue", "void", str(number), "--why", "goods came back")).code == 0
            assert await state_of(shop, number) == "cancelled"
            await shop.host_returns()
            await shop.link_is("up")
            await shop.drained()
            assert not shop.host.arrivals(stored)

    play(story())


def test_in_maintenance_sales_stand_in_and_nothing_is_sent_and_afterwards_all_is_replayed(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            ran = await shop.holdfast("maintenance", "on", "--who", "ann", "--why", "the host is upgraded")
            assert ran.code == 0, ran.err
            status = await shop.status()
            assert (status["mode"], status["ready"]) == ("maintenance", True)
            sales = [terminal.till.sale(1000 + number, TEST_CARDS[number]) for number in range(3)]
            told = [outcome(await terminal.ask(sale)) for sale in sales]
            assert {one.response for one in told} == {"00"}
            _, body = await shop.get("/v1/queue")
            number = json.loads(body)["transactions"][0]["id"]
            explained = (await shop.holdfast("queue", "explain", str(number), "--json")).json
            assert "maintenance" in explained["blocked_by"]
            assert not shop.host.messages

            # The window does not end because the gateway is started again in the middle of it.
            await shop.gateway.kill()
            await shop.gateway.start()
            assert (await shop.status())["mode"] == "maintenance"
            terminal = shop.terminal()
            assert not shop.host.messages

            ran = await shop.holdfast("maintenance", "off", "--who", "bob", "--why", "upgraded")
            assert ran.code == 0, ran.err
            await comes_true("all are booked", lambda: all(shop.host.net(sale) == 1 for sale in sales))
            await shop.drained()
            assert [message.mti for message in shop.host.messages] == ["0220"] * 3
            assert [message.fields[11] for message in shop.host.messages] == [sale.stan for sale in sales]
            assert [outcome(await terminal.ask(sale)) for sale in sales] == told
            assert (await shop.status())["mode"] == "online"
            ran = await shop.holdfast("audit", "log", "--kind", "maintenance", "--oldest", "--json")
            assert [json.loads(line)["detail"] for line in ran.out.splitlines()] == [
                "maintenance-on by ann: the host is upgraded", "maintenance-off by bob: upgraded",
            ]  # fmt: skip

    play(story())


def test_maintenance_closes_the_link_also_where_its_mark_cannot_be_written_and_says_that_it_ends_with_a_restart(
    tmp_path: Path,
) -> None:
    """The entry that tells of it is durable by then: the link must not stay open behind it."""

    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            journal = shop.folder / "journal.sqlite3"
            in_its_way = journal.with_name(journal.name + ".maintenance.new")
            in_its_way.mkdir()
            ran = await shop.holdfast("maintenance", "on", "--who", "ann", "--why", "the host is upgraded")
            assert (ran.code, "a restart opens it" in ran.out) == (0, True), ran.err + ran.out
            assert (await shop.status())["mode"] == "maintenance"
            in_its_way.rmdir()
            ran = await shop.holdfast("maintenance", "off", "--who", "ann", "--why", "upgraded")
            assert (ran.code, "restart" in ran.out) == (0, False), ran.err + ran.out
            await shop.link_is("up")

            mark = journal.with_name(journal.name + ".maintenance")
            mark.mkdir()  # cannot be removed as a file
            ran = await shop.holdfast("maintenance", "off", "--who", "ann", "--why", "once more")
            assert (ran.code, "a restart closes it again" in ran.out) == (0, True), ran.err + ran.out
            assert (await shop.status())["mode"] == "online"

    play(story())


def test_nobody_steers_without_the_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            wrong = tmp_path / "wrong.token"
            wrong.write_text("0" * 64)
            wrong.chmod(0o600)
            ran = await shop.holdfast(
                "maintenance", "on", "--why", "x", environment={"HOLDFAST_OPERATIONS__TOKEN_FILE": str(wrong)}
            )
            assert ran.code == 1
            assert "token" in ran.err
            assert (await shop.status())["mode"] == "online"

    play(story())
