"""One terminal's working day, from sign-on to sign-off, as its shift says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench.day_plan import Act, Shift, Turn
from bench.terminal import GaveUp, History
from bench.unionpay_terminal import UnionPayTerminal
from bench.unionpay_till import Approved, Draft, Entry


class Worker:
    """Works one shift. `work` is called once."""

    def __init__(self, shift: Shift, terminal: UnionPayTerminal, history: History, stop: asyncio.Event) -> None:
        self.terminal = terminal
        self._shift = shift
        self._history = history
        self._stop = stop
        self._sales: list[Approved] = []
        self._holds: list[Approved] = []

    async def work(self, began: float) -> None:
        """Everything from sign-on to sign-off; an early stop goes home without settling.

        Args:
            began: monotonic time at which the day began.
        """
        shift, terminal = self._shift, self.terminal
        try:
            await self._until(began + shift.begins_s)
            await terminal.sign_on()
            await terminal.download()
            for place, turn in enumerate(shift.turns):
                await self._until(began + turn.at_s)
                if self._stop.is_set():
                    return
                if place == shift.loses_totals:
                    terminal.lose_power_at_totals = True
                await self._take(turn)
            await self._until(began + shift.ends_s)
            if self._stop.is_set():
                return
            terminal.forgets_next_sign_on = shift.forgetful
            await terminal.settle(shift.settlement_fault)
            if shift.second_batch:
                await self._work_on()
            if not await terminal.sign_off():
                self._history.counts["not signed off"] += 1
        except GaveUp:
            self._history.counts["gave_up"] += 1
        finally:
            terminal.line.hang_up()

    async def _work_on(self) -> None:
        """Some sales in the next batch, and its settlement."""
        self.terminal.forgets_next_sign_on = False
        for turn in self._shift.turns[: self._shift.second_batch]:
            if self._stop.is_set():
                return
            await self.terminal.ask(self._sale(turn))
        await self.terminal.settle()

    async def _until(self, at: float) -> None:
        """Sleep until a monotonic time, but wake up when the day is stopped."""
        try:
            await asyncio.wait_for(self._stop.wait(), max(0.0, at - time.monotonic()))
        except TimeoutError:
            return

    async def _take(self, turn: Turn) -> None:
        terminal, till, sales, holds = self.terminal, self.terminal.till, self._sales, self._holds
        amount = turn.amount_minor
        if turn.act is Act.BALANCE:
            await terminal.look_up_balance(turn.pan)
        elif turn.act is Act.OFFLINE:
            await terminal.tell(lambda: till.offline_sale(amount, turn.pan), turn.fault)
        elif turn.act is Act.HOLD:
            held = await self._ask(turn, lambda: till.pre_authorisation(amount, turn.pan, turn.entry))
            holds.extend(held)
        elif turn.act is Act.COMPLETE and holds:
            await self._undo(turn, holds, lambda held: till.completion(_not_more(amount, held), held))
        elif turn.act is Act.COMPLETE_ADVICE and holds:
            held_first = holds.pop(0)
            await terminal.tell(
                lambda: till.completion(_not_more(amount, held_first), held_first, advice=True), turn.fault
            )
        elif turn.act is Act.LET_GO and holds:
            await self._undo(turn, holds, till.void_pre_authorisation)
        elif turn.act is Act.VOID and sales:
            await self._undo(turn, sales, till.void)
        elif turn.act is Act.REFUND and sales:
            await self._undo(turn, sales, lambda sale: till.refund(_not_more(amount, sale), sale))
        else:
            sales.extend(await self._ask(turn, self._sale(turn)))

    def _sale(self, turn: Turn) -> Callable[[], Draft]:
        pin = turn.act is Act.PIN_SALE
        entry = turn.entry if turn.entry is not Entry.KEYED else Entry.STRIPE
        return lambda: self.terminal.till.sale(turn.amount_minor, turn.pan, entry, pin=pin)

    async def _ask(self, turn: Turn, compose: Callable[[], Draft]) -> list[Approved]:
        ended = await self.terminal.ask(compose, turn.fault, turn.tries)
        return [ended.approved] if ended.approved is not None else []

    async def _undo(self, turn: Turn, earlier: list[Approved], compose: Callable[[Approved], Draft]) -> None:
        """Something that refers to the oldest transaction of a list, which it uses up."""
        original = earlier.pop(0)
        await self._ask(turn, lambda: compose(original))


def _not_more(amount_minor: int, original: Approved) -> int:
    return min(amount_minor, original.draft.amount_minor)
