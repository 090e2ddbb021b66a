"""The history checker: did every transaction have the effect that its terminal was told of, once, in order?

It knows nothing of the gateway. It reads what the terminals sent and were told (TerminalEvent), what the acquirer
booked (LedgerEvent) and, if given, what the gateway still owes at the end (Owed). It is linear in the number of events.

A *transaction* is a key under which a terminal sent a sale or an advice. Its *content* is amount, currency and card of
its first send; a later send of the key with other content is a reused STAN, which must not be approved. Its *net* is
the number of times it was booked less the number of times it was reversed. It was *told* what its first answer said
that the terminal saw. The terminal's *last word* is its reversal, if it sent one, else what it was told.

    acknowledged   transactions told approved
    booked         transactions whose net is one or more
    lost           last word approved, net zero or less, and nothing owed for it any more
    doubled        booked more than once, or a net other than zero and one
    out_of_order   a message of a terminal first took effect at the acquirer after one that the terminal had sent only
                   when the earlier one was already answered (INV-4; a reversal that the gateway owes counts as
                   accepted with the answer that told the terminal no, D14); or an original reached the acquirer after
                   its reversal. What a person has decided about was out of its lane (D18), and may come behind newer
    changed        the acquirer received another amount, currency or card than the terminal sent; or a repeat differs
                   from its first send in any field but DE 7 and MAC (D8; a reversal under an MTI of its own may be
                   another one, the terminal's after the gateway's); or the terminal saw two answers to one message
                   that differ in response or approval code (D3); or a reused STAN was approved (D2); or a PIN block
                   or chip data arrived other than it was sent, or was left out of a message that was handed on as it is
    unsettled      last word is no or reversed, and the net is not zero; or a terminal that was not switched off for
                   good was told nothing, or nothing that finished its reversal; or the queue still owes something;
                   or a person has ended it, and the net is not zero
    phantom        the acquirer booked a key that no terminal sent

A transaction counts at most once in each of these. Answers 30, 96 and A0 mean that nothing was stored, so another
answer may follow them. 09 promises nothing (a gateway that stops, or has no room, says it to what may have been asked
before): it is as if no answer had come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bench.records import LedgerEvent, Owed, TerminalEvent

APPROVED_CODES: Final = frozenset({"00", "08", "10", "11", "16"})
REVERSAL_DONE_CODES: Final = frozenset({"00", "12", "25"})
NOTHING_STORED_CODES: Final = frozenset({"30", "96", "A0"})
ASK_AGAIN_CODE: Final = "09"
NEVER: Final = 1 << 62


class Defect(StrEnum):
    """What can be wrong with a transaction; the module's docstring defines each."""

    LOST = "lost"
    DOUBLED = "doubled"
    OUT_OF_ORDER = "out_of_order"
    CHANGED = "changed"
    UNSETTLED = "unsettled"
    PHANTOM = "phantom"


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of one transaction, with the events that show it in words."""

    defect: Defect
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.defect.value:<12} {self.key}: {self.text}"


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    Attributes:
        transactions: keys under which a terminal sent a sale or an advice.
        declined: told something other than approved; reversed: undone by the terminal; unanswered: switched off for
            good before any answer.
        resent: arrivals at the acquirer that it recognised as repeats.
    """

    transactions: int = 0
    acknowledged: int = 0
    declined: int = 0
    reversed: int = 0
    unanswered: int = 0
    booked: int = 0
    resent: int = 0
    findings: list[Finding] = field(default_factory=list)

    def count(self, defect: Defect) -> int:
        """Number of transactions with this defect."""
        return sum(1 for finding in self.findings if finding.defect is defect)

    @property
    def clean(self) -> bool:
        """Whether nothing at all was found."""
        return not self.findings

    def figures(self) -> dict[str, int]:
        """All counts, by the names that the bench prints."""
        return {
            "acknowledged": self.acknowledged,
            "booked": self.booked,
            **{defect.value: self.count(defect) for defect in Defect},
            "transactions": self.transactions,
            "declined": self.declined,
            "reversed": self.reversed,
            "unanswered": self.unanswered,
            "resent": self.resent,
        }


@dataclass(slots=True)
class _Asked:
    """A transaction as its terminal knows it. Places are positions in the history; NEVER where it did not happen."""

    key: str
    amount_minor: int
    currency: str
    card: str
    card_hash: str
    sent: int
    mti: str = ""
    pin_hash: str = ""
    chip_hash: str = ""
    answered: int = NEVER
    told: str | None = None
    outcome: tuple[str, str] | None = None
    abandoned: bool = False
    reversal_sent: int = NEVER
    reversal_answered: int = NEVER
    reversal_outcome: str | None = None
    reversal_done: bool = False


@dataclass(slots=True)
class _Effect:
    """A key as the acquirer knows it."""

    booked: int = 0
    reversed: int = 0
    original_seen: bool = False
    reversal_seen: bool = False
    digests: dict[str, str] = field(default_factory=dict)
    """Of the newest message by MTI, repeats counted as their first send."""


