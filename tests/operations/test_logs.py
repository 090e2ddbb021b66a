"""Log lines are structured, hold no card data whoever writes them, and cannot flood."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.config import LogFormat, LogLevel
from gateway.operations.logs import RepeatLimit, _LibraryLines, configure_logging, flush_logs, logger
from gateway.operations.writing import DescriptorOutput, LineWriter

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
    return [json.loads(line) for line in text_of(stream).splitlines()]


def text_of(stream: io.StringIO) -> str:
    assert flush_logs(10)
    return stream.getvalue()


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
    text = text_of(lines)
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
    assert "ValueError" in text_of(lines)
    assert CARD not in text_of(lines)


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
    assert not text_of(lines)


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
    assert MASKED in text_of(stream)


# --- a log that cannot be written ---------------------------------------------------------------------------------


class Unshowable:
    """A value without a text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class BrokenStream(io.StringIO):
    """A stream that fails while it is told to."""

    broken = True

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError(28, "No space left on device")
        return super().write(text)


def lost(count: int) -> str:
    return f"lost {count}"


def test_what_cannot_be_shown_is_lost_and_whoever_logged_it_goes_on(lines: io.StringIO) -> None:
    logger("terminals").warning("before", value=Unshowable())
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if isinstance(one, _LibraryLines)]  # pytest's own would raise
    logging.getLogger("aiohttp.server").error("%d", "no number")
    logging.getLogger("aiohttp.server").error(Unshowable())
    logger("terminals").warning("after")
    told, after = written(lines)
    assert told["lost"] == 3
    assert after["event"] == "after"


def test_lines_that_could_not_be_written_are_counted_and_told_of_once_it_works_again(clock: SteppedClock) -> None:
    stream = BrokenStream()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream=stream, clock=clock)
    try:
        for number in range(7):
            logger("core").warning(f"unseen {number}")
        assert flush_logs(10)
        stream.broken = False
        logger("core").warning("seen")
        told, seen = written(stream)
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = []
    assert (told["event"], told["lost"]) == ("lines lost: the log could not be written", 7)
    assert seen["event"] == "seen"


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting_and_what_waits_is_bounded() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(DescriptorOutput(writing), lost, lines_max=100)
    os.close(writing)
    before = time.monotonic()
    for number in range(5_000):
        writer.write(f"{number} {'x' * 1000}")
    assert time.monotonic() - before < 5, "a millisecond for each"
    assert not writer.flush(0.05)
    assert len(writer._lines) <= 100
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 65_536):
            got.extend(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert writer.flush(10)
    writer.write("the last")
    assert writer.flush(10)
    deadline = time.monotonic() + 10
    while not got.endswith(b"the last\n"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    seen = bytes(got).decode().splitlines()
    counted = sum(int(line.split()[1]) for line in seen if line.startswith("lost"))
    assert counted + sum(1 for line in seen if line.endswith("x")) == 5_000


def test_lines_without_end_take_bounded_memory() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(DescriptorOutput(writing), lost, bytes_max=1_000_000)
    for _ in range(50):
        writer.write("x" * 200_000)
    assert writer.dropped >= 44
    os.close(reading)
    assert writer.flush(10), "a reader that leaves ends the waiting"


def test_a_closed_reader_and_a_full_device_lose_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for descriptor in (writing, full):
        writer = LineWriter(DescriptorOutput(descriptor), lost)
        os.close(descriptor)
        writer.write("unseen")
        assert writer.flush(10)
        assert writer.dropped == 1
    nowhere = LineWriter(None, lost)
    nowhere.write("unseen")
    assert nowhere.flush(0)
