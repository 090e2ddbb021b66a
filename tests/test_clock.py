"""A clock that was never set would make another transaction of a retry (D1)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.clock import ClockWrong, SystemClock, refuse_wrong_clock


@pytest.mark.parametrize("year", [1970, 2000, 2020, 2023])
def test_a_clock_that_was_never_set_is_refused_with_what_to_do(year: int) -> None:
    with pytest.raises(ClockWrong, match=f"the clock says {year}-.*set it"):
        refuse_wrong_clock(int(datetime(year, 6, 1, tzinfo=UTC).timestamp() * 1000))


def test_a_clock_that_may_be_right_is_taken() -> None:
    refuse_wrong_clock(SystemClock().utc_ms())
    refuse_wrong_clock(int(datetime(2031, 1, 1, tzinfo=UTC).timestamp() * 1000))
