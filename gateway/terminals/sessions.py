"""Sessions of terminals: MACs of what they send and of what they are answered, and the work keys of a sign-on.

Nothing here is durable (see `session_keys`), and nothing changes for a message that is refused but counts. A message
in a session is answered with a MAC under the key that its own passed under; a refused MAC is answered A0 without one,
so that nobody gets a MAC who has not shown one.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Final, NamedTuple, Protocol, assert_never

from gateway.terminals.limits import Count
from gateway.terminals.session_keys import (
    ANY_TERMINAL,
    LAYOUTS,
    WORK_KEYS_FIELD,
    Layout,
    MasterKey,
    SessionsImpossible,
    key_period,
    layout_for,
    sealed_work_keys,
    session_mistakes,
    work_key,
)
from protocol import dukpt
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import field_writer
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import MacKeys, TerminalRules
from protocol.mac import MAC_KEY_BYTES, MacKey, mac_input
from protocol.mac_method import MacMethod
from protocol.response_codes import BAD_MAC, NOT_ALLOWED

UNKNOWN_TERMINALS: Final = "unknown"
"""In `TerminalSessions.refusals`: all that have no key, whatever they call themselves."""

_NOT_PERMITTED: Final = "58"
_KEYS_READY_MAX: Final = 16_384
_TERMINALS_MAX: Final = 100_000
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that is not taken, and is answered without a MAC.

    Attributes:
        count: why.
        code: field 39 of the answer.
        detail: for the report; no values.
        terminal: its id where the gateway knows it, else empty.
    """

    count: Count
    code: str
    detail: str
    terminal: str


class SignOn(NamedTuple):
    """A sign-on that may be answered with work keys; `layout` is None where it brings none (fixed keys, DUKPT)."""

    terminal: str
    master: MasterKey
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A message that may go on, and what its answer needs.

    Attributes:
        key: of the answer's MAC; None where the message is of a type that has none.
        outdated: its MAC passed under the keys of the period before.
        sign_on: what is asked for, of a sign-on.
    """

    key: MacKey | None = None
    outdated: bool = False
    sign_on: SignOn | None = None


class Match(NamedTuple):
    """A MAC that is right: the key of the answer's, and whether its time is over."""

    key: MacKey
    outdated: bool


class KeySource(Protocol):
    """Where the key of a message's MAC comes from; one for each of `MacKeys`."""

    def match(
        self, terminal: str, master: MasterKey, covered: bytes, mac: bytes, fields: Fields, utc_ms: int, /
    ) -> Match | Count:
        """The key under which `mac` is right for what it covers, or why there is none."""


