"""Stand-in: our own decision while the acquirer cannot be asked (D21).

The policy decides what follows from the request alone and names the exposure limits; the journal decides those inside
the commit, where they cannot be raced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.core.card_data import carried_pan, is_expired
from gateway.core.effects import Limit
from gateway.core.transaction import Kind, Request, Transaction


class StandInMode(StrEnum):
    """Whether the policy decides, only says what it would have decided, or is off."""

    ON = "on"
    OFF = "off"
    DRY_RUN = "dry-run"


# Names of what every request is compared with: a member of an enumeration costs ten times as much to come by.
_SALE: Final = Kind.SALE
_AUTHORISATION: Final = Kind.AUTHORISATION
_OFF: Final = StandInMode.OFF
_DRY_RUN: Final = StandInMode.DRY_RUN


@dataclass(slots=True, frozen=True, kw_only=True)
class Exposure:
    """Bounds on what is stored and not yet taken by the acquirer, for one terminal, one card, or over all.

    Attributes:
        count_max: number of transactions; None for no bound.
        total_minor_max: their sum per currency, in minor units; None for no bound.
        age_ms_max: how long the counter may have been above zero; None for no bound.
    """

    count_max: int | None = None
    total_minor_max: int | None = None
    age_ms_max: int | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class Policy:
    """The stand-in policy as configured; every default is the cautious one (D21).

    Attributes:
        floor_limit_minor: largest amount of one transaction.
        processing_codes: first two digits of field 3 that may stand in; "00" is a sale.
        currencies: ISO 4217 numeric codes.
        entry_modes: first two digits of field 22; empty for any.
        bin_ranges: pairs of equally long digit strings, inclusive; empty for any card.
        hot_cards: keyed hashes (KeyedHash.card) of cards that never stand in.
        allow_expired: a card whose last month is over may stand in.
        allow_chip_without_issuer: a chip card is answered without issuer authentication (field 55, tag 91).
        allow_pin_dropped: the advice goes without the PIN block.
        allow_track_dropped: the advice goes without track data, by the card number alone.
    """

    mode: StandInMode = StandInMode.ON
    floor_limit_minor: int = 5_000
    terminal: Exposure = Exposure(count_max=50, total_minor_max=100_000, age_ms_max=86_400_000)
    card: Exposure = Exposure(count_max=3, total_minor_max=10_000, age_ms_max=86_400_000)
    overall: Exposure = Exposure(count_max=100_000, total_minor_max=100_000_000, age_ms_max=86_400_000)
    processing_codes: frozenset[str] = frozenset({"00"})
    currencies: frozenset[str] = frozenset({"156"})
    entry_modes: frozenset[str] = frozenset()
    bin_ranges: tuple[tuple[str, str], ...] = ()
    hot_cards: frozenset[bytes] = field(default=frozenset(), repr=False)
    allow_expired: bool = False
    allow_chip_without_issuer: bool = False
    allow_pin_dropped: bool = False
    allow_track_dropped: bool = False


class StandIn:
    """The request may stand in, if the journal finds room under every limit."""

    __slots__ = ("limits",)

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        # A plain class: one is made for each sale, and a frozen dataclass takes twice as long to make.
        self.limits: Final = limits


@dataclass(slots=True, frozen=True)
class Refusal:
    """The request may not stand in; `reason` is recorded with it."""

    reason: str


def decide(request: Request, policy: Policy, utc_ms: int) -> StandIn | Refusal:
    """Apply the policy to one request. The first rule that refuses names the reason."""
    mode = policy.mode
    if mode is _OFF:
        return Refusal("standin.off")
    if reason := _refused_by(request, policy, utc_ms):
        return Refusal(reason)
    if mode is _DRY_RUN:
        return Refusal("standin.dry-run-would-approve")
    return StandIn(_limits(request, policy))


def _refused_by(request: Request, policy: Policy, utc_ms: int) -> str:
    if request.kind is not _SALE and request.kind is not _AUTHORISATION:
        return "standin.kind"
    if request.fields.get(3, "")[:2] not in policy.processing_codes:
        return "standin.processing-code"
    if request.currency not in policy.currencies:
        return "standin.currency"
    if request.amount_minor <= 0:  # nothing to sell, or a question about the card: the issuer's to answer
        return "standin.no-amount"
    if request.amount_minor > policy.floor_limit_minor:
        return "standin.floor-limit"
    if policy.entry_modes and request.fields.get(22, "")[:2] not in policy.entry_modes:
        return "standin.entry-mode"
    if not request.pan:
        return "standin.no-card-number"
    if request.card in policy.hot_cards:
        return "standin.hot-card"
    if policy.bin_ranges and not _in_ranges(request.pan, policy.bin_ranges):
        return "standin.bin-range"
    if not policy.allow_expired and is_expired(request.fields, request.sensitive, utc_ms):
        return "standin.card-expired"
    return _refused_for_sensitive_data(request, policy) if request.sensitive else ""


def _refused_for_sensitive_data(request: Request, policy: Policy) -> str:
    """What may not be stored cannot be forwarded later: each needs the profile's explicit permission (D10, D21)."""
    sensitive = request.sensitive
    if carried_pan(sensitive) not in ("", request.pan):
        return "standin.cards-differ"  # limits and lists were asked for the one, and the other may be debited
    if 55 in sensitive and not policy.allow_chip_without_issuer:
        return "standin.chip-needs-issuer"
    has_pin = sensitive.get(52, "").strip("0") != ""
    if has_pin and not policy.allow_pin_dropped:
        return "standin.pin-not-storable"
    has_track = any(number in sensitive and number not in request.retained for number in (35, 36, 45))
    if has_track and not policy.allow_track_dropped:
        return "standin.track-not-storable"
    return ""


def _in_ranges(pan: str, ranges: tuple[tuple[str, str], ...]) -> bool:
    return any(low <= pan[: len(low)] <= high for low, high in ranges)


def _limits(request: Request, policy: Policy) -> tuple[Limit, ...]:
    names = counters(request.lane, request.card, request.currency)
    overall, terminal, card = policy.overall, policy.terminal, policy.card
    return (
        Limit(names[0], overall.count_max, overall.total_minor_max, overall.age_ms_max, "standin.overall"),
        Limit(names[1], terminal.count_max, terminal.total_minor_max, terminal.age_ms_max, "standin.terminal"),
        Limit(names[2], card.count_max, card.total_minor_max, card.age_ms_max, "standin.card"),
    )


def counters(lane: str, card: bytes, currency: str) -> tuple[str, str, str]:
    """Names of the durable exposure counters that a stand-in approval counts in."""
    return (f"overall|{currency}", f"terminal|{lane}|{currency}", f"card|{card.hex()}|{currency}")


def counters_of(transaction: Transaction) -> tuple[str, ...]:
    """The counters to release when an exposed transaction is settled."""
    return counters(transaction.lane, transaction.card, transaction.currency) if transaction.exposed else ()
