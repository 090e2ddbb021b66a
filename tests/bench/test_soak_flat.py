"""The judges of flatness: a leak is caught, a plateau, noise and a restart are not, and too little is not judged."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bench.soak_flat import (
    MIB,
    Flatness,
    judge_all,
    judge_handles,
    judge_journal,
    judge_log,
    judge_memory,
    judge_threads,
    judge_wal,
    slope,
)
from bench.soak_samples import Window

EVERY_S = 48.0


def window(number: int, *, life: int = 1, age: int | None = None, **figures: int) -> Window:
    """Window `number` of a soak, the `age`th of its life."""
    every = {
        "rss_bytes": 80 * MIB,
        "handles": 30,
        "threads": 9,
        "journal_bytes": number * 200_000,
        "log_bytes": number * 5_000,
        "wal_most_bytes": 4 * MIB,
        "queued_most": 20,
        "transactions": 100,
        "bench_rss_bytes": 50 * MIB,
        **figures,
    }
    life_s = EVERY_S * (number if age is None else age)
    return Window(number=number, at_s=EVERY_S * number, life=life, life_s=life_s, settled_s=2.0, **every)


def memory(of: Callable[[int], float], count: int = 60, seed: int = 1) -> list[Window]:
    """One life whose memory, in MiB, is a function of the window, with a little noise."""
    dice = random.Random(seed)
    return [window(number, rss_bytes=int((of(number) + dice.uniform(-0.5, 0.5)) * MIB)) for number in range(1, count)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "of",
    [
        lambda _: 80.0,
        lambda number: 80 + 30 * min(1.0, number / 12),  # fills up, and stays
        lambda number: 80.0 if number < 24 else 100.0,  # one step, and stays
        lambda number: 100 - number * 0.3,
        lambda number: 80 + (40 if number % 7 == 0 else 0),  # peaks that go away
        lambda number: 80 + number * 0.02,  # 1 MiB in 48 minutes is within the tolerance
    ],
    ids=["level", "plateau", "step", "falling", "peaks", "tiny"],
)
def test_memory_that_does_not_go_on_growing_is_flat(of: Callable[[int], float], seed: int) -> None:
    judged = judge_memory(memory(of, seed=seed))
    assert judged.flatness is Flatness.FLAT, f"seed {seed}: {judged}"
    assert "MiB an hour" in judged.text
    assert "within one life" in judged.tolerance


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "of",
    [
        lambda number: 80 + number * 0.4,
        lambda number: 80 + number // 10 * 5,  # by steps, as an allocator grows
        lambda number: 80 + number * 0.4 + (40 if number % 7 == 0 else 0),
    ],
    ids=["steady", "stairs", "peaks"],
)
def test_a_leak_of_memory_is_caught(of: Callable[[int], float], seed: int) -> None:
    judged = judge_memory(memory(of, seed=seed))
    assert judged.flatness is Flatness.GROWS, f"seed {seed}: {judged}"


def test_of_few_minutes_nothing_is_said_about_memory_even_if_it_looks_bad() -> None:
    leaking = memory(lambda number: 80 + number * 5, count=10)
    assert judge_memory(leaking).flatness is Flatness.TOO_SHORT
    assert "--minutes" in judge_memory(leaking).text
    assert judge_memory([]).flatness is Flatness.TOO_SHORT


def test_each_restart_counts_anew() -> None:
    short_lives = [
        window(number, life=number // 5, age=number % 5, rss_bytes=(80 + number % 5 * 8) * MIB) for number in range(60)
    ]
    assert judge_memory(short_lives).flatness is Flatness.TOO_SHORT, "each life alone is too short"
    first = [window(number, life=1, rss_bytes=80 * MIB) for number in range(1, 31)]
    second = [window(30 + age, life=2, age=age, rss_bytes=130 * MIB) for age in range(1, 31)]
    assert judge_memory(first + second).flatness is Flatness.FLAT, "more after a restart is no growth of a life"
    third = [window(60 + age, life=3, age=age, rss_bytes=(80 + age) * MIB) for age in range(1, 31)]
    assert judge_memory(first + second + third).flatness is Flatness.GROWS, "one bad life is enough"


@pytest.mark.parametrize(("judge", "figure", "more"), [(judge_handles, "handles", 2), (judge_threads, "threads", 6)])
def test_handles_and_threads_when_idle_are_the_same_but_for_a_few(
    judge: Callable[[list[Window]], object], figure: str, more: int
) -> None:
    def judged(values: list[int], lives: list[int] | None = None) -> Flatness:
        made = [
            window(number, life=lives[number - 1] if lives else 1, **{figure: value})
            for number, value in enumerate(values, start=1)
        ]
        return judge(made).flatness  # type: ignore[attr-defined, no-any-return]

    assert judged([30]) is Flatness.TOO_SHORT
    assert judged([30, 30, 30, 30]) is Flatness.FLAT
    assert judged([30, 30 + more, 30 + more, 30 + more]) is Flatness.FLAT
    assert judged([30, 90, 30, 30]) is Flatness.FLAT, "one that came back"
    assert judged([30, 30 + more + 1, 30 + more + 1, 30 + more + 1]) is Flatness.GROWS
    assert judged([30, 34, 38, 42, 46]) is Flatness.GROWS
    assert judged([30, 31, 60, 61], lives=[1, 1, 2, 2]) is Flatness.FLAT, "lives are not compared with each other"
    assert judged([30, 30, 30, 60], lives=[1, 1, 2, 2]) is Flatness.GROWS


def test_a_journal_that_takes_more_and_more_for_each_transaction_is_caught() -> None:
    assert judge_journal([window(number) for number in range(40)]).flatness is Flatness.FLAT
    assert judge_journal([window(number, journal_bytes=number * number * 9_000) for number in range(40)]).flatness is (
        Flatness.GROWS
    )
    assert judge_journal([window(number, journal_bytes=number * number) for number in range(8)]).flatness is (
        Flatness.TOO_SHORT
    )


def test_a_write_ahead_log_over_its_bound_and_a_log_that_swells_are_caught() -> None:
    assert judge_wal([window(number) for number in range(3)]).flatness is Flatness.FLAT
    assert judge_wal([window(1), window(2, wal_most_bytes=65 * MIB), window(3)]).flatness is Flatness.GROWS
    assert judge_wal([]).flatness is Flatness.TOO_SHORT
    assert judge_log([window(number) for number in range(40)]).flatness is Flatness.FLAT
    assert judge_log([window(number, log_bytes=number**3 * 1_000) for number in range(40)]).flatness is Flatness.GROWS
    assert judge_log([window(number) for number in range(5)]).flatness is Flatness.TOO_SHORT


def test_the_slope_is_not_bent_by_outliers() -> None:
    points = [(float(at), 2.0 * at) for at in range(50)]
    assert slope(points) == pytest.approx(2.0)
    points[10], points[40] = (10.0, 1e6), (40.0, -1e6)
    assert slope(points) == pytest.approx(2.0, rel=0.05)
    assert slope([(1.0, 5.0)]) == 0.0


def test_every_figure_is_judged_and_named_once() -> None:
    names = [judged.figure for judged in judge_all([window(number) for number in range(40)])]
    assert len(names) == len(set(names)) == 6
