"""Log lines are structured, hold no card data whoever writes them, and cannot flood."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.config import LogFormat, LogLevel
from gateway.operations.logs import RepeatLimit, configure_logging, logger

CARD = "4761739001010010"
MASKED = "476173******0010"


class SteppedClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 0

    def mono_ms(self) -> int:
        return self.now_ms

    def utc_ms(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def lines(clock: SteppedClock) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream=stream, clock=clock)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_component_and_facts(lines: io.StringIO) -> None:
    logger("terminals").info("frame refused", length=5000)
    (line,) = written(lines)
    assert line["event"] == "frame refused"
    assert line["component"] == "terminals"
    assert line["level"] == "info"
    assert line["length"] == 5000
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "value",
    [
        CARD,
        f"card {CARD} declined",
        int(CARD),
        "4761 7390 0101 0010",
        [CARD],
        {"inner": {"deeper": (CARD,)}},
        {CARD: 1},
        ValueError(CARD),
        CARD.encode(),
        f"0200{CARD}000000000000001250",
        f"{CARD}D2512101123456789",
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_shows_a_card_number_however_it_is_wrapped(lines: io.StringIO, value: object) -> None:
    logger("terminals").warning("oops", value=value)
    text = lines.getvalue()
    assert "oops" in text
    assert CARD not in text.replace(" ", "")


def test_a_masked_card_keeps_first_six_and_last_four(lines: io.StringIO) -> None:
    logger("terminals").warning(f"card {CARD}")
    assert written(lines)[0]["event"] == f"card {MASKED}"


def test_an_exceptions_text_is_masked_too(lines: io.StringIO) -> None:
    try:
        int(f"{CARD}x")
    except ValueError:
        logger("terminals").exception("failed")
    assert "ValueError" in lines.getvalue()
    assert CARD not in lines.getvalue()


def test_a_librarys_lines_take_the_same_way(lines: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("bad request %s", CARD)
    (line,) = written(lines)
    assert line["event"] == f"bad request {MASKED}"
    assert line["level"] == "error"


def test_ordinary_numbers_are_left_alone(lines: io.StringIO) -> None:
    facts = {"stan": "000078", "terminal": "10016919", "amount_minor": 1250, "entries": 12345678}
    logger("terminals").info("stored", **facts)
    assert facts.items() <= written(lines)[0].items()


def test_lines_below_the_level_are_not_written(lines: io.StringIO) -> None:
    logger("core").debug("detail")
    logging.getLogger("aiohttp").info("detail")
    assert not lines.getvalue()


def test_an_event_that_repeats_is_held_back_and_counted_and_others_are_not(
    lines: io.StringIO, clock: SteppedClock
) -> None:
    log = logger("terminals")
    for _ in range(1000):
        log.warning("frame malformed")
    log.warning("another")
    assert [line["event"] for line in written(lines)].count("frame malformed") == 20
    assert written(lines)[-1]["event"] == "another"
    clock.now_ms += 10_000
    log.warning("frame malformed")
    assert written(lines)[-1]["held_back"] == 980


def test_a_librarys_event_that_repeats_is_held_back_too(lines: io.StringIO) -> None:
    for number in range(1000):
        logging.getLogger("aiohttp.server").error("bad request from %s", number)
    assert len(written(lines)) == 20


def test_the_rate_limit_remembers_a_bounded_number_of_events(clock: SteppedClock) -> None:
    limit = RepeatLimit(clock, events_max=10)
    for number in range(1000):
        assert limit.passes("terminals", f"event {number}") == 0
    assert len(limit._seen) == 10


def test_lines_for_people_are_masked_as_well(clock: SteppedClock, lines: io.StringIO) -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.CONSOLE, stream=stream, clock=clock)
    logger("terminals").info("stored", card=CARD)
    assert MASKED in stream.getvalue()
