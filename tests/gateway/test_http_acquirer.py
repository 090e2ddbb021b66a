"""An acquirer that speaks JSON over HTTP: the same promises as over ISO 8583, with the real process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.till import TEST_CARDS
from tests.gateway.shop import Shop, comes_true, open_shop, outcome, play, saying, setup

TERN = Path(__file__).parents[2] / "gateway" / "acquirers" / "mappings" / "tern.toml"
LOOKED_AT_ONCE = {"echo_interval_ms": 100, "reconnect_min_ms": 20, "reconnect_max_ms": 100}


class Tern:
    """A host that keeps books by idempotency key.

    Attributes:
        silent: how many of the next requests are booked and not answered.
        asked: paths, in order of arrival.
        booked: amount by key; what is reversed is gone.
    """

    def __init__(self) -> None:
        self.silent = 0
        self.asked: list[str] = []
        self.booked: dict[str, int] = {}
        self._runner: web.AppRunner | None = None

    async def open(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/v1/health", self._health)
        app.router.add_post("/v1/payments", self._payment)
        app.router.add_post("/v1/payments/offline", self._advice)
        app.router.add_post("/v1/reversals", self._reversal)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _payment(self, request: web.Request) -> web.Response:
        return await self._book(request, "approved")

    async def _advice(self, request: web.Request) -> web.Response:
        return await self._book(request, "taken")

    async def _book(self, request: web.Request, outcome: str) -> web.Response:
        body = await self._body(request)
        self.booked.setdefault(request.headers["Idempotency-Key"], body["amount"]["minor"])
        return await self._answer(body, {"outcome": outcome, "approval": "123456", "id": "000000000001"})

    async def _reversal(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        known = self.booked.pop(body["original"]["key"], None)
        return await self._answer(body, {"outcome": "unknown" if known is None else "reversed"})

    async def _body(self, request: web.Request) -> Any:
        self.asked.append(request.path)
        return await request.json()

    async def _answer(self, body: Any, answer: dict[str, str]) -> web.Response:
        if self.silent:
            self.silent -= 1
            await asyncio.sleep(3_600)
        return web.json_response({name: body[name] for name in ("stan", "terminal", "merchant")} | answer)


@contextlib.asynccontextmanager
async def shop_at_tern(
    folder: Path, mapping: str = "tern", dialect: str = "unionpay"
) -> AsyncIterator[tuple[Shop, Tern]]:
    house = setup(
        terminal_dialect=dialect,
        overrides={"acquirer": {"speaks": "http", "mapping": mapping, **LOOKED_AT_ONCE}},
    )
    tern = Tern()
    async with open_shop(folder, house, start=False) as shop:
        await shop.host.stop()
        await tern.open(house.acquirer_port)
        try:
            await shop.start()
            yield shop, tern
        finally:
            await shop.kill()
            await tern.close()


def test_a_sale_is_booked_once_and_a_retry_gets_the_same_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with shop_at_tern(tmp_path) as (shop, tern):
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            told = await terminal.ask(sale)
            assert (told.response, told.approval) == ("00", "123456")
            assert list(tern.booked.values()) == [4200]
            assert outcome(await terminal.ask(sale)) == outcome(told)
            await shop.kill()
            await shop.start()
            assert outcome(await terminal.ask(sale)) == outcome(told)
            assert tern.asked == ["/v1/payments"]

    play(story())


def test_two_terminals_under_one_stan_are_two_bookings_also_where_the_host_gives_back_no_more_than_that(
    tmp_path: Path,
) -> None:
    text = TERN.read_text(encoding="utf-8")
    for line in ('41 = { path = "terminal" }\n', '42 = { path = "merchant" }\n'):
        assert line in text
        text = text.replace(line, "")
    (tmp_path / "stan.toml").write_text(f"{text}\n[host]\nmatch_fields = [11]\n", encoding="utf-8")

    async def story() -> None:
        async with shop_at_tern(tmp_path, mapping="stan.toml") as (shop, tern):
            for number, amount_minor in ((1, 4200), (2, 5100)):
                terminal = shop.terminal(f"T000000{number}")
                told = await terminal.ask(terminal.till.sale(amount_minor, TEST_CARDS[number], stan="000001"))
                assert told.response == "00"
            assert list(tern.booked.values()) == [4200, 5100]

    play(story())


def test_a_sale_without_a_date_is_no_repeat_of_one_with_it_under_the_same_stan(tmp_path: Path) -> None:
    async def story() -> None:
        async with shop_at_tern(tmp_path, dialect="iso87-ascii") as (shop, tern):
            terminal = shop.terminal()
            dated = terminal.till.sale(4200, TEST_CARDS[2], stan="000001")
            undated = terminal.till.sale(5100, TEST_CARDS[3], stan="000001")
            for number in (7, 12, 13):
                del undated.message.fields[number]
            for sale in (dated, saying(undated, {}, terminal.till.dialect)):
                assert (await terminal.ask(sale)).response == "00"
            assert list(tern.booked.values()) == [4200, 5100]

    play(story())


def test_what_the_mapping_does_not_know_is_refused_and_never_sent_as_a_sale(tmp_path: Path) -> None:
    async def story() -> None:
        async with shop_at_tern(tmp_path) as (shop, tern):
            terminal = shop.terminal()
            for code in ("010000", "900000"):
                other = saying(terminal.till.sale(4200, TEST_CARDS[2]), {3: code}, terminal.till.dialect)
                assert (await terminal.ask(other)).response == "30"
            assert tern.asked == []

    play(story())


def test_while_the_host_is_away_sales_stand_in_and_follow_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with shop_at_tern(tmp_path) as (shop, tern):
            await tern.close()
            await shop.link_is("down")
            terminal = shop.terminal()
            told = await terminal.ask(terminal.till.sale(4200, TEST_CARDS[2]))
            assert told.response == "00"
            assert tern.asked == []
            await tern.open(shop.setup.acquirer_port)
            await shop.drained()
            assert tern.asked == ["/v1/payments/offline"]
            assert list(tern.booked.values()) == [4200]

    play(story())


@pytest.mark.parametrize("killed", [False, True], ids=["in time", "killed while it waits"])
def test_a_sale_that_is_booked_in_silence_is_told_no_and_reversed(tmp_path: Path, killed: bool) -> None:
    async def story() -> None:
        async with shop_at_tern(tmp_path) as (shop, tern):
            terminal = shop.terminal()
            sale = terminal.till.sale(4200, TEST_CARDS[2])
            tern.silent = 1
            if killed:
                await terminal.send(sale)
                await comes_true("the host has it", lambda: tern.booked != {})
                await shop.kill()
                await shop.start()
            assert (await terminal.ask(sale)).response == "68"
            await comes_true("it is reversed", lambda: tern.booked == {})
            await shop.drained()
            assert tern.asked == ["/v1/payments", "/v1/reversals"]

    play(story())
