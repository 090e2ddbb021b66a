"""The card that a message is about: its number and how long it is valid, wherever they stand."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

from gateway.core.parts import all_digits
from protocol.emv import TlvError, parse_tlv
from protocol.iso8583.message import Fields

_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
_CLOCK_SET_DAY: Final = date(2020, 1, 1).toordinal() - _EPOCH
"""A machine whose clock has no battery begins at 1970 or at its own making, and knows no card to be expired."""
_BEHIND_UTC_MS: Final = 43_200_000
"""The last place where a month ends is twelve hours behind UTC."""


def pan_of(fields: Fields) -> str:
    """The card number from field 2, track 2, or chip data (tags 5A, 57); empty where there is none.

    A track without a card number in clear (encrypted by the terminal) has none: what is taken for a card number is
    kept and shown in part, and nothing else may be.
    """
    return fields.get(2) or carried_pan(fields)


def carried_pan(sensitive: Fields) -> str:
    """The card number in track 2 or in chip data alone, whatever field 2 says; empty where there is none."""
    if track := sensitive.get(35):
        pan, _ = _track_2(track)
        if is_pan(pan):
            return pan
    if chip := sensitive.get(55):
        tags = _tags(chip)
        pan = tags.get("5A", "").rstrip("F") or _track_2(tags.get("57", ""))[0]
        return pan if is_pan(pan) else ""
    return ""


def is_expired(fields: Fields, sensitive: Fields, utc_ms: int) -> bool:
    """Whether the card's last month is over everywhere, as field 14, track 2 or chip data (tags 57, 5F24) say it: YYMM.

    What is no month says nothing: terminals fill field 14 with zeros, and issuers a track. A year belongs to the
    century of the clock, so that 99 is far ahead and never long ago: some issuers write it for "does not end".
    """
    now = _month_of((utc_ms - _BEHIND_UTC_MS) // _DAY_MS)
    if (stated := fields.get(14)) is not None and _is_before(stated, now):
        return True
    if not sensitive:
        return False
    if (track := sensitive.get(35)) and _is_before(_track_2(track)[1], now):
        return True
    if not (chip := sensitive.get(55)):
        return False
    tags = _tags(chip)
    return _is_before(tags.get("5F24", "")[:4], now) or _is_before(_track_2(tags.get("57", ""))[1], now)


def _is_before(stated: str, now: str) -> bool:
    """Whether YYMM is a month, and before this one."""
    return len(stated) == 4 and all_digits(stated) and "01" <= stated[2:] <= "12" and stated < now


@lru_cache(maxsize=4)
def _month_of(day: int) -> str:
    """YYMM of a day counted from 1970; where the clock is not set, one that no month is before."""
    if day < _CLOCK_SET_DAY:
        return "0000"
    try:
        return date.fromordinal(_EPOCH + day).strftime("%y%m")
    except (ValueError, OverflowError):
        return "0000"


def _track_2(track: str) -> tuple[str, str]:
    """What stands before the separator, and the four characters behind it."""
    before, _, behind = track.upper().replace("D", "=").partition("=")
    return before, behind[:4]


def is_pan(text: str) -> bool:
    """Whether it can be a card number: at most 19 digits, and nothing else."""
    return len(text) <= 19 and all_digits(text)


def _tags(chip: str) -> dict[str, str]:
    """Values of field 55 by tag, in hexadecimal; none where it is no TLV."""
    try:
        return {tlv.tag: tlv.value.hex().upper() for tlv in parse_tlv(bytes.fromhex(chip))}
    except (TlvError, ValueError):
        return {}
