"""What a working day was to show: a check that had nothing to look at proves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from bench.day_plan import DOUBTED, WRAPPING_AT
from bench.records import LedgerEvent

_WHOLE_S: Final = 30.0
"""In a day of this length the gateway must sign on when asked, however it spaces its sign-ons."""
_SHORT_S: Final = 10.0
"""A day shorter than this may lack a kind of business by chance."""

_WORTH_COUNTING: Final = (
    "signed on", "signed off", "not signed off", "keys of 24 bytes", "keys of 40 bytes", "keys of 60 bytes",
    "wrong keys", "sign-ons without keys", "parameters", "no parameters", "balances", "no balance",
    "issuers' answers to chips", "sale", "void",
    "refund", "pre-authorisation", "void of pre-authorisation", "completion", "completion advice", "offline sale",
    "batches closed", "batches not closed", "out of balance", "answers with a wrong MAC",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there was to look at.

    Attributes:
        counts: what the terminals did and were told, by name.
        sign_ons_asked_for: of the gateway, before the outage.
        pin_blocks: that arrived at the acquirer.
        stans_wrapped: terminals whose STAN went from 999999 to 000001.
        uploads: of batches to the acquirer.
        wrong_macs_left: answers that the acquirer was still to make wrong.
    """

    terminals: int
    seconds: float
    counts: Counter[str]
    tapped_bytes: int
    sign_ons_asked_for: int
    pin_blocks: int
    stans_wrapped: int
    uploads: int
    wrong_macs_left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one terminal saw of the day.

    Attributes:
        pin_key: that it was given at its last sign-on; empty where it had none.
        given: the PIN key that the acquirer had given for it beforehand.
        loses_totals: it was to lose a totals record.
        uploaded: it was told 95, and uploaded a batch.
    """

    terminal: str
    pin_key: bytes
    given: bytes | None
    loses_totals: bool
    uploaded: bool


def surprises(seen: Iterable[Seen], ledger: Iterable[LedgerEvent], doubted: Collection[str]) -> list[str]:
    """What came out well in the end, and should not have been at all.

    An upload puts right what a settlement that came too early, or wrong sums, had made wrong: so whoever had no reason
    to be out of balance must not have been.
    """
    found = []
    for one in seen:
        if one.given is not None and one.pin_key not in (b"", one.given):
            found.append(f"{one.terminal} was given another PIN key than the acquirer's")
        if one.uploaded and not one.loses_totals:
            found.append(f"{one.terminal} was told 95 although its totals were right")
    early = {event.terminal for event in ledger if event.act == "out-of-balance"}.difference(doubted)
    return found + [f"the gateway's first totals of {name} were not the acquirer's" for name in sorted(early)]


def worth_counting(counts: Counter[str]) -> dict[str, int]:
    """What the terminals did, by name, without what they did not."""
    return {name: counts[name] for name in _WORTH_COUNTING if counts[name]}


def not_shown(shown: Shown) -> list[str]:
    """What the day lacked; nothing where it was whole."""
    counts, short = shown.counts, shown.seconds < _SHORT_S
    wanted = {
        "no terminal's batch was out of balance": counts["out of balance"] > 0,
        "the gateway was not asked to upload a batch": shown.uploads > 0 or shown.terminals <= DOUBTED,
        "a wrong MAC was not refused": counts["code A0"] > 0 or shown.terminals < 2,
        "no closed batch was told 77": counts["code 77"] > 0 or shown.terminals <= 4,
        "no parameters were downloaded": counts["parameters"] > 0,
        "no balance was told": counts["balances"] > 0 or short,
        "no STAN wrapped": shown.stans_wrapped > 0 or short or shown.terminals <= WRAPPING_AT,
        "no PIN block arrived": shown.pin_blocks > 0 or short,
        "no issuer answered a chip": counts["issuers' answers to chips"] > 0 or short,
        "the taps heard nothing": shown.tapped_bytes > 0,
        "the gateway did not sign on again when it was asked to": shown.sign_ons_asked_for > 0
        or shown.seconds < _WHOLE_S,
        "no answer had a wrong MAC": not shown.wrong_macs_left,
    }
    return [text for text, there in wanted.items() if not there]
