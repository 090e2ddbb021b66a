"""What may be shown of a card: first six and last four digits at most (INV-8)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocol.emv import Tlv, TlvError, build_tlv, parse_tlv

_PAN_FIELDS: Final = frozenset({2, 34, 102, 103})
_TRACK_FIELDS: Final = frozenset({35, 36, 45})
_CHIP_FIELD: Final = 55
_CHIP_DEPTH_MAX: Final = 8  # a hostile field may nest as deep as it is long
# Fields that anyone may put anything into. Others have digits of their own (a merchant's, a batch's), of which one in
# ten would pass as a PAN by chance.
_FREE_FIELDS: Final = frozenset({43, 44, 46, 47, 48, 54, 56, 57, 58, 59, 62, 63, *range(104, 128)})

_PAN_TAGS: Final = frozenset({"5A"})
_TRACK_TAGS: Final = frozenset({"57", "9F6B"})  # packed, the separator is a nibble d
_HIDDEN_TAGS: Final = frozenset({"56", "5F20", "9F0B", "9F1F", "9F20"})  # track 1, names, discretionary data

_HIDDEN: Final = "*"
# In packed values a mask must be hex: a nibble that no PAN holds.
_HIDDEN_NIBBLE: Final = "f"

_PAN_START: Final = "2345689"
"""First digits of card numbers: banks and merchandising (2 to 6), 81 UnionPay, 9 national schemes."""
_PAN_DIGITS_MIN: Final = 13
_PAN_DIGITS_MAX: Final = 19
_OWN_DIGITS_MIN: Final = 12
"""A message's own card is looked for in its other fields from so many digits on; a shorter one is met by chance."""

# A run of digits, perhaps in groups; the bound keeps matching linear.
_RUN: Final = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){12,}(?![0-9])")
_SEPARATORS: Final = str.maketrans("", "", " -")
_TRACK: Final = re.compile(r"(?<![0-9*])([0-9*]{12,}+)([=Dd])([0-9]{4,}+)")
"""A track 2 wherever it stands, also behind other digits: a card number, and behind the separator what nobody keeps."""
_LUHN_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def mask_pan(pan: str, hidden: str = _HIDDEN) -> str:
    """First six and last four digits, the rest hidden; the length stays.

    At least six digits are always hidden where there are so many: a PAN of 13 to 15 digits shows fewer in front, and
    one of up to ten shows nothing.
    """
    size = len(pan)
    if size <= 10:
        return hidden * size
    first = 6 if size >= 16 else size - 10
    return pan[:first] + hidden * (size - first - 4) + pan[-4:]


def mask_track(track: str) -> str:
    """A track for display: the masked PAN, and everything behind it hidden.

    Takes track 2 and 3 ("=" or "D" behind the PAN; track 3 has a format code of two digits in front of it, which are
    masked as if they were the PAN's) and track 1 ("B", PAN, "^").
    """
    match = re.match(r"([;%]?[A-Z]?)([0-9]*)", track)
    if match is None:  # cannot be: every part may be empty
        return _HIDDEN * len(track)
    rest = track[match.end() :]
    return match[1] + mask_pan(match[2]) + rest[:1] + _HIDDEN * (len(rest) - 1)


def masked_fields(fields: dict[int, str], cards: Iterable[str] = ()) -> dict[int, str]:
    """A message's fields for display; the message itself stays as it is.

    PANs and account numbers (2, 34, 102, 103), tracks (35, 36, 45) and the card's tags within chip data (55) are
    masked; in fields of free content, a run of digits that passes as a PAN is masked too, also inside bytes. In every
    other field the message's own card and whatever has the form of a track 2 are masked, wherever they stand. A PIN
    block (52) is encrypted and stays. Chip data that cannot be parsed is hidden as a whole.

    Args:
        cards: card numbers of the same transaction; an answer need not say its own.
    """
    own = {card for card in (fields.get(2, ""), *cards) if len(card) >= _OWN_DIGITS_MIN}
    shown = {}
    for number, value in fields.items():
        if number in _PAN_FIELDS:
            shown[number] = mask_pan(value)
        elif number in _TRACK_FIELDS:
            shown[number] = mask_track(value)
        elif number == _CHIP_FIELD:
            shown[number] = mask_chip_data(value)
        else:
            without = _mask_card(value, own)
            shown[number] = _mask_within(without) if number in _FREE_FIELDS else without
    return shown


def _mask_card(value: str, own: Iterable[str]) -> str:
    """A value without these cards and without tracks, its length unchanged; fields of bytes are hex, of text too."""
    value = _mask_track_within(value)
    for card in own:
        value = value.replace(card, mask_pan(card))
        value = value.replace(card.encode().hex(), mask_pan(card).encode().hex())
    return value


