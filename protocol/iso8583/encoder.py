"""Makes a Python function out of a set of fields: the encoder of messages that carry just these.

Terminals and hosts send the same few sets of fields again and again. For each, what does not depend on the values is
done once: the bitmap, the order, which neighbours are written alike. Fields with packed digits or bytes that stand side
by side become one hex text, characters side by side one latin-1 text. For fields 3, 4, 39 and 41 of a packed dialect:

    def encode(f):
        v3 = f[3]; v4 = f[4]; v39 = f[39]; v41 = f[41]
        if len(v3) != 6 or len(v4) != 12 or len(v39) != 2 or len(v41) != 8: raise Irregular
        d = f"{v3}{v4}"
        if not d.encode().isdigit(): raise Irregular
        return fromhex(f"3000000002800000{v3}{v4}") + f"{v39}{v41}".encode("latin-1")

As with the compiled decoder it says only *that* a value does not fit, by any of IRREGULAR; the plain writers of
fields.py then say what and where. What has no short form here (signed amounts, tracks) is written by them as well. The
source is made of numbers and of literals written here or passed through repr.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from protocol.iso8583.compiler import Irregular
from protocol.iso8583.fields import (
    HEX_LOWER,
    Counts,
    FieldSpec,
    FieldType,
    PadSide,
    ValueEncoding,
    field_writer,
    length_prefixes,
)
from protocol.iso8583.layout import BitmapEncoding, Layout
from protocol.iso8583.message import Fields

Encoder = Callable[[Fields], bytes]
"""Bitmaps and fields of a message as bytes; raises one of compiler.IRREGULAR for a value that does not fit."""

_HEX: Final = "hex"
_TEXT: Final = "text"
_BYTES: Final = "bytes"


def compile_encoder(layout: Layout, numbers: tuple[int, ...]) -> Encoder:
    """Build the encoder of messages with exactly these fields, in whatever order.

    Raises:
        KeyError: the layout does not have one of them.
    """
    writer = _SourceWriter(layout)
    source = writer.encoder(sorted(numbers))
    names: dict[str, Any] = {"Irregular": Irregular, "fromhex": bytes.fromhex, **writer.tables}
    exec(compile(source, "<encoder of an ISO 8583 dialect>", "exec"), names)  # noqa: S102 - see the module's text
    encoder: Encoder = names["encode"]
    return encoder


def bitmap_of(layout: Layout, numbers: list[int]) -> bytes:
    """The bitmap or both, as they stand on the wire."""
    bits = sum(1 << (128 - number) for number in numbers)
    secondary = bits & 0xFFFF_FFFF_FFFF_FFFF
    raw = (bits | 1 << 127).to_bytes(16, "big") if secondary else (bits >> 64).to_bytes(8, "big")
    if layout.bitmap is BitmapEncoding.BINARY:
        return raw
    return (raw.hex().upper() if layout.hex_upper else raw.hex()).encode()


@lru_cache(maxsize=512)
def _prefix_table(spec: FieldSpec, kind: str) -> list[str]:
    """The length in front for each count; shared by all encoders, because one may have thousands."""
    return [prefix.hex() if kind == _HEX else prefix.decode("latin-1") for prefix in length_prefixes(spec)]


class _SourceWriter:
    """Writes the source of one encoder. `_pieces` are (kind, text of an f-string or expression), neighbours joined."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pieces: list[tuple[str, str]] = []
        self._sizes: list[str] = []
        self._digits: list[str] = []
        self._before: list[str] = []
        self.tables: dict[str, Any] = {}

    def encoder(self, numbers: list[int]) -> str:
        bitmap = bitmap_of(self._layout, numbers)
        if self._layout.bitmap is BitmapEncoding.BINARY:
            self._put(_HEX, bitmap.hex())
        else:
            self._put(_TEXT, bitmap.decode())
        for number in numbers:
            self._before.append(f"v{number} = f[{number}]")
            self._field(number, self._layout.fields[number])
        lines = ["def encode(f):", *(f"    {line}" for line in self._before)]
        if self._sizes:
            lines.append(f"    if {' or '.join(self._sizes)}: raise Irregular")
        if self._digits:
            lines.append(f'    d = f"{"".join(self._digits)}"')
            lines.append("    if not d.encode().isdigit(): raise Irregular")
        lines.append(f"    return {' + '.join(self._expression(*piece) for piece in self._pieces)}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def _expression(kind: str, text: str) -> str:
        if kind == _HEX:
            return f'fromhex(f"{text}")'
        return f'f"{text}".encode("latin-1")' if kind == _TEXT else text

    def _put(self, kind: str, text: str) -> None:
        if kind != _BYTES and self._pieces and self._pieces[-1][0] == kind:
            self._pieces[-1] = (kind, self._pieces[-1][1] + text)
        else:
            self._pieces.append((kind, text))

    def _field(self, number: int, spec: FieldSpec) -> None:
        value = f"v{number}"
        if spec.type in (FieldType.XN, FieldType.Z) or spec.strips_pad:
            self._written(number, spec)
        elif spec.is_hex:
            self._hex(number, spec)
        elif spec.is_text:
            self._length(number, spec, f"len({value})", _TEXT)
            self._put(_TEXT, f"{{{value}}}")
        elif spec.is_packed:
            self._packed(number, spec)
        else:
            self._digits.append(f"{{{value}}}")
            self._length(number, spec, f"len({value})", _TEXT)
            self._put(_TEXT, f"{{{value}}}")

    def _written(self, number: int, spec: FieldSpec) -> None:
        """By the plain writer, whose FieldError is a ValueError and so irregular."""
        self.tables[f"W{number}"] = field_writer(spec)
        self._put(_BYTES, f"W{number}(v{number})")

    def _hex(self, number: int, spec: FieldSpec) -> None:
        value = f"v{number}"
        self._sizes += [f"{value}.strip({HEX_LOWER!r})", f"len({value}) & 1"]
        as_text = spec.encoding is ValueEncoding.ASCII
        scale = spec.counts_hex_digits and spec.prefix_digits != 0
        self._length(number, spec, f"len({value})" if scale else f"len({value}) >> 1", _TEXT if as_text else _HEX)
        upper = ".upper()" if as_text and spec.hex_upper else ""
        self._put(_TEXT if as_text else _HEX, f"{{{value}{upper}}}")

    def _packed(self, number: int, spec: FieldSpec) -> None:
        """Two digits a byte; an odd number of them has a pad."""
        value, left = f"v{number}", spec.pad is PadSide.LEFT
        self._digits.append(f"{{{value}}}")
        pad = spec.pad_nibble
        if spec.prefix_digits == 0:
            self._sizes.append(f"len({value}) != {spec.length}")
            odd = spec.length % 2
            self._put(_HEX, f"{pad if odd and left else ''}{{{value}}}{pad if odd and not left else ''}")
            return
        by_bytes = spec.counts is Counts.BYTES
        self._sizes.append(f"len({value}) > {spec.length}")
        if by_bytes:
            self._sizes.append(f"len({value}) & 1")
        self._length(number, spec, f"len({value}) >> 1" if by_bytes else f"len({value})", _HEX)
        if by_bytes:
            self._put(_HEX, f"{{{value}}}")
            return
        odd_one = f"{pad!r} + {value}" if left else f"{value} + {pad!r}"
        self._before.append(f"w{number} = {odd_one} if len({value}) & 1 else {value}")
        self._put(_HEX, f"{{w{number}}}")

    def _length(self, number: int, spec: FieldSpec, count: str, kind: str) -> None:
        """The length in front, from a table that ends at the most (IndexError); or the check of a fixed one."""
        if spec.prefix_digits == 0:
            self._sizes.append(f"{count} != {spec.length}")
            return
        self.tables[f"P{number}"] = _prefix_table(spec, kind)
        self._put(kind, f"{{P{number}[{count}]}}")
