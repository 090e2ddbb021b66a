"""The seeds reach what they are meant to reach: a promise that is never put to the test is not kept."""

from __future__ import annotations

from collections import Counter
from functools import cache

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
DONE = {
    "operator-maintenance-on": 10, "operator-maintenance-off": 10, "operator-release": 10, "operator-cancel": 5,
    "operator-void": 10, "clock-forward": 10, "clock-back": 10, "answer-late": 10, "answer-slow": 10,
    "message-twice": 10, "answers-reordered": 10, "lookups-reordered": 10, "link-down": 10, "link-up": 10,
    "commit-failed-but-kept": 5, "commit-failed-and-lost": 5, "commit-kept": 5, "commit-lost": 10,
    "reversal-denied": 5,
    "power-cut-between-effects": 10, "disk-none": 5, "disk-short": 5, "reversal-without-batch-of-known": 10,
    "reversal-without-batch-of-unknown": 5, "reversal-without-batch-of-unknown-in-a-new-batch": 5,
}  # fmt: skip
"""What is done to the core, and how often at least in so many seeds."""


@cache
def reached() -> Counter[str]:
    """What the first seeds count, all together."""
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = Simulated(setup_of(seed))
        Generator(seed, world).run(STEPS)
        world.heal()
        counts.update(world.reached)
        counts.update(world.engine.status().counts)
    return counts


def test_seeds_reach_every_corner_of_the_core() -> None:
    assert not [name for name in REACHED if not reached()[name]]


def test_every_fault_and_every_act_of_an_operator_happens_again_and_again() -> None:
    assert not {name: reached()[f"did.{name}"] for name, least in DONE.items() if reached()[f"did.{name}"] < least}
