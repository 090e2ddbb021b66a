"""500 times it cannot be known whether the acquirer booked; each transaction ends, once, as its ledger says (INV-3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from bench.proxy import Weather
from bench.terminal import Terminal
from bench.till import TEST_CARDS
from protocol.iso8583.dialect import load_dialect
from tests.crash.amounts import TIMES
from tests.gateway.shop import comes_true, play
from tests.networks.ambiguity import (
    DROPPED,
    KINDS,
    LATE,
    SWALLOWED,
    TORN,
    Ambiguous,
    MoodyBooks,
    Part,
    certified_for_repeats,
)
from tests.networks.ends import Seen, judge
from tests.networks.scene import PATIENT, Scene, hash_of, open_scene

SEEDS: Final = range(1, 1 + TIMES)
TIMES_IN_ALL: Final = 500
TIMES_OF_A_KIND: Final = 100
WAVE: Final = 56
"""Terminals that sell beside each other while nothing is reset."""
APART_S: Final = 0.05
BESIDE_S: Final = 0.01
"""Late answers: time from one sale to the next, and between those that are answered at once."""
WAYS: Final = 3
"""Addresses of the acquirer: a reset of one leaves the link up, and what comes next is asked, not stood in for."""
TORN_WAVE: Final = 2
"""Terminals that sell beside each other while answers are torn: fewer than ways."""
AGAIN_SELLING: Final = 3
"""Terminals of each wave that sell once more: behind a reversal that is owed, so that they are stood in for."""
STORED_OF_EACH: Final = 8
ENDLESS: Final = 5
CANCELLED_BY_HAND: Final = 4
ATTEMPTS_MAX: Final = 4
HOST_TIMEOUT_MS: Final = 200
REPLY_TIMEOUT_MS: Final = 400
FLIGHT_MS: Final = 700
LATE_MS: Final = (REPLY_TIMEOUT_MS + 40, FLIGHT_MS - 100)
"""Too late for the gateway, and soon enough that its reversal is still waiting (D13)."""
DRAIN_WITHIN_S: Final = 30.0
DECLINED_EVERY: Final = 4
"""One sale in so many has an amount that the acquirer declines."""

ENDS: Final = {"approved": 20, "declined": 20, "reversed": 100, "cancelled": 10, "parked": 40}
"""Ends of a transaction, and how often each comes about at least in a run."""
APPROVED_LATE: Final = 10
"""Sales whose answer came too late, and that are approved by their certified repeat's, or as an advice."""
LATE_ANSWERS: Final = 10
PARKED_FOR: Final = {
    f"replay.attempts-{ATTEMPTS_MAX}": 2 * ENDLESS,
    "answer.code-30": 10,
    "answer.code-ZZ": 10,
    "answer.code-94": 10,
    "answer.code-05": 5,
}
"""Reasons for which a person is asked, and how often at least."""


