"""A long run ends with the input that broke a surface, as small as it could be made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import every
from tests.fuzz.engines import CRASHED, run_hypothesis
from tests.fuzz.surface import Surface


@pytest.fixture(autouse=True)
def _logs_again() -> Iterator[None]:
    """An engine turns all logs off, and has its process to itself; here other tests look at logs afterwards."""
    yield
    logging.disable(logging.NOTSET)


def careless(data: bytes) -> None:
    if b"\x1f" in data:
        raise KeyError(data[:1])


def careful(data: bytes) -> None:
    assert len(data) >= 0


def only(surface: Surface, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(every, "surfaces", lambda: {surface.name: surface})


def test_an_input_that_breaks_a_surface_is_made_small_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(Surface("careless", careless, lambda: [b"abc"], 100, ()), monkeypatch)
    assert run_hypothesis("careless", 20, tmp_path) == CRASHED
    (found,) = tmp_path.iterdir()
    assert found.name.startswith("careless-crash-")
    data = found.read_bytes()
    assert b"\x1f" in data
    assert len(data) < 10


def test_a_surface_that_holds_is_fed_until_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(Surface("careful", careful, lambda: [b"abc"], 100, ()), monkeypatch)
    assert run_hypothesis("careful", 1, tmp_path) == 0
    assert not list(tmp_path.iterdir())