class TerminalSessions:
    """Sessions of the terminals of one dialect. For one event loop; listeners of that dialect may share it."""

    def __init__(self, dialect: Dialect, keys: Mapping[str, MasterKey]) -> None:
        """Derive nothing yet.

        Args:
            keys: by terminal id, as in field 41 without the blanks around it; with DUKPT, ANY_TERMINAL for all others.
        Raises:
            SessionsImpossible: the dialect's rules do not go together.
            MacKeyError: with fixed keys, one that the method does not take; holds no key.
        """
        if mistakes := session_mistakes(dialect):
            raise SessionsImpossible(mistakes)
        rules = dialect.terminal
        spec = dialect.fields[rules.mac_field]
        self._rules = rules
        self._keys = dict(keys)
        for_all = self._keys.pop(ANY_TERMINAL, None)
        self._any = for_all if rules.mac_keys is MacKeys.DUKPT else None
        self._source = _source(rules, self._keys)
        self._mac_is_hex = spec.is_hex
        self._write_mac = field_writer(spec)
        self._placeholder = "00" * spec.length if spec.is_hex else "0" * spec.length
        self._mac_wire_bytes = len(self._write_mac(self._placeholder))
        self._prefix_bytes = dialect.codec.layout.mti_offset
        self._clock_fields = {
            number: form
            for number, form, digits in ((12, "%H%M%S", 6), (13, "%m%d", 4))
            if number in dialect.fields and dialect.fields[number].length == digits
        }
        self._heard: set[str] = set()
        self._refusals: Counter[str] = Counter()

    def refusals(self) -> dict[str, int]:
        """Messages answered A0, by terminal; those without a key together under UNKNOWN_TERMINALS.

        Bounded: no name is taken from a message before it has shown a right MAC, unless the key file has it.
        """
        return dict(self._refusals)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def admit(self, message: Message, frame: bytes, utc_ms: int) -> Admitted | Refused:
        """Judge a message by its MAC, before anybody looks at what its fields say.

        Args:
            frame: `message` as received, without the stream's length prefix.
        Source: D10, response code A0.
        """
        terminal = message.fields.get(41, "").strip()
        master = self._keys.get(terminal) or (self._any if terminal else None)
        match: Match | None = None
        if message.mti[:2] not in self._rules.mac_exempt:
            found = self._match(message, frame, terminal, master, utc_ms)
            if isinstance(found, Count):
                return self._refused(found, terminal)
            match = found
        sign_on: SignOn | None = None
        code = self._network_code(message.fields) if message.mti[:2] == "08" else ""
        if master is None and code[:2] in self._rules.passed_codes:
            # Nobody without a key makes the gateway ask the acquirer.
            return Refused(Count.SIGN_ON_UNKNOWN_TERMINAL, _NOT_PERMITTED, "a download without a master key here", "")
        if code in self._rules.sign_on_codes:
            asked = self._sign_on(terminal, master, code)
            if isinstance(asked, Refused):
                return asked
            sign_on = asked
        if match is None:
            return Admitted(sign_on=sign_on)
        return Admitted(match.key, match.outdated, sign_on)

    def _match(
        self, message: Message, frame: bytes, terminal: str, master: MasterKey | None, utc_ms: int
    ) -> Match | Count:
        fields = message.fields
        field = self._rules.mac_field
        if field not in fields or max(fields) != field:  # what stands behind the MAC is not covered by it
            return Count.MAC_MISSING
        if master is None:
            return Count.MAC_UNKNOWN_TERMINAL
        mac = bytes.fromhex(fields[field]) if self._mac_is_hex else fields[field].encode("latin-1")
        covered = mac_input(frame, self._prefix_bytes, self._mac_wire_bytes)
        found = self._source.match(terminal, master, covered, mac, fields, utc_ms)
        if self._any is not None and isinstance(found, Match) and len(self._heard) < _TERMINALS_MAX:
            self._heard.add(terminal)
        return found

    def _refused(self, count: Count, terminal: str) -> Refused:
        known = terminal in self._keys or terminal in self._heard
        self._refusals[terminal if known else UNKNOWN_TERMINALS] += 1
        return Refused(count, BAD_MAC, _DETAILS[count], terminal if known else "")

    def _network_code(self, fields: Fields) -> str:
        rules = self._rules
        return fields.get(rules.network_field, "")[rules.network_start : rules.network_start + rules.network_length]

    def _sign_on(self, terminal: str, master: MasterKey | None, code: str) -> SignOn | Refused:
        """58 for a terminal without a key; 12 where its keys cannot serve what it asks for: it asked rightly, and
        will never get it, so that neither "sign on again" (A0) nor "not understood" (30) would be true."""
        if master is None:
            return Refused(Count.SIGN_ON_UNKNOWN_TERMINAL, _NOT_PERMITTED, "a sign-on without a master key here", "")
        layout = None
        if self._rules.mac_keys is MacKeys.SIGN_ON:
            layout = layout_for(self._rules, master, code)
            if layout is None:
                detail = f"its keys cannot serve the work keys of network code {code}"
                return Refused(Count.SIGN_ON_UNSUITABLE, NOT_ALLOWED, detail, terminal)
        return SignOn(terminal, master, layout)

    # --- what goes out ---------------------------------------------------------------------------------------------

    def completed(self, admitted: Admitted, answer: Message, utc_ms: int) -> Message:
        """The answer with what a session adds; a copy, as an answer may be stored (D3).

        A sign-on that was approved gets its work keys and the local time. One that is to be MACed
        gets a placeholder for `sealed` to fill, and loses what would stand behind its MAC.
        """
        if admitted.key is None and admitted.sign_on is None:
            return answer
        fields = dict(answer.fields)
        header = answer.header
        if admitted.sign_on is not None and fields.get(39) == "00":
            self._welcome(admitted.sign_on, fields, utc_ms)
        if admitted.key is not None:
            last = self._rules.mac_field
            fields = {number: value for number, value in fields.items() if number < last}
            fields[last] = self._placeholder
            if admitted.outdated:
                header = self._asking(header)
        return Message(answer.mti, fields, answer.tpdu, header)

    def sealed(self, admitted: Admitted, frame: bytes) -> bytes:
        """The encoded answer with its MAC in the placeholder's place, made fresh (D3, D10)."""
        if admitted.key is None:
            return frame
        mac = admitted.key.compute(mac_input(frame, self._prefix_bytes, self._mac_wire_bytes))
        return frame[: -self._mac_wire_bytes] + self._write_mac(
            mac.hex() if self._mac_is_hex else mac.decode("latin-1")
        )

    def _welcome(self, sign_on: SignOn, fields: Fields, utc_ms: int) -> None:
        if sign_on.layout is not None:
            period = key_period(self._rules, utc_ms)
            keys = sealed_work_keys(self._rules, sign_on.terminal, sign_on.master, sign_on.layout, period)
            fields[WORK_KEYS_FIELD] = keys.hex()
        local = datetime.fromtimestamp((utc_ms + self._rules.clock_offset_min * _MINUTE_MS) // 1000, UTC)
        for number, form in self._clock_fields.items():
            fields[number] = local.strftime(form)  # the terminal's own time, given back, would correct nothing

    def _asking(self, header: bytes) -> bytes:
        """The header with "sign on again" in it; as it is where it has no such digit."""
        at = self._rules.requirement_digit
        digits = header.hex()
        if not 0 <= at < len(digits):
            return header
        return bytes.fromhex(digits[:at] + self._rules.requirement_sign_on + digits[at + 1 :])


_DETAILS: Final = {
    Count.MAC_MISSING: "there is no MAC, or it is not the last field",
    Count.MAC_UNKNOWN_TERMINAL: "there is no key of this terminal",
    Count.MAC_NO_KEY: "its key serial number is missing, or no transaction has it",
    Count.MAC_WRONG: "the MAC is wrong",
}


# --- where keys come from --------------------------------------------------------------------------------------------


def _source(rules: TerminalRules, keys: Mapping[str, MasterKey]) -> KeySource:
    match rules.mac_keys:
        case MacKeys.SIGN_ON:
            return _WorkKeySource(rules)
        case MacKeys.FIXED:
            for master in keys.values():
                MacKey(rules.mac_method, master.key)  # refused here rather than at the terminal's first message
            return _FixedKeySource(rules)
        case MacKeys.DUKPT:
            return _DukptKeySource(rules)
        case _:
            assert_never(rules.mac_keys)


class _FixedKeySource:
    """Every terminal has one MAC key, for good."""

    def __init__(self, rules: TerminalRules) -> None:
        self._ready = lru_cache(maxsize=_KEYS_READY_MAX)(partial(MacKey, rules.mac_method))

    def match(
        self, _terminal: str, master: MasterKey, covered: bytes, mac: bytes, _fields: Fields, _utc_ms: int, /
    ) -> Match | Count:
        key = self._ready(master.key)
        return Match(key, outdated=False) if key.verify(covered, mac) else Count.MAC_WRONG


class _WorkKeySource:
    """The key was given in a sign-on, in this period or the one before, in one of the lengths that the method takes.

    Which of them is not stored, so all are tried: four at most, and the one that matched last comes first.
    """

    def __init__(self, rules: TerminalRules) -> None:
        self._method = rules.mac_method
        given = {layout.mac for code in rules.sign_on_codes if (layout := LAYOUTS.get(code)) is not None}
        able = MAC_KEY_BYTES[self._method]
        self._sizes = [size for size in able if size in given] or list(able)  # one that is too short is padded
        self._rules = rules
        self._ready = lru_cache(maxsize=_KEYS_READY_MAX)(self._derived)
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def match(
        self, terminal: str, master: MasterKey, covered: bytes, mac: bytes, _fields: Fields, utc_ms: int, /
    ) -> Match | Count:
        present = key_period(self._rules, utc_ms)
        candidates = [(period, size) for period in (present, present - 1) for size in self._sizes]
        last = self._last.get(terminal)
        if last in candidates:
            candidates.remove(last)
            candidates.insert(0, last)
        for period, size in candidates:
            key = self._ready(master.key, terminal, period, size)
            if key.verify(covered, mac):
                self._remember(terminal, (period, size))
                return Match(key, period != present)
        return Count.MAC_WRONG

    def _remember(self, terminal: str, matched: tuple[int, int]) -> None:
        self._last[terminal] = matched
        self._last.move_to_end(terminal)
        if len(self._last) > _TERMINALS_MAX:
            self._last.popitem(last=False)

    def _derived(self, master: bytes, terminal: str, period: int, size: int) -> MacKey:
        return MacKey(self._method, work_key(master, "mac", terminal, period, size))


class _DukptKeySource:
    """Each message has a key of its own, derived from the key serial number that it carries (ANSI X9.24).

    The answer's is another use of the same transaction key: X9.24-1 and X9.24-3 keep the directions apart.
    """

    def __init__(self, rules: TerminalRules) -> None:
        self._method = rules.mac_method
        self._field = rules.key_serial_field
        self._aes = rules.mac_method is MacMethod.AES_CMAC
        initial = dukpt.aes_initial_key if self._aes else dukpt.initial_key
        self._initial = lru_cache(maxsize=_KEYS_READY_MAX)(initial)

    def match(
        self, _terminal: str, master: MasterKey, covered: bytes, mac: bytes, fields: Fields, _utc_ms: int, /
    ) -> Match | Count:
        try:
            serial = _key_serial(fields.get(self._field, ""), aes=self._aes)
            transaction = self._transaction_key(master.key, serial)
        except dukpt.DukptError:
            return Count.MAC_NO_KEY
        if not self._working_key(transaction, serial, dukpt.KeyUse.MAC_REQUEST).verify(covered, mac):
            return Count.MAC_WRONG
        return Match(self._working_key(transaction, serial, dukpt.KeyUse.MAC_RESPONSE), outdated=False)

    def _transaction_key(self, base: bytes, serial: bytes) -> bytes:
        if self._aes:
            return dukpt.aes_transaction_key(self._initial(base, serial[:8] + bytes(4)), serial)
        device = bytearray(serial)  # without its counter: the same for all messages of a terminal
        device[-3] &= 0xE0
        device[-2:] = bytes(2)
        return dukpt.transaction_key(self._initial(base, bytes(device)), serial)

    def _working_key(self, transaction: bytes, serial: bytes, use: dukpt.KeyUse) -> MacKey:
        if self._aes:
            return MacKey(self._method, dukpt.aes_working_key(transaction, serial, use))
        return MacKey(self._method, dukpt.working_key(transaction, use))


def _key_serial(text: str, *, aes: bool) -> bytes:
    """A key serial number out of a field of bytes, or of text that shows them in hex.

    Raises:
        DukptError: it is none.
    """
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2}){8,12}", text):
        raise dukpt.DukptError("a key serial number has 8 to 12 bytes")
    serial = bytes.fromhex(text)
    return serial if aes else serial.rjust(dukpt.KSN_BYTES, b"\xff")
