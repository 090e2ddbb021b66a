"""What was learned of a capture: types that become JSON, and the text for a person. Neither holds a field's value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.operations.captures import BadLine

BAD_LINES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Frames that depart from the dialect in the same way.

    Attributes:
        field: None where the fault lies in front of the fields or behind them.
        offset_min, offset_max: bytes from the frame's start, length prefix not counted.
        seen_min, seen_max: the number in question, where there is one: a length, or bytes too many.
        line: an example in the capture.
        behind: found only once the suggestions for what stands before it had been taken.
    """

    field: int | None
    name: str
    reason: str
    offset_min: int
    offset_max: int
    count: int
    line: int
    seen_min: int | None
    seen_max: int | None
    behind: bool


@dataclass(frozen=True, slots=True)
class Occurrence:
    """How often a field occurs."""

    field: int
    count: int


@dataclass(frozen=True, slots=True)
class MessageType:
    """A message type with the fields that its frames carry."""

    mti: str
    count: int
    fields: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True)
class Length:
    """Lengths of a variable field, in what its maximum counts; `allowed` is None where the dialect lacks the field."""

    field: int
    name: str
    count: int
    seen_min: int
    seen_max: int
    allowed: int | None


@dataclass(frozen=True, slots=True)
class Lacking:
    """A field that frames carry and the dialect does not have."""

    field: int
    count: int
    line: int
    mtis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change to the dialect's file.

    Attributes:
        key: where in the file, e.g. "fields.60".
        toml: what to write there.
        frames: how many frames it was made for.
        guess: the frames allow it, and could allow other things as well: ask the make's manual.
    """

    key: str
    toml: str
    frames: int
    guess: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """How many of the frames that were tried a dialect decodes."""

    dialect: str
    frames: int
    tried: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Where a dialect does not fit a capture.

    Attributes:
        fit: frames that the dialect decodes as it stands; `fit_with_suggestions`: with all suggestions taken.
        toml: the suggestions together, ready to be written.
        sampled: how many frames were looked at for what stands behind something else, where not all; else 0.
        unread: frames whose message type and bitmap make no sense, even with the suggestions.
    """

    capture: str
    dialect: str
    frames: int
    fit: int
    fit_with_suggestions: int
    sampled: int
    unread: int
    bad_lines: tuple[BadLine, ...]
    misfits: tuple[Misfit, ...]
    lacking: tuple[Lacking, ...]
    message_types: tuple[MessageType, ...]
    lengths: tuple[Length, ...]
    dialects: tuple[Fit, ...]
    suggestions: tuple[Suggestion, ...]
    toml: str


def told(learned: Learned) -> str:
    """The whole, in words and tables."""
    parts = [_verdict(learned)]
    if learned.bad_lines:
        rest = len(learned.bad_lines) - BAD_LINES_SHOWN
        lines = [f"  line {bad.line} {bad.reason}" for bad in learned.bad_lines[:BAD_LINES_SHOWN]]
        lines += [f"  and {rest} more"] if rest > 0 else []
        parts.append("\n".join([f"Skipped lines: {len(learned.bad_lines)}", *lines]))
    if learned.misfits:
        rows = [_misfit_row(misfit) for misfit in learned.misfits]
        parts.append("Where it does not fit\n" + table(("frames", "field", "offset", "what is wrong", "line"), rows))
        if any(misfit.behind for misfit in learned.misfits):
            sample = f"; counted in {learned.sampled} of the frames" if learned.sampled else ""
            parts[-1] += f"\n  * seen only once the suggestions for what stands before it are taken{sample}"
    if learned.lacking:
        lacking = [(one.field, one.count, " ".join(one.mtis), one.line) for one in learned.lacking]
        parts.append("Fields that the dialect lacks\n" + table(("field", "frames", "message types", "line"), lacking))
    if learned.message_types:
        types = [(one.mti, one.count, _fields(one)) for one in learned.message_types]
        parts.append(
            "Message types and their fields\n" + table(("MTI", "frames", "fields (in some frames only)"), types)
        )
    if learned.lengths:
        lengths = [
            (one.field, one.name, _range(one.seen_min, one.seen_max), "none" if one.allowed is None else one.allowed)
            for one in learned.lengths
        ]
        parts.append("Lengths of variable fields\n" + table(("field", "name", "seen", "dialect's most"), lengths))
    if learned.suggestions:
        parts.append(_suggested(learned))
    return "\n\n".join(parts)


def _verdict(learned: Learned) -> str:
    skipped = f", {len(learned.bad_lines)} lines skipped" if learned.bad_lines else ""
    lines = [f"{learned.dialect} fits {learned.fit} of {learned.frames} frames{skipped}"]
    others = [one for one in learned.dialects if one.dialect != learned.dialect]
    lines += [f"other dialects: {', '.join(f'{one.dialect} {one.frames} of {one.tried}' for one in others)}"]
    best = max(learned.dialects, key=lambda one: one.frames / one.tried)
    if best.frames / best.tried > learned.fit / learned.frames:
        lines.append(f"{best.dialect} fits better: try --dialect {best.dialect}")
    if learned.unread:
        lines.append(f"{learned.unread} frames have no message type and bitmap where the dialect expects them")
    return "\n".join(lines)


def _suggested(learned: Learned) -> str:
    lines = [f"Suggested: {learned.fit_with_suggestions} of {learned.frames} frames then fit"]
    lines += [
        f"  {one.key}, for {one.frames} frames" + (" (a guess: ask the make's manual)" if one.guess else "")
        for one in learned.suggestions
    ]
    return "\n".join([*lines, "", learned.toml])


def _misfit_row(misfit: Misfit) -> tuple[object, ...]:
    where = "" if misfit.field is None else str(misfit.field)
    seen = "" if misfit.seen_min is None or misfit.seen_max is None else f": {_range(misfit.seen_min, misfit.seen_max)}"
    mark = " *" if misfit.behind else ""
    return misfit.count, where, _range(misfit.offset_min, misfit.offset_max), misfit.reason + seen + mark, misfit.line


def _fields(one: MessageType) -> str:
    # Commas: digits with nothing but a space between them can look like a card number to whoever scans for one.
    return ", ".join(
        str(occurrence.field) if occurrence.count == one.count else f"({occurrence.field})" for occurrence in one.fields
    )


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows in columns of their own width, with control characters shown as what they are."""
    cells = [[*columns], *([_plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join(
        ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in cells
    )


def _plain(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
