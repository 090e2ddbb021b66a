"""Canaries: card data that was planted on purpose, and every form in which software may have written it down.

A canary is a text: a card number, a track ("=" or "D" behind the card number), a PIN block in hexadecimal, or anything
else. Its forms, each named as `holdfast audit shred-check` names it:

    text                 ASCII and UTF-8; a track with each of its separators; a card number also in groups
    EBCDIC               code page 037; digits and letters are the same in all others
    UTF-16               in both byte orders
    packed               two digits a byte, a separator is the nibble D, beginning at either half of a byte
    packed, swapped      the same with the halves of each byte exchanged
    binary number        a card number as an integer, in both byte orders
    hex of ...           of text, EBCDIC and UTF-16, in capitals and small letters (of packed digits it is the text)
    base64 of ...        of text, EBCDIC and packed digits, in both alphabets, at each of the three places where base64
                         can begin; what depends on the bytes before and behind is left out

Padding (a nibble F behind an odd number of digits) needs no form of its own: a canary is looked for inside what is
written, to the half byte. Not looked for: digits in reverse order and numbers in other bases, which no format of
payment uses; and anything compressed or encrypted within a file (files that are archives as a whole are opened).
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

CHARACTERS_MIN: Final = 8
"""Anything shorter is met by chance: three digits of a CVV stand in every file. Plant those within a longer value."""

CHARACTERS_MAX: Final = 4096
CANARIES_MAX: Final = 1000
CORE_BYTES_MIN: Final = 5
"""A form with fewer bytes that are certain is left out: a gigabyte of ciphertext holds it by chance."""

_EBCDIC: Final = "cp037"
_SEPARATORS: Final = "=Dd"
_TRACK: Final = re.compile(r"([0-9]{12,19})[=Dd]([0-9]+)")
_DIGITS: Final = re.compile(r"[0-9]+")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")


class CanaryWrong(ValueError):
    """A canary that cannot be looked for. The message says which, by its number, and never shows it."""


@dataclass(frozen=True, slots=True, repr=False)
class Form:
    """One form of one canary.

    Attributes:
        canary: its number in the order given, from 1.
        name: in words.
        core: the bytes of it that are certain as a whole.
        front, back: the half bytes before and behind those: a mask and the value under it; (0, 0) where none is.
    """

    canary: int
    name: str
    core: bytes
    front: tuple[int, int] = (0, 0)
    back: tuple[int, int] = (0, 0)

    @property
    def before_bytes(self) -> int:
        """How many bytes in front of the core belong to the form: 0 or 1."""
        return int(self.front[0] > 0)

    @property
    def size_bytes(self) -> int:
        """Length of all of it."""
        return self.before_bytes + len(self.core) + int(self.back[0] > 0)

    def stands_at(self, content: bytes, core_at: int, end: int) -> bool:
        """Whether it stands in `content`, ended at `end`, with its core at `core_at`."""
        if core_at < self.before_bytes or not content.startswith(self.core, core_at, end):
            return False
        if self.front[0] and content[core_at - 1] & self.front[0] != self.front[1]:
            return False
        behind = core_at + len(self.core)
        return not self.back[0] or (behind < end and content[behind] & self.back[0] == self.back[1])


@dataclass(frozen=True, slots=True)
class Canary:
    """A canary by its number.

    Attributes:
        characters: its length; nothing else of it may be shown.
        forms: in which it is looked for.
        left_out: names of those that are too short to mean anything.
    """

    number: int
    characters: int
    forms: tuple[Form, ...]
    left_out: tuple[str, ...]


def canaries_of(lines: Iterable[str]) -> list[Canary]:
    """The canaries that a file lists, one in a line; empty lines and those that begin with "#" do not count.

    Raises:
        CanaryWrong: one is too short, too long, or the same character all over; there are none, or too many.
    """
    texts = [text for line in lines if (text := line.strip()) and not text.startswith("#")]
    texts = list(dict.fromkeys(texts))
    if not texts:
        raise CanaryWrong("no canary is given: name at least one, one in a line")
    if len(texts) > CANARIES_MAX:
        raise CanaryWrong(f"{len(texts)} canaries; at most {CANARIES_MAX} are looked for at a time")
    return [_canary(number, text) for number, text in enumerate(texts, start=1)]


def _canary(number: int, text: str) -> Canary:
    if not CHARACTERS_MIN <= len(text) <= CHARACTERS_MAX:
        raise CanaryWrong(
            f"canary {number} has {len(text)} characters; {CHARACTERS_MIN} to {CHARACTERS_MAX} are needed, for "
            f"anything shorter is met by chance: plant it within a longer value and give that"
        )
    if len(set(text)) == 1:
        raise CanaryWrong(f"canary {number} is one character all over, and is met by chance: plant another")
    found: dict[tuple[bytes, tuple[int, int], tuple[int, int]], Form] = {}
    for form in _forms(number, text):
        found.setdefault((form.core, form.front, form.back), form)
    kept = tuple(form for form in found.values() if len(form.core) >= CORE_BYTES_MIN)
    left = tuple(sorted({form.name for form in found.values() if len(form.core) < CORE_BYTES_MIN}))
    return Canary(number, len(text), kept, left)


def _forms(number: int, text: str) -> Iterator[Form]:
    for spelt, how in _spellings(text):
        raw = spelt.encode()
        yield Form(number, how, raw)
        wide = [("UTF-16, little end first", spelt.encode("utf-16-le")), ("UTF-16", spelt.encode("utf-16-be"))]
        with contextlib.suppress(UnicodeEncodeError):  # a character that EBCDIC does not have
            wide.append(("EBCDIC", spelt.encode(_EBCDIC)))
        for name, encoded in wide:
            yield Form(number, name, encoded)
        for name, encoded in [(how, raw), *wide]:
            yield Form(number, f"hex of {name}", encoded.hex().encode())
            yield Form(number, f"hex of {name}, capitals", encoded.hex().upper().encode())
        for name, encoded in [(how, raw), *wide[2:]]:
            yield from _base64(number, name, encoded)
    if nibbles := _nibbles(text):
        yield from _packed(number, nibbles)
    if _DIGITS.fullmatch(text):
        value = int(text)
        size = (value.bit_length() + 7) // 8
        yield Form(number, "binary number", value.to_bytes(size, "big"))
        yield Form(number, "binary number, little end first", value.to_bytes(size, "little"))


def _spellings(text: str) -> Iterator[tuple[str, str]]:
    """The texts that a canary may have become, each with the name of the form."""
    yield text, "text"
    if track := _TRACK.fullmatch(text):
        for separator in (*_SEPARATORS, "%3D", "%3d", "\\u003d", "&#61;"):
            yield f"{track[1]}{separator}{track[2]}", "text"
    elif _DIGITS.fullmatch(text):
        fours = [text[at : at + 4] for at in range(0, len(text), 4)]
        ways = [fours, [text[:4], text[4:10], text[10:]]] if len(text) == 15 else [fours]
        for groups in ways:
            for between in (" ", "-"):
                yield between.join(groups), "text in groups"
    elif _HEX.fullmatch(text):
        yield text.upper(), "text"
        yield text.lower(), "text"


def _nibbles(text: str) -> str:
    """The canary as packed digits, in small hexadecimal letters; empty where it has none."""
    if track := _TRACK.fullmatch(text):
        return f"{track[1]}d{track[2]}"
    return text.lower() if _HEX.fullmatch(text) else ""


def _packed(number: int, nibbles: str) -> Iterator[Form]:
    for swapped in (False, True):
        kind = "packed, swapped" if swapped else "packed"
        for name, front in ((kind, ""), (f"{kind}, from half a byte on", nibbles[0])):
            rest = nibbles[len(front) :]
            core = bytes.fromhex(rest[: len(rest) // 2 * 2])
            back = rest[len(core) * 2 :]
            if swapped:
                core = bytes((pair & 15) << 4 | pair >> 4 for pair in core)
            # The digit in front is the second of its byte, the one behind the first; swapped, the other way round.
            yield Form(number, name, core, _half(front, high=swapped), _half(back, high=not swapped))
            yield from _base64(number, name, core)


def _half(nibble: str, *, high: bool) -> tuple[int, int]:
    if not nibble:
        return 0, 0
    return (0xF0, int(nibble, 16) << 4) if high else (0x0F, int(nibble, 16))


def _base64(number: int, name: str, raw: bytes) -> Iterator[Form]:
    """What is certain of `raw` in base64, wherever it begins; in the usual alphabet and in that of URLs."""
    for before in range(3):
        behind = -(before + len(raw)) % 3
        whole = base64.b64encode(bytes(before) + raw + bytes(behind))
        # The characters at the edges have bits of what stands before and behind.
        sure = whole[(0, 2, 3)[before] : len(whole) - (0, 2, 3)[behind]]
        yield Form(number, f"base64 of {name}", sure)
        yield Form(number, f"base64 of {name}, URL alphabet", sure.translate(bytes.maketrans(b"+/", b"-_")))
