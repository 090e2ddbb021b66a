"""The forecast of the journal's line: a stall is forgotten in two seconds, and a slow journal stays known as slow.

Times here are the test's own: nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.conductor import JournalWait

LIMIT_MS = 1_000
"""As the listeners' `journal_wait_ms_max`: no more is handed over while the line is longer."""

Cost = Callable[[int], int]


class Line:
    """A journal that commits what has been handed over, at a cost that the test sets."""

    def __init__(self) -> None:
        self.wait = JournalWait()
        self.now_ms = 0
        self._token = 0

    def admit(self, wanted: int) -> int:
        """Hand over as many writes as the forecast lets in; returns how many."""
        taken = 0
        while taken < wanted and self.wait.wait_ms(self.now_ms) <= LIMIT_MS:
            self.hand_over(1)
            taken += 1
        return taken

    def hand_over(self, count: int) -> None:
        """Hand writes over, whatever the forecast."""
        for _ in range(count):
            self._token += 1
            self.wait.handed_over(self._token, self.now_ms)

    def commit(self, took_ms: int) -> None:
        """All of them are answered."""
        self.now_ms += took_ms
        self.wait.answered(self._token, self.now_ms)

    def play(self, wanted: int, cost: Cost, until_ms: int) -> int:
        """Commits one after the other until a time, each of as many writes as are let in; returns the last's."""
        taken = 0
        while self.now_ms < until_ms:
            taken = self.admit(wanted)
            self.commit(max(1, cost(taken)))
        return taken


def fast(own_ms: int, write_us: int) -> Cost:
    """A commit that costs so much, and so much more for each write."""
    return lambda count: own_ms + count * write_us // 1_000


@settings(max_examples=60, deadline=None)
@given(
    stalls=st.lists(st.tuples(st.integers(1, 2_000), st.integers(1_000, 600_000)), min_size=1, max_size=8),
    before=st.integers(0, 400),
    own_ms=st.integers(10, 100),
    write_us=st.integers(0, 200),
    wanted=st.integers(1, 400),
)
@example(stalls=[(500, 40_000)], before=20, own_ms=300, write_us=0, wanted=20)
@example(stalls=[(64, 60_000)] * 3, before=0, own_ms=10, write_us=0, wanted=300)
def test_after_any_stall_whoever_was_let_in_before_is_let_in_again_within_two_seconds(
    stalls: list[tuple[int, int]], before: int, own_ms: int, write_us: int, wanted: int
) -> None:
    """One commit in the way or many in a row; the commits after it are small or large, and fast."""
    line, cost = Line(), fast(own_ms, write_us)
    if before:
        line.play(before, cost, 1_000)
    for count, took_ms in stalls:
        line.hand_over(count)
        line.commit(took_ms)
    line.play(wanted, cost, line.now_ms + 2_000)
    assert line.admit(wanted) == wanted
    assert line.wait.wait_ms(line.now_ms) <= LIMIT_MS


@settings(deadline=None)
@given(stall_ms=st.integers(1_000, 600_000), count=st.integers(1, 2_000), own_ms=st.integers(1, 400))
def test_one_stall_of_a_journal_that_was_fast_teaches_nothing(stall_ms: int, count: int, own_ms: int) -> None:
    line = Line()
    for _ in range(20):
        line.hand_over(200)
        line.commit(20)
    line.hand_over(count)
    line.commit(stall_ms)
    line.hand_over(300)
    assert line.wait.wait_ms(line.now_ms) <= 100, "0.1 ms each, twice, as before the stall"
    line.commit(own_ms)


@settings(max_examples=60, deadline=None)
@given(
    write_ms=st.integers(3, 50),
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=100),
    pauses=st.lists(st.integers(0, 5_000), min_size=1, max_size=100),
)
def test_a_journal_that_is_slow_stays_known_as_slow_whatever_the_commits_are(
    write_ms: int, counts: list[int], pauses: list[int]
) -> None:
    line = Line()
    for _ in range(40):
        line.hand_over(100)
        line.commit(100 * write_ms)
    for number, count in enumerate(counts):
        line.now_ms += pauses[number % len(pauses)]
        line.hand_over(count)
        line.commit(5 + count * write_ms)
        line.hand_over(100)
        assert line.wait.wait_ms(line.now_ms) >= 0.8 * 2 * 100 * write_ms
        line.commit(100 * write_ms)


@settings(deadline=None)
@given(
    story=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100_000), st.integers(0, 1_000)), max_size=30),
)
def test_the_forecast_is_never_less_than_the_oldest_has_waited_nor_boundlessly_more(
    story: list[tuple[int, int, int]],
) -> None:
    line = Line()
    for count, took_ms, line_is in story:
        if count:
            line.hand_over(count)
            line.commit(took_ms)
        line.hand_over(line_is)
        began_ms = line.now_ms
        line.now_ms += 700
        oldest_ms = line.now_ms - began_ms if line_is else 0
        assert oldest_ms <= line.wait.wait_ms(line.now_ms) <= oldest_ms + 30_000
        if line_is:
            line.commit(10)


def test_a_journal_that_becomes_slow_is_known_as_slow_by_its_second_large_commit() -> None:
    line = Line()
    for _ in range(20):
        line.hand_over(200)
        line.commit(20)
    for _ in range(2):
        line.hand_over(100)
        line.commit(2_000)
    line.hand_over(100)
    assert line.wait.wait_ms(line.now_ms) > LIMIT_MS


def test_the_first_large_commit_after_a_long_bad_time_says_that_it_is_over() -> None:
    line = Line()
    for _ in range(20):
        line.hand_over(100)
        line.commit(60_000)
    line.hand_over(100)
    assert line.wait.wait_ms(line.now_ms) == 30_000, "no forecast goes further"
    line.commit(10)
    line.hand_over(100)
    assert line.wait.wait_ms(line.now_ms) == 40, "at most twice what the commit has cost, and that twice"


def test_a_small_commit_too_short_to_be_measured_does_not_mean_that_writes_cost_nothing() -> None:
    line = Line()
    for _ in range(20):
        line.hand_over(100)
        line.commit(100)
    line.hand_over(5)
    line.commit(0)
    line.hand_over(1_000)
    assert line.wait.wait_ms(line.now_ms) == 400, "a millisecond for five"
