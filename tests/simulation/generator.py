"""Makes a script while it runs: looks at the world, chooses a step by the seed, and writes it down as it was done."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.core.lifecycle import REPLAYABLE, State
from tests.core.acquirer import APPROVES
from tests.simulation import steps as s
from tests.simulation import tills
from tests.simulation.driver import PowerCut, Simulated
from tests.simulation.moods import MOODS

_ISO_TILLS: Final = "date,date,horizon,http,named"
_UNIONPAY_TILLS: Final = "batch,brief,brief,http,named"
_HOSTS: Final = ("iso", "iso-repeat", "unionpay", "iso", "unionpay-plain", "iso-repeat", "unionpay", "unionpay")
_OWN_STANS_FROM: Final = 500_000
"""STANs that tills by HTTP name, away from those that the gateway assigns."""

_PAUSES: Final = (1, 50, 1_000, 5_000, 16_000, 40_000)
_JUMPS: Final = (-3_600_000, 3_600_000, -1_000, 60_000)
_JUMP_SUM_MAX_MS: Final = 6 * 3_600_000
"""A horizon is of the wall clock: keys are told apart by a day of it (D1)."""

_FIRST_IS_LOST: Final = 0.5
"""Share of first messages of a batch whose reversal comes alone, where it does not say in which batch it is."""

_PARKED: Final = frozenset({State.PARKED})
_FAULTY: Final = (
    *(name for name in MOODS if name != "approve"),
    "code-95",
    "code-95",
    "overdue",
    "overdue",
    "denies",
    "denies",
    "silent",
    "late",
    "slow",
)


@dataclass(slots=True)
class Till:
    """What a terminal remembers."""

    number: int
    kind: str
    stan: int = 0
    batch: int = 1
    asked_in: int = 1
    sent: list[s.Step] = field(default_factory=list)


def setup_of(seed: int) -> s.Setup:
    """What a seed's run is made of."""
    host = _HOSTS[seed % len(_HOSTS)]
    dice = random.Random(seed)
    return s.Setup(
        host=host,
        tills=_UNIONPAY_TILLS if host.startswith("unionpay") else _ISO_TILLS,
        dice=seed,
        rate=dice.choice((0, 0, 5)),
        window=dice.choice((1, 4, 64)),
        ahead=dice.randint(1, 8),
        flights=dice.choice((2, 12, 40)),
        line=dice.choice((1, 4)),
        attempts=dice.choice((3, 6)),
        stored=dice.choice((3, 50)),
        remembers=dice.choice((0, 1)),
    )


