"""What happens on a scripted working day: what each terminal does and when, and what befalls the acquirer and gateway.

Everything random follows from the seed. The day is compressed: `seconds` of traffic stand for opening hours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bench.acquirer import NORMAL, Behaviour, Mode
from bench.scenario import Options, Step
from bench.till import TEST_CARDS
from bench.unionpay_line import NO_FAULT, Fault
from bench.unionpay_till import Entry

OUTAGE_S: Final = 6.0
HASTY_EVERY: Final = 8
"""Every eighth terminal waits too short a time, and reverses what is still under way."""
WRAPPING_EVERY: Final = 5
WRAPPING_AT: Final = 2
LOSING_EVERY: Final = 50
"""One terminal of so many loses its power between the journal record and the totals record: out of balance."""
DOUBTED: Final = 3
"""The acquirer says 95 to the first settlement of this terminal's batch, so that the gateway must upload it."""
_SECOND_BATCH_EVERY: Final = 10
_SECOND_BATCH_AT: Final = 4
_LOST_ANSWERS_EVERY: Final = 10
_SETTLING_S: Final = 3.0
_SIGNING_ON_S: Final = 3.0
_KEY_CODES: Final = ("001", "003", "004")
_AMOUNT_MAX: Final = 45_000
_FAULT_SHARE: Final = 0.02
_REVERSED_AT_ONCE: Final = 0.3


class Act(StrEnum):
    """A piece of business."""

    SALE = "sale"
    PIN_SALE = "sale with PIN"
    VOID = "void"
    REFUND = "refund"
    HOLD = "pre-authorisation"
    COMPLETE = "completion"
    COMPLETE_ADVICE = "completion advice"
    LET_GO = "void of pre-authorisation"
    BALANCE = "balance"
    OFFLINE = "offline sale"