class Day:
    """One scene and those who sell in it; `certified` tells whether the host takes 0201."""

    def __init__(self, scene: Scene, ambiguous: Ambiguous, books: MoodyBooks, seed: int, *, certified: bool) -> None:
        self.scene, self.ambiguous, self.books, self.seed, self.certified = scene, ambiguous, books, seed, certified
        self.by_hand: set[str] = set()
        """Keys of what an operator cancelled."""
        self._numbers = count(1)
        self._habits = replace(PATIENT, pause_s=0, answer_timeout_s=3.0)

    def _terminal(self, part: Part = Part.PLAIN) -> Terminal:
        number = next(self._numbers)
        terminal = self.scene.terminal(number, self._habits)
        if part is not Part.PLAIN:
            self.books.parts[f"T{number:07d}"] = part
        return terminal

    def _amount(self, place: int) -> int:
        cents = 51 if place % DECLINED_EVERY == 0 else place % 50
        return hash_of(self.seed, self.certified, place) % 400 * 100 + 100 + cents

    async def _sell(
        self, terminals: Iterable[Terminal], sales: int = 1, *, declined: bool = True, apart_s: float = 0
    ) -> None:
        async def one(place: int, terminal: Terminal) -> None:
            await asyncio.sleep(place * apart_s)
            for number in range(sales):
                amount = self._amount(place) if declined else 100 + place
                await terminal.sell(amount, TEST_CARDS[(place + number) % len(TEST_CARDS)])
            terminal.hang_up()

        await asyncio.gather(*(one(place, terminal) for place, terminal in enumerate(terminals)))

    async def online(self) -> None:
        """Each kind of fault while the acquirer is there; then those parts that need it to be."""
        for self.ambiguous.kind in (DROPPED, SWALLOWED):
            await asyncio.gather(
                self._sell([self._terminal() for _ in range(WAVE - AGAIN_SELLING)]),
                self._sell([self._terminal() for _ in range(AGAIN_SELLING)], 2, declined=False),
            )
        await self._late()
        self.ambiguous.kind = TORN
        for _ in range(WAVE):  # enough, whether or not two answers are torn by one reset
            if self.ambiguous.counts[TORN] >= WAVE:
                break
            await self._all_ways_are_up()
            await self._sell([self._terminal() for _ in range(TORN_WAVE)])
        self.ambiguous.kind = DROPPED
        await self._all_ways_are_up()
        await self._sell([self._terminal(Part.KNOWN) for _ in range(STORED_OF_EACH)], declined=False)
        if not self.certified:
            await self._sell([self._terminal(Part.KEPT) for _ in range(STORED_OF_EACH)], declined=False)

    async def _late(self) -> None:
        """One after the other, beside a sale that is answered now and then, as on a line with ordinary traffic.

        Where nothing else comes, the gateway takes the connection for dead before late answers are there.
        """
        await self._all_ways_are_up()
        self.ambiguous.kind, over, beside = LATE, False, self._terminal(Part.CLEAR)

        async def go_on_selling() -> None:
            while not over:
                await beside.sell(1_000, TEST_CARDS[0])
                await asyncio.sleep(BESIDE_S)
            beside.hang_up()

        ordinary = asyncio.create_task(go_on_selling())
        await self._sell([self._terminal() for _ in range(WAVE)], apart_s=APART_S)
        over = True
        await ordinary

    async def _all_ways_are_up(self) -> None:
        async def so() -> bool:
            acquirer = (await self.scene.shop.status())["acquirer"]
            return acquirer["link"] == "up" and all(acquirer["endpoints"].values())

        await comes_true("the acquirer is reached by all ways", so)

    async def outage(self) -> None:
        """Sales are stored; some are cancelled before they were ever tried. Then the acquirer is there again."""
        for far in self.scene.fars:
            await far.change(Weather(refuse=1))
            await far.cut()
        await self.scene.shop.link_is("down")
        for part in (Part.PLAIN, Part.POISON, Part.UNHEARD_OF):
            await self._sell([self._terminal(part) for _ in range(STORED_OF_EACH)], declined=False)
        await self._sell([self._terminal(Part.ENDLESS) for _ in range(ENDLESS)], declined=False)
        await asyncio.gather(*(self._sell_and_take_back(self._terminal()) for _ in range(STORED_OF_EACH)))
        await asyncio.gather(*(self._sell_and_cancel(self._terminal()) for _ in range(CANCELLED_BY_HAND)))
        self.ambiguous.kind = LATE
        for far in self.scene.fars:
            await far.change(Weather(late_ms=LATE_MS))
        await self.scene.shop.link_is("up")

    async def _sell_and_take_back(self, terminal: Terminal) -> None:
        """The terminal reverses what it has been told is approved (D15)."""
        sold = await terminal.sell(1_000, TEST_CARDS[0])
        assert sold.told is not None
        assert sold.told.approved
        assert (await terminal.reverse(sold.sale)).approved
        terminal.hang_up()

    async def _sell_and_cancel(self, terminal: Terminal) -> None:
        """An operator cancels what is stored and was never tried (D18)."""
        sold = await terminal.sell(1_000, TEST_CARDS[0])
        [row] = [row for row in await self.scene.rows() if row.key == sold.sale.key]
        ran = await self.scene.shop.holdfast("queue", "cancel", str(row.id), "--why", "paid in cash")
        assert ran.code == 0, ran.err
        self.by_hand.add(sold.sale.key)
        terminal.hang_up()


async def day_of(folder: Path, seed: int, *, certified: bool) -> Seen:
    """A day in one scene, judged."""
    dialect = certified_for_repeats(folder, "iso87-binary") if certified else "iso87-binary"
    books = MoodyBooks()
    ambiguous = Ambiguous(load_dialect(dialect), seed, books.parts)
    async with open_scene(
        folder,
        seed,
        far=Weather(late_ms=LATE_MS),
        choose=ambiguous,
        ways=WAYS,
        acquirer={"down_after_timeouts": 1000, "reconnect_max_ms": 60},
        replay={"attempts_max": ATTEMPTS_MAX},
        books=books,
        acquirer_dialect=dialect,
        host_timeout_ms=HOST_TIMEOUT_MS,
        reply_timeout_ms=REPLY_TIMEOUT_MS,
        longest_flight_ms=FLIGHT_MS,
    ) as scene:
        day = Day(scene, ambiguous, books, seed, certified=certified)
        await day.online()
        await day.outage()
        verdict = await scene.settled(heal_first=False, within_s=DRAIN_WITHIN_S)
        rows = [row for row in await scene.rows() if not row.is_reversal]
        name = f"seed {seed}, certified={certified}"
        queue = await scene.shop.gateway.queue()
        seen = judge(name, scene, rows, verdict, queue, by_hand=day.by_hand, hit=ambiguous.hit)
        seen.faults = ambiguous.counts
        seen.late_answers = (await scene.shop.gateway.counters()).get("core.late-answers", 0)
        assert certified or seen.ends["declined"], f"{name}: no late decline ended a reversal that was still unsent"
        return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_every_transaction_that_the_acquirer_left_in_doubt_ends_as_its_ledger_says(tmp_path: Path, seed: int) -> None:
    async def story() -> None:
        seen = Seen()
        for day in await asyncio.gather(
            day_of(tmp_path / "plain", seed, certified=False), day_of(tmp_path / "certified", seed, certified=True)
        ):
            seen.add(day)
        what = f"seed {seed}: {seen}"
        print(what)
        assert set(seen.faults) == set(KINDS), what
        assert all(seen.faults[kind] >= TIMES_OF_A_KIND for kind in KINDS), what
        assert seen.faults.total() >= TIMES_IN_ALL, what
        assert set(seen.ends) == set(ENDS), what
        assert all(seen.ends[end] >= least for end, least in ENDS.items()), what
        assert all(seen.reasons[reason] >= least for reason, least in PARKED_FOR.items()), what
        assert seen.approved_late >= APPROVED_LATE, what
        assert seen.late_answers >= LATE_ANSWERS, what

    for name in ("plain", "certified"):
        (tmp_path / name).mkdir()
    play(story())
