"""What UnionPay messages mean, for simulators of both sides: the parts of DE 60, kinds of business, MACs."""

from __future__ import annotations

from typing import Final

from bench.records import Direction
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Fields, Message
from protocol.mac import MAC_BYTES, MacKey, mac_input

KINDS: Final = {
    "01": "balance",
    "10": "pre-authorisation",
    "11": "void of pre-authorisation",
    "20": "completion",
    "21": "void of completion",
    "22": "sale",
    "23": "void",
    "24": "completion advice",
    "25": "refund",
    "36": "offline sale",
}
SIGN_ON_CODES: Final = frozenset({"001", "003", "004"})
SIGN_OFF_CODE: Final = "002"
SETTLEMENT_CODE: Final = "201"
UPLOAD_END_CODES: Final = frozenset({"202", "207"})
MASTER_KEY_BYTES: Final = 16
MAC_FAILED: Final = "A0"
BATCH_MISMATCH: Final = "77"
OUT_OF_BALANCE: Final = "95"

_DIRECTIONS: Final[dict[str, Direction]] = {"00": "debit", "20": "credit"}
_MAC_FIELD: Final = 64
_REQUIREMENT_DIGIT: Final = 5
_SIGN_ON_WANTED: Final = "3"


def kind_of(fields: Fields) -> str:
    """What DE 60.1 calls a message; empty for none of the kinds."""
    return KINDS.get(fields.get(60, "")[:2], "")


def batch_of(fields: Fields) -> str:
    """DE 60.2."""
    return fields.get(60, "")[2:8]


def network_code(fields: Fields) -> str:
    """DE 60.3."""
    return fields.get(60, "")[8:11]


def is_exempt(mti: str) -> bool:
    """Whether a message carries no MAC: 08xx."""
    return mti.startswith("08")


def direction_of(mti: str, fields: Fields) -> Direction:
    """How a transaction counts in the totals of its batch: by class of message and the first digits of DE 3."""
    if mti[1] not in "12":
        return ""
    return _DIRECTIONS.get(fields.get(3, "")[:2], "none") if mti[1] == "2" else "none"


def wants_sign_on(header: bytes) -> bool:
    """Whether an answer's header asks for a new sign-on."""
    return header.hex()[_REQUIREMENT_DIGIT : _REQUIREMENT_DIGIT + 1] == _SIGN_ON_WANTED


def wanting_sign_on(header: bytes) -> bytes:
    """The same header, asking for a new sign-on."""
    digits = header.hex()
    return bytes.fromhex(digits[:_REQUIREMENT_DIGIT] + _SIGN_ON_WANTED + digits[_REQUIREMENT_DIGIT + 1 :])


class Seal:
    """The MACs of one session."""

    def __init__(self, dialect: Dialect, mac_key: bytes) -> None:
        self._codec = dialect.codec
        self._before = dialect.codec.layout.mti_offset
        self._bitmap = dialect.codec.layout.bitmap_offset
        self._key = MacKey(dialect.terminal.mac_method, mac_key)

    def sealed(self, message: Message) -> bytes:
        """The frame of a message, without length, with its MAC in field 64.

        Raises:
            CodecError: the message does not fit the dialect.
        """
        fields = {**message.fields, _MAC_FIELD: "00" * MAC_BYTES}
        placed = self._codec.encode(Message(message.mti, fields, message.tpdu, message.header))
        return placed[:-MAC_BYTES] + self._key.compute(mac_input(placed, self._before))

    def genuine(self, frame: bytes) -> bool:
        """Whether a frame, without length, has a field 64, and the right one."""
        if not frame[self._bitmap + 7] & 1:
            return False
        return self._key.verify(mac_input(frame, self._before), frame[-MAC_BYTES:])