_WEIGHTS: Final = {
    Act.SALE: 42,
    Act.PIN_SALE: 12,
    Act.VOID: 8,
    Act.REFUND: 6,
    Act.HOLD: 11,
    Act.COMPLETE: 5,
    Act.COMPLETE_ADVICE: 4,
    Act.LET_GO: 3,
    Act.BALANCE: 4,
    Act.OFFLINE: 5,
}
_EACH_ONCE: Final = (
    Act.SALE,
    Act.HOLD,
    Act.PIN_SALE,
    Act.VOID,
    Act.COMPLETE,
    Act.BALANCE,
    Act.HOLD,
    Act.REFUND,
    Act.OFFLINE,
    Act.COMPLETE_ADVICE,
    Act.HOLD,
    Act.LET_GO,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One piece of business, `at_s` seconds after the day began; void and the like fall back to a sale."""

    at_s: float
    act: Act
    amount_minor: int
    pan: str
    entry: Entry = Entry.STRIPE
    fault: Fault = NO_FAULT
    tries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """The day of one terminal.

    Attributes:
        key_code: DE 60.3 of its sign-on.
        loses_totals: turn at whose approval the power goes between journal and totals; -1 for none.
        settlement_fault: of the first send of each message of its settlement.
        second_batch: how many sales it makes in another batch after the first is settled.
        forgetful: it begins that batch without a sign-on, in the old one, and must be told 77.
    """

    terminal: str
    key_code: str
    first_stan: int
    hasty: bool
    loses_totals: int
    begins_s: float
    turns: tuple[Turn, ...]
    ends_s: float
    settlement_fault: Fault
    second_batch: int
    forgetful: bool


def terminal_name(number: int) -> str:
    """DE 41 of the day's terminals, which count from 0."""
    return f"T{number + 1:07d}"


def shift(options: Options, number: int) -> Shift:
    """The day of one terminal by its number."""
    dice = random.Random(f"shift/{options.seed}/{number}")
    count = max(1, round(options.seconds * options.sales_per_second))
    begins = dice.uniform(0, min(_SIGNING_ON_S, options.seconds / 4))
    pace = (options.seconds - begins) / (count + 1)
    acts = [*_EACH_ONCE[:count]] if number % 7 == 0 else []
    acts += dice.choices([*_WEIGHTS], [*_WEIGHTS.values()], k=count - len(acts))
    turns = [_turn(dice, act, begins + pace * (place + dice.uniform(0.5, 1.5))) for place, act in enumerate(acts)]
    if number % LOSING_EVERY == 1:
        turns[0] = Turn(at_s=turns[0].at_s, act=Act.SALE, amount_minor=100, pan=turns[0].pan, fault=_WRONG_MAC)
    wraps = number % WRAPPING_EVERY == WRAPPING_AT
    return Shift(
        terminal=terminal_name(number),
        key_code=_KEY_CODES[number % len(_KEY_CODES)],
        first_stan=999_990 if wraps else dice.randint(1, 999_000),
        hasty=number % HASTY_EVERY == HASTY_EVERY - 1,
        loses_totals=min(1, count - 1) if number % LOSING_EVERY == 0 else -1,
        begins_s=begins,
        turns=tuple(sorted(turns, key=lambda turn: turn.at_s)),
        ends_s=options.seconds + dice.uniform(0, _SETTLING_S),
        settlement_fault=Fault(answer_loss=True) if number % _LOST_ANSWERS_EVERY == 0 else NO_FAULT,
        forgetful=number % (2 * _SECOND_BATCH_EVERY) == _SECOND_BATCH_AT,
        second_batch=3 if number % _SECOND_BATCH_EVERY == _SECOND_BATCH_AT else 0,
    )


_WRONG_MAC: Final = Fault(wrong_mac=True)


def _turn(dice: random.Random, act: Act, at_s: float) -> Turn:
    fault, tries = NO_FAULT, None
    throw = dice.random()
    if throw < _FAULT_SHARE:
        fault = Fault(power_loss=True)
    elif throw < 2 * _FAULT_SHARE:
        fault = Fault(answer_loss=True)
    elif throw < 3 * _FAULT_SHARE:
        fault = Fault(twice=True)
    if (fault.power_loss or fault.answer_loss) and dice.random() < _REVERSED_AT_ONCE:
        tries = 1
    return Turn(
        at_s=at_s,
        act=act,
        amount_minor=dice.randint(100, _AMOUNT_MAX),
        pan=dice.choice(TEST_CARDS),
        entry=dice.choice((Entry.STRIPE, Entry.CHIP)),
        fault=fault,
        tries=tries,
    )


def befalls(options: Options) -> list[Step]:
    """The outage in the middle of the day, a short one when terminals settle, and with `kill` what happens to the
    gateway; in order of time."""
    dice = random.Random(f"day/{options.seed}")
    lasts = min(OUTAGE_S, options.seconds * 0.3)
    begin = options.seconds * 0.4 + dice.uniform(0, options.seconds * 0.05)
    end = begin + lasts
    away, other = Behaviour(mode=Mode.AWAY), dice.choice(_FAILING)
    first, second = (other, away) if dice.random() < 0.5 else (away, other)
    turns = begin + lasts * dice.uniform(0.3, 0.5)
    closing = options.seconds + dice.uniform(0.2, 0.5)
    steps = [
        Step(begin, f"the outage begins: {_WORDS[first.mode]}", first),
        Step(turns, f"it goes on: {_WORDS[second.mode]}", second),
        Step(end, "the acquirer is back: replay", NORMAL),
        Step(closing, "the acquirer is away again while terminals settle", away),
        Step(closing + _SETTLING_S / 2, "the acquirer is back: settlements follow", NORMAL),
    ]
    if options.kill:
        # Early in the outage, so that the gateway is up again when the replay begins.
        in_outage = begin + lasts * dice.uniform(0.1, 0.3)
        in_replay = end + dice.uniform(0.1, 0.8)
        in_settlement = closing + dice.uniform(0.1, _SETTLING_S / 2)
        steps += [
            Step(in_outage, "kill -9 of the gateway in the outage", kill_for_s=dice.uniform(0.1, 0.6)),
            Step(in_replay, "kill -9 of the gateway in the replay", kill_for_s=dice.uniform(0.1, 1.0)),
            Step(in_settlement, "kill -9 of the gateway while terminals settle", kill_for_s=dice.uniform(0.1, 1.0)),
        ]
    return sorted(steps, key=lambda step: step.at_s)


_FAILING: Final = (
    Behaviour(mode=Mode.SILENT),
    Behaviour(mode=Mode.SILENT),
    Behaviour(mode=Mode.BLACKHOLE),
    Behaviour(mode=Mode.DROP, share=0.5),
    Behaviour(mode=Mode.LATE, share=0.5, delay_ms=1500),
)
"""How it fails while it is there; two days of five it books and says nothing, which is worst."""

_WORDS: Final = {
    Mode.SILENT: "the acquirer books and stays silent",
    Mode.AWAY: "the acquirer is away",
    Mode.BLACKHOLE: "the acquirer reads and does nothing",
    Mode.DROP: "the acquirer books, and half the time drops the connection",
    Mode.LATE: "half the acquirer's answers come after 1500 ms",
}
