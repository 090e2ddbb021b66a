"""kill -9 in the middle of rotations, under load: nothing is lost, and each record opens with the right keys only.

Terminals sell all the while, over real sockets, and somebody rotates keys without a pause, over the operations API, so
that every kill falls into a rotation. Old epochs of sensitive data are destroyed by the gateway itself meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from gateway.config import Config, load_config
from gateway.core.lifecycle import EntryKind
from gateway.journal.keyring import KeyPurpose, Keyring, load_keyring
from gateway.journal.log_reader import LogEntry, LogReader
from gateway.journal.port import JournalKeysWrong
from gateway.journal.sealing import ACCOUNT_PART, SealBroken, Sealer
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.operations.client import NotRunningError, OperationsClient, RefusedError
from protocol.journal_entry import Entry, decode_entry
from tests.crash.amounts import LIMIT_S, TIMES
from tests.crash.selling import fork, forker, is_ready, sell_while
from tests.gateway.shop import Shop

KILLS: Final = 50
ROTATING_S: Final = 0.15
"""Longest time from the first rotation of a life to its kill."""
PURPOSES: Final = (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE, KeyPurpose.LOG)
WEIGHTS: Final = (6, 3, 1)

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


class Rotating:
    """Somebody who rotates keys as fast as the gateway answers."""

    def __init__(self, config: Path, dice: random.Random) -> None:
        self._client = OperationsClient(load_config(config).operations)
        self._dice = dice
        self.counts: Counter[str] = Counter()
        self.told: set[int] = set()
        """Keys that the gateway has said to be current."""

    async def until_it_is_gone(self) -> None:
        """Rotate; the kill ends the last one."""
        while True:
            purpose = self._dice.choices(PURPOSES, WEIGHTS)[0]
            body = {"purpose": purpose.value, "who": "test", "why": "as fast as it goes"}
            try:
                answer = json.loads(await asyncio.to_thread(self._client.post, "/v1/keys/rotate", body))
            except NotRunningError:
                self.counts["between"] += 1
                return
            except RefusedError as refused:
                if refused.status == 0:
                    self.counts["interrupted"] += 1
                    return
                if purpose is not KeyPurpose.LOG:
                    raise
                self.counts["refused"] += 1  # as many sign at once as may
                continue
            self.counts["done"] += 1
            self.told.add(int(answer["text"].split()[1]))


async def kill_in_rotations(shop: Shop, rotating: Rotating, dice: random.Random) -> None:
    """Start, rotate, kill; again and again, with the journal in a process of its own in every other life."""
    text = shop.gateway.config.read_text()
    apart = {own: text.replace("[journal]\n", f"[journal]\nown_process = {own}\n") for own in ("true", "false")}
    assert text not in apart.values()
    with forker(shop) as process:
        for life in range(KILLS):
            shop.gateway.config.write_text(apart["true" if life % 2 else "false"])
            gateway = await fork(process)
            await is_ready(shop, gateway)
            rotation = asyncio.create_task(rotating.until_it_is_gone())
            await asyncio.sleep(dice.uniform(0, ROTATING_S))
            assert gateway.running(), f"the gateway ended by itself\n{shop.gateway.log_end()}"
            gateway.kill()
            await rotation


def entries(path: Path) -> list[tuple[LogEntry, Entry]]:
    with LogReader(path) as reader:
        return [(each, decode_entry(each.body)) for each in reader.entries(0, reader.size)]


def opens(sealer: Sealer, stored: LogEntry, entry: Entry, *, as_key: int = 0) -> bool:
    """Whether the account part opens; `as_key` passes it off as sealed with that key."""
    said = next(part for part in entry.parts if part.part == ACCOUNT_PART)
    assert stored.account is not None
    try:
        sealer.open(stored.sequence, said._replace(key_id=as_key or said.key_id), stored.account)
    except SealBroken:
        return False
    return True


def key_events(found: list[tuple[LogEntry, Entry]]) -> dict[int, tuple[int, dict[str, Any]]]:
    """Each event by its number, with the place of the first entry that tells it; told twice, it is the same."""
    events: dict[int, tuple[int, dict[str, Any]]] = {}
    for stored, entry in found:
        if entry.kind == EntryKind.KEY:
            event = json.loads(entry.detail)
            assert events.setdefault(event["number"], (stored.sequence, event))[1] == event
    return events


def check_events(found: list[tuple[LogEntry, Entry]], ring: Keyring) -> None:
    """Every event has its entry, every key its event, and no key is used after the entry that ends it."""
    events = key_events(found)
    assert sorted(events) == list(range(1, len(events) + 1))
    assert not ring.untold
    told = [
        key["key"] for _, event in events.values() if event["what"] in {"created", "rotated"} for key in event["keys"]
    ]
    assert sorted(told) == sorted(ring.records)
    destroyed = {event["keys"][0]["key"] for _, event in events.values() if event["what"] == "destroyed"}
    assert destroyed == {number for number, record in ring.records.items() if record.wrapped is None}
    ended = {event["was"]: place for place, event in events.values() if event["what"] == "rotated"}
    for stored, entry in found:
        for part in entry.parts:
            assert stored.sequence < ended.get(part.key_id, stored.sequence + 1), f"key {part.key_id} after its end"


async def refused_by(config: Config, ring: Keyring) -> str:
    """What a gateway with these keys is told by the journal."""
    settings = SqliteJournalSettings(path=config.journal.path, min_free_bytes=0)
    journal = SqliteJournal(settings, ring, lambda _: None, lambda _: None, lambda: 0)
    with pytest.raises(JournalKeysWrong) as refused:
        await journal.open()
    return str(refused.value)


@pytest.mark.parametrize("run", range(TIMES))
def test_kills_in_the_middle_of_rotations_lose_nothing_and_each_record_opens_with_its_key_only(
    tmp_path: Path, run: int
) -> None:
    dice = random.Random(f"rotations/{run}")
    seen: list[Rotating] = []

    async def disturb(shop: Shop) -> None:
        config = load_config(shop.gateway.config)
        shutil.copytree(config.journal.keys, tmp_path / "old-keys")
        seen.append(Rotating(shop.gateway.config, dice))
        await kill_in_rotations(shop, seen[0], dice)

    verdict = asyncio.run(sell_while(tmp_path, run, disturb))
    rotating = seen[0]
    print(f"seed rotations/{run}: {KILLS} kills, {dict(rotating.counts)}: {verdict.figures()}")
    assert verdict.clean, [str(each) for each in verdict.findings[:5]]
    assert verdict.acknowledged > KILLS
    assert rotating.counts["interrupted"] > KILLS // 2

    config = load_config(tmp_path / "holdfast.toml")
    ring, old = load_keyring(config.journal.keys), load_keyring(tmp_path / "old-keys")
    assert rotating.told <= set(ring.records), "a rotation that was acknowledged is lost"
    found = entries(config.journal.path)
    check_events(found, ring)
    print(f"{len(ring.records) - 5 - rotating.counts['done']} rotations were begun, not acknowledged, and ended later")
    sealer, old_sealer = Sealer(ring), Sealer(old)
    sealed = [(stored, entry) for stored, entry in found if stored.account is not None]
    used = Counter(part.key_id for _, entry in sealed for part in entry.parts if part.part == ACCOUNT_PART)
    assert len(used) > KILLS // 5, "records of many epochs"
    for stored, entry in sealed:
        said = next(part for part in entry.parts if part.part == ACCOUNT_PART)
        assert opens(sealer, stored, entry), f"entry {stored.sequence} does not open"
        if said.key_id in old.records:
            assert opens(old_sealer, stored, entry)
        else:
            assert not opens(old_sealer, stored, entry)
            assert not any(opens(old_sealer, stored, entry, as_key=number) for number in (1, 2))
    assert "is missing in keyring" in asyncio.run(refused_by(config, old))
    assert msgspec.json.decode((config.journal.keys / "keyring.json").read_bytes())["format"] == 2
    leftovers = [path.name for path in config.journal.keys.iterdir() if path.name.startswith(".")]
    assert not leftovers
