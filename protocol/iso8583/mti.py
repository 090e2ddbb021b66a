"""Message type indicators: version, class, function and origin, one digit each (ISO 8583:1987, 4.1)."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final


class MessageClass(StrEnum):
    """The second digit: what kind of business a message is about."""

    AUTHORIZATION = "1"
    FINANCIAL = "2"
    FILE_ACTION = "3"  # UnionPay: batch upload
    REVERSAL = "4"
    RECONCILIATION = "5"
    ADMINISTRATIVE = "6"
    FEE_COLLECTION = "7"
    NETWORK = "8"


class MessageFunction(StrEnum):
    """The third digit: a request may be declined, an advice tells of something done and must be taken."""

    REQUEST = "0"
    REQUEST_ANSWER = "1"
    ADVICE = "2"
    ADVICE_ANSWER = "3"
    NOTIFICATION = "4"
    NOTIFICATION_ANSWER = "5"


_ANSWER_FUNCTION: Final = {"0": "1", "2": "3", "4": "5"}
_FIRST_ORIGIN: Final = {"0": "0", "1": "0", "2": "2", "3": "2", "4": "4", "5": "4"}
_REPEAT_ORIGIN: Final = {"0": "1", "1": "1", "2": "3", "3": "3", "4": "5", "5": "5"}


def _checked(mti: str) -> str:
    if len(mti) != 4 or not mti.isascii() or not mti.isdecimal():
        raise ValueError("an MTI has four digits")
    return mti


def message_class(mti: str) -> MessageClass:
    """The class of a message.

    Raises:
        ValueError: not four digits, or a class that ISO 8583 reserves.
    """
    return MessageClass(_checked(mti)[1])


def message_function(mti: str) -> MessageFunction:
    """The function of a message.

    Raises:
        ValueError: not four digits, or a function that ISO 8583 reserves.
    """
    return MessageFunction(_checked(mti)[2])


@lru_cache(maxsize=256)
def is_answer(mti: str) -> bool:
    """Whether the message answers another one."""
    return _checked(mti)[2] in "135"


def is_advice(mti: str) -> bool:
    """Whether the message tells of something done, so that its receiver must take it."""
    return _checked(mti)[2] == "2"


def is_repeat(mti: str) -> bool:
    """Whether the message is sent again (the last digit is odd)."""
    return _checked(mti)[3] in "135"


@lru_cache(maxsize=256)
def first_mti(mti: str) -> str:
    """The MTI of the first send: "0221" -> "0220"; a first send stays as it is.

    Raises:
        ValueError: not four digits, or an origin that ISO 8583 reserves.
    """
    origin = _FIRST_ORIGIN.get(_checked(mti)[3])
    if origin is None:
        raise ValueError("the MTI's origin is reserved")
    return mti[:3] + origin


@lru_cache(maxsize=256)
def repeat_mti(mti: str) -> str:
    """The MTI of a repeat: "0220" -> "0221"; a repeat stays as it is (D7, D8).

    Raises:
        ValueError: as `first_mti`; or the message is an answer, which is never repeated as such.
    """
    origin = _REPEAT_ORIGIN.get(_checked(mti)[3])
    if origin is None:
        raise ValueError("the MTI's origin is reserved")
    if is_answer(mti):
        raise ValueError("an answer has no repeat")
    return mti[:3] + origin


@lru_cache(maxsize=256)
def answer_mti(mti: str) -> str:
    """The MTI that answers `mti`; a repeat is answered as its first send: "0201" -> "0210", "0421" -> "0430".

    Raises:
        ValueError: not four digits, an answer itself, or a reserved function or origin.
    """
    function = _ANSWER_FUNCTION.get(_checked(mti)[2])
    if function is None:
        raise ValueError("only a request, an advice or a notification has an answer")
    return mti[:2] + function + first_mti(mti)[3]
