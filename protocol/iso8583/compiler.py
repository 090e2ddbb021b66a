"""Makes one Python function out of a dialect: its decoder.

A decoder that looks up each field's format while it decodes spends most of its time on the lookups. Here they are
done once, when the dialect is loaded: the formats become the text of one function, nested by the bytes of the bitmap,
so that eight absent fields cost one test. What the function looks like, for a packed dialect with fields 3 and 62:

    def decode(frame):
        h = frame.hex()
        t = frame.decode("latin-1")
        b0, b1, ..., b7 = frame[13:21]      # a short frame raises ValueError
        f = {}
        p = 42                              # position, in hex digits
        if b0:
            if b0 & 0xdf: raise Irregular   # fields that the dialect does not have
            if b0 & 0x20:
                e = p + 6
                f[3] = v = h[p:e]
                if not v.encode().isdigit(): raise Irregular
                p = e
        ...
            if b7 & 0x04:
                s = p + 4
                p = s + L0[h[p:s]]          # KeyError: not a length, or over the most
                f[62] = h[s:p]
        if p != len(h): raise Irregular     # also catches every field that was cut short
        return Message(mti, f, frame[:5], frame[5:11])

Terminals and hosts send the same few bitmaps again and again. For a given bitmap the same function is written without
its tests (`compile_decoder`, `bitmap`): only what such a frame holds is left of it.

Digits are checked as bytes: `bytes.isdigit` costs less than `str.isdecimal` from a dozen on, and knows 0 to 9 only.
Digits come from slices of one hex text, characters from slices of one latin-1 text. The function says only *that* a
frame is irregular, by any of IRREGULAR; `walker.walk` then says what and where. Its source is made of numbers and of
literals written here or passed through repr, so a dialect file cannot put code into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protocol.iso8583.fields import (
    DIGITS,
    HEX_LOWER,
    HEX_UPPER,
    TRACK,
    TRACK_OF_NIBBLE,
    Counts,
    FieldSpec,
    FieldType,
    LengthEncoding,
    PadSide,
    ValueEncoding,
    length_prefixes,
)
from protocol.iso8583.layout import BitmapEncoding, Layout, MtiEncoding
from protocol.iso8583.message import Message


class Irregular(ValueError):
    """The frame departs from the dialect somewhere."""


IRREGULAR: Final = (ValueError, KeyError, IndexError)
"""What a compiled decoder raises for a frame that it does not accept."""

Decoder = Callable[[bytes], Message]


def compile_decoder(layout: Layout, bitmap: bytes | None = None) -> Decoder:
    """Build the decoder of a layout; see the module's text.

    Args:
        bitmap: the primary bitmap as it stands on the wire, of a frame that the layout's decoder has accepted; the
            function is then for frames with this one only. None for any.
    Returns:
        a function that returns the message, or raises one of IRREGULAR.
    """
    writer = _SourceWriter(layout, bitmap)
    source = writer.decoder()
    names: dict[str, Any] = {
        "Message": Message,
        "Irregular": Irregular,
        "TRACK_OF_NIBBLE": TRACK_OF_NIBBLE,
        **writer.tables,
    }
    exec(compile(source, "<decoder of an ISO 8583 dialect>", "exec"), names)  # noqa: S102 - see the module's text
    decoder: Decoder = names["decode"]
    return decoder


class _SourceWriter:
    """Writes the decoder's source for one layout.

    Where any part is packed, positions count hex digits (two a byte), else bytes.
    """

    def __init__(self, layout: Layout, bitmap: bytes | None) -> None:
        self._layout = layout
        self._primary: bytes | None = None
        if bitmap is not None:
            self._primary = bitmap if layout.bitmap is BitmapEncoding.BINARY else bytes.fromhex(bitmap.decode())
        self._packed = layout.mti is MtiEncoding.BCD or any(s.is_packed for s in layout.fields.values())
        self._unit = 2 if self._packed else 1
        self._table_names: dict[tuple[tuple[bytes, ...], int, int], str] = {}
        self.tables: dict[str, dict[str, int]] = {}

    def decoder(self) -> str:
        layout = self._layout
        after = layout.bitmap_offset + layout.bitmap_bytes
        lines = ["def decode(frame):"]
        if self._packed:
            lines.append("    h = frame.hex()")
        lines.append('    t = frame.decode("latin-1")')
        lines += [f"    {line}" for line in self._mti()]
        primary = self._primary
        if primary is None:
            lines += [f"    {line}" for line in self._bitmap("b", layout.bitmap_offset)]
        secondary = layout.has_secondary and (primary is None or primary[0] & 0x80)
        two = "    if b0 & 0x80:" if primary is None else "    if True:"
        lines.append("    f = {}")
        lines.append(f"    p = {after * self._unit}")
        if secondary:
            lines.append(two)
            lines += [f"        {line}" for line in self._bitmap("c", after)]
            lines.append(f"        p = {(after + layout.bitmap_bytes) * self._unit}")
            lines.append("        if not (c0 or c1 or c2 or c3 or c4 or c5 or c6 or c7): raise Irregular")
        lines += [f"    {line}" for line in (self._fields("b", 0) if primary is None else self._given(primary))]
        if secondary:
            lines.append(two)
            lines += [f"        {line}" for line in self._fields("c", 64)]
        lines.append(f"    if p != len({'h' if self._packed else 't'}): raise Irregular")
        tpdu, mti = layout.tpdu_bytes, layout.mti_offset
        lines.append(f"    return Message(mti, f, frame[:{tpdu}], frame[{tpdu}:{mti}])")
        return "\n".join(lines) + "\n"

    def _mti(self) -> list[str]:
        start, end = self._layout.mti_offset, self._layout.bitmap_offset
        if self._layout.mti is MtiEncoding.BCD:
            return [f"mti = h[{start * 2}:{end * 2}]", "if not mti.isdecimal(): raise Irregular"]
        return [f"mti = t[{start}:{end}]", "if not mti.isdecimal(): raise Irregular"]

    def _bitmap(self, letter: str, offset: int) -> list[str]:
        targets = ", ".join(f"{letter}{n}" for n in range(8))
        if self._layout.bitmap is BitmapEncoding.BINARY:
            return [f"{targets} = frame[{offset}:{offset + 8}]"]
        digits = HEX_UPPER if self._layout.hex_upper else HEX_LOWER
        return [
            f"v = t[{offset}:{offset + 16}]",
            f"if v.strip({digits!r}): raise Irregular",
            f"{targets} = bytes.fromhex(v)",
        ]

    def _fields(self, letter: str, base: int) -> list[str]:
        """The tests of eight bitmap bytes, each around those of its bits.

        Over bitmap bytes in a row whose fields are nothing but digits on the wire, one check of the whole stretch
        takes the place of one for each field.
        """
        lines: list[str] = []
        within = False
        for byte in range(8):
            specs = [self._layout.fields.get(base + byte * 8 + bit + 1) for bit in range(8)]
            only_digits = all(self._is_digits(spec) for spec in specs if spec is not None)
            if only_digits and not within:
                lines.append("r = p")
            elif within and not only_digits:
                lines.append(self._stretch_check())
            within = only_digits
            lines += self._bitmap_byte(f"{letter}{byte}", base + byte * 8 + 1, specs, checked=not only_digits)
        if within:
            lines.append(self._stretch_check())
        return lines

    def _given(self, primary: bytes) -> list[str]:
        """The fields that a bitmap promises, one after the other; neighbours of nothing but digits have one check."""
        lines: list[str] = []
        within = False
        bits = int.from_bytes(primary, "big")
        for number in range(2, 65):
            if not bits >> (64 - number) & 1:
                continue
            spec = self._layout.fields[number]
            only_digits = self._is_digits(spec)
            if only_digits and not within:
                lines.append("r = p")
            elif within and not only_digits:
                lines.append(self._stretch_check())
            within = only_digits
            lines += self._field(number, spec, checked=not only_digits)
        if within:
            lines.append(self._stretch_check())
        return lines

    def _bitmap_byte(self, name: str, first: int, specs: list[FieldSpec | None], *, checked: bool) -> list[str]:
        known: list[str] = []
        unknown = 0
        for bit, spec in enumerate(specs):
            mask = 0x80 >> bit
            if spec is not None:
                known.append(f"    if {name} & 0x{mask:02x}:")
                known += [f"        {line}" for line in self._field(first + bit, spec, checked=checked)]
            elif first + bit != 1 or not self._layout.has_secondary:
                unknown |= mask
        refuse = [f"    if {name} & 0x{unknown:02x}: raise Irregular"] if unknown else []
        return [f"if {name}:", *refuse, *known] if refuse or known else []

    def _is_digits(self, spec: FieldSpec) -> bool:
        """Whether all that a valid field has on the wire, its length and pad included, reads as decimal digits."""
        if spec.type is not FieldType.N or spec.is_packed != self._packed or spec.pad_nibble not in DIGITS:
            return False
        wanted = LengthEncoding.BCD if self._packed else LengthEncoding.ASCII
        return spec.prefix_digits == 0 or spec.length_encoding is wanted

    def _stretch_check(self) -> str:
        return f"if p != r and not {'h' if self._packed else 't'}[r:p].encode().isdigit(): raise Irregular"

    def _field(self, number: int, spec: FieldSpec, *, checked: bool) -> list[str]:
        """Code that reads one field at `p`, puts it into `f` and moves `p` behind it.

        Args:
            checked: whether this code must see to it that digits are digits.
        """
        if spec.is_packed and spec.type is not FieldType.XN:
            return self._packed_field(number, spec, checked=checked)
        lines = self._extent(spec)
        if spec.is_hex and spec.encoding is ValueEncoding.BINARY:
            raw = "h[s:p]" if self._packed else "frame[s:p].hex()"
            return [*lines, f"f[{number}] = {raw}"]
        text = "t[s >> 1:p >> 1]" if self._packed else "t[s:p]"
        if spec.is_text:
            return [*lines, f"f[{number}] = {text}"]
        if spec.is_hex:
            digits = HEX_UPPER if spec.hex_upper else HEX_LOWER
            return [
                *lines,
                f"v = {text}",
                f"if v.strip({digits!r}): raise Irregular",
                f"f[{number}] = v.lower()",
            ]
        if spec.type is FieldType.XN:
            return [*lines, *self._signed(number, spec, text)]
        if spec.type is FieldType.Z:
            alphabet = TRACK.replace("=", spec.separator)
            back = "" if spec.separator == "=" else f'.replace({spec.separator!r}, "=")'
            return [
                *lines,
                f"v = {text}",
                f"if v.strip({alphabet!r}): raise Irregular",
                f"f[{number}] = v{back}",
            ]
        if not checked:
            return [*lines, f"f[{number}] = {text}"]
        # A variable field may be empty, and b"".isdigit() is False.
        some = "" if spec.prefix_digits == 0 else "v and "
        return [*lines, f"f[{number}] = v = {text}", f"if {some}not v.encode().isdigit(): raise Irregular"]

    def _extent(self, spec: FieldSpec) -> list[str]:
        """Code that sets `s` and `p` to the ends of the value."""
        unit = self._unit
        if spec.prefix_digits == 0:
            if spec.type is FieldType.XN:
                size = 1 + ((spec.length + 1) // 2 if spec.is_packed else spec.length)
            elif spec.is_hex and spec.encoding is ValueEncoding.ASCII:
                size = spec.length * 2
            else:
                size = spec.length
            return ["s = p", f"p = s + {size * unit}"]
        if spec.is_hex:
            wire_bytes = 1 if spec.encoding is ValueEncoding.BINARY else 2
            return self._counted(spec, wire_bytes * unit, step=2 if spec.counts_hex_digits else 1)
        return self._counted(spec, unit, step=1)

    def _counted(self, spec: FieldSpec, scale: int, step: int) -> list[str]:
        """Code for a length in front: one lookup checks its digits and its most, and gives the size.

        Args:
            scale: positions for each `step` of the count.
            step: 2 where only even counts are allowed, else 1.
        """
        prefixes = length_prefixes(spec)
        key = (prefixes, scale, step)
        name = self._table_names.get(key)
        if name is None:
            name = self._table_names[key] = f"L{len(self._table_names)}"
            self.tables[name] = {
                prefix.hex() if self._packed else prefix.decode("latin-1"): count // step * scale
                for count, prefix in enumerate(prefixes)
                if count % step == 0
            }
        text = "h" if self._packed else "t"
        return [f"s = p + {spec.prefix_bytes * self._unit}", f"p = s + {name}[{text}[p:s]]"]

    def _signed(self, number: int, spec: FieldSpec, text: str) -> list[str]:
        if not spec.is_packed:
            return [
                f"f[{number}] = v = {text}",
                'if v[0] not in "CD" or not v[1:].encode().isdigit(): raise Irregular',
            ]
        lines = ["v = h[s + 2:p]"]
        if spec.length % 2:
            pad, rest = ("v[0]", "v[1:]") if spec.pad is PadSide.LEFT else ("v[-1]", "v[:-1]")
            lines += [f"if {pad} != {spec.pad_nibble!r}: raise Irregular", f"v = {rest}"]
        return [
            *lines,
            "if not v.encode().isdigit(): raise Irregular",
            f'f[{number}] = {{"43": "C", "44": "D"}}[h[s:s + 2]] + v',
        ]

    def _packed_field(self, number: int, spec: FieldSpec, *, checked: bool) -> list[str]:
        """Code for two digits a byte; here a position is a digit."""
        left = spec.pad is PadSide.LEFT
        pad = repr(spec.pad_nibble)
        if spec.prefix_digits == 0:
            odd = spec.length % 2
            start, end = ("p + 1", "e") if odd and left else ("p", "e - 1" if odd else "e")
            before = [f"e = p + {spec.length + odd}"]
            if odd:
                before.append(f"if h[{'p' if left else 'e - 1'}] != {pad}: raise Irregular")
            return [*before, *self._put(number, spec, f"h[{start}:{end}]", checked=checked), "p = e"]
        if spec.counts is Counts.BYTES:
            value = "h[s:p]"
            if spec.strips_pad:
                value += f".removeprefix({pad})" if left else f".removesuffix({pad})"
            most = [f"if len(v) > {spec.length}: raise Irregular"] if spec.length % 2 else []
            return [
                *self._counted(spec, 2, step=1),
                f"v = {value}",
                *most,
                *self._put(number, spec, "v", checked=checked),
            ]
        odd_at, step = ("s", "s += 1; p += 1") if left else ("p", "p += 1")
        put = self._put(number, spec, "h[s:p]", checked=checked)
        unpad = ["if p - s & 1:", f"    if h[{odd_at}] != {pad}: raise Irregular", f"    {step}"]
        return [*self._counted(spec, 1, step=1), *(unpad + put if left else put + unpad)]

    @staticmethod
    def _put(number: int, spec: FieldSpec, digits: str, *, checked: bool) -> list[str]:
        """Code that puts unpacked digits into `f`."""
        if spec.type is FieldType.Z:
            return [f"f[{number}] = {digits}.translate(TRACK_OF_NIBBLE)"]
        if not checked:
            return [f"f[{number}] = {digits}"]
        # A variable field may be empty, and b"".isdigit() is False; a fixed one that is empty was cut short.
        some = "" if spec.prefix_digits == 0 else "v and "
        return [f"f[{number}] = v = {digits}", f"if {some}not v.encode().isdigit(): raise Irregular"]
