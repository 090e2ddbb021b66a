"""What all tests share: how many run beside each other, and what the collector of garbage looks at."""

from __future__ import annotations

import gc
import os

import pytest

from protocol.compiled import code_kind, compiled_modules


def pytest_report_header() -> str:
    """What is tested."""
    return f"holdfast: {code_kind()}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Of compiled code nothing can be exchanged or inherited: tests that do so are for the sources."""
    if compiled_modules() and item.get_closest_marker("interpreted"):
        pytest.skip("exchanges or inherits parts of the code, which only interpreted code allows")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: a third of their time tests wait, for disks, peers and clocks."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_finish() -> None:
    """What was collected stays until the end: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()
