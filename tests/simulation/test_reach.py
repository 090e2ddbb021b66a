"""The seeds reach what they are meant to reach: a promise that is never put to the test is not kept."""

from __future__ import annotations

from collections import Counter

from tests.simulation.driver import Simulated
from tests.simulation.generator import Generator, setup_of
from tests.simulation.runs import STEPS

SEEDS = 40
REACHED = (
    "sent.request", "sent.advice", "sent.reversal", "sent.inquiry", "sent.settlement", "timed-out.request",
    "timed-out.replay", "outcome.approved", "outcome.declined", "outcome.reversing", "outcome.stored",
    "replayed.approved", "replayed.reversed", "replayed.reversing", "replayed.parked", "retry.joined",
    "retry.stored-outcome", "retry.undone-since", "retry.reversed-before", "reversed.cancelled", "reversed.reversing",
    "reversed.asking_cancelled", "reversed.stored_cancelled", "reversed.unknown", "recovered", "waited", "late-answers",
    "alarm.late-approval", "alarm.key-reused", "alarm.answer-changed", "refused.journal-full", "refused.batch-closed",
    "refused.overload", "refused.standin.terminal", "journal.update-refused", "batches.closed", "sign-ons", "uploads",
    "operator.cancel", "operator.void", "operator.release", "alarm.record-damaged",
)  # fmt: skip


def test_seeds_reach_every_corner_of_the_core() -> None:
    reached: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = Simulated(setup_of(seed))
        Generator(seed, world).run(STEPS)
        world.heal()
        reached.update(world.reached)
        reached.update(world.engine.status().counts)
    assert not [name for name in REACHED if not reached[name]]
