"""What a dialect's file says beside its formats: the habits of its terminals and of its host (DOMAIN: profile)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Period(StrEnum):
    """What tells two uses of the same STAN apart (D1)."""

    BATCH = "batch"
    DATE = "date"
    HORIZON = "horizon"


class OriginalForm(StrEnum):
    """How a reversal names the transaction that it undoes (D12)."""

    SAME_STAN = "same-stan"
    DE_90 = "de90"


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalRules:
    """Habits of terminals that speak a dialect: the TOML table `[terminal]`.

    Attributes:
        period: what separates two uses of a STAN (D1).
        batch_field, batch_start, batch_length: where the batch number stands, in digits from 0 (UnionPay: 60, 2, 6).
        date_field: 13 (MMDD) or 7 (MMDDhhmmss); used where period is "date".
        horizon_hours: how far back a retry is looked for where period is "horizon".
        original: how a terminal's reversal names its original.
        sensitive_fields: sensitive authentication data (track, PIN block, CVV, chip data); kept apart from the rest.
        answer_echo: fields of the request that an answer made by the gateway gives back.
        asked_advices: first two digits of field 3 of those advices (0120, 0220) that ask rather than tell, such as a
            UnionPay refund: they are asked online, and stand in only if the policy says so.
        default_currency: ISO 4217 numeric code where field 49 is absent.
        retained_sensitive_fields: which of `sensitive_fields` may be stored, encrypted, until the transaction is
            final, so that an advice can carry them (D10, D21); empty by default.
    """

    period: Period = Period.DATE
    batch_field: int = 60
    batch_start: int = 2
    batch_length: int = 6
    date_field: int = 13
    horizon_hours: int = 24
    original: OriginalForm = OriginalForm.DE_90
    sensitive_fields: frozenset[int] = frozenset({35, 36, 45, 52, 53, 55})
    retained_sensitive_fields: frozenset[int] = frozenset()
    answer_echo: tuple[int, ...] = (2, 3, 4, 7, 11, 12, 13, 22, 23, 25, 32, 37, 41, 42, 49, 60)
    asked_advices: frozenset[str] = frozenset({"01", "20"})
    default_currency: str = "156"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """Habits of a host that speaks a dialect: the TOML table `[host]`.

    Attributes:
        match_fields: an answer belongs to the request whose MTI it answers and whose fields here are equal.
        original: the form in which this host wants reversals (D12).
        reversal_mti, advice_mti: MTIs of first sends, e.g. "0400" and "0220".
        repeat_request, repeat_advice, repeat_reversal: whether the repeat form of the MTI (last digit 1) is certified
            (D7, D8).
        repeat_refresh: fields made fresh in a repeat; every other field is equal to the first send (D8).
        reversal_fields: fields of the original that a same-STAN reversal repeats (D12).
        reason_field: where a reversal gives its reason; 0 for none.
        advice_drop_fields: fields of a request that its advice must not carry.
        echo_mti, echo_fields: the echo test of this host.
        approved_codes: field 39 values that mean approved; compared whole.
    """

    match_fields: tuple[int, ...] = (11, 41, 42)
    original: OriginalForm = OriginalForm.DE_90
    reversal_mti: str = "0400"
    advice_mti: str = "0220"
    repeat_request: bool = False
    repeat_advice: bool = True
    repeat_reversal: bool = True
    repeat_refresh: frozenset[int] = frozenset()
    reversal_fields: tuple[int, ...] = (2, 3, 4, 11, 12, 13, 14, 22, 23, 25, 32, 37, 38, 41, 42, 49, 60)
    reason_field: int = 0
    advice_drop_fields: frozenset[int] = frozenset({52, 64, 128})
    echo_mti: str = "0800"
    echo_fields: dict[int, str] = field(default_factory=lambda: {70: "301"})
    approved_codes: frozenset[str] = frozenset({"00", "08", "10", "11", "16"})
