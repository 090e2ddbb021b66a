"""One session with a host: the gateway's own sign-on, and the MACs that its work key makes and checks (D10).

Plain synchronous code without clock or IO: times come in as monotonic milliseconds. Keys live here only, in memory:

    current   from the newest good sign-on (or fixed): makes the MACs of what is sent, checks those of answers
    previous  the one before: checks answers for `previous_key_ms` more, as what they answer was sent under it

`forget` makes the current key a previous one: the host may have lost the session with the last connection. A message
has its MAC put in after it was encoded, as its last bytes; whoever has no key can send nothing that wants a MAC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.framing import PREFIX_BYTES
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import FieldSpec, FieldType, field_writer
from protocol.iso8583.message import Fields, Message
from protocol.mac import MAC_BYTES, MacKey, MacKeyError, mac_input
from protocol.mac_method import MacMethod
from protocol.response_codes import APPROVED, SIGN_ON_FIRST
from protocol.tdes import DOUBLE_BYTES, SINGLE_BYTES, TRIPLE_BYTES
from protocol.work_keys import WorkKeyError, open_work_keys

_STAN: Final = 11
_CODE: Final = 39
_TERMINAL: Final = 41
_MERCHANT: Final = 42
_WORK_KEYS: Final = 62
_MAC_FIELDS: Final = frozenset({64, 128})
_PLACEHOLDER: Final = bytes(MAC_BYTES).hex()


@dataclass(slots=True, frozen=True, kw_only=True)
class HostSession:
    """As whom the gateway signs on to a host, or the key that the two have agreed on. Keys are not shown by repr.

    Attributes:
        terminal, merchant: fields 41 and 42 of the gateway's own sign-on.
        master_key: 8, 16 or 24 bytes; work keys come encrypted under it. Empty with `fixed_key`.
        fixed_key: the MAC key itself, for hosts without a sign-on; then nothing else here counts.
        sign_on_timeout_ms: how long an answer to the sign-on is waited for.
        sign_on_interval_ms: over a live connection the gateway signs on again at most once in this time.
        previous_key_ms: how long answers pass under the key before the present one; should exceed the longest time
            after which the host still answers.
    """

    terminal: str = ""
    merchant: str = ""
    master_key: bytes = field(default=b"", repr=False)
    fixed_key: bytes = field(default=b"", repr=False)
    sign_on_timeout_ms: int = 10_000
    sign_on_interval_ms: int = 1_000
    previous_key_ms: int = 60_000

    def __post_init__(self) -> None:
        """Raise ValueError with all mistakes at once."""
        mistakes = []
        if bool(self.master_key) is bool(self.fixed_key):
            mistakes.append("either master_key or fixed_key must be given")
        if self.master_key and len(self.master_key) not in (SINGLE_BYTES, DOUBLE_BYTES, TRIPLE_BYTES):
            mistakes.append("master_key must have 8, 16 or 24 bytes")
        if self.master_key and not (self.terminal and self.merchant):
            mistakes.append("terminal and merchant must be given for a sign-on")
        mistakes += [
            f"{name} must be above 0"
            for name in ("sign_on_timeout_ms", "sign_on_interval_ms", "previous_key_ms")
            if getattr(self, name) <= 0
        ]
        if mistakes:
            raise ValueError("session: " + "; ".join(mistakes))


def session_mistakes(settings: HostSession, dialect: Dialect) -> list[str]:
    """Why no such session can be had with a host of this dialect; empty where it can. Holds no key."""
    host = dialect.host
    spec = dialect.fields.get(host.mac_field)
    mistakes = []
    if host.mac_method is MacMethod.NONE:
        mistakes.append("a session needs a host with a mac_method")
    elif settings.fixed_key:
        try:
            MacKey(host.mac_method, settings.fixed_key)
        except MacKeyError as error:
            mistakes.append(f"fixed_key: {error}")
    if spec is None or not _holds_a_mac(spec):
        mistakes.append(f"field {host.mac_field} must be of type b with 8 bytes to hold a MAC")
    if settings.master_key:
        fields = _sign_on_fields(settings, host.sign_on_fields, 1)
        tpdu = bytes(dialect.codec.layout.tpdu_bytes)
        try:
            frame = dialect.codec.encode(Message(host.sign_on_mti, fields, tpdu, bytes(dialect.header_bytes)))
            dialect.framing.wrap(frame)
        except ValueError as error:  # names the field, never its value
            mistakes.append(f"the sign-on cannot be encoded: {error}")
    return mistakes


class MacCheck(Enum):
    """What is known of an answer's MAC."""

    RIGHT = "right"  # or none is wanted
    WRONG = "wrong MAC"
    MISSING = "no MAC"


