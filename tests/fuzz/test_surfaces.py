"""Bytes of strangers raise nothing but the named exceptions, come back the same, and cost no more than their length."""

from __future__ import annotations

import time
import tracemalloc
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.every import surfaces
from tests.fuzz.inputs import hostile
from tests.fuzz.known import Known, is_known
from tests.fuzz.names import NAMES
from tests.fuzz.surface import Broken, Surface

SURFACES: Final = surfaces()
EACH: Final = pytest.mark.parametrize("name", SURFACES)
EXAMPLES: Final = {"dialect-file": 120, "dialect-table": 200}
"""Fewer for what compiles a decoder with each input."""
GROWTH: Final = 4
GROWTH_COST_MAX: Final = 10
"""Four times the bytes cost four times the time; sixteen times would be quadratic."""
CHEAP_S: Final = 0.02
"""What costs less for the longest input is no danger, and too short to be measured."""
BYTES_PER_BYTE_MAX: Final = 150
"""A TLV of two bytes is an object, its tag a text."""
BYTES_BESIDE_MAX: Final = 256 * 1024


def worst_inputs(surface: Surface, size: int) -> list[bytes]:
    """Costly pieces repeated: alone, and behind the front of each kind of seed."""
    fronts = [b"", *(seed[: len(seed) // 2] for seed in surface.seeds[:3])]
    return [front + piece * ((size - len(front)) // len(piece)) for front in fronts for piece in surface.worst]


@EACH
def test_hostile_bytes_raise_nothing_but_what_is_named(name: str) -> None:
    surface = SURFACES[name]

    @settings(
        max_examples=EXAMPLES.get(name, 400),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(hostile(surface.seeds))
    def fed(data: bytes) -> None:
        surface.feed(data)

    fed()


@EACH
def test_seeds_are_taken_so_that_fuzzing_begins_behind_the_front_door(name: str) -> None:
    surface = SURFACES[name]
    assert len(surface.seeds) >= 4
    assert all(len(seed) <= surface.size_max for seed in surface.seeds)
    for seed in surface.seeds:
        surface.feed(seed)


@EACH
def test_time_grows_with_the_bytes_and_not_with_their_square(name: str) -> None:
    surface = SURFACES[name]
    long = surface.size_max
    pairs = zip(worst_inputs(surface, long // GROWTH), worst_inputs(surface, long), strict=True)
    for short_input, long_input in pairs:
        surface.feed(long_input)
        if cpu_s(surface, long_input) > CHEAP_S:
            assert cpu_s(surface, long_input) < GROWTH_COST_MAX * cpu_s(surface, short_input), long_input[:60]


def cpu_s(surface: Surface, data: bytes) -> float:
    """The best of three runs."""
    spent = []
    for _ in range(3):
        began = time.thread_time()
        surface.feed(data)
        spent.append(time.thread_time() - began)
    return min(spent)


@EACH
def test_memory_is_bounded_by_the_bytes(name: str) -> None:
    surface = SURFACES[name]
    for data in worst_inputs(surface, min(surface.size_max, 4096)):
        surface.feed(data)  # what is made once and kept is not this input's
        tracemalloc.start()
        try:
            surface.feed(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < BYTES_BESIDE_MAX + BYTES_PER_BYTE_MAX * len(data), data[:60]


@given(st.binary(max_size=20))
def test_a_reader_that_lets_an_exception_through_is_caught(data: bytes) -> None:
    def careless(given: bytes) -> None:
        if b"\x00" not in given:
            raise KeyError(given[:1])

    surface = Surface("careless", careless, lambda: [b""], 20, ())
    if b"\x00" in data:
        surface.feed(data)
    else:
        with pytest.raises(KeyError):
            surface.feed(data)


def test_a_reader_that_takes_long_is_caught() -> None:
    def slow(_: bytes) -> None:
        began = time.thread_time()
        while time.thread_time() - began < 1.05:
            pass

    with pytest.raises(Broken, match="s for 1 bytes"):
        Surface("slow", slow, lambda: [b""], 20, ()).feed(b"x")


def test_only_the_listed_defects_are_passed_over() -> None:
    with pytest.raises(IndexError) as caught:
        parse_nothing([])
    assert not is_known(caught.value)
    assert is_known(caught.value, [Known(IndexError, "parse_nothing")])
    assert not is_known(caught.value, [Known(LookupError, "parse_nothing"), Known(IndexError, "parse_something")])


def parse_nothing(rows: list[int]) -> int:
    """A reader that forgets to look whether there is anything."""
    return rows[0]


def test_every_surface_has_its_place_in_a_long_run() -> None:
    assert tuple(SURFACES) == NAMES
