"""How much the tests here, in networks and in simulation try, and what they do where a machine lacks what they need.

TESTS_TIMES=10   ten times as many of everything, with seeds that no other run has had before them
TESTS_NEED_ALL=1         what is missing is a failure, not a skip
"""

from __future__ import annotations

import os
import shutil
from typing import Final, NoReturn

import pytest

TIMES: Final = max(1, int(os.environ.get("TESTS_TIMES", "1")))
"""Multiplies every count; a nightly run sets it."""

LIMIT_S: Final = 120 * TIMES
"""What pytest allows one test of a multiplied count."""


def missing(what: str) -> NoReturn:
    """Skip a test that this machine cannot run; in CI, where everything is there, fail."""
    if os.environ.get("TESTS_NEED_ALL"):
        pytest.fail(f"{what} (TESTS_NEED_ALL is set, so nothing may be missing)")
    pytest.skip(what)


def tool(name: str, package: str) -> str:
    """The path of a program, by its name; `package` is the Debian package that has it."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed: apt-get install {package}")
    return path
