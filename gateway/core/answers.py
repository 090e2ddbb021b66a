"""Answers that the gateway makes itself: plain functions of the request, so that a retry gets the same bytes (D3)."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

from gateway.core.transaction import Answer
from protocol.emv import TlvError, parse_tlv
from protocol.iso8583.message import Fields
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import TerminalRules

_MAC_FIELDS = (64, 128)
_UINT64 = struct.Struct(">Q")
_OWN_FIELDS = (2, 3, 4, 11, 41, 42, 49)
_NOT_RELAYED = frozenset({*_MAC_FIELDS, *_OWN_FIELDS})
_TRACK_TAGS = frozenset({"56", "57", "9F6B", "9F1F", "9F20"})


def approval_code(key: str) -> str:
    """Field 38 of a stand-in approval: six digits that follow from the transaction's key alone."""
    (number,) = _UINT64.unpack_from(sha256(key.encode()).digest())
    return str(1_000_000 + number % 1_000_000)[1:]


def retrieval_reference(stan: str, utc_ms: int) -> str:
    """Field 37 of a stand-in approval in its usual form: last digit of the year, day of the year, hour, STAN."""
    return f"{_day_and_hour(utc_ms // 3_600_000)}{stan:>06}"[:12]


@lru_cache(maxsize=4)
def _day_and_hour(hour: int) -> str:
    moment = datetime.fromtimestamp(hour * 3_600, UTC)
    return f"{moment.year % 10}{moment.timetuple().tm_yday:03}{moment.hour:02}"


def local_answer(
    mti: str, fields: Fields, code: str, rules: TerminalRules, utc_ms: int, *, approval: str = "", stan: str = ""
) -> Answer:
    """An answer made here.

    Args:
        mti, fields: of the terminal's message.
        code: field 39.
        rules: the dialect's habits; `answer_echo` says which fields are given back.
        utc_ms: time of record; makes field 37 of an approval.
        approval: field 38, for a stand-in approval.
        stan: of a stand-in approval: field 11 upstream, which is not in `fields` where the gateway assigned it.
    """
    answer = _echo(fields, rules)
    answer[39] = code
    if approval:
        answer[38] = approval
        answer.setdefault(37, retrieval_reference(stan, utc_ms))
    return Answer(answer_mti(mti), answer)


def _echo(fields: Fields, rules: TerminalRules) -> Fields:
    """What is given back of a request. It is copied whole first: a third of what filling a dictionary anew costs."""
    echoed = _as_set(rules.answer_echo)
    answer = fields.copy()
    for number in fields:
        if number not in echoed:
            del answer[number]
    return answer


@lru_cache(maxsize=64)
def _as_set(numbers: tuple[int, ...]) -> frozenset[int]:
    return frozenset(numbers)


def relayed_answer(mti: str, request: Fields, host: Fields, rules: TerminalRules) -> Answer:
    """The acquirer's answer as the terminal gets it: what the host said, over what the terminal sent.

    What identifies the payment is the terminal's own, whatever the host wrote there; a card that the terminal sent in
    a track only is not given back. MACs are the listener's matter (D3). Sensitive authentication data that a host
    echoes is left out, because answers are kept (INV-8); field 55 is the issuer's answer to the chip, if it holds no
    track.
    """
    answer = _echo(request, rules)
    sensitive = rules.sensitive_fields
    for number, value in host.items():
        if number in _NOT_RELAYED or (number in sensitive and number != 55):
            continue
        if number == 55 and holds_track(value):
            continue
        answer[number] = value
    for number in _OWN_FIELDS:
        if number in request:
            answer[number] = request[number]
    if 11 not in answer and 11 in host:
        answer[11] = host[11]  # the STAN that the gateway assigned
    return Answer(answer_mti(mti), answer)


def holds_track(chip: str) -> bool:
    """Whether chip data holds magnetic stripe data (tags 56, 57, 9F6B, 9F1F, 9F20) or is no TLV at all."""
    try:
        return any(tlv.tag in _TRACK_TAGS for tlv in parse_tlv(bytes.fromhex(chip)))
    except (TlvError, ValueError):
        return True
