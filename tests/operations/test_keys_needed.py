"""An epoch's key goes when nothing that it sealed is owed, and stays while something is, damaged or not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gateway.core.effects import Load, Write
from gateway.core.events import Found, Lookup
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.keyring import KeyPurpose
from gateway.journal.port import JournalUnreadable, Listing
from tests.journal.rig import evolved
from tests.journal.test_damage import overwrite
from tests.operations.test_keys import HOUR_MS, Desk, play

ROW: Final = "UPDATE tx SET row = zeroblob(200) WHERE id = ?"


async def next_day(desk: Desk) -> int:
    """A day is over: the key of the new epoch of sensitive data."""
    desk.now_ms += 24 * HOUR_MS
    await desk.keys.turn()
    return desk.keys.keyring.current[KeyPurpose.SENSITIVE]


async def put_aside(desk: Desk, number: int) -> None:
    """The row of a transaction is overwritten, met damaged, and put in quarantine."""
    overwrite(desk.path, ROW, number)
    desk.token += 1
    desk.journal.load(Load(desk.token, number))
    await desk.journal.note(EntryKind.MAINTENANCE, "ann: the read before this is done")
    while (found := next((e for e in desk.events if isinstance(e, Found) and e.token == desk.token), None)) is None:
        await desk.journal.health()
    assert found.results == (Lookup.DAMAGED,)
    await desk.journal.note(EntryKind.MAINTENANCE, "ann: what was met damaged is in quarantine")
    assert (await desk.journal.health()).quarantined == 1


def test_an_open_transaction_keeps_the_key_of_its_own_epoch_and_no_later_one(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        owed = await desk.sell()
        second = await next_day(desk)
        for _ in range(3):
            await desk.settle(await desk.sell())
        third = await next_day(desk)
        await desk.sell()
        fourth = await next_day(desk)
        assert [desk.state(key) for key in (2, second, third, fourth)] == [
            "retired", "destroyed", "retired", "current",
        ]  # fmt: skip
        await desk.settle(owed)
        await desk.keys.turn()
        assert [desk.state(key) for key in (2, second, third)] == ["destroyed", "destroyed", "retired"]
        assert not desk.named("keys.failed")

    play(tmp_path, story)


def test_two_people_may_end_an_epoch_that_only_lies_behind_one_that_is_owed(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        owed = await desk.sell()
        await desk.keys.rotate(KeyPurpose.SENSITIVE, "ann", "why")
        await desk.settle(await desk.sell())
        await desk.keys.rotate(KeyPurpose.SENSITIVE, "ann", "why")
        with pytest.raises(KeyChangeRefused, match=f"sensitive data of transaction {owed} is still owed"):
            await desk.keys.ask(*desk.request(2))
        await desk.destroyed_by_two(6)
        assert [desk.state(key) for key in (2, 6)] == ["retired", "destroyed"]

    play(tmp_path, story)


def test_what_is_sealed_with_a_key_before_its_rotation_is_told_keeps_that_key(tmp_path: Path) -> None:
    """Keys are taken into use before an entry tells of them: the told sequence is not where an epoch begins."""

    async def story(desk: Desk) -> None:
        real = desk.journal.note
        sold: list[int] = []

        async def late(kind: EntryKind, detail: str) -> int:
            if kind is EntryKind.KEY and not sold:
                sold.append(await desk.sell())  # the first of the new epoch
            return await real(kind, detail)

        desk.journal.note = late  # type: ignore[method-assign]
        second = await next_day(desk)
        third = await next_day(desk)
        assert sold[0] < desk.keys.keyring.records[2].last_sequence
        assert [desk.state(key) for key in (2, second, third)] == ["destroyed", "retired", "current"]

    play(tmp_path, story)


def test_one_in_quarantine_keeps_its_own_epoch_and_is_named(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        damaged = await desk.sell()
        second = await next_day(desk)
        await desk.settle(await desk.sell())
        await put_aside(desk, damaged)
        third = await next_day(desk)
        assert [desk.state(key) for key in (2, second, third)] == ["retired", "destroyed", "current"]
        assert desk.keys.status().sensitive_quarantined == damaged
        with pytest.raises(KeyChangeRefused, match=rf"sensitive data of transaction {damaged}, which is in quarantine"):
            await desk.keys.ask(*desk.request(2))
        desk.now_ms += 48 * HOUR_MS
        await desk.keys.turn()
        assert f"transaction {damaged} is in quarantine" in desk.named("keys.sensitive-epoch-old")[0]["why"]

    play(tmp_path, story)


def test_an_entry_that_does_not_fit_its_leaf_ends_no_epoch_and_is_named(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        first = await desk.sell()
        await next_day(desk)
        overwrite(desk.path, "UPDATE entry SET body = zeroblob(length(body)) WHERE sequence = ?", first)
        with pytest.raises(JournalUnreadable, match=f"entry {first} "):
            await desk.keys.ask(*desk.request(2))
        await desk.keys.turn()
        assert desk.state(2) == "retired"
        assert f"entry {first} " in desk.named("keys.failed")[0]["reason"]

    play(tmp_path, story)


@pytest.mark.parametrize("listed", ["in memory", "in the tables"])
def test_an_account_key_that_one_in_quarantine_may_need_is_not_destroyed(tmp_path: Path, listed: str) -> None:
    async def story(desk: Desk) -> None:
        await desk.settle(await desk.sell())
        damaged = await desk.sell(sensitive=False)
        if listed == "in the tables":
            await desk.close()
            await desk.open()
        await put_aside(desk, damaged)
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        assert (await desk.journal.key_needs()).oldest_unsettled == 0
        with pytest.raises(KeyChangeRefused, match=rf"transaction {damaged} is in quarantine"):
            await desk.keys.ask(*desk.request(1))
        assert desk.state(1) == "retired"

    play(tmp_path, story)


def test_one_in_quarantine_that_is_known_to_be_final_keeps_no_account_key(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        rows = await desk.journal.listing(Listing(states=frozenset(State)))
        row = next(each for each in rows if each.id == number)
        await put_aside(desk, number)
        desk.token += 1
        desk.journal.write(Write(desk.token, (evolved(row, State.APPROVED),)))  # its answer comes
        await desk._committed()
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        await desk.destroyed_by_two(1)
        assert desk.state(1) == "destroyed"

    play(tmp_path, story)
