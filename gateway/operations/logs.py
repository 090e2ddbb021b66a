"""Logging: structured lines on standard error, without card data, and without floods.

Every line, our own or a library's, passes the same last two steps: what repeats too often is held back, and what looks
like a card number is masked (INV-8). Code does not log card data in the first place.

A log that cannot be written never touches payments: logging neither waits nor raises (see writing.LineWriter).
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.clock import Clock, SystemClock
from gateway.config.values import LogFormat, LogLevel
from gateway.operations.writing import DescriptorOutput, LineWriter, Output, StreamOutput
from protocol.masking import mask_pans

_LONG_RUN = re.compile(r"[0-9]{20,}")
_DEPTH_MAX = 8
_FIRST_KEYS = ("timestamp", "level", "component", "event")
_OWN_KEYS = frozenset({"timestamp", "level", "held_back"})
_FLUSHED_WITHIN_S: Final = 1.0


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
    output, colors = _output(sys.stderr if stream is None else stream, given=stream is not None)
    threshold = logging.getLevelNamesMapping()[level.value.upper()]
    limit = RepeatLimit(clock or SystemClock())
    render = _renderer(form, colors=colors)
    last: list[Processor] = [mask_values, render]
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]

    def lost(count: int) -> str:
        line: Any = {"component": "logs", "event": "lines lost: the log could not be written", "lost": count}
        for step in (*first[1:3], *last):
            line = step(None, "warning", line)
        return str(line)

    writer = _Current.replace(LineWriter(output, lost))
    structlog.configure(
        processors=[*first, limit, *last],
        wrapper_class=_unraising(structlog.make_filtering_bound_logger(threshold), writer),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryLines(writer, limit)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=first,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(threshold, logging.WARNING))


def capture_interpreter() -> None:
    """Have the interpreter's own lines (warnings, exceptions that nobody can catch) logged too.

    It would write them to standard error itself, and wait there.
    """
    logging.captureWarnings(capture=True)
    log = logging.getLogger("python")

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        log.error("exception ignored: %s: %s", type(what.exc_value).__name__, what.exc_value)

    def in_thread(what: threading.ExceptHookArgs) -> None:
        log.error("a thread ended: %s: %s", what.exc_type.__name__, what.exc_value)

    sys.unraisablehook = unraisable
    threading.excepthook = in_thread


def say(line: str) -> None:
    """Write a line to the log as it is: what a command tells people on its way out."""
    if _Current.writer is not None:
        _Current.writer.write(line)


def plain_lines(stream: TextIO | None) -> LineWriter:
    """A writer for lines as they are to a stream of the process, such as standard output; what is lost is not told."""
    output, _ = _output(stream, given=False)
    return LineWriter(output, lambda count: f"({count} lines lost)")


def flush_logs(timeout_s: float = _FLUSHED_WITHIN_S) -> bool:
    """Wait until every line has been written or dropped, but not for long; whether that is so."""
    return _Current.writer is None or _Current.writer.flush(timeout_s)


def logger(component: str) -> Any:
    """A logger whose lines say which part of the gateway speaks."""
    return structlog.get_logger(component=component)


class _Current:
    """The writer of the process."""

    writer: LineWriter | None = None

    @classmethod
    def replace(cls, writer: LineWriter) -> LineWriter:
        """Let the one before end, once it has written what it has."""
        if cls.writer is not None:
            cls.writer.close()
        cls.writer = writer
        return writer


class _Lines:
    """What structlog hands rendered lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: str) -> None:
        """Queue it."""
        self._writer.write(line)

    debug = info = warning = error = critical = exception = msg


def _unraising(base: Any, writer: LineWriter) -> Any:
    """A bound logger whose callers never see that a line could not be made."""

    class Unraising(base):  # type: ignore[misc]
        def _proxy_to_logger(self, method: str, event: str | None = None, **facts: Any) -> Any:
            try:
                return super()._proxy_to_logger(method, event, **facts)
            except Exception:  # noqa: BLE001 - a value that cannot be shown, say; payments go on
                writer.drop()

    return Unraising


def _output(stream: TextIO | None, *, given: bool) -> tuple[Output | None, bool]:
    """Where lines go, and whether people look at them there; None where standard error is closed."""
    if stream is None:
        return None, False
    try:
        return (StreamOutput(stream) if given else DescriptorOutput(stream.fileno())), stream.isatty()
    except (OSError, ValueError):  # closed, or none that the system knows
        return (None if stream.closed else StreamOutput(stream)), False


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


def _renderer(form: LogFormat, *, colors: bool) -> Processor:
    if form is LogFormat.CONSOLE:
        return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


class _LibraryLines(logging.Handler):
    """Libraries' lines: the rate limit, by their unformatted text, then the same writer."""

    def __init__(self, writer: LineWriter, limit: RepeatLimit) -> None:
        super().__init__()
        self._writer = writer
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it, unless it repeats too often."""
        try:
            if self._limit.passes(record.name, str(record.msg)) is not None:
                self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - what a library hands over may not fit its own text
            self._writer.drop()
