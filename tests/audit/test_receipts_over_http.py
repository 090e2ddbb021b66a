"""A till's receipt over HTTP: the log's own proof of what the till was told, which a cut journal cannot satisfy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from bench.ports import free_ports
from bench.till import TEST_CARDS
from gateway.config import load_config
from gateway.config.audit import origin_of
from gateway.config.key_source import load_keys
from protocol.journal_entry import decode_entry
from protocol.transparency.notes import SignerKey
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import leaf_hash
from tests.acceptance.real_journal import holdfast
from tests.gateway.shop import House, Shop, open_shop, play, setup

SALE: dict[str, Any] = {
    "type": "sale",
    "merchant": "HOLDFAST0000001",
    "terminal": "TILL0001",
    "amount_minor": 1200,
    "currency": "156",
    "card": {"pan": TEST_CARDS[0], "expiry": "2912"},
    "entry_mode": "021",
}
_PATIENCE_S = 30


def with_receipts(**audit: object) -> tuple[House, str]:
    """A shop whose HTTP listener gives receipts, and that listener's address."""
    (port,) = free_ports(1)
    listener = {"listen": f"127.0.0.1:{port}", "speaks": "http", "allow_unauthenticated": True, "receipts": True}
    house = setup(more_terminals=(listener,), overrides={"audit": audit})
    return house, f"http://127.0.0.1:{port}"


async def sell(address: str, key: str) -> tuple[dict[str, Any], str]:
    """Sell; the answer's body, and where the receipt is."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(address + "/v1/transactions", json=SALE, headers={"Idempotency-Key": key}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        link = answer.links["urn:holdfast:receipt"]["url"]
        return await answer.json(), str(link)


async def receipt(url: str) -> bytes:
    """A receipt, once it is signed; before that the answer is 503 and tells when to ask again."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(_PATIENCE_S):
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    assert answer.content_type == "text/plain"
                    return await answer.read()
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["type"]) == (503, "urn:holdfast:problem:receipt-later"), problem
                wait_s = int(answer.headers["Retry-After"])
            await asyncio.sleep(wait_s)  # what a till does, as it was told to


def key_of(shop: Shop) -> SignerKey:
    loaded = load_config(shop.gateway.config)
    return SignerKey(origin_of(loaded.audit, loaded.gateway.name), load_keys(loaded.journal).log_key)


def test_a_till_gets_the_proof_of_what_it_was_told_online_offline_and_after_a_kill(tmp_path: Path) -> None:
    async def story() -> None:
        house, address = with_receipts()
        async with open_shop(tmp_path, house) as shop:
            told = [await sell(address, "online")]
            await shop.host_leaves()
            told.append(await sell(address, "offline"))
            key = key_of(shop).verifier
            for body, url in told:
                proof = TlogProof.parse(await receipt(url))
                assert proof.extra is not None
                head = proof.verify(leaf_hash(proof.extra), key.name, [key])
                entry = decode_entry(proof.extra)
                assert head.size > proof.index == entry.sequence - 1
                assert (entry.response, entry.amount_minor, entry.currency) == (body["response_code"], 1200, "156")
                assert body["terminal"] in entry.key.split("|")
                assert TEST_CARDS[0].encode() not in proof.extra
            before = await receipt(told[0][1])
            await shop.kill()
            await shop.gateway.start()
            after = await receipt(told[0][1])
            assert TlogProof.parse(after).extra == TlogProof.parse(before).extra
            file = tmp_path / "receipt"
            file.write_bytes(before)
            checked = await asyncio.to_thread(holdfast, "audit", "receipt", str(file), "-c", str(shop.gateway.config))
            assert checked.stdout.startswith("accepted: "), checked.stderr

    play(story())


def test_a_receipt_that_no_signed_head_covers_is_503_and_one_of_nobody_404(tmp_path: Path) -> None:
    async def story() -> None:
        house, address = with_receipts(checkpoint_every_ms=3_600_000)
        async with open_shop(tmp_path, house) as shop:
            body, url = await sell(address, "a-1")
            async with aiohttp.ClientSession() as session:
                async with session.get(url) as answer:
                    assert answer.status == 503
                    assert int(answer.headers["Retry-After"]) >= 1
                    assert (await answer.json(content_type=None))["type"] == "urn:holdfast:problem:receipt-later"
                async with session.get(address + f"/v1/transactions/{body['id'][:-4]}AAAA/receipt") as answer:
                    assert answer.status == 404
            signed = await asyncio.to_thread(holdfast, "audit", "checkpoint", "-c", str(shop.gateway.config), "--json")
            assert signed.returncode == 0, signed.stderr
            assert TlogProof.parse(await receipt(url)).checkpoint == json.loads(signed.stdout)["note"].encode()
            _, later = await sell(address, "a-2")
            async with aiohttp.ClientSession() as session, session.get(later) as answer:
                assert answer.status == 503, "the newest head is older than this sale"

    play(story())


def test_without_the_setting_there_is_no_receipt_and_no_link(tmp_path: Path) -> None:
    async def story() -> None:
        (port,) = free_ports(1)
        address = f"http://127.0.0.1:{port}"
        listener = {"listen": f"127.0.0.1:{port}", "speaks": "http", "allow_unauthenticated": True}
        async with (
            open_shop(tmp_path, setup(more_terminals=(listener,))),
            aiohttp.ClientSession() as session,
            session.post(address + "/v1/transactions", json=SALE, headers={"Idempotency-Key": "a"}) as answer,
        ):
            assert answer.status == 200
            assert "Link" not in answer.headers
            identifier = (await answer.json())["id"]
            async with session.get(f"{address}/v1/transactions/{identifier}/receipt") as missing:
                assert missing.status == 404

    play(story())
