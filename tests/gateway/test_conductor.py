"""The conductor: events reach the core one by one, in order, and those of one turn of the loop together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from gateway.conductor import Conductor
from gateway.core.effects import Effect
from gateway.core.engine import Engine
from gateway.core.events import Connected, Event, Stopping, Ticked
from gateway.core.standin import Exposure, Policy
from gateway.core.work import EngineSettings
from gateway.journal.keyring import create_keyring
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from protocol.iso8583.rules import HostRules

pytestmark = pytest.mark.interpreted  # it watches the engine by inheriting it


class Steps:
    """A clock that goes on by a millisecond whenever it is looked at."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def mono_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def utc_ms(self) -> int:
        return self.now_ms


class Watched(Engine):
    """An engine that notes what it is told, and when."""

    def __init__(self) -> None:
        exposure = Exposure()
        super().__init__(
            EngineSettings(), HostRules(), Policy(overall=exposure, terminal=exposure, card=exposure),
            jitter=lambda: 0.5, unencodable=lambda _: "", mono_ms=0, utc_ms=0,
        )  # fmt: skip
        self.told: list[tuple[Event, int]] = []
        self.then: Callable[[], object] = lambda: None
        self.within = 0

    def step(self, event: Event, mono_ms: int, utc_ms: int) -> list[Effect]:
        assert not self.within, "the core is told two things at once"
        self.within += 1
        self.told.append((event, mono_ms))
        self.then()
        effects = super().step(event, mono_ms, utc_ms)
        self.within -= 1
        return effects

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.told]


def made(folder: Path) -> tuple[Conductor, Watched]:
    """A conductor whose journal is closed: nothing here is written."""
    engine = Watched()
    journal = SqliteJournal(
        SqliteJournalSettings(path=folder / "journal.db"), create_keyring(folder / "keys"), lambda _: None,
        lambda _: None, lambda: 0,
    )  # fmt: skip
    conductor = Conductor(
        engine, Steps(), journal, send=lambda _: None, reply=lambda *_: None, reply_operator=lambda _: None,
        alarm=lambda _: None,
    )  # fmt: skip
    return conductor, engine


def test_events_that_may_wait_are_told_in_the_next_turn_and_in_the_order_of_all(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, engine = made(tmp_path)
        conductor.submit_soon(Connected(True))
        conductor.submit_soon(Connected(False))
        assert engine.events == []
        await asyncio.sleep(0)
        assert engine.events == [Connected(True), Connected(False)]
        conductor.submit_soon(Connected(True))
        conductor.submit(Stopping())
        assert engine.events[2:] == [Connected(True), Stopping()]
        await asyncio.sleep(0)
        assert len(engine.events) == 4
        conductor.close()

    asyncio.run(play())


def test_the_journal_is_told_to_begin_once_a_turn_after_all_that_was_handed_over_in_it(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, engine = made(tmp_path)
        begun: list[int] = []
        conductor._journal.begin = lambda: begun.append(len(engine.events))  # type: ignore[method-assign]
        conductor.submit_soon(Connected(True))
        conductor.submit_soon(Connected(False))
        assert begun == []
        await asyncio.sleep(0)
        assert begun == [2]
        conductor.close()

    asyncio.run(play())


def test_there_is_somebody_for_each_effect_of_the_core(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, _ = made(tmp_path)
        assert set(conductor._do) == set(get_args(Effect))
        conductor.close()

    asyncio.run(play())


def test_what_comes_while_the_core_is_at_work_waits_until_it_is_done(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, engine = made(tmp_path)

        def once() -> None:
            engine.then = lambda: None
            conductor.submit_soon(Connected(True))
            conductor.submit(Stopping())

        engine.then = once
        conductor.submit(Ticked())
        assert engine.events == [Ticked(), Connected(True), Stopping()]
        conductor.close()

    asyncio.run(play())


def test_many_events_that_wait_together_are_not_all_told_the_time_of_the_first(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, engine = made(tmp_path)
        conductor.submit_all([Ticked()] * 100)
        times = [mono_ms for _, mono_ms in engine.told]
        assert len(times) == 100
        assert times == sorted(times)
        assert len(set(times)) >= 3
        conductor.close()

    asyncio.run(play())


def test_after_the_close_nothing_is_told_any_more_not_even_what_had_come(tmp_path: Path) -> None:
    async def play() -> None:
        conductor, engine = made(tmp_path)
        engine.then = conductor.close
        conductor.submit_all([Ticked(), Ticked(), Ticked()])
        assert engine.events == [Ticked()]
        conductor.submit_soon(Ticked())
        await asyncio.sleep(0)
        assert engine.events == [Ticked()]

    asyncio.run(play())
