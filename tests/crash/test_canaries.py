"""A day with canaries: card data planted on purpose is nowhere in clear, whatever happens to the gateway (INV-8).

Terminals over ISO 8583 and a till over HTTP sell with distinctive tracks, CVVs, PIN blocks and chip data, through an
outage with stored transactions, an abort, `kill -9`, restarts and a settlement. Then `holdfast audit shred-check` looks
through everything that the gateway has left and shown. That it would find something is tried in every place and
every encoding.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from bench.child import LOG_NAME
from bench.ports import free_ports
from bench.till import Prepared
from gateway.audit.canaries import canaries_of
from gateway.audit.shredding import Search
from gateway.core.transaction import Stored
from gateway.journal.keyring import load_keyring
from gateway.journal.port import Listing
from gateway.journal.reader import open_for_reading
from protocol.iso8583 import dialect as dialects
from protocol.iso8583.message import Fields, Message
from protocol.settlement import Totals, totals_text
from tests.audit.test_shredding import spelt
from tests.crash.amounts import LIMIT_S
from tests.gateway.shop import Counter, House, Shop, comes_true, open_shop, play, saying, setup
from tests.test_core_dumps import cores_allowed, cores_here

PANS: Final = ("4012888888881881", "5105105105105100", "6212345678900000094", "371449635398431")
DISCRETIONARY: Final = "30122019075318642"
TRACKS: Final = tuple(f"{pan}={DISCRETIONARY[: 36 - len(pan)]}" for pan in PANS)
PIN_BLOCK: Final = "c3a7915be24d8f06"
CVV: Final = "CVV2=739 QX41"
CRYPTOGRAM: Final = "7be1d2940fa3c658"
CHIP_PAN: Final = "6212345678900000003"
CHIP: Final = f"9f2608{CRYPTOGRAM}5a0a{CHIP_PAN}f5713{CHIP_PAN}d30122019075318641f"
CANARIES: Final = (*PANS, *TRACKS, DISCRETIONARY, PIN_BLOCK, CVV, CRYPTOGRAM, CHIP_PAN)
MERCHANT: Final = "HOLDFASTBENCH01"

pytestmark = pytest.mark.timeout(LIMIT_S)


def keeping_dialect(folder: Path) -> Path:
    """A dialect whose terminals send a CVV in field 58, and whose tracks may be stored until a sale is final."""
    text = (Path(dialects.__file__).parent / "dialects" / "unionpay.toml").read_text(encoding="utf-8")
    before = "sensitive_fields = [35, 36, 52, 53, 55]"
    assert text.count(before) == 1
    after = "sensitive_fields = [35, 36, 52, 53, 55, 58]\nretained_sensitive_fields = [35]"
    path = folder / "keeping.toml"
    path.write_text(text.replace(before, after), encoding="utf-8")
    return path


def house(folder: Path) -> tuple[House, str]:
    """A gateway that stores what it may, logs all that it can, and has a listener for a till."""
    (port,) = free_ports(1)
    allowed = {"allow_pin_dropped": True, "allow_track_dropped": True, "allow_chip_without_issuer": True}
    made = setup(
        terminal_dialect=str(keeping_dialect(folder)),
        overrides={"log": {"level": "debug"}, "standin": allowed},
        more_terminals=({"listen": f"127.0.0.1:{port}", "speaks": "http", "allow_unauthenticated": True},),
    )
    return made, f"http://127.0.0.1:{port}/v1/transactions"


def swiped(counter: Counter, number: int) -> Prepared:
    """A sale of a card that was swiped, with everything that must not stay."""
    pan = PANS[number % len(PANS)]
    more: Fields = {35: TRACKS[number % len(PANS)], 52: PIN_BLOCK, 55: CHIP, 58: CVV, 26: "12", 53: "2600000000000000"}
    return saying(counter.till.sale(1000 + number, pan), more, counter.till.dialect)


async def keyed(address: str, number: int, kept: Path) -> dict[str, Any]:
    """The same over HTTP; what the till is told is kept."""
    pan = PANS[number % len(PANS)]
    body = {
        "type": "sale", "merchant": MERCHANT, "terminal": "TILL0001", "amount_minor": 2000 + number,
        "currency": "156", "entry_mode": "051", "fields": {"58": CVV},
        "card": {"pan": pan, "expiry": "3012", "track2": TRACKS[number % len(PANS)], "emv": CHIP},
    }  # fmt: skip
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, json=body, headers={"Idempotency-Key": f"day-{number}"}) as answer,
    ):
        text = await answer.text()
        with kept.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        assert answer.status == 200, text
        return dict(json.loads(text))


def settlement(counter: Counter, count: int) -> Prepared:
    """0500: the totals of the batch."""
    till = counter.till
    fields: Fields = {
        11: till._stan(), 41: till.terminal, 42: till.merchant, 49: "156", 60: f"00{till.batch:06d}201",
        48: totals_text(Totals(sum(1000 + n for n in range(count)), count, 0, 0)),
    }  # fmt: skip
    return till._prepared("settlement", Message("0500", fields))


async def shown_to(shop: Shop, folder: Path, when: str) -> list[int]:
    """Keep everything that operators can be shown; the ids of all transactions."""
    made = folder / f"shown {when}"
    made.mkdir(parents=True)
    for place, target in enumerate(("/metrics", "/v1/status", "/v1/queue?limit=1000", "/v1/queue?state=approved")):
        code, body = await shop.get(target)
        assert code == 200, body
        (made / f"{place}.txt").write_text(body, encoding="utf-8")
    shown = []
    for number in range(1, (await shop.status())["journal"]["entries"] + 1):
        code, body = await shop.get(f"/v1/queue/{number}")
        if code == 200:
            shown.append(number)
            (made / f"transaction {number}.json").write_text(body, encoding="utf-8")
            explained = (await shop.get(f"/v1/queue/{number}/explain"))[1]
            (made / f"transaction {number} explained.json").write_text(explained, encoding="utf-8")
    assert len(shown) >= await shop.stored()
    return shown


def backed_up(shop: Shop, folder: Path) -> None:
    """Copy the journal's files while the gateway runs, plainly and into an archive."""
    plain = folder / "backup"
    plain.mkdir()
    for path in sorted(shop.folder.glob("journal.sqlite3*")):
        shutil.copy(path, plain)
    with tarfile.open(folder / "backup.tar.gz", "w:gz") as archive:
        archive.add(plain, "backup")