class SignOnFailed(Exception):
    """A host's answer to the sign-on brings no key. Holds no key.

    Attributes:
        reason: out of a small fixed set, so that reports can be limited by it.
        detail: more of it; the response code by which the host refused, but no other field.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Session:
    """The keys of one link, shared by its endpoints, and what is done with them."""

    def __init__(self, settings: HostSession, dialect: Dialect, tpdu: bytes, header: bytes) -> None:
        """`session_mistakes` must have found none.

        Raises:
            MacKeyError: the host's method does not take `fixed_key`.
        """
        host = dialect.host
        layout = dialect.codec.layout
        self._settings = settings
        self._host = host
        self._tpdu = tpdu
        self._header = header
        self._tail = field_writer(dialect.fields[host.mac_field])
        self._tail_bytes = len(self._tail(_PLACEHOLDER))  # hex on the wire takes two for each byte
        self._frame_start = layout.mti_offset
        self._framed_start = PREFIX_BYTES[dialect.framing.length] + layout.mti_offset
        self._current = MacKey(host.mac_method, settings.fixed_key) if settings.fixed_key else None
        self._previous: MacKey | None = None
        self._previous_until_ms = 0
        self.keyed_since_ms = 0

    @property
    def signs_on(self) -> bool:
        """Whether keys come from a sign-on; if not, there is one for ever."""
        return not self._settings.fixed_key

    @property
    def keyed(self) -> bool:
        """Whether there is a key to send under."""
        return self._current is not None

    def sign_on(self, stan: int) -> Message:
        """The gateway's own sign-on; it carries no MAC."""
        fields = _sign_on_fields(self._settings, self._host.sign_on_fields, stan)
        return Message(self._host.sign_on_mti, fields, self._tpdu, self._header)

    def take_keys(self, answer: Fields, now_ms: int) -> None:
        """Take the work keys out of the host's answer to the sign-on; only the MAC key is kept.

        Raises:
            SignOnFailed: the host refuses, or gives no keys, or keys that are not proven; the present ones stay.
        """
        code = answer.get(_CODE)
        if code is None:
            raise SignOnFailed("unusable answer", "field 39 is missing")
        if code != APPROVED:
            raise SignOnFailed("refused", f"response code {code}")
        sealed = answer.get(_WORK_KEYS)
        if sealed is None:
            raise SignOnFailed("unusable answer", "field 62 is missing")
        try:
            sealed_bytes = bytes.fromhex(sealed)
        except ValueError:
            raise SignOnFailed("unusable answer", "field 62 is not hexadecimal") from None
        try:
            keys = open_work_keys(self._settings.master_key, sealed_bytes, self._host.check_value_bytes)
            key = MacKey(self._host.mac_method, keys.mac)
        except (WorkKeyError, MacKeyError) as error:
            raise SignOnFailed("wrong keys", str(error)) from None
        self.forget(now_ms)
        self._current = key
        self.keyed_since_ms = now_ms

    def forget(self, now_ms: int) -> None:
        """Send no more under the present key, and check answers with it for a while. A fixed key stays."""
        if self._current is not None and self.signs_on:
            self._previous, self._current = self._current, None
            self._previous_until_ms = now_ms + self._settings.previous_key_ms

    def asks_for_sign_on(self, answer: Message) -> bool:
        """Whether the host wants the gateway to sign on again: by the code, or by the digit of its header."""
        if self.refuses(answer):
            return True
        digit = self._host.requirement_digit
        return digit >= 0 and answer.header.hex()[digit : digit + 1] == self._host.requirement_sign_on.lower()

    @staticmethod
    def refuses(answer: Message) -> bool:
        """Whether the host says that it does not take our messages as they are."""
        return answer.fields.get(_CODE) in SIGN_ON_FIRST

    def with_place_for_mac(self, mti: str, fields: Fields) -> Fields:
        """The fields as they are encoded: whatever MAC they carry is dropped, and the place of ours is kept free.

        Raises:
            ValueError: a field stands behind the MAC, which must be the last.
        """
        ours = {number: value for number, value in fields.items() if number not in _MAC_FIELDS}
        if self._exempt(mti):
            return ours
        place = self._host.mac_field
        if (last := max(ours, default=0)) > place:
            raise ValueError(f"field {last} stands behind the MAC in field {place}")
        ours[place] = _PLACEHOLDER
        return ours

    def sealed(self, mti: str, framed: bytes) -> bytes:
        """The bytes for the stream, with the MAC in its place; to be called at the moment of sending (D10).

        Args:
            framed: the message encoded from `with_place_for_mac`, its length in front.
        Raises:
            RuntimeError: there is no key.
        """
        if self._exempt(mti):
            return framed
        if self._current is None:
            raise RuntimeError("a message that needs a MAC is sent without a key")
        mac = self._current.compute(mac_input(framed, self._framed_start, self._tail_bytes))
        return framed[: -self._tail_bytes] + self._tail(mac.hex())

    def check(self, answer: Message, frame: bytes, now_ms: int) -> MacCheck:
        """Whether an answer carries a right MAC, under the present key or, for a while, the one before.

        Args:
            frame: the answer as received, without its length.
        """
        if self._exempt(answer.mti):
            return MacCheck.RIGHT
        place = self._host.mac_field
        value = answer.fields.get(place)
        if value is None or max(answer.fields) != place:
            return MacCheck.MISSING
        data = mac_input(frame, self._frame_start, self._tail_bytes)
        mac = bytes.fromhex(value)
        if self._current is not None and self._current.verify(data, mac):
            return MacCheck.RIGHT
        if self._previous is not None and now_ms < self._previous_until_ms and self._previous.verify(data, mac):
            return MacCheck.RIGHT
        return MacCheck.WRONG

    def _exempt(self, mti: str) -> bool:
        return mti[:2] in self._host.mac_exempt


def _holds_a_mac(spec: FieldSpec) -> bool:
    return spec.type is FieldType.B and spec.length == MAC_BYTES and spec.prefix_digits == 0


def _sign_on_fields(settings: HostSession, profile: Mapping[int, str], stan: int) -> Fields:
    return {**profile, _STAN: f"{stan:06}", _TERMINAL: settings.terminal, _MERCHANT: settings.merchant}
