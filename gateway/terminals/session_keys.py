"""Keys of terminals' sessions: which there are by a dialect's rules, and how work keys follow from a master key (D10).

Work keys are stored nowhere. They are derived (HKDF-SHA256, RFC 5869) from the terminal master key, what the key is
for, its length, the terminal's id and the key period, which is local time divided into `work_key_hours`. So a gateway
that was started anew knows the keys that it gave before, and two gateways with one key file know each other's.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.dukpt import KSN_BYTES
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import FieldSpec
from protocol.iso8583.rules import MacKeys, TerminalRules
from protocol.mac import MAC_BYTES, MAC_KEY_BYTES
from protocol.mac_method import MacMethod
from protocol.tdes import DOUBLE_BYTES, SINGLE_BYTES, TRIPLE_BYTES, check_value, ecb_decrypt
from protocol.work_keys import WorkKeys, seal_work_keys

WORK_KEYS_FIELD: Final = 62
ANY_TERMINAL: Final = "*"
"""In place of a terminal's id: the base derivation key of every terminal that has none of its own."""

_MINUTE_MS: Final = 60_000
_DERIVED_ANEW_MAX: Final = 16  # a weak key comes once in 2^52 derivations


class SessionsImpossible(ValueError):
    """The dialect's rules do not go together: a mistake of configuration. `mistakes` has all of them."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class MasterKey:
    """What the key file says of a terminal; not shown by repr.

    Attributes:
        key: by `mac_keys` the terminal master key, the MAC key itself, or a base derivation key.
        pin_entry: the terminal's PIN key as the acquirer gave it, encrypted under `key`, and its check value; empty
            where the gateway makes a PIN key.
    """

    key: bytes = field(repr=False)
    pin_entry: bytes = field(default=b"", repr=False)


class Layout(NamedTuple):
    """Lengths in bytes of the work keys that a network code asks for; 0 for none."""

    pin: int
    mac: int
    track: int


LAYOUTS: Final = {
    "001": Layout(SINGLE_BYTES, SINGLE_BYTES, 0),
    "003": Layout(DOUBLE_BYTES, DOUBLE_BYTES, 0),
    "004": Layout(DOUBLE_BYTES, DOUBLE_BYTES, DOUBLE_BYTES),
}
"""By network code (DOMAIN.md, UnionPay session)."""


# --- what goes together ----------------------------------------------------------------------------------------------


def session_mistakes(dialect: Dialect) -> tuple[str, ...]:
    """Why terminals of this dialect cannot be served sessions; empty where they can."""
    rules = dialect.terminal
    if rules.mac_method is MacMethod.NONE:
        return ('terminal.mac_method is "none": with master keys every message is to carry a MAC',)
    mistakes = []
    if not _carries_mac(dialect.fields.get(rules.mac_field)):
        mistakes.append(f"terminal.mac_field: field {rules.mac_field} must have a fixed length of {MAC_BYTES} bytes")
    match rules.mac_keys:
        case MacKeys.SIGN_ON:
            mistakes += _sign_on_mistakes(dialect)
        case MacKeys.DUKPT:
            mistakes += _dukpt_mistakes(dialect)
        case MacKeys.FIXED:
            pass
    return tuple(mistakes)


def _carries_mac(spec: FieldSpec | None) -> bool:
    """Binary, hex text, or eight characters (which only unionpay-ecb's hex surely is, and latin-1 carries all)."""
    return spec is not None and not spec.prefix_digits and spec.length == MAC_BYTES and (spec.is_hex or spec.is_text)


def _sign_on_mistakes(dialect: Dialect) -> list[str]:
    rules = dialect.terminal
    mistakes = []
    if rules.mac_method is MacMethod.AES_CMAC:
        mistakes.append(
            'terminal.mac_method = "aes-cmac" takes no work keys of a sign-on; terminal.mac_keys = "fixed" or "dukpt"'
        )
    if "08" not in rules.mac_exempt:
        mistakes.append('terminal.mac_exempt must have "08": a terminal cannot MAC the sign-on that brings its keys')
    if not rules.sign_on_codes or not rules.sign_on_codes <= LAYOUTS.keys():
        known = ", ".join(LAYOUTS)
        mistakes.append(f"terminal.sign_on_codes must be some of those whose layout of work keys is known: {known}")
    spec = dialect.fields.get(WORK_KEYS_FIELD)
    longest = max((sum(LAYOUTS.get(code, ())) for code in rules.sign_on_codes), default=0) + 3 * rules.check_value_bytes
    if spec is None or not spec.is_hex or not spec.prefix_digits or spec.length < longest:
        mistakes.append(
            f'field {WORK_KEYS_FIELD} must be of type "b" with a variable length of {longest} bytes or more: '
            "it brings the work keys"
        )
    return mistakes


def _dukpt_mistakes(dialect: Dialect) -> list[str]:
    rules = dialect.terminal
    mistakes = []
    if rules.mac_method is MacMethod.X9_9:
        mistakes.append('terminal.mac_method = "x9.9" takes a key of 8 bytes, and DUKPT makes 16')
    spec = dialect.fields.get(rules.key_serial_field)
    if spec is None or not (spec.is_hex or spec.is_text) or spec.length < KSN_BYTES - 2:
        mistakes.append("terminal.key_serial_field must name a field that can hold a key serial number")
    return mistakes


def master_key_sizes(rules: TerminalRules) -> tuple[int, ...]:
    """Lengths in bytes that the key of a terminal may have."""
    match rules.mac_keys:
        case MacKeys.SIGN_ON:
            return (SINGLE_BYTES, DOUBLE_BYTES, TRIPLE_BYTES)
        case MacKeys.FIXED:
            return MAC_KEY_BYTES[rules.mac_method]
        case MacKeys.DUKPT:
            return MAC_KEY_BYTES[MacMethod.AES_CMAC] if rules.mac_method is MacMethod.AES_CMAC else (DOUBLE_BYTES,)


def layout_for(rules: TerminalRules, master: MasterKey, code: str) -> Layout | None:
    """The work keys that a sign-on with this network code gets; None where the terminal's keys cannot serve it.

    No key is encrypted under a shorter one; the MAC method must take the MAC key (X9.9 one of 8 bytes, which stands
    padded among double-length keys); and an acquirer's PIN key has the length that it has.
    """
    layout = LAYOUTS.get(code)
    if layout is None:
        return None
    if rules.mac_method is MacMethod.X9_9:
        layout = layout._replace(mac=SINGLE_BYTES)
    if layout.mac not in MAC_KEY_BYTES[rules.mac_method] or len(master.key) < max(layout):
        return None
    if master.pin_entry and len(master.pin_entry) != layout.pin + rules.check_value_bytes:
        return None
    return layout


def key_mistake(rules: TerminalRules, terminal: str, master: MasterKey) -> str | None:
    """What is wrong with the keys of a terminal, and what would be right; None where nothing is. Holds no key."""
    if terminal == ANY_TERMINAL and rules.mac_keys is not MacKeys.DUKPT:
        return f'{ANY_TERMINAL} in place of a terminal id is for mac_keys = "dukpt"; a line for each terminal'
    sizes = master_key_sizes(rules)
    if len(master.key) not in sizes:
        digits = " or ".join(str(2 * size) for size in sizes)
        return f'with mac_keys = "{rules.mac_keys}" and mac_method = "{rules.mac_method}" a key has {digits} digits'
    is_des = rules.mac_keys is MacKeys.SIGN_ON or rules.mac_method is not MacMethod.AES_CMAC
    if not any(master.key) or (is_des and has_weak_part(master.key)):
        return "the key is a weak one, which hides nothing; have another one made"
    if is_des and len(master.key) > SINGLE_BYTES and _halves_equal(master.key):
        return "the parts of the key are equal, so that it is no longer than one of them; have another one made"
    if rules.mac_keys is not MacKeys.SIGN_ON:
        return 'a third word, the PIN key, is for mac_keys = "sign-on" only' if master.pin_entry else None
    if master.pin_entry and (wrong := _pin_entry_mistake(rules, master)) is not None:
        return wrong
    if not any(layout_for(rules, master, code) for code in rules.sign_on_codes):
        return "no sign-on of this dialect could be answered with keys of these lengths"
    return None


def _halves_equal(key: bytes) -> bool:
    return len({key[at : at + SINGLE_BYTES] for at in range(0, len(key), SINGLE_BYTES)}) == 1


def _pin_entry_mistake(rules: TerminalRules, master: MasterKey) -> str | None:
    size = len(master.pin_entry) - rules.check_value_bytes
    if size not in (SINGLE_BYTES, DOUBLE_BYTES):
        digits = " or ".join(str(2 * (size + rules.check_value_bytes)) for size in (SINGLE_BYTES, DOUBLE_BYTES))
        return f"the PIN key with its check value has {digits} digits"
    shown = check_value(ecb_decrypt(master.key, master.pin_entry[:size]), rules.check_value_bytes)
    if not hmac.compare_digest(shown, master.pin_entry[size:]):
        return "the check value of the PIN key does not match: another master key, or a digit is wrong"
    return None


# --- work keys -------------------------------------------------------------------------------------------------------


def key_period(rules: TerminalRules, utc_ms: int) -> int:
    """The key period of a time. It changes by the terminals' own clock, so that by default it does so at midnight."""
    return (utc_ms // _MINUTE_MS + rules.clock_offset_min) // (rules.work_key_hours * 60)


def work_key(master: bytes, use: str, terminal: str, period: int, size: int) -> bytes:
    """One work key of a terminal and a key period, with odd parity and never a weak key of DES.

    Args:
        use: "pin", "mac" or "track".
        period: see `key_period`.
        size: 8 or 16 bytes.
    """
    return first_usable(derived_keys(master, use, terminal, period, size))


def derived_keys(master: bytes, use: str, terminal: str, period: int, size: int) -> Iterator[bytes]:
    """What is derived for a work key, parity not yet right: the first, and others in case that one is weak."""
    for attempt in range(_DERIVED_ANEW_MAX):
        # The terminal's id is last: it may hold any character.
        info = f"holdfast work key 1|{use}|{size}|{period}|{attempt}|{terminal}"
        yield HKDF(algorithm=SHA256(), length=size, salt=None, info=info.encode()).derive(master)


def sealed_work_keys(rules: TerminalRules, terminal: str, master: MasterKey, layout: Layout, period: int) -> bytes:
    """DE 62 of a sign-on answer: the period's keys under the master key; an acquirer's PIN key goes as it came."""
    keys = WorkKeys(
        work_key(master.key, "pin", terminal, period, layout.pin),
        work_key(master.key, "mac", terminal, period, layout.mac),
        work_key(master.key, "track", terminal, period, layout.track) if layout.track else None,
    )
    sealed = seal_work_keys(master.key, keys, rules.check_value_bytes)
    return master.pin_entry + sealed[len(master.pin_entry) :]


def first_usable(candidates: Iterable[bytes]) -> bytes:
    """The first of the candidates that is fit for a key, with odd parity: no part weak, no two halves equal.

    Raises:
        ValueError: none is. Holds no key.
    """
    for candidate in candidates:
        key = _with_odd_parity(candidate)
        halves = {key[at : at + SINGLE_BYTES] for at in range(0, len(key), SINGLE_BYTES)}
        if len(halves) * SINGLE_BYTES == len(key) and not has_weak_part(key):
            return key
    raise ValueError("every key that was derived is a weak one")


def has_weak_part(key: bytes) -> bool:
    """Whether eight bytes of a DES or TDES key are a weak or semi-weak key; parity is disregarded, as DES does.

    Source: NIST SP 800-67 rev. 2, 3.3.2.
    """
    adjusted = _with_odd_parity(key)
    return any(adjusted[at : at + SINGLE_BYTES] in _WEAK_KEYS for at in range(0, len(adjusted), SINGLE_BYTES))


def _with_odd_parity(key: bytes) -> bytes:
    return bytes(octet & 0xFE | (octet >> 1).bit_count() & 1 ^ 1 for octet in key)


# Those that undo themselves, then pairs that undo each other (NIST SP 800-67).
_WEAK_KEYS: Final = frozenset(
    bytes.fromhex(text)
    for text in (
        "0101010101010101", "FEFEFEFEFEFEFEFE", "E0E0E0E0F1F1F1F1", "1F1F1F1F0E0E0E0E",
        "011F011F010E010E", "1F011F010E010E01", "01E001E001F101F1", "E001E001F101F101",
        "01FE01FE01FE01FE", "FE01FE01FE01FE01", "1FE01FE00EF10EF1", "E01FE01FF10EF10E",
        "1FFE1FFE0EFE0EFE", "FE1FFE1FFE0EFE0E", "E0FEE0FEF1FEF1FE", "FEE0FEE0FEF1FEF1",
    )
)  # fmt: skip
