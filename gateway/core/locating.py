"""Which batch a reversal means that names none (D12, D15): the one that its terminal is in.

That is the batch of its newest transaction, or the next one where that batch is closed: what is to be undone may have
been lost on the way, or may come later, and then it must not be booked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from gateway.core.answers import local_answer
from gateway.core.batches import Batches
from gateway.core.events import Found, Lookup
from gateway.core.transaction import Kind, Request, Stored, Transaction
from gateway.core.work import Work

_CLASSES = "21"
"""Message classes of what can be reversed: a sale or an advice of one, an authorisation."""


class Locating:
    """Gives reversals the keys of their batch, and hands them to `arrive`."""

    def __init__(
        self,
        work: Work,
        batches: Batches,
        undoes: Callable[[Request, Transaction], bool],
        arrive: Callable[[int, Request], None],
    ) -> None:
        self._work = work
        self._batches = batches
        self._undoes = undoes
        self._arrive = arrive

    def locate(self, terminal_token: int, request: Request) -> None:
        """Find the batch of a reversal that names none. Nothing of it is kept until then."""
        if newest := self._newest_under_way(request.lane):
            self._newest_known(terminal_token, request, newest)
        else:
            self._work.find_newest(request.lane, partial(self._newest_found, terminal_token, request))

    def _newest_under_way(self, lane_name: str) -> str:
        """The key of what has begun last in a lane and names a batch; empty where there is none."""
        lane = self._work.lanes.get(lane_name)
        if lane is None or not lane.runs:
            return ""
        under_way = (run.transaction.key for run in reversed(self._work.running.values()) if run.lane is lane)
        return next((key for key in under_way if key.startswith("B")), "")

    def _newest_found(self, terminal_token: int, request: Request, event: Found) -> None:
        found = event.results[0]
        if isinstance(found, Stored):
            self._newest_known(terminal_token, request, found.transaction.key)
        elif found is Lookup.DAMAGED:
            answer = local_answer(request.mti, request.fields, "96", request.rules, self._work.utc_ms)
            self._work.reply(terminal_token, answer)
        else:
            self._arrive(terminal_token, request)

    def _newest_known(self, terminal_token: int, request: Request, key: str) -> None:
        batch = key.rsplit("|", 2)[0]
        self._batches.find_open(batch, request.rules, partial(self._opened, terminal_token, request, batch))

    def _opened(self, terminal_token: int, request: Request, newest: str, batch: str) -> None:
        if batch == newest:
            self._arrive(terminal_token, of_batches(request, batch))
        else:
            keys = of_batches(request, newest).original_keys
            self._work.find(keys, 0, partial(self._looked_back, terminal_token, request, newest, batch))

    def _looked_back(self, terminal_token: int, request: Request, newest: str, batch: str, event: Found) -> None:
        """A sale of the closed batch may be meant all the same: its reversal came after the settlement."""
        known = (found.transaction for found in event.results if isinstance(found, Stored))
        there = any(row.kind is not Kind.UNSEEN and self._undoes(request, row) for row in known)
        order = (newest, batch) if there or Lookup.DAMAGED in event.results else (batch, newest)
        self._arrive(terminal_token, of_batches(request, *order))


def of_batches(request: Request, *batches: str) -> Request:
    """A reversal that names no batch with its key in the first of some, and its original's keys in each."""
    return replace(
        request,
        key=f"{batches[0]}|4|{request.stan}",
        horizon_ms=0,
        original_keys=tuple(f"{batch}|{number}|{request.stan}" for batch in batches for number in _CLASSES),
    )
