"""The backlog run: everything is delivered once, and the memory that it tells is that of both processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.backlog import RESIDENT_BYTES_MAX, START_MS_MAX, BacklogOptions, BacklogReport, run
from bench.filling import pace
from bench.usage import resident_bytes, resident_each, resident_peaks

MB = 1_000_000
GOOD = {"start_ms": START_MS_MAX - 1.0, "resident_most_bytes": RESIDENT_BYTES_MAX - 1}


@pytest.mark.timeout(120)
def test_a_small_backlog_is_stored_and_drained_and_the_journals_process_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(BacklogOptions(transactions=500, terminals=20, drain_within_s=60), tmp_path / "backlog.json")
    told = json.loads((tmp_path / "backlog.json").read_text())
    # How soon it is up is this machine's affair while other tests run on it.
    assert code == (0 if told["start_ms"] < START_MS_MAX else 1)
    assert [told[name] for name in ("left", "out_of_order", "doubled", "missing")] == [0, 0, 0, 0]
    assert told["gateway_most_bytes"] > 10 * MB
    assert told["journal_most_bytes"] > 10 * MB
    assert told["resident_most_bytes"] == told["gateway_most_bytes"] + told["journal_most_bytes"]
    assert told["resident_at_start_bytes"] > told["gateway_most_bytes"]
    assert told["stored_per_s"] > 0
    assert "a second" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"left": 1},
        {"out_of_order": 1},
        {"doubled": 1},
        {"missing": 1},
        {"start_ms": float(START_MS_MAX)},
        {"resident_most_bytes": RESIDENT_BYTES_MAX},
        {"resident_most_bytes": 0},
    ],
)
def test_a_single_thing_that_is_wrong_is_a_no(wrong: dict[str, float]) -> None:
    report = BacklogReport(transactions=1, terminals=1, **GOOD)  # type: ignore[arg-type]
    assert report.held
    (name, value) = next(iter(wrong.items()))
    setattr(report, name, value)
    assert not report.held


def test_progress_tells_the_rate_and_the_time_that_is_left_at_it() -> None:
    assert pace(2_000, 10_000, 4.0) == {"stored": 2_000, "a second": 500, "seconds left": 16}
    assert pace(0, 10_000, 4.0) == {"stored": 0, "a second": 0, "seconds left": 0}
    assert pace(10, 10, 0.0) == {"stored": 10, "a second": 10_000, "seconds left": 0}


def test_memory_is_told_for_a_process_and_for_each_of_its_children() -> None:
    command = "import sys; held = bytes(1) * 60_000_000; del held; print('ready', flush=True); sys.stdin.read()"
    before = len(resident_each(os.getpid()))
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        each, peaks = resident_each(os.getpid()), resident_peaks(os.getpid())
        (of_child,) = resident_peaks(child.pid)
        now = resident_bytes(child.pid)
        child.communicate()
    assert len(each) == len(peaks) == before + 1
    assert of_child in peaks
    assert of_child > 60 * MB > now > 0
    assert resident_peaks(child.pid) == []
