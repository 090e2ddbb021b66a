"""What a dialect's file says beside its formats: the habits of its terminals and of its host (DOMAIN: profile)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from protocol.mac_method import MacMethod


class Period(StrEnum):
    """What tells two uses of the same STAN apart (D1)."""

    BATCH = "batch"
    DATE = "date"
    HORIZON = "horizon"


_BATCH: Final = Period.BATCH  # every message asks for it, and a member of an enumeration costs ten times as much


class OriginalForm(StrEnum):
    """How a reversal names the transaction that it undoes (D12)."""

    SAME_STAN = "same-stan"
    DE_90 = "de90"


class MacKeys(StrEnum):
    """Where the key of a terminal's MACs comes from (D10)."""

    SIGN_ON = "sign-on"  # a work key, given in the answer to its sign-on
    FIXED = "fixed"  # its master key itself
    DUKPT = "dukpt"  # derived for each message from the base derivation key (X9.24)


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
        inquiries: first two digits of field 3 of requests that move no money, such as a balance inquiry: handed on to
            the acquirer, never stored, never stood in for.
        type_field, type_start, type_length: where the type of a message stands, in digits from 0 (UnionPay: 60.1).
        advice_types: types of requests that tell rather than ask, such as an offline sale sent as 0200.
        network_field, network_start, network_length: where the network code of 0800, 0820 and 0320 stands (UnionPay:
            60.3; ISO 1987: field 70).
        sign_on_codes: network codes of a sign-on that is answered with work keys in field 62.
        passed_codes: first two digits of network codes that are the acquirer's to answer, such as the download of
            parameters.
        totals_field: where 0500 carries its totals and 0320 its details; 0 where terminals do not settle here.
        debit_types, credit_types: what counts in the totals: message type and first two digits of field 3, such as
            "0200/00"; message types of first sends.
        upload_end_codes: network codes of the 0320 that ends a batch upload.
        mac_method: of terminals' MACs, checked where the listener has keys.
        mac_keys: where their key comes from.
        mac_field: 64 or 128: where the MAC stands, always the last field.
        mac_exempt: first two digits of message types that carry no MAC.
        key_serial_field: with DUKPT, the field of the key serial number.
        work_key_hours: how long work keys are good for; those of the period before pass as well.
        check_value_bytes: of work keys.
        requirement_digit: which hexadecimal digit of the header, from 0, tells the terminal what to do; -1 for none.
        requirement_sign_on: its value for "sign on again".
        clock_offset_min: of the terminals' local time, told in the answer to a sign-on, from UTC.
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
    inquiries: frozenset[str] = frozenset({"30", "31"})
    type_field: int = 0
    type_start: int = 0
    type_length: int = 2
    advice_types: frozenset[str] = frozenset()
    network_field: int = 70
    network_start: int = 0
    network_length: int = 3
    sign_on_codes: frozenset[str] = frozenset()
    passed_codes: frozenset[str] = frozenset()
    totals_field: int = 0
    debit_types: frozenset[str] = frozenset()
    credit_types: frozenset[str] = frozenset()
    upload_end_codes: frozenset[str] = frozenset()
    mac_method: MacMethod = MacMethod.NONE
    mac_keys: MacKeys = MacKeys.FIXED
    mac_field: int = 64
    mac_exempt: frozenset[str] = frozenset({"08"})
    key_serial_field: int = 0
    work_key_hours: int = 24
    check_value_bytes: int = 4
    requirement_digit: int = -1
    requirement_sign_on: str = "3"
    clock_offset_min: int = 0

    @property
    def settles(self) -> bool:
        """Whether terminals close batches here: by 0500 with totals, for batches that their keys name."""
        return self.period is _BATCH and self.totals_field > 0


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
        settles: whether a closed batch is settled with this host (0500), and uploaded (0320) where it differs.
        settlement_fields: fields of a 0500 beside 11, 41, 42 and the totals; the batch number is put in its place.
        upload_fields, upload_end_fields: the same for an 0320 with details, and for the one that ends an upload.
        totals_field, debit_types, credit_types, batch_field, batch_start, batch_length: as for terminals.
        sign_on_mti, sign_on_fields: the gateway's own sign-on, answered with work keys in field 62.
        mac_method: of messages to this host, and of its answers, where the gateway signs on or has a key.
        mac_field, mac_exempt, check_value_bytes, requirement_digit, requirement_sign_on: as for terminals.
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
    settles: bool = False
    settlement_fields: dict[int, str] = field(default_factory=dict)
    upload_fields: dict[int, str] = field(default_factory=dict)
    upload_end_fields: dict[int, str] = field(default_factory=dict)
    totals_field: int = 48
    debit_types: frozenset[str] = frozenset()
    credit_types: frozenset[str] = frozenset()
    batch_field: int = 60
    batch_start: int = 2
    batch_length: int = 6
    sign_on_mti: str = "0800"
    sign_on_fields: dict[int, str] = field(default_factory=dict)
    mac_method: MacMethod = MacMethod.NONE
    mac_field: int = 64
    mac_exempt: frozenset[str] = frozenset({"08"})
    check_value_bytes: int = 4
    requirement_digit: int = -1
    requirement_sign_on: str = "3"
