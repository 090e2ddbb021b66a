"""Messages and dialects made from formats: what the codec's tests feed on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from hypothesis import strategies as st

from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import TRACK, Counts, FieldSpec, FieldType, PadSide
from protocol.iso8583.message import Message

DIGITS = "0123456789"
LATIN_1 = "".join(map(chr, range(256)))


def some_value(spec: FieldSpec, rng: random.Random) -> str:
    """A value that fits, at its shortest and longest more often than chance would have it."""
    size = spec.length
    if spec.prefix_digits:
        size = rng.choice((0, 1, spec.length, rng.randint(0, min(spec.length, 60))))
    if spec.is_hex:
        return rng.randbytes(size).hex()
    if spec.is_text:
        return "".join(rng.choices(LATIN_1, k=size))
    if spec.type is FieldType.XN:
        return rng.choice("CD") + "".join(rng.choices(DIGITS, k=size))
    by_bytes = spec.is_packed and spec.prefix_digits and spec.counts is Counts.BYTES
    if by_bytes and not spec.strips_pad:
        size -= size % 2
    value = "".join(rng.choices(TRACK if spec.type is FieldType.Z else DIGITS, k=size))
    if spec.strips_pad and not size % 2 and spec.type is FieldType.Z:
        # The pad's own character would be taken for the pad.
        value = value.strip("?").rjust(size, "1") if spec.pad is PadSide.LEFT else value.strip("?").ljust(size, "1")
    return value


def some_message(dialect: Dialect, rng: random.Random) -> Message:
    """A message of a few fields, many, or all."""
    known = list(dialect.fields)
    count = rng.choice((0, 1, 3, 12, 24, len(known)))
    numbers = sorted(rng.sample(known, min(count, len(known))))
    return Message(
        "".join(rng.choices(DIGITS, k=4)),
        {number: some_value(dialect.fields[number], rng) for number in numbers},
        rng.randbytes(5 if dialect.tpdu else 0),
        rng.randbytes(dialect.header_bytes),
    )


@st.composite
def messages(draw: st.DrawFn, dialect: Dialect) -> Message:
    """Messages of a dialect, for hypothesis: it chooses the fields, and values it can shrink."""
    numbers = draw(st.sets(st.sampled_from(list(dialect.fields)), max_size=10))
    return Message(
        draw(st.text(DIGITS, min_size=4, max_size=4)),
        {number: draw(values(dialect.fields[number])) for number in sorted(numbers)},
        draw(st.binary(min_size=5, max_size=5)) if dialect.tpdu else b"",
        draw(st.binary(min_size=dialect.header_bytes, max_size=dialect.header_bytes)),
    )


def values(spec: FieldSpec) -> st.SearchStrategy[str]:
    """Values that fit a format."""
    least, most = (0, min(spec.length, 40)) if spec.prefix_digits else (spec.length, spec.length)
    if spec.is_hex:
        return st.binary(min_size=least, max_size=most).map(bytes.hex)
    if spec.is_text:
        return st.text(LATIN_1, min_size=least, max_size=most)
    if spec.type is FieldType.XN:
        return st.builds(str.__add__, st.sampled_from("CD"), st.text(DIGITS, min_size=least, max_size=most))
    text = st.text(TRACK if spec.type is FieldType.Z else DIGITS, min_size=least, max_size=most)
    if spec.strips_pad:
        return text.filter(lambda value: len(value) % 2 == 1 or value.strip("?") == value)
    if spec.is_packed and spec.prefix_digits and spec.counts is Counts.BYTES:
        return text.filter(lambda value: len(value) % 2 == 0)
    return text


_FORMS = {"L": 9, "LL": 37, "LLL": 150, "LLLL": 1100}
_LENGTHS = ("ascii", "bcd", "binary")


def _formats(*, packed: bool) -> Iterator[str]:
    """One line of TOML for each combination of a field's parts: those with packed digits, or all others."""
    if packed:
        for kind, pad, nibble in product("nz", ("left", "right"), "0f"):
            shape = f'type = "{kind}", encoding = "bcd", pad = "{pad}", pad_nibble = "{nibble}"'
            yield f"{{ {shape}, length = 6 }}"
            yield f"{{ {shape}, length = 7 }}"
            for (form, most), encoding, counts in product(_FORMS.items(), _LENGTHS, ("digits", "bytes")):
                yield (
                    f'{{ {shape}, length = "{form}", max = {most}, length_encoding = "{encoding}", '
                    f'counts = "{counts}" }}'
                )
        for pad, length in product(("left", "right"), (8, 9)):
            yield f'{{ type = "xn", encoding = "bcd", length = {length}, pad = "{pad}" }}'
        return
    yield '{ type = "xn", encoding = "ascii", length = 8 }'
    for kind in ("n", "a", "an", "as", "ns", "anp", "ans", "b"):
        for encoding in ("ascii",) if kind == "n" else ("ascii", "binary"):
            yield f'{{ type = "{kind}", encoding = "{encoding}", length = 7 }}'
    for kind, encoding, (form, most), length_encoding, counts in product(
        ("n", "z", "zD", "ans", "b"), ("ascii", "binary"), _FORMS.items(), _LENGTHS, ("digits", "bytes")
    ):
        if kind in ("n", "z", "zD") and (encoding == "binary" or counts == "bytes"):
            continue
        # A length that counts two for each byte must still fit its digits.
        longest = max(1, most // 2 - 14) if kind == "b" and counts == "digits" else most
        separator = ', separator = "D"' if kind == "zD" else ""
        yield (
            f'{{ type = "{kind[0] if kind == "zD" else kind}", encoding = "{encoding}", length = "{form}", '
            f'max = {longest}, length_encoding = "{length_encoding}", counts = "{counts}"{separator} }}'
        )


def user_made_dialects(folder: Path) -> list[Path]:
    """Dialect files that hold every combination of encodings between them, under each front of a message."""
    fronts = list(product(("ascii", "bcd"), ("binary", "hex"), ("upper", "lower"), (True, False)))
    numbers = [number for number in range(2, 129) if number != 65]
    paths: list[Path] = []
    for packed in (False, True):
        formats = list(_formats(packed=packed))
        random.Random(8583).shuffle(formats)  # so that neighbours differ
        for start in range(0, len(formats), 60):
            chosen = formats[start : start + 60]
            # Both decoders of what is not packed: positions in bytes, and in hex digits.
            for mti, bitmap, case, tpdu in fronts[len(paths) % 2 :: 5] if packed else fronts[::3]:
                spread = sorted(random.Random(len(paths)).sample(numbers, len(chosen)))
                lines = [
                    f'name = "user-{len(paths)}"',
                    f"tpdu = {str(tpdu).lower()}\nheader_bytes = {3 if tpdu else 0}",
                    f'mti = "{mti}"\nbitmap = "{bitmap}"\nhex_case = "{case}"',
                    '[framing]\nlength = "bcd-2"\nlimit_bytes = 9999\n[fields]',
                    *(f"{number} = {form}" for number, form in zip(spread, chosen, strict=True)),
                ]
                path = folder / f"user-{len(paths)}.toml"
                path.write_text("\n".join(lines), encoding="utf-8")
                paths.append(path)
    return paths