class Generator:
    """Chooses and carries out one step after the other; `steps` is the script so far."""

    def __init__(self, seed: int, world: Simulated) -> None:
        self.random = random.Random(f"steps of {seed}")
        self.world = world
        self.steps: list[s.Step] = []
        self.tills = [
            Till(number, kind, _OWN_STANS_FROM if kind == "named" else 0) for number, kind in enumerate(world.kinds, 1)
        ]
        self._batchers = [till for till in self.tills if till.kind in tills.SETTLING]
        self._last: Till | None = None
        self._operated = 0
        self._jumped_ms = 0
        self._maintenance = False
        weights: dict[Callable[[], s.Step | None], int] = {
            self._ask: 24, self._again: 9, self._undo: 10, self._otherwise: 2, self._settle: 5, self._inquire: 1,
            self._pass: 15, self._mood: 4, self._moods: 6, self._link: 5, self._cut: 4, self._doubt: 2, self._disk: 2,
            self._clock: 2, self._operate: 6, self._maintain: 2, self._stop: 1,
        }  # fmt: skip
        if seed % 4 == 3:
            weights[self._damage] = 1
        self._choices = list(weights)
        self._weights = list(weights.values())

    def run(self, count: int) -> None:
        """Choose and carry out so many acts; what flows after each is one more step. Raises: Broken, and whatever else
        the core raises."""
        self._do(s.Link(1, 1))
        self._do(s.Pass(0, 1))
        for _ in range(count):
            step = self._mend()
            if step is None:
                [choose] = self.random.choices(self._choices, self._weights)
                step = choose()
            self._do(step if step is not None else self._ask())
            self._flow()

    def _mend(self) -> s.Step | None:
        """Now and then a fault heals, so that most of the time most things work."""
        world, dice = self.world, self.random.random()
        if not (world.connected and world.acquirer.alive) and dice < 0.2:
            return s.Link(1, 1)
        if world.journal.short and dice < 0.3:
            return s.Disk("ok")
        if self._maintenance and dice < 0.2:
            return self._maintain()
        if world.acquirer.mood is not APPROVES and dice < 0.1:
            return s.Mood("approve")
        return None

    def _do(self, step: s.Step) -> None:
        self.steps.append(step)
        self.world.apply(step)

    def _flow(self) -> None:
        """Let some of what waits go on, each chosen by the seed; afterwards they are one step."""
        world, most = self.world, self.random.randint(0, 12)
        if not most or not (ways := world.ways()):
            return
        if self.random.random() < 0.2:
            self._do(s.Pass(0, 1))
            return
        place = len(self.steps)
        done = ""
        if world.trace is not None:
            world.trace.step("flow", world.mono_ms, world.utc_ms)
        try:
            while most and (ways := world.ways()):
                way = ways[int(self.random.random() * len(ways))]
                done += way
                self.steps[place:] = [s.Flow(done)]
                most -= 1
                world.flow(way)
        except PowerCut:
            world.power_cut()

    # Terminals

    def _ask(self) -> s.Step:
        dice, till = self.random, self.random.choice(self.tills)
        if till.kind in tills.SETTLING and self._batch_is_closed(till) and dice.random() < 0.5:
            return self._sign_on(till)
        till.stan += 1
        step = s.Ask(
            till=till.number,
            mti=dice.choice(("0200", "0200", "0200", "0100", "0220")),
            code="20" if till.kind in tills.SETTLING and dice.random() < 0.1 else "00",
            stan=till.stan,
            amount=dice.randint(1, 2_300),
            card=dice.randrange(len(tills.CARDS)),
            batch=till.batch,
        )
        till.sent.append(step)
        self._last = till
        first_of_batch, till.asked_in = till.batch > till.asked_in, till.batch
        lost = _FIRST_IS_LOST if first_of_batch and till.kind == "brief" else 0.08
        if dice.random() < lost:  # the terminal's message is lost, or overtaken: its reversal comes alone
            return self._undo_of(till, step)
        return step

    def _recent(self) -> tuple[Till, s.Step] | None:
        """Something that a till has sent: often the very last, while it is under way."""
        if self._last is not None and self.random.random() < 0.4:
            return self._last, self._last.sent[-1]
        till = self.random.choice(self.tills)
        return (till, self.random.choice(till.sent[-5:])) if till.sent else None

    def _again(self) -> s.Step | None:
        recent = self._recent()
        return recent[1] if recent else None

    def _otherwise(self) -> s.Step | None:
        """The same STAN with another amount or card (D2)."""
        recent = self._recent()
        if recent is None or not isinstance(recent[1], s.Ask | s.Undo):
            return None
        if self.random.random() < 0.5:
            return replace(recent[1], amount=recent[1].amount + 1)
        return replace(recent[1], card=(recent[1].card + 1) % 3)

    def _undo(self) -> s.Step | None:
        recent = self._recent()
        if recent is None or not isinstance(recent[1], s.Ask):
            return None
        return self._undo_of(*recent)

    def _undo_of(self, till: Till, ask: s.Step) -> s.Step:
        assert isinstance(ask, s.Ask)
        till.stan += 1
        step = s.Undo(ask.till, ask.mti, ask.code, till.stan, ask.stan, ask.amount, ask.card, ask.batch)
        till.sent.append(step)
        return step

    def _settle(self) -> s.Step | None:
        if not self._batchers:
            return None
        dice, till = self.random, self.random.choice(self._batchers)
        till.stan += 1
        step: s.Step
        match dice.choice(("settle", "settle", "upload", "end", "sign-on")):
            case "settle":
                step = s.Settle(till.number, till.stan, till.batch, dice.choice((0, 0, 0, 1)))
            case "upload":
                step = s.Upload(till.number, till.stan, till.batch, dice.randint(0, 8), dice.randint(1, 8))
            case "end":
                step = s.EndUpload(till.number, till.stan, till.batch)
            case _:
                return self._sign_on(till)
        till.sent.append(step)
        return step

    def _batch_is_closed(self, till: Till) -> bool:
        return tills.is_closed(self.world.journal.by_key, till.number, till.batch)

    def _sign_on(self, till: Till) -> s.Step:
        till.stan += 1
        till.batch += self._batch_is_closed(till)
        return s.SignOn(till.number, till.stan, till.batch)

    def _inquire(self) -> s.Step:
        till = self.random.choice(self.tills)
        till.stan += 1
        return s.Inquire(till.number, till.stan)

    # The world

    def _pass(self) -> s.Step:
        return s.Pass(self.random.choice(_PAUSES), int(self.random.random() < 0.8))

    def _mood(self) -> s.Step:
        return s.Mood("approve" if self.random.random() < 0.5 else self.random.choice(_FAULTY))

    def _moods(self) -> s.Step:
        return s.Moods(",".join(self.random.choices(_FAULTY, k=self.random.randint(1, 4))))

    def _link(self) -> s.Step:
        up = not self.world.connected or self.random.random() < 0.2
        return s.Link(int(up), int(self.random.random() < 0.85))

    def _cut(self) -> s.Step:
        return s.Cut(self.random.choice((0, 1, 2, 3, 5, 8, 13, 40)), self.random.choice((0, 0, 1, 2, 100)))

    def _doubt(self) -> s.Step:
        if not self.world.writes:
            self._do(self._ask())  # something to be in doubt about
        return s.Doubt(self.random.randint(1, 4), self.random.randint(0, 1))

    def _disk(self) -> s.Step:
        journal = self.world.journal
        return s.Disk("ok" if journal.short else self.random.choice(("short", "none")))

    def _clock(self) -> s.Step:
        ms = self.random.choice(_JUMPS)
        if abs(self._jumped_ms + ms) > _JUMP_SUM_MAX_MS:
            ms = -ms
        self._jumped_ms += ms
        return s.Clock(ms)

    def _operate(self) -> s.Step | None:
        rows = self.world.journal.rows
        if not rows:
            return None
        wanted = self.random.choice((_PARKED, _PARKED, REPLAYABLE, frozenset(State)))
        some = [number for number, row in rows.items() if row.transaction.state in wanted]
        chosen = self.random.choice(some or list(rows))
        if self._operated in rows and self.random.random() < 0.35:
            chosen = self._operated  # two persons at once
        self._operated = chosen
        acts = ["release", "void"]
        if rows[chosen].transaction.state is State.STORED:
            acts.append("cancel")
        return s.Operate(self.random.choice(acts), chosen)

    def _maintain(self) -> s.Step:
        self._maintenance = not self._maintenance
        return s.Operate("maintenance-on" if self._maintenance else "maintenance-off", 0)

    def _stop(self) -> s.Step:
        return s.Stop(self.random.choice((0, 1_000, 20_000)))

    def _damage(self) -> s.Step | None:
        rows = self.world.journal.rows
        return s.Damage(self.random.choice(list(rows)[-8:])) if rows else None