def sensitive_rows(database: Path) -> int:
    """How many sensitive parts a database holds."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM sensitive").fetchone()[0])
    finally:
        connection.close()


async def within_ciphertext(shop: Shop) -> list[str]:
    """What must be gone and can still be read with the keys; a search of files cannot see that."""
    reader = await open_for_reading(shop.folder / "journal.sqlite3", load_keyring(shop.folder / "keys"))
    left = []
    try:
        rows = await reader.listing(Listing(states=frozenset(), limit=1000))
        assert len(rows) >= 16
        for row in rows:
            stored = await reader.load(row.id)
            assert isinstance(stored, Stored)
            left += [f"{row.id}: field {number} was retained" for number in stored.sensitive]
            for message in (stored.request, stored.answer):
                text = "" if message is None else repr(sorted(message.fields.items())).lower()
                gone = (*TRACKS, DISCRETIONARY, PIN_BLOCK, CVV, CRYPTOGRAM)
                left += [f"{row.id}: {secret[:4]}... is in it" for secret in gone if secret.lower() in text]
    finally:
        await reader.close()
    return left


async def found(shop: Shop, folder: Path) -> dict[str, Any]:
    """What `holdfast audit shred-check` says of everything that the gateway has left and shown."""
    listed = shop.folder / "canaries.txt"
    ran = await shop.holdfast(
        "audit", "shred-check", "--canary-file", str(listed), "--also", str(folder),
        "--also", str(shop.folder / LOG_NAME), "--json",
    )  # fmt: skip
    assert ran.code in (0, 1), ran.err
    for canary in CANARIES:
        assert canary not in ran.out + ran.err, "the check itself shows a canary"
    told: dict[str, Any] = ran.json
    assert told["clean"] is (ran.code == 0)
    assert len(told["canaries"]) == len(CANARIES)
    return told


async def day(shop: Shop, address: str, folder: Path) -> None:
    """The day. Everything that is to be searched at its end is in `folder`, beside the journal and the log."""
    tills = folder / "told to tills.txt"
    counter = shop.terminal()
    for number in range(4):
        assert (await counter.ask(swiped(counter, number))).response == "00"
        await keyed(address, number, tills)
    await shop.host_leaves()
    stored = [swiped(counter, number) for number in range(4, 8)]
    for sale in stored:
        assert (await counter.ask(sale)).response == "00"
    for number in range(4, 8):
        assert (await keyed(address, number, tills))["offline"]
    await counter.ask(counter.till.reversal(stored[-1]))
    await shown_to(shop, folder, "in the outage")
    backed_up(shop, folder)
    assert sensitive_rows(folder / "backup" / "journal.sqlite3") >= 4, "no track was stored: the day shows nothing"
    assert (await found(shop, folder))["clean"]
    os.kill(shop.gateway.pid, signal.SIGABRT)
    await comes_true("the gateway is gone", lambda: not shop.gateway.running)
    assert (await found(shop, folder))["clean"]
    await shop.start(online=False)
    await shop.kill()
    await shop.start(online=False)
    await shop.host_returns()
    await shop.drained()
    counter.hang_up()
    answer = await counter.ask(settlement(counter, 7))
    assert answer.mti == "0510"
    shown = await shown_to(shop, folder, "in the evening")
    assert (await found(shop, folder))["clean"]
    assert await shop.gateway.stop() == 0
    assert await within_ciphertext(shop) == []
    ran = await shop.holdfast("audit", "export", str(folder / "kit"))
    assert ran.code == 0, ran.err
    for place, command in enumerate((["status"], ["queue", "show", str(shown[0])], ["audit", "log", "--json"])):
        ran = await shop.holdfast(*command)
        assert ran.code == 0, ran.err
        (folder / f"command {place}.txt").write_text(ran.out + ran.err, encoding="utf-8")


def test_after_a_day_with_canaries_none_is_found_and_each_would_be_in_every_place_and_encoding(tmp_path: Path) -> None:
    async def story() -> None:
        made, address = house(tmp_path)
        async with open_shop(tmp_path, made) as shop:
            (tmp_path / "canaries.txt").write_text("\n".join(CANARIES), encoding="utf-8")
            await day(shop, address, left)
            told = await found(shop, left)
            assert told["clean"], told["found"][:5]
            assert told["files"] > 40
            assert told["bytes"] > 500_000
            assert told["archive_members"] >= 3
            # That nothing is found means something only if the acquirer was sent what must be gone.
            sent = [message.fields for message in shop.host.messages]
            assert {fields.get(35) for fields in sent} >= set(TRACKS)
            assert CVV in {fields.get(58, fields.get(48)) for fields in sent} or 58 not in shop.host.dialect.fields
            assert PIN_BLOCK in {fields.get(52, "").lower() for fields in sent}

    left = tmp_path / "left"
    left.mkdir()
    cores = cores_here()
    with cores_allowed():
        play(story())
    assert cores_here() == cores, "an image of the gateway's memory lies on the disk"
    assert sensitive_rows(tmp_path / "journal.sqlite3") == 0, "a track outlives its sale's outcome"
    keyring = load_keyring(tmp_path / "keys")
    content = b"".join(path.read_bytes() for path in tmp_path.glob("journal.sqlite3*"))
    assert not any(key in content for key in keyring.keys.values()), "a key lies in the database"
    missed = list(not_found(tmp_path, left))
    assert not missed, missed


def not_found(folder: Path, left: Path) -> Iterator[str]:
    """Plant each encoding of a canary into each kind of place, and name those where the search finds nothing."""
    places = [folder / "journal.sqlite3", folder / LOG_NAME, left / "backup" / "journal.sqlite3-wal"]
    places += [left / "told to tills.txt", left / "shown in the outage" / "0.txt", left / "command 2.txt"]
    places.append(next(path for path in (left / "kit").rglob("*") if path.is_file() and "entries" in str(path)))
    planted = folder / "planted"
    planted.mkdir()
    search = Search(canaries_of(CANARIES))
    for place in places:
        content = place.read_bytes()[-100_000:]
        assert content, f"{place} is empty"
        middle = len(content) // 2
        wanted: dict[str, tuple[int, str]] = {}
        for number, canary in ((1, PANS[0]), (len(PANS) + 1, TRACKS[0]), (len(CANARIES) - 3, PIN_BLOCK)):
            for name, raw in spelt(canary).items():
                copy = planted / f"{len(wanted)}"
                copy.write_bytes(content[:middle] + raw + content[middle + len(raw) :])
                wanted[str(copy)] = (number, name)
        found = {(each.file, each.canary) for each in search.run([(Path(path), len(content)) for path in wanted]).found}
        search.result.found.clear()
        for path, (number, name) in wanted.items():
            if (path, number) not in found:
                yield f"canary {number} as {name} in {place.name}"
    with tarfile.open(folder / "planted.tar.gz", "w:gz") as archive:
        archive.add(planted / "0", "backup/journal.sqlite3")
    if not search.run([(folder / "planted.tar.gz", 1)]).found:
        yield "an archive"
