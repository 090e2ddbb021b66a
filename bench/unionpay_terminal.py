"""A UnionPay terminal: signs on, asks, tells, reverses, settles, uploads and signs off, by the scheme's rules.

| what it is told            | what it does                                                                          |
|----------------------------|---------------------------------------------------------------------------------------|
| nothing in time, 98        | tries again with the same bytes, then reverses (98), until that is taken                |
| an answer with a wrong MAC | the same, with reason A0                                                              |
| A0                         | signs on again, then tries again: nothing was stored                                    |
| 77                         | signs on again, takes the new batch, sends it as a new transaction                      |
| 94, to a retry             | reverses: the first send was heard, and how it ended is not known                      |
| header: sign on            | signs on before its next message                                                      |
| 95, to a settlement        | uploads the batch, eight at a time, and ends it                                        |
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.history import APPROVED_CODES, REVERSAL_DONE_CODES
from bench.terminal import STEADY, GaveUp, Habits, History, Told
from bench.till import MERCHANT
from bench.unionpay import BATCH_MISMATCH, MAC_FAILED, OUT_OF_BALANCE, Seal, batch_of, wants_sign_on
from bench.unionpay_line import NO_FAULT, Fault, SealedLine
from bench.unionpay_memory import Memory
from bench.unionpay_till import Approved, Draft, UnionPayTill
from protocol.iso8583.dialect import Dialect
from protocol.settlement import DETAILS_MAX, Balance, SettlementFieldError, result_of
from protocol.work_keys import WorkKeyError, open_work_keys

NO_ANSWER: Final = "98"
TERMINAL_FAULT: Final = "96"
_HEARD_BEFORE: Final = "94"
_ASK_AGAIN: Final = frozenset({"09", "68", "90", "91", "92", "96", "98"})
_NEW_TRANSACTIONS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """How a piece of business ended: the answer, if there was one, and whether the terminal had to reverse."""

    draft: Draft
    told: Told | None
    reversal: Told | None = None

    @property
    def approved(self) -> Approved | None:
        """What a later transaction may refer to."""
        if self.told is None or self.told.response not in APPROVED_CODES:
            return None
        return Approved(self.draft, self.told.rrn, self.told.approval)


class UnionPayTerminal:
    """One terminal on the event loop. Its coroutines are not to be run beside each other.

    Every coroutine raises GaveUp when the terminal's time is over (`line.finish_by`) and its business is not.

    Attributes:
        lose_power_at_totals: at the next debit or credit the power goes between the journal record and the totals.
        forgets_next_sign_on: after a settlement it goes on in the closed batch, until it is told 77.
    """

    def __init__(
        self,
        dialect: Dialect,
        endpoint: tuple[str, int],
        history: History,
        *,
        master_key: bytes,
        terminal: str = "T0000001",
        merchant: str = MERCHANT,
        key_code: str = "003",
        habits: Habits = STEADY,
        seed: int = 0,
        first_stan: int = 1,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Not connected yet.

        Args:
            key_code: DE 60.3 of its sign-on: 001, 003 or 004.
        """
        dice = random.Random(f"{seed}/{terminal}")
        self.memory = Memory(terminal, merchant, first_stan=first_stan)
        self.till = UnionPayTill(self.memory, dice)
        self.line = SealedLine(dialect, endpoint, history, habits=habits, dice=dice, tls=tls)
        self._dialect = dialect
        self._history = history
        self._habits = habits
        self._master_key = master_key
        self._key_code = key_code
        self._sign_on_due = True
        self.lose_power_at_totals = False
        self.forgets_next_sign_on = False

    # --- sessions --------------------------------------------------------------------------------------------------

    async def sign_on(self) -> None:
        """Sign on until there are keys, and be in the batch that the answer names."""
        while True:
            told = await self.line.attempt(self.till.sign_on(self._key_code))
            if told is not None and told.response == "00" and self._takes(told):
                self._sign_on_due = False
                self._history.counts["signed on"] += 1
                return
            self._history.counts["sign-ons without keys"] += 1
            await self.line.pause()

    def _takes(self, told: Told) -> bool:
        """Whether an answer has keys that prove themselves."""
        fields = told.message.fields
        try:
            sealed = bytes.fromhex(fields.get(62, ""))
            keys = open_work_keys(self._master_key, sealed)
        except WorkKeyError:
            self._history.counts["wrong keys"] += 1
            return False
        self._history.counts[f"keys of {len(sealed)} bytes"] += 1
        self.line.seal = Seal(self._dialect, keys.mac)
        self.till.pin_key = keys.pin
        if batch := batch_of(fields):
            self.memory.enter(batch)
        return True

    async def download(self) -> bool:
        """Download the parameters, in a few attempts; whether some came."""
        for _ in range(self._habits.tries):
            told = await self.line.attempt(self.till.parameters())
            if told is not None and told.response == "00" and told.message.fields.get(62):
                self._history.counts["parameters"] += 1
                return True
            await self.line.pause()
        self._history.counts["no parameters"] += 1
        return False

    async def sign_off(self) -> bool:
        """Sign off, in a few attempts; whether it was answered 00."""
        draft = self.till.sign_off()
        for _ in range(self._habits.tries):
            told = await self.line.attempt(draft)
            if told is not None and told.response == "00":
                self._history.counts["signed off"] += 1
                self._sign_on_due = True
                return True
            if self.line.late:
                break
        return False

    async def _ready(self) -> None:
        """Sign on where that is due: before a message is composed, because it may mean another batch."""
        if self._sign_on_due:
            await self.sign_on()

    async def _send(self, draft: Draft, fault: Fault = NO_FAULT) -> Told | None:
        """One attempt."""
        await self._ready()
        told = await self.line.attempt(draft, fault)
        if told is not None:
            asked = wants_sign_on(told.message.header)
            self._history.counts["sign-ons asked for"] += asked
            self._sign_on_due = asked or told.response in (MAC_FAILED, BATCH_MISMATCH)
        return told

    # --- transactions ----------------------------------------------------------------------------------------------

    async def ask(self, compose: Callable[[], Draft], fault: Fault = NO_FAULT, tries: int | None = None) -> Ended:
        """A transaction that may be declined: a sale, void, refund, pre-authorisation or completion.

        Args:
            compose: makes it, and makes it anew where the batch was another one (77).
            tries: sends before it is reversed; by default those of the terminal's habits.
        """
        await self._ready()
        ended = Ended(compose(), None)
        for _ in range(_NEW_TRANSACTIONS_MAX):
            ended = await self._asked(ended.draft, fault, self._habits.tries if tries is None else tries)
            if ended.told is None or ended.told.response != BATCH_MISMATCH:
                break
            await self.sign_on()
            ended = Ended(compose(), None)
            fault = NO_FAULT
        return ended

    async def _asked(self, draft: Draft, fault: Fault, tries: int) -> Ended:
        reason = NO_ANSWER
        for number in range(max(tries, 2) if fault.wrong_mac else tries):
            told = await self._send(draft, fault if number == 0 else NO_FAULT)
            if told is not None and told.response != MAC_FAILED:
                if told.response == _HEARD_BEFORE and number > 0:
                    break
                self._take_down(draft, told)
                return Ended(draft, told)
            if told is None:
                reason = MAC_FAILED if self.line.bad_mac else TERMINAL_FAULT if fault.power_loss else NO_ANSWER
            if self.line.late:
                raise GaveUp
        return Ended(draft, None, await self.reverse(draft, reason))

    async def reverse(self, undone: Draft, reason: str) -> Told:
        """Send the terminal's own reversal until it is taken."""
        reversal = self.till.reversal(undone, reason)
        while True:
            told = await self._send(reversal)
            if told is not None and told.response in REVERSAL_DONE_CODES:
                self._history.counts["reversed"] += 1
                return told
            await self.line.pause()

    async def tell(self, compose: Callable[[], Draft], fault: Fault = NO_FAULT) -> Ended:
        """An advice: sent until it is taken, or refused for a reason that will not pass."""
        await self._ready()
        draft = compose()
        while True:
            told = await self._send(draft, fault)
            fault = NO_FAULT
            if told is not None:
                if told.response == BATCH_MISMATCH:
                    await self.sign_on()
                    draft = compose()
                elif told.response != MAC_FAILED and told.response not in _ASK_AGAIN:
                    self._take_down(draft, told)
                    return Ended(draft, told)
            await self.line.pause()

    async def look_up_balance(self, pan: str) -> str:
        """DE 54 of a balance inquiry; empty where it was not answered."""
        await self._ready()
        told = await self._send(self.till.balance(pan))
        balance = told.message.fields.get(54, "") if told is not None and told.response == "00" else ""
        self._history.counts["balances" if balance else "no balance"] += 1
        return balance

    def _take_down(self, draft: Draft, told: Told) -> None:
        """Write journal and totals, where the answer approves."""
        if told.response not in APPROVED_CODES:
            self._history.counts["refused"] += 1
            return
        self._history.counts["approved"] += 1
        self._history.counts[draft.kind] += 1
        self._history.counts["issuers' answers to chips"] += bool(draft.chip_hash) and 55 in told.message.fields
        if (
            self.memory.batch.number != draft.batch
        ):  # cannot be: a batch changes with a sign-on only, and then it is new
            self._history.counts["approved in another batch"] += 1
        lost = self.lose_power_at_totals and draft.direction in ("debit", "credit")
        self.memory.count(draft.counted, power_lost=lost)
        if lost:
            self.lose_power_at_totals = False
            self.line.hang_up()

    # --- the end of a batch ----------------------------------------------------------------------------------------

    async def settle(self, fault: Fault = NO_FAULT) -> bool:
        """Settle the batch, and upload it where it does not balance.

        Args:
            fault: of the first send of each message.
        Returns:
            Whether it is closed.
        """
        await self._ready()
        batch = self.memory.batch
        told = await self._settled(self.till.settlement(), fault)
        if told.response == OUT_OF_BALANCE:
            self._history.counts["out of balance"] += 1
            batch.uploaded = True
            counting = batch.counting
            for start in range(0, len(counting), DETAILS_MAX):
                await self._settled(self.till.upload(counting[start : start + DETAILS_MAX]), fault)
            told = await self._settled(self.till.upload_end(), fault)
        elif told.response == "00" and not _balanced(told):
            self._history.counts["00 to a settlement without a result of 1"] += 1
        batch.closed = told.response == "00"
        if batch.closed and not self.forgets_next_sign_on:
            self._sign_on_due = True
        self._history.counts["batches closed" if batch.closed else "batches not closed"] += 1
        return batch.closed

    async def _settled(self, draft: Draft, fault: Fault) -> Told:
        """A message of the settlement, sent until its answer says something."""
        while True:
            told = await self._send(draft, fault)
            fault = NO_FAULT
            if told is not None and told.response != MAC_FAILED and told.response not in _ASK_AGAIN:
                return told
            await self.line.pause()


def _balanced(told: Told) -> bool:
    try:
        return result_of(told.message.fields.get(48, "")) is Balance.BALANCED
    except SettlementFieldError:
        return False
