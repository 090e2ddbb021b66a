"""Logging: structured lines on standard error, without card data, and without floods.

Every line, our own or a library's, passes the same last two steps: what repeats too often is held back, and what looks
like a card number is masked (INV-8). Code does not log card data in the first place.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.clock import Clock, SystemClock
from gateway.config.values import LogFormat, LogLevel
from protocol.masking import mask_pans

_LONG_RUN = re.compile(r"[0-9]{20,}")
_DEPTH_MAX = 8
_FIRST_KEYS = ("timestamp", "level", "component", "event")
_OWN_KEYS = frozenset({"timestamp", "level", "held_back"})


def configure_logging(
    level: LogLevel = LogLevel.INFO,
    form: LogFormat = LogFormat.JSON,
    *,
    stream: TextIO | None = None,
    clock: Clock | None = None,
) -> None:
    """Set up structlog and the standard library's logging. To be called once, before the first line.

    Args:
        stream: where lines go; standard error by default.
        clock: for the rate limit.
    """
    out = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.value.upper()]
    limit = RepeatLimit(clock or SystemClock())
    last: list[Processor] = [mask_values, _renderer(form, out)]
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*first, limit, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=first,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(_LibraryLimit(limit))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(threshold, logging.WARNING))


def logger(component: str) -> Any:
    """A logger whose lines say which part of the gateway speaks."""
    return structlog.get_logger(component=component)


class RepeatLimit:
    """Lets at most `lines_max` lines of one event pass in a window; the next that passes tells how many were held back.

    Events are told apart by their text and component, at most `events_max` at a time; the longest unseen is forgotten.
    """

    def __init__(self, clock: Clock, *, lines_max: int = 20, window_ms: int = 10_000, events_max: int = 1000) -> None:
        self._clock = clock
        self._lines_max = lines_max
        self._window_ms = window_ms
        self._events_max = events_max
        self._seen: OrderedDict[tuple[str, str], list[int]] = OrderedDict()  # start of window, passed, held back

    def __call__(self, log: WrappedLogger, method: str, line: EventDict) -> EventDict:  # noqa: ARG002
        """Pass the line or drop it."""
        held_back = self.passes(str(line.get("component", "")), str(line.get("event", "")))
        if held_back is None:
            raise structlog.DropEvent
        if held_back:
            line["held_back"] = held_back
        return line

    def passes(self, component: str, event: str) -> int | None:
        """None where the line is to be dropped, else how many were dropped since the last that passed."""
        now_ms = self._clock.mono_ms()
        window = self._seen.setdefault((component, event), [now_ms, 0, 0])
        self._seen.move_to_end((component, event))
        if len(self._seen) > self._events_max:
            self._seen.popitem(last=False)
        if now_ms - window[0] >= self._window_ms:
            window[0], window[1] = now_ms, 0
        if window[1] >= self._lines_max:
            window[2] += 1
            return None
        window[1] += 1
        held_back, window[2] = window[2], 0
        return held_back


def mask_values(log: WrappedLogger, method: str, line: EventDict) -> EventDict:  # noqa: ARG001
    """Mask what looks like a card number in every value, however deep, and in every name; common keys first."""
    ordered = {**{name: line[name] for name in _FIRST_KEYS if name in line}, **line}
    return {
        _without_cards(str(name)): value if name in _OWN_KEYS else _masked(value, 0) for name, value in ordered.items()
    }


def _without_cards(text: str) -> str:
    """Card numbers masked; a longer run of digits, such as a packed message, says only how long it is."""
    return _LONG_RUN.sub(lambda run: f"({len(run[0])} digits)", mask_pans(text))


def _masked(value: object, depth: int) -> object:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        shown = _without_cards(str(value))
        return value if shown == str(value) else shown
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"({len(value)} bytes)"
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        return {_without_cards(str(name)): _masked(inner, depth + 1) for name, inner in value.items()}
    if depth < _DEPTH_MAX and isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(inner, depth + 1) for inner in value]
    return _without_cards(str(value))


def _renderer(form: LogFormat, out: TextIO) -> Processor:
    if form is LogFormat.CONSOLE:
        return structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


class _LibraryLimit(logging.Filter):
    """The rate limit for libraries' lines, told apart by their unformatted text."""

    def __init__(self, limit: RepeatLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return self._limit.passes(record.name, str(record.msg)) is not None
