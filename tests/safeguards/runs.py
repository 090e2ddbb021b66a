"""Runs a check in a fork of this process, with and without a safeguard.

Importing the gateway and collecting a test takes longer than most checks do. So all are collected once, in a process
without threads; each run is a fork of it, in which one safeguard may be taken away, and ends with it. What a fork takes
away nobody has to put back.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from tests.journal.rig import Rig
from tests.safeguards.kinds import Safeguard

RUN_MAX_S: Final = 100
"""A run that takes longer is killed, and has noticed nothing."""
DEADLINE_S: Final = 1.5
"""How long a check waits for a safeguard that is not there; ten seconds where it is."""

_ROOT: Final = Path(__file__).parents[2]
_PLUGINS: Final = ("-p", "pytest_timeout", "-p", "no:cacheprovider", "-o", "timeout=60")
_NOTICED: Final = frozenset({"AssertionError", "Failed"})
_ACCIDENT: Final = re.compile(
    r"\b(TypeError|AttributeError|NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError)\b"
)


@dataclass(slots=True)
class Verdict:
    """What became of one check.

    Attributes:
        runs: tests that ran, up to the first that failed.
        skipped: tests that were skipped.
        failed: the first that failed; empty where none did.
        stage: of that one: setup, call or teardown.
        kind: type of what it raised.
        words: the first line of that.
        accident: a mistake of the removal rather than a verdict of the check; empty where there was none.
        output: the end of what was printed.
    """

    runs: int = 0
    skipped: int = 0
    failed: str = ""
    stage: str = ""
    kind: str = ""
    words: str = ""
    accident: str = ""
    output: str = ""

    def noticed(self, safeguard: Safeguard) -> str:
        """Why this is not a check's own verdict that a safeguard is missing; empty where it is."""
        if self.accident:
            return f"an accident: {self.accident}"
        if not self.failed:
            return f"nothing noticed in {self.runs} runs"
        if self.stage != "call":
            return f"it failed in its {self.stage}: {self.kind}: {self.words}"
        if self.kind not in _NOTICED | ({"TimeoutError"} if safeguard.waits else set()):
            return f"it ended with {self.kind}: {self.words}"
        return ""


class _Witness:
    """A pytest plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.verdict = Verdict()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Look at each stage of each test."""
        report = yield
        verdict = self.verdict
        verdict.runs += call.when == "call" and not verdict.failed
        verdict.skipped += report.skipped
        if report.failed and not verdict.failed and call.excinfo is not None:
            error = call.excinfo.value
            verdict.failed, verdict.stage, verdict.kind = item.nodeid, call.when, type(error).__name__
            verdict.words = (str(error).splitlines() or [""])[0][:200]
            said = f"{verdict.kind}: {error}"
            found = _ACCIDENT.search(said)
            if found is not None or said.startswith("Failed: Timeout"):
                self.accident(said)
        return report

    def accident(self, words: str) -> None:
        """Something went wrong that no check is there to notice."""
        self.verdict.accident = self.verdict.accident or words[:300]


def collect(checks: Iterable[str]) -> None:
    """Import all that these checks need, once.

    Raises:
        ValueError: there is no such check.
    """
    os.chdir(_ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to start than most checks do
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        saved = os.dup(1)
        os.dup2(output.fileno(), 1)
        try:
            code = pytest.main([*_PLUGINS, "--collect-only", "-q", *dict.fromkeys(checks)])
            sys.stdout.flush()
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        output.seek(0)
        if code != pytest.ExitCode.OK:
            raise ValueError(f"a check is not there:\n{output.read()[-4000:]}")


def run(check: str, without: Safeguard | None) -> Verdict:
    """Run one check in a fork; `without` is taken away there first."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="holdfast-safeguard-") as folder:
        child = os.fork()
        if not child:
            os.close(reading)
            _be(check, without, writing, Path(folder))
        os.close(writing)
        told = bytearray()
        ends_s = time.monotonic() + RUN_MAX_S
        while select.select([reading], [], [], max(0.0, ends_s - time.monotonic()))[0]:
            if not (piece := os.read(reading, 65_536)):
                break
            told += piece
        else:
            os.kill(child, signal.SIGKILL)
        os.close(reading)
        _, status = os.waitpid(child, 0)
        log = Path(folder) / "output"
        output = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""
    if not told:
        return Verdict(accident=f"the run ended with status {status}", output=output)
    return Verdict(**{**json.loads(told), "output": output})


def _be(check: str, without: Safeguard | None, writing: int, folder: Path) -> NoReturn:
    """In the fork: run the check and end."""
    witness = _Witness()
    try:
        descriptor = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if without is not None:
            _hurry()
            _listen_to_journals(witness)
            without.remove()
        pytest.main([*_PLUGINS, "-x", "-q", f"--basetemp={folder / 'tests'}", check], plugins=[witness])
        if not witness.verdict.runs + witness.verdict.skipped:
            witness.accident("nothing ran")
    except BaseException as error:  # noqa: BLE001 - the fork tells of whatever it was, and ends
        if not witness.verdict.failed:  # what a failed test leaves behind may make pytest complain at its end
            witness.accident(f"{type(error).__name__}: {error}")
    finally:
        os.write(writing, json.dumps(asdict(witness.verdict)).encode())
        os._exit(0)


def _hurry() -> None:
    """Nobody waits long for what has been taken away."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests.") and hasattr(module, "DEADLINE_S"):
            module.__dict__["DEADLINE_S"] = DEADLINE_S


def _listen_to_journals(witness: _Witness) -> None:
    """A journal that stops at a mistake of the removal has not been caught by anybody."""
    failed = Rig._fail

    def told(self: Rig, error: Any) -> None:
        if _ACCIDENT.search(str(error)):
            witness.accident(str(error))
        failed(self, error)

    Rig._fail = told  # type: ignore[method-assign]
