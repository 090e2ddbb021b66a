"""Reversals that name no batch (UnionPay, field 60.1 alone): when a terminal may send one, and what it meets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.core.checks import Told
from tests.core.journal import MemoryJournal
from tests.simulation import steps as s
from tests.simulation import tills

_NAMES_BATCH: Final = (s.Ask, s.Settle, s.Upload, s.EndUpload, s.SignOn)
_CLOSES: Final = (s.Settle, s.EndUpload)


def may_be_sent(step: s.Undo, asked: Iterable[s.Step], told: Iterable[Told], journal: MemoryJournal) -> bool:
    """Whether a reversal can do without its batch: its terminal is known here, and has not left that batch yet.

    Terminals reverse before they do anything else, and so before they settle. They have settled a batch before the
    next one begins: of one that they left without, nobody could say that they are not in it any more.

    Args:
        asked, told: what terminals have asked so far, as steps, and by token.
    """
    for other in asked:
        if isinstance(other, _NAMES_BATCH) and other.till == step.till:
            closes = isinstance(other, _CLOSES) and other.batch == step.batch
            if closes or other.batch > step.batch:
                return False
            if other.batch < step.batch and not tills.is_closed(journal.by_key, other.till, other.batch):
                return False
    lane = tills.lane_of(step.till)
    whole = (number for number in journal.by_lane.get(lane, ()) if number not in journal.damaged)
    stored = (journal.rows[number].transaction.key for number in whole)
    waiting = (each.request for each in told if each.answer is None and not each.lost)
    under_way = (request.key for request in waiting if request.lane == lane)
    return any(key.startswith("B") for key in (*stored, *under_way))


def is_awaited(till: int, told: Iterable[Told]) -> bool:
    """Whether a terminal waits for the answer to such a reversal: it does not settle before."""
    lane = tills.lane_of(till)
    return any(
        each.request.batch_unknown and each.request.lane == lane and each.answer is None and not each.lost
        for each in told
    )


def original_is(step: s.Undo, journal: MemoryJournal) -> str:
    """What the journal knows of what is to be undone: "known", "unknown", or "unknown-in-a-new-batch"."""
    batch = tills.batch_of(step.till, step.batch)
    keys = [key for key in journal.by_key if key.startswith(batch)]
    if any(key.endswith(f"|{step.of:06}") for key in keys):
        return "known"
    return "unknown" if keys else "unknown-in-a-new-batch"