def _mask_track_within(value: str) -> str:
    if len(value) >= 2 * _PAN_DIGITS_MIN and not len(value) % 2:
        try:
            text = bytes.fromhex(value).decode("latin-1")
        except ValueError:
            return _TRACK.sub(_masked_track, value)
        if (masked := _TRACK.sub(_masked_track, text)) != text:
            return masked.encode("latin-1").hex()
    return _TRACK.sub(_masked_track, value)


def _masked_track(found: re.Match[str]) -> str:
    digits, separator, behind = found.groups()
    one_card = len(digits) <= _PAN_DIGITS_MAX  # else it cannot be told which of them are its number
    shown = mask_pan(digits) if one_card else _HIDDEN * (len(digits) - 4) + digits[-4:]
    return shown + separator + _HIDDEN * len(behind)


def mask_chip_data(value: str) -> str:
    """Chip data (hex of BER-TLV) with the card's number, tracks and name masked, lengths unchanged.

    A hidden digit of a packed value is the nibble f, a hidden character "*".
    """
    try:
        return build_tlv(map(_masked_tag, parse_tlv(bytes.fromhex(value)))).hex()
    except (TlvError, ValueError):
        return _HIDDEN * len(value)


def _masked_tag(entry: Tlv, depth: int = 0) -> Tlv:
    value = entry.value
    if entry.tag in _PAN_TAGS:
        digits = value.hex().rstrip("f")
        masked = mask_pan(digits, _HIDDEN_NIBBLE)
        value = bytes.fromhex(masked.ljust(len(value) * 2, "f"))
    elif entry.tag in _TRACK_TAGS:
        pan, separator, rest = value.hex().partition("d")
        value = bytes.fromhex(
            mask_pan(pan[:19], _HIDDEN_NIBBLE) + _HIDDEN_NIBBLE * len(pan[19:]) + separator + _HIDDEN_NIBBLE * len(rest)
        )
    elif entry.tag in _HIDDEN_TAGS:
        value = _HIDDEN.encode() * len(value)
    elif entry.is_constructed:
        if depth == _CHIP_DEPTH_MAX:
            raise TlvError(0, "nested too deep")
        value = build_tlv([_masked_tag(child, depth + 1) for child in entry.children()])
    return Tlv(entry.tag, value, entry.length_bytes)


def _mask_within(value: str) -> str:
    if len(value) >= 2 * _PAN_DIGITS_MIN and not len(value) % 2:
        try:
            text = bytes.fromhex(value).decode("latin-1")
        except ValueError:
            return mask_pans(value)
        masked = mask_pans(text)
        if masked != text:
            return masked.encode("latin-1").hex()
    return mask_pans(value)


def find_pans(text: str, *, inside_runs: bool = False) -> list[tuple[int, int]]:
    """Where `text` holds what passes as a PAN: 13 to 19 digits, a card's first digit, and the Luhn check.

    Args:
        inside_runs: also look inside longer runs of digits, as in packed messages and dumps. About one in ten such
            places is there by chance, so this is for tests with known cards, not for alarms.
    Returns:
        Start and end of each, in order; those inside longer runs may overlap.
    """
    found = []
    for run in _RUN.finditer(text):
        if inside_runs:
            found += _pans_inside(text, run.start(), run.end())
            continue
        digits = run[0].translate(_SEPARATORS)
        if len(digits) <= _PAN_DIGITS_MAX and _is_pan(digits):
            found.append(run.span())
    return found


def _pans_inside(text: str, start: int, end: int) -> list[tuple[int, int]]:
    places = [at for at in range(start, end) if text[at] not in " -"]
    digits = "".join(text[at] for at in places)
    return [
        (places[first], places[first + size - 1] + 1)
        for first in range(len(digits) - _PAN_DIGITS_MIN + 1)
        for size in range(_PAN_DIGITS_MIN, min(_PAN_DIGITS_MAX, len(digits) - first) + 1)
        if _is_pan(digits[first : first + size])
    ]


def contains_pan(text: str, *, inside_runs: bool = False) -> bool:
    """Whether `text` holds what passes as a full PAN; see `find_pans`."""
    return bool(find_pans(text, inside_runs=inside_runs))


def mask_pans(text: str) -> str:
    """`text` with each PAN in it masked; separators between groups of digits stay."""
    spans = find_pans(text)
    if not spans:
        return text
    pieces = []
    at = 0
    for start, end in spans:
        run = text[start:end]
        masked = iter(mask_pan(run.translate(_SEPARATORS)))
        pieces += [text[at:start], "".join(c if c in " -" else next(masked) for c in run)]
        at = end
    return "".join([*pieces, text[at:]])


def luhn_holds(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += _LUHN_DOUBLED[int(digit)] if place % 2 else int(digit)
    return total % 10 == 0


def _is_pan(digits: str) -> bool:
    return digits[0] in _PAN_START and len(set(digits)) > 1 and luhn_holds(digits)
