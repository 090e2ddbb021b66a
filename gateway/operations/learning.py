"""Holds a capture against a dialect: what stands behind `holdfast dialect learn`."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway.operations.captures import Capture, length_in_front, prefixed, read_capture
from gateway.operations.fitting import Departure, Draft, Edit, find_edit, find_front, longest, promised, toml_value
from gateway.operations.learned import (
    Fit,
    Lacking,
    Learned,
    Length,
    MessageType,
    Misfit,
    Occurrence,
    Suggestion,
)
from protocol.framing import LENGTH_MAX, PREFIX_BYTES, LengthPrefix
from protocol.iso8583.codec import Codec
from protocol.iso8583.dialect import Dialect, load_dialect, shipped_dialects
from protocol.iso8583.fields import FieldSpec
from protocol.iso8583.layout import CodecError
from protocol.iso8583.message import Message

_T = TypeVar("_T")

Tell = Callable[[str, float], None]
"""Is called now and then with what is being done and the part of it that is done, from 0 to 1."""

_ROUNDS_MAX: Final = 8
_GROUPS_MAX: Final = 40
"""Departures for which a change is looked for, the commonest first: a capture of noise has as many as it has frames."""

_SAMPLE: Final = 100
_LOOKED_AT_AGAIN: Final = 2_000
"""Of more frames with one fault, what stands behind it is looked for in so many."""

_TRIED_ELSEWHERE: Final = 10_000
"""Of a longer capture, other dialects are tried on so many frames from everywhere."""

_TELL_EVERY: Final = 2048

# The number that differs from frame to frame, taken out of a reason so that one fault is one group.
_NUMBERED: Final = (
    (re.compile(r"^length (\d+) (is over the most, \d+)$"), r"length \2"),
    (re.compile(r"^(\d+) (bytes behind the last field)$"), r"\2"),
)
_TRAILING: Final = "bytes behind the last field"


@dataclass(slots=True)
class _Group:
    """Frames with one fault: field and reason."""

    field: int | None
    reason: str
    behind: bool
    frames: list[int] = dataclasses.field(default_factory=list)
    offsets: list[int] = dataclasses.field(default_factory=lambda: [1 << 30, 0])
    seen: list[int] = dataclasses.field(default_factory=list)

    def add(self, index: int, offset: int, number: int | None) -> None:
        self.frames.append(index)
        self.offsets = [min(self.offsets[0], offset), max(self.offsets[1], offset)]
        if number is not None:
            self.seen = [min([number, *self.seen[:1]]), max([number, *self.seen[1:]])]


@dataclass(slots=True)
class _Work:
    """The frames under way.

    Attributes:
        frames: without their length prefixes; `lines` says where each stands.
        foreign: indices of frames behind a length of a form that is not the dialect's.
        failing, fitting: indices into the frames.
    """

    lines: list[int]
    frames: list[bytes]
    tell: Tell
    foreign: set[int] = dataclasses.field(default_factory=set)
    failing: list[int] = dataclasses.field(default_factory=list)
    fitting: list[int] = dataclasses.field(default_factory=list)
    misfits: list[_Group] = dataclasses.field(default_factory=list)
    reached: dict[tuple[str, ...], int] = dataclasses.field(default_factory=dict)


def learn(path: Path, dialect: str, tell: Tell = lambda _what, _part: None) -> Learned:
    """Say where a dialect does not fit the frames of a capture, and what would make it fit.

    A suggestion is tried before it is made: the loader takes it, frames get past the place where they departed, and
    none that fitted departs on account of it. Takes time and memory in proportion to the capture.

    Raises:
        DialectError: there is no such dialect, or its file has mistakes.
        CaptureError: the capture cannot be read, holds no frame, or is too large.
    """
    draft = Draft(dialect)
    given = load_dialect(dialect)
    capture = read_capture(path, lambda part: tell("reading", part))
    tried = _spread(capture.frames, _TRIED_ELSEWHERE)
    others = [_fits(tried, name, tell) for name in shipped_dialects() if name != dialect]
    work = _unwrapped(capture, given, draft, tell)
    groups = _faults(work, given.codec, behind=False)
    fit = sum(index not in work.foreign for index in work.fitting)
    dialects = (Fit(dialect, fit, len(work.frames)), *others)
    sampled = 0
    for _ in range(_ROUNDS_MAX):
        work.misfits += [group for group in groups if not _told_before(group, work.misfits)]
        if not _take_edits(draft, work, groups):
            break
        some = [index for group in groups for index in _spread(group.frames, _LOOKED_AT_AGAIN)]
        sampled = sampled or (len(some) if len(some) < len(work.failing) else 0)
        work.failing = some
        groups = _faults(work, draft.dialect().codec, behind=True)
    _tighten(draft, work)
    return _report(path, given, draft, work, capture, dialects, sampled)


def _fits(frames: Sequence[tuple[int, bytes]], name: str, tell: Tell) -> Fit:
    """How many frames a dialect decodes, with its own length prefix in front or with none."""
    dialect = load_dialect(name)
    form, codec, count = dialect.framing.length, dialect.codec, 0
    for done, (_, raw) in enumerate(frames):
        if done % _TELL_EVERY == 0:
            tell(f"trying {name}", done / len(frames))
        bare = raw[PREFIX_BYTES[form] :] if prefixed(raw, form) else raw
        count += _decodes(codec, bare) or (bare is not raw and _decodes(codec, raw))
    return Fit(name, count, len(frames))


def _decodes(codec: Codec, frame: bytes) -> bool:
    try:
        codec.decode(frame)
    except CodecError:
        return False
    return True


def _unwrapped(capture: Capture, given: Dialect, draft: Draft, tell: Tell) -> _Work:
    """The frames without their length prefixes; notes prefixes of another form, and frames over the limit."""
    work = _Work([line for line, _ in capture.frames], [], tell)
    own = given.framing.length
    others: dict[LengthPrefix, _Group] = {}
    over = _Group(None, f"the frame is over the limit, {given.framing.limit_bytes} bytes", behind=False)
    for index, (_, raw) in enumerate(capture.frames):
        form = own if prefixed(raw, own) else length_in_front(raw)
        frame = raw if form is None else raw[PREFIX_BYTES[form] :]
        if form is not None and _decodes(given.codec, raw) and not _decodes(given.codec, frame):
            form, frame = None, raw
        work.frames.append(frame)
        if form is not None and form is not own:
            work.foreign.add(index)
            others.setdefault(form, _Group(None, f"the length in front is {form}, not {own}", behind=False)).add(
                index, 0, None
            )
        if len(frame) > given.framing.limit_bytes:
            over.add(index, 0, len(frame))
    work.failing = list(range(len(work.frames)))
    work.misfits += [*others.values(), *([over] if over.frames else [])]
    if others:
        commonest = max(others, key=lambda form: len(others[form].frames))
        if 2 * len(others[commonest].frames) > len(work.frames):
            _take(draft, work, Edit(("framing",), {"length": str(commonest)}), len(others[commonest].frames))
    if over.frames and over.seen[1] <= LENGTH_MAX[own]:
        _take(draft, work, Edit(("framing",), {"limit_bytes": over.seen[1]}), len(over.frames))
    return work


def _faults(work: _Work, codec: Codec, *, behind: bool) -> list[_Group]:
    """Decode what failed so far; returns what fails still, by field and reason, the commonest first."""
    groups: dict[tuple[int | None, str], _Group] = {}
    failing = []
    for done, index in enumerate(work.failing):
        if done % _TELL_EVERY == 0:
            work.tell("decoding", done / len(work.failing))
        try:
            codec.decode(work.frames[index])
            work.fitting.append(index)
        except CodecError as fault:
            failing.append(index)
            reason, number = _without_number(fault.reason)
            key = (fault.field, reason)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(fault.field, reason, behind)
            group.add(index, fault.offset, number)
    work.failing = failing
    return sorted(groups.values(), key=lambda group: -len(group.frames))


def _told_before(group: _Group, misfits: Iterable[_Group]) -> bool:
    return any((group.field, group.reason) == (one.field, one.reason) for one in misfits)


def _without_number(reason: str) -> tuple[str, int | None]:
    for pattern, without in _NUMBERED:
        if match := pattern.match(reason):
            return match.expand(without), int(match[1])
    return reason, None


def _take_edits(draft: Draft, work: _Work, groups: Sequence[_Group]) -> bool:
    """Find and take a change for each group; says whether there was one."""
    if work.failing and 2 * len(work.failing) >= len(work.frames):
        front = find_front(draft, [work.frames[index] for index in _spread(work.failing)])
        if front is not None:
            # Every other fault may come from having read in the wrong place.
            return _take(draft, work, front, len(work.failing))
    taken = False
    commonest = groups[:_GROUPS_MAX]
    for done, group in enumerate(commonest):
        work.tell("looking for what would fit", done / len(commonest))
        if group.field is None and group.reason != _TRAILING:
            continue
        edit = find_edit(
            draft,
            Departure(
                group.field,
                [work.frames[index] for index in _spread(group.frames)],
                _some_fitting(draft, work),
                over_long=group.reason.startswith("length is over"),
            ),
        )
        if edit is not None:
            taken = _take(draft, work, edit, len(group.frames)) or taken
    return taken


def _take(draft: Draft, work: _Work, edit: Edit, frames: int) -> bool:
    taken = draft.take(edit)
    if taken:
        work.reached[edit.place] = max(frames, work.reached.get(edit.place, 0))
    return taken


def _spread(many: Sequence[_T], most: int = _SAMPLE) -> Sequence[_T]:
    """Some of many, from everywhere."""
    return many[:: max(1, -(-len(many) // most))]


def _some_fitting(draft: Draft, work: _Work) -> list[bytes]:
    """Frames that fit, a few of each kind: message type and fields."""
    kinds: dict[object, list[bytes]] = defaultdict(list)
    for index in work.fitting[:: max(1, len(work.fitting) // (20 * _SAMPLE))]:
        frame = work.frames[index]
        known = promised(draft.layout, frame)
        held = kinds[(known[0], *known[1]) if known else None]
        if len(held) < 5:
            held.append(frame)
    return [frame for held in kinds.values() for frame in held][: 2 * _SAMPLE]


def _tighten(draft: Draft, work: _Work) -> None:
    """Bring maxima that were opened as far as they go down to what was seen."""
    opened = [
        edit for edit in draft.edits if edit.place[:1] == ("fields",) and "max" in edit.keys and "type" not in edit.keys
    ]
    if not opened:
        return
    seen: Counter[int] = Counter()
    for message, _ in _messages(work, draft.dialect().codec):
        for edit in opened:
            number = int(edit.place[1])
            if (value := message.fields.get(number)) is not None:
                seen[number] = max(seen[number], _length(draft.layout.fields[number], value))
    for edit in opened:
        number = int(edit.place[1])
        if not seen[number]:  # none could be read to the end: what the lengths said
            said = [one.seen[1] for one in work.misfits if one.field == number and one.seen]
            seen[number] = max(said, default=0)
        if 0 < seen[number] < longest(draft.layout.fields[number]):
            draft.take(Edit(edit.place, {**edit.keys, "max": seen[number]}, guess=edit.guess))


def _messages(work: _Work, codec: Codec) -> Iterable[tuple[Message, bool]]:
    """What could be read of the frames, and whether that is all of it."""
    for done, frame in enumerate(work.frames):
        if done % _TELL_EVERY == 0:
            work.tell("counting", done / len(work.frames))
        try:
            message = codec.decode(frame)
        except CodecError as fault:
            if fault.partial is not None:
                yield fault.partial, False
        else:
            yield message, True


def _length(spec: FieldSpec, value: str) -> int:
    return len(value) // 2 if spec.is_hex else len(value)


@dataclass(slots=True)
class _Counts:
    """What the frames carry, read with every suggestion taken.

    Attributes:
        types, carried: frames by message type, and by type and field; `lengths` by field: count, least, most.
        lacking: of fields that the given dialect lacks: count, first line, types.
    """

    types: Counter[str] = dataclasses.field(default_factory=Counter)
    carried: Counter[tuple[str, int]] = dataclasses.field(default_factory=Counter)
    lengths: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    lacking: dict[int, tuple[list[int], set[str]]] = dataclasses.field(default_factory=dict)
    unread: int = 0
    fitting: int = 0


def _counted(given: Dialect, draft: Draft, work: _Work) -> _Counts:
    counts = _Counts()
    layout = draft.layout
    for line, frame in zip(work.lines, work.frames, strict=True):
        known = promised(layout, frame)
        if known is None:
            counts.unread += 1
            continue
        mti, numbers = known
        counts.types[mti] += 1
        for number in numbers:
            counts.carried[mti, number] += 1
            if number not in given.fields:
                seen, mtis = counts.lacking.setdefault(number, ([0, line], set()))
                seen[0] += 1
                mtis.add(mti)
    variable = {number: spec for number, spec in layout.fields.items() if spec.prefix_digits}
    for message, fits in _messages(work, draft.dialect().codec):
        counts.fitting += fits
        for number, value in message.fields.items():
            if (spec := variable.get(number)) is not None:
                size = _length(spec, value)
                held = counts.lengths.setdefault(number, [0, size, size])
                held[0] += 1
                held[1] = min(held[1], size)
                held[2] = max(held[2], size)
    return counts


def _report(
    path: Path,
    given: Dialect,
    draft: Draft,
    work: _Work,
    capture: Capture,
    fits: tuple[Fit, ...],
    sampled: int,
) -> Learned:
    counts = _counted(given, draft, work)
    changed = draft.dialect()
    names = {number: spec.name for number, spec in {**changed.fields, **given.fields}.items()}
    return Learned(
        capture=str(path),
        dialect=fits[0].dialect,
        frames=len(work.frames),
        fit=fits[0].frames,
        fit_with_suggestions=counts.fitting,
        sampled=sampled,
        unread=counts.unread,
        bad_lines=tuple(capture.bad_lines),
        misfits=tuple(_misfit(group, names, work.lines) for group in work.misfits),
        lacking=tuple(
            Lacking(number, seen[0], seen[1], tuple(sorted(mtis)))
            for number, (seen, mtis) in sorted(counts.lacking.items())
        ),
        message_types=tuple(_message_type(counts, mti) for mti in sorted(counts.types)),
        lengths=tuple(
            Length(number, names[number], count, least, most, _most(given, number))
            for number, (count, least, most) in sorted(counts.lengths.items())
        ),
        dialects=fits,
        suggestions=tuple(_suggestion(draft, place, frames) for place, frames in work.reached.items()),
        toml=draft.toml() if draft.edits else "",
    )


def _most(dialect: Dialect, number: int) -> int | None:
    spec = dialect.fields.get(number)
    return None if spec is None else spec.length


def _misfit(group: _Group, names: dict[int, str], lines: Sequence[int]) -> Misfit:
    return Misfit(
        field=group.field,
        name="" if group.field is None else names.get(group.field, ""),
        reason=group.reason,
        offset_min=group.offsets[0],
        offset_max=group.offsets[1],
        count=len(group.frames),
        line=lines[group.frames[0]],
        seen_min=group.seen[0] if group.seen else None,
        seen_max=group.seen[1] if group.seen else None,
        behind=group.behind,
    )


def _message_type(counts: _Counts, mti: str) -> MessageType:
    fields = sorted((number, count) for (of, number), count in counts.carried.items() if of == mti)
    return MessageType(mti, counts.types[mti], tuple(Occurrence(number, count) for number, count in fields))


def _suggestion(draft: Draft, place: tuple[str, ...], frames: int) -> Suggestion:
    keys: dict[str, object] = {}
    guess = False
    for edit in draft.edits:
        if edit.place == place:
            keys |= edit.keys
            guess = guess or edit.guess
    text = ", ".join(f"{key} = {toml_value(value)}" for key, value in keys.items())
    return Suggestion(".".join(place) or ", ".join(keys), text, frames, guess)
