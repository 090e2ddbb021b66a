"""What waits for the writer: nobody is forgotten, nothing is told twice, and a full disk is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from gateway.core.effects import Write
from gateway.core.events import Committed, WriteRefused
from gateway.journal.port import JournalFull, JournalInDoubt
from gateway.journal.reading import Damage
from gateway.journal.sqlite import SqliteJournal
from gateway.journal.waiting import Fullness, Waiting, WaitingDamages
from tests.journal.rig import Rig, sale
from tests.journal.test_log_tree import full_disk

DEADLINE_S = 10.0


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def test_each_that_waits_is_told_its_own_number_and_the_younger_wait_on(runner: asyncio.Runner) -> None:
    async def told() -> None:
        waiting = Waiting[str]()
        first, second, third, fourth = (waiting.add(name) for name in ("a", "b", "c", "d"))
        assert waiting.oldest(2) == ["a", "b"]
        second.cancel()
        waiting.written([7, 8])
        assert first.result() == 7
        assert waiting.oldest(9) == ["c", "d"]
        waiting.refuse(1, JournalFull("full"))
        assert isinstance(third.exception(), JournalFull)
        assert not fourth.done()
        waiting.refuse_all(JournalInDoubt("stopped"))
        assert isinstance(fourth.exception(), JournalInDoubt)
        assert len(waiting) == 0

    runner.run(told())


def test_a_damage_waits_once_and_is_kept_when_it_could_not_be_written() -> None:
    damages = WaitingDamages()
    one, two, three = Damage(1, "row"), Damage(2, "row"), Damage(3, "row")
    assert damages.add([one, one, two])
    assert not damages.add([two]), "it waits already"
    taken = damages.take()
    assert taken == [one, two]
    assert not damages.add([one]), "it was told already"
    assert damages.add([three])
    damages.put_back(taken)
    assert damages.take() == [one, two, three]
    assert len(damages) == 0


def test_room_is_probed_for_only_while_there_is_none_and_once_at_a_time() -> None:
    fullness = Fullness()
    assert not fullness.probe_soon()
    fullness.met()
    assert fullness.probe_soon()
    assert not fullness.probe_soon(), "it was tried a moment ago"
    assert fullness.to_probe
    assert fullness.take_probe()
    assert not fullness.take_probe()
    fullness.over()
    assert fullness.reason == ""


def test_a_journal_says_that_the_disk_is_full_until_it_has_found_room_by_itself(rig: Rig) -> None:
    full_disk(rig, full=True)
    events = rig.perform(*(Write(rig.next_token(), (sale(f"k|{n:06}"),)) for n in range(500)))
    assert all(isinstance(each, WriteRefused) for each in events)
    assert isinstance(rig.journal, SqliteJournal)
    assert rig.journal.refusal_known() == "the disk is full"  # and nothing is tried, while this changes the limit
    full_disk(rig, full=False)
    began_s = time.monotonic()
    while rig.journal.refusal():
        assert time.monotonic() - began_s < DEADLINE_S, "it goes on refusing although there is room"
        rig.run(asyncio.sleep(0))  # what the writer has found is taken in
    assert isinstance(rig.write(sale("k|after")), Committed)
