"""After a day with everything in it, no card number lies anywhere outside ciphertext (INV-8)."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.child import LOG_NAME
from bench.till import TEST_CARDS
from tests.gateway.parking import park
from tests.gateway.rubbish import BAD, answer_to
from tests.gateway.shop import Shop, open_shop, play, saying, setup

PIN_BLOCK = "a1b2c3d4e5f60718"
TRACK_TAIL = "30122201987654321"
CHIP = "9f2608a1b2c3d4e5f60718"


def spellings(secret: str) -> dict[str, bytes]:
    """How digits may lie in a file: as text, as hex of that text, as UTF-16, in base64."""
    raw = secret.encode()
    return {
        "raw": raw,
        "hex": raw.hex().encode(),
        "UTF-16": secret.encode("utf-16-le"),
        "base64": base64.b64encode(raw)[:-4],
    }


def found_in(content: bytes, secret: str) -> list[str]:
    """The spellings that occur; packed digits are looked for at either nibble."""
    found = [name for name, spelt in spellings(secret).items() if spelt in content]
    return [*found, "packed"] if secret.lower() in content.hex() else found


def journal_files(folder: Path) -> dict[str, bytes]:
    """Everything that the journal keeps on disk."""
    return {path.name: path.read_bytes() for path in folder.glob("journal.sqlite3*")}


async def mixed_day(shop: Shop) -> None:
    """Sales, declines, retries, reused STANs, silence, outages, reversals, rubbish and operators' acts."""
    first, second = shop.terminal("T0000001"), shop.terminal("T0000002")
    for number, card in enumerate(TEST_CARDS):
        track = {35: f"{card[:19]}={TRACK_TAIL[: 36 - len(card)]}"}
        sale = first.till.sale(1000 + number, card)
        if number % 2:
            more = {52: PIN_BLOCK, 55: CHIP, 26: "12", 53: "2600000000000000"}
            sale = saying(sale, track | more, first.till.dialect)
        await first.ask(sale)
        await first.ask(first.till.sale(9000, card, stan=sale.stan))
    declined = first.till.sale(1051, TEST_CARDS[0])
    await first.ask(declined)
    shop.host.next_messages(Behaviour(mode=Mode.SILENT))
    await second.ask(second.till.sale(1000, TEST_CARDS[4]))
    await shop.drained()
    await park(shop, second, TEST_CARDS[5])
    await shop.host_leaves()
    for card in TEST_CARDS:
        stored = second.till.sale(1000, card)
        await second.ask(stored)
    await second.ask(second.till.reversal(stored))
    await second.ask(second.till.reversal(first.till.sale(1000, TEST_CARDS[6])))
    for bad in BAD:
        if bad.dialect == "unionpay":
            await answer_to(shop.setup, "unionpay", bad.make(first.till.sale(1000, TEST_CARDS[4])))


def test_after_a_mixed_day_no_card_number_track_or_pin_is_found_in_journal_logs_metrics_or_reports(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, setup(overrides={"log": {"level": "debug"}})) as shop:
            await mixed_day(shop)
            await seek(shop, "while it runs")
            await shop.kill()
            await seek(shop, "after a kill")
            await shop.start(online=False)
            await shop.host_returns()
            await shop.drained()
            await seek(shop, "after the replay")
            assert await shop.gateway.stop() == 0
            await seek(shop, "after a stop")

    async def seek(shop: Shop, when: str) -> None:
        contents = journal_files(tmp_path)
        assert "journal.sqlite3" in contents
        contents[LOG_NAME] = (tmp_path / LOG_NAME).read_bytes()
        assert b"key-reused" in contents[LOG_NAME]
        if shop.gateway.running:
            for target in ("/metrics", "/v1/status", "/readyz", "/v1/queue?limit=1000", "/v1/queue?state=approved"):
                code, body = await shop.get(target)
                assert code == 200
                contents[target] = body.encode()
            for number in range(1, await shop.stored() + 1):
                for part in ("", "/explain"):
                    contents[f"{number}{part}"] = (await shop.get(f"/v1/queue/{number}{part}"))[1].encode()
        else:
            commands = [["status"], ["queue", "list", "--limit", "1000"], ["queue", "show", "1"]]
            for ran in await asyncio.gather(*(shop.holdfast(*command) for command in commands)):
                contents[str(len(contents))] = (ran.out + ran.err).encode()
        assert sum(map(len, contents.values())) > 50_000
        for secret in (*TEST_CARDS, PIN_BLOCK, TRACK_TAIL, CHIP):
            for name, content in contents.items():
                assert not found_in(content, secret), f"{when}: {secret[:6]}... is in {name}"

    play(story())


@pytest.mark.parametrize("secret", [TEST_CARDS[0], TEST_CARDS[4], TEST_CARDS[6]])
def test_the_search_finds_a_card_number_however_it_is_spelt(secret: str) -> None:
    packed = bytes.fromhex(secret if len(secret) % 2 == 0 else secret + "0")
    shifted = bytes.fromhex(("0" + secret) if len(secret) % 2 else ("0" + secret + "0"))
    for spelt in (*spellings(secret).values(), packed, shifted):
        assert found_in(b"\x07 before" + spelt + b"behind", secret)
    assert not found_in(b"nothing here", secret)
