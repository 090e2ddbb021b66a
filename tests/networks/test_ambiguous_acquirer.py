"""500 times it cannot be known whether the acquirer booked; each transaction ends, once, as its ledger says (INV-3)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from bench.proxy import Fault, Way, Weather
from bench.records import transaction_key
from bench.till import MERCHANT
from protocol.iso8583.dialect import Dialect, load_dialect
from tests.gateway.shop import play
from tests.networks.scene import PATIENT, clean, open_scene

TIMES_IN_ALL: Final = 500
SEEDS: Final = (1, 2)
WAVES: Final = 5
"""Terminals sell a wave after the other, so that a reset takes some with it and not all."""
AGAIN_SELLING: Final = 3
"""Terminals of each wave that sell once more: behind a reversal that is owed, so that they are stood in for."""
HOST_TIMEOUT_MS: Final = 200
REPLY_TIMEOUT_MS: Final = 400
FLIGHT_MS: Final = 600
ENDS: Final = frozenset({"approved", "declined", "reversed", "cancelled", "parked"})
NET: Final = {"approved": {1}, "declined": {0}, "reversed": {0}, "cancelled": {0}, "parked": {0, 1}}
"""What the acquirer's books may say of each end: where it is in a person's hands, either."""

FATES: Final = {
    (Way.REPLY, Fault.DROP): 45,
    (Way.REPLY, Fault.LATE): 28,
    (Way.REPLY, Fault.RESET_INSIDE): 5,  # takes with it all that is in flight on the connection
    (Way.REQUEST, Fault.DROP): 22,  # a black hole for one message: nothing is booked, and nobody knows
}
AGAIN: Final = 0.06
"""Share of repeats and reversals that are hit like their originals; each narrows the replay to one in flight (D19)."""
HITS_MAX: Final = 3
"""Of one message, so that runs end."""


class Ambiguous:
    """Decides about messages between gateway and acquirer: one exchange of each transaction goes wrong, or more.

    Attributes:
        hit: faults by the message that they hit: its class, terminal and STAN.
    """

    def __init__(self, dialect: Dialect, seed: int) -> None:
        self._dialect = dialect
        self._seed = seed
        self._sends: Counter[tuple[str, str, str]] = Counter()
        self._fates: dict[tuple[str, str, str], tuple[Way, Fault] | None] = {}
        self.hit: defaultdict[tuple[str, str, str], list[Fault]] = defaultdict(list)

    def __call__(self, way: Way, frame: bytes) -> Fault | None:
        """The fault of one message; drawn with each request, for it or its answer."""
        message = self._dialect.codec.decode(frame)
        if message.mti[1] == "8":
            return None
        key = (message.mti[1], message.fields[41].strip(), message.fields[11])
        if way is Way.REQUEST:
            self._fates[key] = self._drawn(key)
        fate = self._fates.get(key)
        if fate is None or fate[0] is not way:
            return None
        self._fates[key] = None
        self.hit[key].append(fate[1])
        return fate[1]

    def _drawn(self, key: tuple[str, str, str]) -> tuple[Way, Fault] | None:
        self._sends[key] += 1
        dice = random.Random(f"{self._seed}/{key}/{self._sends[key]}")
        hits = len(self.hit.get(key, ()))
        certain = hits == 0 and key[0] != "4"
        if hits >= HITS_MAX or (not certain and dice.random() >= AGAIN):
            return None
        return dice.choices(list(FATES), list(FATES.values()))[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_transaction_that_the_acquirer_left_in_doubt_ends_as_its_ledger_says(tmp_path: Path, seed: int) -> None:
    async def story() -> None:
        times = TIMES_IN_ALL // len(SEEDS)
        wave = times // WAVES
        ambiguous = Ambiguous(load_dialect("iso87-binary"), seed)
        habits = replace(PATIENT, pause_s=0, answer_timeout_s=3.0)
        async with open_scene(
            tmp_path,
            seed,
            far=Weather(late_ms=(HOST_TIMEOUT_MS + 50, FLIGHT_MS - 100)),
            choose=ambiguous,
            ways=3,  # a reset of one leaves the link up, and what comes next is asked, not stood in for
            acquirer={"down_after_timeouts": 1000},
            host_timeout_ms=HOST_TIMEOUT_MS,
            reply_timeout_ms=REPLY_TIMEOUT_MS,
            longest_flight_ms=FLIGHT_MS,
        ) as scene:
            for number in range(WAVES):
                first = 1 + number * wave
                await asyncio.gather(
                    scene.sell(range(first, first + AGAIN_SELLING), 2, habits),
                    scene.sell(range(first + AGAIN_SELLING, first + wave), 1, habits),
                )
            verdict = await scene.settled(heal_first=False)
            rows = [row for row in await scene.rows() if not row.is_reversal]
            ends = Counter(row.state for row in rows)
            faults = Counter(fault for faults in ambiguous.hit.values() for fault in faults)
            host = scene.shop.host
            reversed_too = {event.original for event in host.recent if event.business == "reversal"}
            hit = {transaction_key(MERCHANT, key[1], key[2]) for key in ambiguous.hit if key[0] != "4"}
            in_doubt = {row.key for row in rows} & (reversed_too | hit)

            clean(verdict, seed)
            assert len(in_doubt) >= times, f"seed {seed}: too few were in doubt: {len(in_doubt)}"
            assert set(faults) == {fault for _, fault in FATES}, f"seed {seed}: {faults}"
            assert len({row.key for row in rows}) == len(rows) == verdict.transactions, f"seed {seed}: {ends}"
            assert set(ends) <= ENDS, f"seed {seed}: {ends}"
            assert len(ends) > 1, f"seed {seed}: {ends}"
            nets = [(row, host.books.net(row.key)) for row in rows]
            wrong = [(row, net) for row, net in nets if net not in NET[row.state]]
            assert not wrong, f"seed {seed}: {wrong[:10]}"

    play(story())
