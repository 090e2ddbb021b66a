"""Plots as inline SVG: lines over time or quantiles, and bars. Colours are classes of the page that they stand in."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

_LEFT: Final = 64
_RIGHT: Final = 14
_TOP: Final = 38
_BOTTOM: Final = 42
_LETTER: Final = 6.6  # the width of a letter of 12 units, for what must fit


@dataclass(frozen=True, slots=True)
class Size:
    """Of a drawing, in its own units: on a screen that it is made for one unit is one pixel."""

    width: int
    height: int


WIDE: Final = Size(720, 310)
NARROW: Final = Size(340, 280)


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plot.

    Attributes:
        ticks: values with their labels, rising.
        shown: writes a value for the text beside the pointer.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    shown: Callable[[float], str]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """A line; `kind` is its colour's class, s1 to s5. None as a value leaves a gap."""

    name: str
    kind: str
    points: Sequence[tuple[float, float | None]]
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one axis.

    Attributes:
        described: what can be seen, for those who do not see it.
        shaded: from, to and name of what was different for a while.
        marks: where something began, and its name.
    """

    title: str
    described: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    shaded: Sequence[tuple[float, float, str]] = field(default=())
    marks: Sequence[tuple[float, str]] = field(default=())


def linear_ticks(high: float, shown: Callable[[float], str], about: int = 5) -> list[tuple[float, str]]:
    """Round values from 0 to the first that is not below `high`."""
    raw = max(high, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [(step * number, shown(step * number)) for number in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float, shown: Callable[[float], str]) -> list[tuple[float, str]]:
    """Powers of ten around what is to be shown; steps between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    values = [10.0**power * factor for power in range(first, max(last, first + 1) + 1) for factor in factors]
    below = max((value for value in values if value <= low), default=values[0])
    above = min((value for value in values if value >= high), default=values[-1])
    return [(value, shown(value)) for value in values if below <= value <= max(above, below * 2)]


def draw(plot: Plot, size: Size, name: str) -> str:
    """The plot as an SVG element; `name` is unique in its page."""
    inner_w, inner_h = size.width - _LEFT - _RIGHT, size.height - _TOP - _BOTTOM

    def across(value: float) -> float:
        return round(_LEFT + plot.x.place(value) * inner_w, 1)

    def down(value: float) -> float:
        return round(_TOP + (1 - plot.y.place(value)) * inner_h, 1)

    floor = _TOP + inner_h
    parts = [_shade(across(a), across(b), inner_h, label) for a, b, label in plot.shaded]
    for value, label in plot.y.ticks:
        y = down(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + inner_w}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
    parts += _across_ticks(plot.x, across, floor)
    parts += _marks(plot, across, floor)
    for one in plot.series:
        parts += _line(one, across, down, floor)
    middle = _LEFT + inner_w / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{size.height - 6}" text-anchor="middle">{escape(plot.x.title)}</text>'
    )
    parts.append(f'<text class="axis" x="0" y="11">{escape(plot.y.title)}</text>')
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{_LEFT + inner_w}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<g class="here" hidden=""><line y1="{_TOP}" y2="{floor}"/></g>')
    hover = escape(json.dumps(_hover(plot, across, down), separators=(",", ":"), ensure_ascii=False), quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {size.width} {size.height}" role="img" aria-labelledby="{name}-t {name}-d" '
        f'data-hover="{hover}"><title id="{name}-t">{escape(plot.title)}</title>'
        f'<desc id="{name}-d">{escape(plot.described)}</desc>{"".join(parts)}</svg>'
    )


def draw_bars(bars: Sequence[tuple[str, float, str, bool]], size: Size, name: str, title: str) -> str:
    """Horizontal bars from 0: label, value, the value as it is written, and whether it is the one that it is about."""
    row = 44
    high = max((value for _, value, _, _ in bars), default=0.0) or 1.0
    parts = []
    for number, (label, value, shown, ours) in enumerate(bars):
        top = number * row
        width = round(max(2.0, value / high * (size.width - 2)), 1)
        parts.append(f'<text class="label{" ours" if ours else ""}" x="0" y="{top + 14}">{escape(label)}</text>')
        parts.append(f'<text class="label" x="{size.width}" y="{top + 14}" text-anchor="end">{escape(shown)}</text>')
        kind = "bar ours" if ours else "bar"
        parts.append(f'<rect class="{kind}" x="0" y="{top + 20}" width="{width}" height="12" rx="3"/>')
    described = "; ".join(f"{label}: {shown}" for label, _, shown, _ in bars)
    return (
        f'<svg class="plot" viewBox="0 0 {size.width} {row * len(bars)}" role="img" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(described)}</desc>{"".join(parts)}</svg>'
    )


def _shade(left: float, right: float, height: float, label: str) -> str:
    width = round(max(1.0, right - left), 1)
    rect = f'<rect class="shade" x="{left}" y="{_TOP}" width="{width}" height="{height}"/>'
    if width < len(label) * _LETTER:
        return rect
    return f'{rect}<text class="shade-name" x="{round(left + 6, 1)}" y="{_TOP + 14}">{escape(label)}</text>'


def _across_ticks(axis: Axis, across: Callable[[float], float], floor: float) -> list[str]:
    """Ticks that do not touch each other."""
    parts = []
    free = 0.0
    edge = across(axis.high) + _RIGHT
    for value, label in axis.ticks:
        x, half = across(value), len(label) * _LETTER / 2
        if x - half < free or x + half > edge:
            continue
        free = x + half + 8
        parts.append(f'<line class="base" x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{floor + 18}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _marks(plot: Plot, across: Callable[[float], float], floor: float) -> list[str]:
    parts = []
    places = [across(value) for value, _ in plot.marks]
    for number, (_, label) in enumerate(plot.marks):
        x = places[number]
        room = (places[number + 1] if number + 1 < len(places) else across(plot.x.high)) - x
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{floor}"/>')
        if room >= len(label) * _LETTER:
            parts.append(f'<text class="mark-name" x="{x + 2}" y="{_TOP - 6}">{escape(label)}</text>')
    return parts


def _line(one: Series, across: Callable[[float], float], down: Callable[[float], float], floor: float) -> list[str]:
    """The pieces of a line between its gaps; a piece of one point is a dot."""
    parts, piece = [], list[tuple[float, float]]()
    for x, y in [*one.points, (0.0, None)]:
        if y is not None:
            piece.append((across(x), down(y)))
            continue
        if len(piece) == 1:
            parts.append(f'<circle class="dot {one.kind}" cx="{piece[0][0]}" cy="{piece[0][1]}" r="2"/>')
        elif piece:
            path = "L".join(f"{px} {py}" for px, py in piece)
            if one.filled:
                parts.append(
                    f'<path class="area {one.kind}" d="M{path}L{piece[-1][0]} {floor}L{piece[0][0]} {floor}Z"/>'
                )
            parts.append(f'<path class="line {one.kind}" d="M{path}"/>')
        piece = []
    return parts


def _hover(plot: Plot, across: Callable[[float], float], down: Callable[[float], float]) -> list[list[object]]:
    """For each place across: where, what to write, and where each line is there."""
    columns = [([x for x, _ in one.points], one) for one in plot.series]
    rows: list[list[object]] = []
    for x in sorted({x for xs, _ in columns for x in xs}):
        words, dots = [plot.x.shown(x)], []
        for xs, one in columns:
            at = bisect_right(xs, x) - 1
            y = one.points[at][1] if at >= 0 else None
            if y is not None:
                words.append(f"{one.name}: {plot.y.shown(y)}")
                dots.append([one.kind, down(y)])
        rows.append([across(x), words, dots])
    return rows