class Checker:
    """Feed it the terminals' history, then the ledger, then the queue; `verdict` is then complete."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}
        self._effects: dict[str, _Effect] = {}
        self._owed: dict[str, str] = {}
        self._by_person: dict[str, bool] = {}
        self._newest_sent: dict[str, int] = {}
        self._found: set[tuple[Defect, str]] = set()
        self._verdict = Verdict()
        self._place = 0

    def _report(self, defect: Defect, key: str, text: str) -> None:
        if (defect, key) not in self._found:
            self._found.add((defect, key))
            self._verdict.findings.append(Finding(defect, key, text))

    # --- the terminals' side ---------------------------------------------------------------------------------------

    def terminal_event(self, event: TerminalEvent) -> None:
        """Take the next line of the terminals' history."""
        self._place += 1
        if event.business in ("sale", "advice"):
            self._sale_event(event)
        elif event.business == "reversal":
            asked = self._asked.get(event.original)
            if asked is not None:
                self._reversal_event(asked, event)

    def _sale_event(self, event: TerminalEvent) -> None:
        asked = self._asked.get(event.key)
        if asked is None:
            asked = _Asked(
                event.key, event.amount_minor, event.currency, event.card, event.card_hash, self._place, event.mti,
                event.pin_hash, event.chip_hash,
            )  # fmt: skip
            self._asked[event.key] = asked
        if event.event == "abandoned":
            asked.abandoned = True
        elif event.event == "answered" and event.response != ASK_AGAIN_CODE:
            self._sale_answered(asked, event)

    def _sale_answered(self, asked: _Asked, event: TerminalEvent) -> None:
        content = (event.amount_minor, event.currency, event.card_hash)
        if content != (asked.amount_minor, asked.currency, asked.card_hash):
            if event.response in APPROVED_CODES:
                self._report(
                    Defect.CHANGED,
                    asked.key,
                    f"first sent with {asked.amount_minor} {asked.currency}, then {event.amount_minor} "
                    f"{event.currency} was approved under the same key",
                )
            return
        asked.answered = min(asked.answered, self._place)
        if not event.lost and (asked.told is None or asked.told in NOTHING_STORED_CODES):
            asked.told = event.response
        if event.response in NOTHING_STORED_CODES:
            return
        outcome = (event.response, event.approval)
        if asked.outcome is None:
            asked.outcome = outcome
        elif asked.outcome != outcome:
            self._report(
                Defect.CHANGED,
                asked.key,
                f"answered {_answer_words(asked.outcome)}, and attempt {event.attempt} {_answer_words(outcome)}",
            )

    def _reversal_event(self, asked: _Asked, event: TerminalEvent) -> None:
        if event.event == "sent":
            asked.reversal_sent = min(asked.reversal_sent, self._place)
        elif event.event == "abandoned":
            asked.abandoned = True
        elif event.event == "answered" and event.response != ASK_AGAIN_CODE:
            asked.reversal_answered = min(asked.reversal_answered, self._place)
            if not event.lost and event.response in REVERSAL_DONE_CODES:
                asked.reversal_done = True
            if event.response in NOTHING_STORED_CODES:
                return
            if asked.reversal_outcome is None:
                asked.reversal_outcome = event.response
            elif asked.reversal_outcome != event.response:
                text = f"its reversal was answered {asked.reversal_outcome}, then {event.response}"
                self._report(Defect.CHANGED, asked.key, text)

    # --- the acquirer's side ---------------------------------------------------------------------------------------

    def ledger_event(self, event: LedgerEvent) -> None:
        """Take the next line of the ledger. The terminals' history must be complete."""
        if event.business not in ("sale", "advice", "reversal"):
            return
        key = event.original if event.business == "reversal" else event.key
        effect = self._effects.setdefault(key, _Effect())
        asked = self._asked.get(key)
        if asked is not None:
            self._compare(asked, effect, event)
        if event.act == "ignored":
            return
        if event.act == "booked":
            effect.booked += 1
        elif event.act == "reversed":
            effect.reversed += 1
        elif event.act in ("duplicate", "reversal-duplicate"):
            self._verdict.resent += 1
        if event.business == "reversal":
            first, effect.reversal_seen = not effect.reversal_seen, True
        else:
            first, effect.original_seen = not effect.original_seen, True
            if first and effect.reversal_seen:
                self._report(Defect.OUT_OF_ORDER, key, f"its {event.mti} came after its reversal")
        if first and asked is not None:
            self._order(asked, event)

    def _compare(self, asked: _Asked, effect: _Effect, event: LedgerEvent) -> None:
        changes = []
        if event.amount_minor != asked.amount_minor:
            changes.append(f"amount {asked.amount_minor} became {event.amount_minor}")
        if event.currency and event.currency != asked.currency:
            changes.append(f"currency {asked.currency} became {event.currency}")
        if event.card_hash and event.card_hash != asked.card_hash:
            changes.append(f"card {asked.card} became {event.card}")
        handed_on = event.mti == asked.mti and not (event.business == "advice" and event.kind != "refund")
        for name, sent, arrived in (
            ("PIN block", asked.pin_hash, event.pin_hash),
            ("chip data", asked.chip_hash, event.chip_hash),
        ):
            if arrived != sent and (arrived or handed_on):
                changes.append(f"its {name} {'is another one' if arrived else 'is missing'}")
        first_form = f"{event.mti[:3]}0"
        before, effect.digests[first_form] = effect.digests.get(first_form, event.digest), event.digest
        if event.digest != before and (event.business != "reversal" or event.mti != first_form):
            changes.append("a repeat differs from its first send")
        if changes:
            self._report(Defect.CHANGED, asked.key, f"in a {event.mti} at the acquirer: {', '.join(changes)}")

    def _order(self, asked: _Asked, event: LedgerEvent) -> None:
        if asked.key in self._by_person:
            return
        if event.business != "reversal":
            sent, accepted = asked.sent, asked.answered
        elif asked.reversal_sent != NEVER:
            sent, accepted = asked.reversal_sent, asked.reversal_answered
        else:  # owed by the gateway since it told the terminal no
            sent, accepted = asked.sent, asked.answered
        lane = f"{event.merchant}/{event.terminal}"
        newest = self._newest_sent.get(lane, 0)
        if accepted < newest:
            self._report(
                Defect.OUT_OF_ORDER,
                asked.key,
                f"answered at event {accepted} of the history, but its {event.mti} reached the acquirer after a "
                f"message that the terminal sent at event {newest}",
            )
        self._newest_sent[lane] = max(newest, sent)

    # --- the end ---------------------------------------------------------------------------------------------------

    def owed(self, owed: Owed) -> None:
        """Take one line of the final queue listing."""
        self._owed[owed.key] = f"{owed.state} {owed.reason}".strip()

    def decided_by_person(self, key: str, *, ended: bool) -> None:
        """Take an operator's decision about a parked transaction, before the ledger.

        It was out of its lane (D18), so that newer ones may come before what is sent for it now.

        Args:
            ended: it was cancelled or voided: that is its last word, whatever its terminal was told.
        """
        self._by_person[key] = ended

    def verdict(self) -> Verdict:
        """Judge every transaction. Call once, at the end."""
        result = self._verdict
        for asked in self._asked.values():
            self._judge(asked, self._effects.get(asked.key) or _Effect())
        for key, effect in self._effects.items():
            if effect.booked and key not in self._asked:
                self._report(Defect.PHANTOM, key, f"booked {effect.booked} times, but no terminal sent it")
        for key, state in self._owed.items():
            self._report(Defect.UNSETTLED, key, f"still in the gateway's queue: {state}")
        result.transactions = len(self._asked)
        return result

    def _judge(self, asked: _Asked, effect: _Effect) -> None:
        result = self._verdict
        approved = asked.told in APPROVED_CODES
        reversing = asked.reversal_sent != NEVER
        net = effect.booked - effect.reversed
        result.acknowledged += approved
        result.declined += asked.told is not None and not approved
        result.reversed += reversing
        result.booked += net >= 1
        ledger = f"booked {effect.booked}, reversed {effect.reversed} times"
        if effect.booked > 1 or net not in (0, 1):
            self._report(Defect.DOUBLED, asked.key, f"{ledger} at the acquirer")
        if reversing:
            if net >= 1:
                self._report(Defect.UNSETTLED, asked.key, f"reversed by its terminal, but {ledger}")
            elif not asked.reversal_done and not asked.abandoned:
                self._report(Defect.UNSETTLED, asked.key, f"its terminal's reversal was never taken; {ledger}")
        elif self._by_person.get(asked.key, False):
            if net >= 1:
                self._report(Defect.UNSETTLED, asked.key, f"ended by a person, but {ledger}")
        elif asked.told is None:
            if asked.abandoned:
                result.unanswered += 1
            else:
                self._report(Defect.UNSETTLED, asked.key, f"its terminal was never told anything; {ledger}")
        elif approved and net < 1 and asked.key not in self._owed:
            self._report(Defect.LOST, asked.key, f"told {asked.told}, but {ledger}")
        elif not approved and net >= 1:
            self._report(Defect.UNSETTLED, asked.key, f"told {asked.told}, but {ledger}")


def _answer_words(outcome: tuple[str, str]) -> str:
    return f"{outcome[0] or 'without a code'} (approval {outcome[1] or 'none'})"


def check(history: Iterable[TerminalEvent], ledger: Iterable[LedgerEvent], queue: Iterable[Owed] = ()) -> Verdict:
    """Check a whole run."""
    checker = Checker()
    for terminal_event in history:
        checker.terminal_event(terminal_event)
    for ledger_event in ledger:
        checker.ledger_event(ledger_event)
    for owed in queue:
        checker.owed(owed)
    return checker.verdict()
