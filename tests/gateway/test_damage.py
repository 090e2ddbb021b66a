"""A damaged record is reported, set aside and stays alone: the rest runs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from bench.till import TEST_CARDS
from tests.gateway.shop import Shop, comes_true, open_shop, outcome, play

COLUMNS = {
    "the card's ciphertext": "SELECT account FROM entry WHERE sequence = ?",
    "the row": "SELECT row FROM tx WHERE id = ?",
}


def flip_a_byte(journal: Path, select: str, number: int) -> None:
    """Change one byte in the middle of a stored value, in the closed file, as a failing disk would."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        ((value,),) = connection.execute(select, (number,))
    whole = bytearray(journal.read_bytes())
    at = whole.find(value)
    assert at > 0
    assert whole.find(value, at + 1) < 0
    whole[at + len(value) // 2] ^= 0x20
    journal.write_bytes(whole)


@pytest.mark.parametrize("where", COLUMNS)
def test_a_flipped_byte_costs_one_record_which_is_named_and_quarantined_and_the_rest_is_replayed(
    tmp_path: Path, where: str
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminals = [shop.terminal("T0000001"), shop.terminal("T0000002")]
            await shop.host_leaves()
            sold = []
            for turn in range(3):
                for terminal in terminals:
                    sale = terminal.till.sale(1000 + turn, TEST_CARDS[turn])
                    sold.append((terminal, sale, outcome(await terminal.ask(sale))))
            _, queue = await shop.get("/v1/queue")
            damaged = json.loads(queue)["transactions"][2]["id"]
            assert await shop.gateway.stop() == 0
            flip_a_byte(tmp_path / "journal.sqlite3", COLUMNS[where], damaged)

            await shop.host_returns()
            await shop.start(online=False)
            others = [entry for number, entry in enumerate(sold) if number != 2]
            await comes_true("the rest is booked", lambda: all(shop.host.net(sale) == 1 for _, sale, _ in others))
            for terminal, sale, told in others:
                assert outcome(await terminal.ask(sale)) == told
                assert shop.host.acts(sale) == ["0220 booked"]
            terminal, sale, _ = sold[2]
            assert (await terminal.ask(sale)).response == "96"
            assert not shop.host.arrivals(sale)

            await comes_true("it is counted", lambda: _quarantined(shop))
            assert (await shop.status())["journal"]["quarantined"] == 1
            reports = shop.logged("record-damaged")
            assert [report["sequence"] for report in reports] == [str(damaged)]
            assert reports[0]["level"] == "error"
            code, body = await shop.get(f"/v1/queue/{damaged}")
            assert (code, "damaged" in body) == (410, True)
            assert (await shop.get("/readyz"))[0] == 200

            await shop.kill()
            await shop.start()
            assert await shop.metric("holdfast_journal_quarantined_records") == 1
            fresh = terminal.till.sale(2000, TEST_CARDS[3])
            assert (await terminal.ask(fresh)).response == "00"

    async def _quarantined(shop: Shop) -> bool:
        return await shop.metric("holdfast_journal_quarantined_records") == 1

    play(story())
